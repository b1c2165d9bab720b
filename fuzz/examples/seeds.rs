//! Writes the kept corpora, `corpus/<target>/`: real documents, from the fixtures that Go's libraries made and from our
//! own types, one file each, with the byte before them that chooses the check. Run it after a request, a message or a
//! check got a new kind: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`. What it did not write it leaves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use nex_protocol::link::codec::Message;
use nex_protocol::link::direct::{Answer, Ask, Waits};
use nex_protocol::link::host::{
    HostError, HostErrorCode, HostReply, HostRequest, HttpRequest, KvRequest, MessageHead, MessagingRequest,
    ObjectInfo, ObjectRequest, Redirect, WatchEvent,
};
use nex_protocol::link::message::{
    Exit, Failure, FailureKind, Hello, Invoke, Limits, Prestart, Rejection, Start, ToAgent, ToNode, Welcome,
};
use nex_protocol::log::Level;
use nex_protocol::{Code, Environment, Fault, WorkloadType, envelope};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Fixture {
    #[serde(alias = "vectors", alias = "claims")]
    documents: BTreeMap<String, Box<RawValue>>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(path: &str) -> BTreeMap<String, Box<RawValue>> {
    let text = std::fs::read_to_string(root().join("../crates").join(path)).expect("a fixture");
    serde_json::from_str::<Fixture>(&text).expect("a fixture").documents
}

fn seed(target: &str, name: &str, choice: &str, content: impl AsRef<[u8]>) {
    let folder: PathBuf = root().join("corpus").join(target);
    std::fs::create_dir_all(&folder).expect("a folder");
    let content = [choice.as_bytes(), content.as_ref()].concat();
    std::fs::write(folder.join(name), content).expect("a file");
}

fn main() {
    requests_and_replies();
    claims();
    sealed();
    link();
    config();
    state();
    subjects();
}

fn requests_and_replies() {
    for (name, document) in fixture("nex-protocol/tests/fixtures/go.json") {
        let document = document.get();
        let (target, choice) = match name.split_once('_').map_or(("", ""), |(first, rest)| (first, rest)) {
            ("deploy", _) => ("requests", "0"),
            ("stop", rest) if rest.starts_with("request") => ("requests", "1"),
            ("auction", rest) if rest.starts_with("request") => ("requests", "2"),
            ("ping", _) => ("envelope", "0"),
            ("wping", _) | ("workload", _) => ("envelope", "1"),
            ("auction", _) => ("envelope", "2"),
            ("info", _) => ("envelope", "3"),
            ("run", _) => ("envelope", "4"),
            ("stop", _) => ("envelope", "5"),
            ("lameduck", _) => ("envelope", "6"),
            _ => ("envelope", "7"),
        };
        seed(target, &format!("go-{}", name.replace('_', "-")), choice, document);
    }
    let jwt = "eyJ0eXAi.eyJzdWIi.c2ln";
    let limits = json!({"cpu_millis": 500, "memory_mib": 64, "max_instances": 2, "timeout_ms": 1000, "concurrency": 1, "idle_timeout_ms": 0});
    let deploy = json!({
        "argv": ["-v"], "type": "native", "location": "nats://B/dir/key", "workload_jwt": jwt, "limits": limits,
        "wants_host_services": true, "hash": "ab", "workload_name": "echo", "id": "1", "retry_count": u64::MAX,
        "host_services": {"nats_url": "nats://c", "nats_user_seed": "SUAMLMCU4XCJ5AKGLAHZK3FMGUWIRQGWAGZFZBVVGGNQX"},
    });
    seed("requests", "deploy", "0", deploy.to_string());
    let seed_like_its_frame = json!({"host_services": {"nats_user_seed": "NatsConnection { nats_url"}});
    seed("requests", "deploy-seed-like-what-is-printed", "0", seed_like_its_frame.to_string());
    seed("requests", "lame-duck", "3", json!({"node_jwt": jwt, "delay_ms": 60000}).to_string());
    seed("requests", "lame-duck-null", "3", "null");
    seed("requests", "limits", "4", limits.to_string());
    seed("requests", "auction-sandboxed", "2", r#"{"sandboxed":true,"tags":{"nex.os":"linux"},"os":"LINUX"}"#);
    seed("requests", "wping", "5", "shop");
    seed("requests", "wping-workload", "5", "shop.cq2b5l6g10l0a0v6rd70");
    let machine = json!({
        "id": "i", "namespace": "shop", "name": "cart", "type": "wasm", "state": "running", "uptime": "5s",
        "restarts": 1,
    });
    let workload = json!({
        "name": "n", "restarts": 3, "trigger_subjects": ["a.>"], "limits": {"memory_mib": 3}, "runtime": "1.250ms",
    });
    let memory = json!({"total": 1, "free": 2, "available": 3});
    for (name, choice, kind, data) in [
        ("wping", "1", envelope::kind::PING, json!({"node_id": "N", "running_machines": [machine]})),
        (
            "info",
            "3",
            envelope::kind::INFO,
            json!({"machines": [{"id": "i", "healthy": true, "workload": workload}], "memory": memory}),
        ),
        ("lame-duck", "6", envelope::kind::LAMEDUCK, json!({"node_id": "N", "success": true, "leaves_in_ms": 1})),
    ] {
        seed("envelope", name, choice, envelope::success(kind, &data).expect("an envelope"));
    }
    seed("envelope", "refused", "4", envelope::failure(envelope::kind::RUN, &Fault::new(Code::Busy, "a \"b\"\n")));
    seed("envelope", "refused-oddly", "5", r#"{"type":"x","data":null,"error":{"a":[1.5]},"code":1,"help":null}"#);
    seed("envelope", "log", "7", r#"{"text":"a line","level":"INFO+2","id":"i"}"#);
}

fn claims() {
    for (file, whose) in [("go", "go"), ("nex", "nex")] {
        for (name, vector) in fixture(&format!("nex-identity/tests/fixtures/{file}.json")) {
            #[derive(Deserialize)]
            struct Claim {
                token: String,
            }
            let Ok(Claim { token }) = serde_json::from_str::<Claim>(vector.get()) else { continue };
            let name = format!("{whose}-{}", name.replace('_', "-"));
            seed("claims", &format!("{name}-token"), "0", &token);
            let parts: Vec<Vec<u8>> = token.split('.').map(|p| URL_SAFE_NO_PAD.decode(p).expect("base64")).collect();
            if whose == "go" {
                seed("claims", &format!("{name}-parts"), "1", parts.join(&b'\n'));
            }
            let mut body: Value = serde_json::from_slice(&parts[1]).expect("claims");
            body.as_object_mut().expect("claims").remove("iss");
            seed("claims", &format!("{name}-claims"), "2", body.to_string());
        }
    }
    for (name, scope) in [
        ("deploy", json!({"action": "deploy", "node": "NNODE", "namespace": "default", "location": "nats://B/k"})),
        ("stop", json!({"action": "stop", "node": "NNODE", "namespace": "default", "workload": "id"})),
        ("lameduck", json!({"action": "lameduck", "node": "NNODE"})),
    ] {
        let mut data = scope;
        data["nonce"] = "a nonce".into();
        data["hash"] = "ab".into();
        let body = json!({"sub": "echo", "exp": 1_800_000_300, "iat": 1_800_000_000, "nats": data});
        seed("claims", &format!("bound-{name}"), "2", body.to_string());
    }
    let odd =
        r#"{"nbf":-1,"exp":9223372036854775807,"nats":{"node":7,"nonce":[],"name":null,"hash":{},"version":1.5e3}}"#;
    seed("claims", "odd-types", "2", odd);
    seed("claims", "version-1", "1", "{\"typ\":\"jwt\",\"alg\":\"ed25519\"}\n{\"iss\":\"A\",\"sub\":\"x\"}\nsignature");
}

fn sealed() {
    #[derive(Deserialize)]
    struct Sealed {
        sender: String,
        clear: String,
        sealed: String,
    }
    let vectors = fixture("nex-identity/tests/fixtures/go.json");
    let boxes: BTreeMap<String, Sealed> = serde_json::from_str(vectors["sealed"].get()).expect("sealed boxes");
    for (name, sealed) in boxes {
        seed("sealed", &format!("go-{name}-text"), "0", format!("{}\n{}", sealed.sealed, sealed.sender));
        seed("sealed", &format!("go-{name}-box"), "1", STANDARD.decode(&sealed.sealed).expect("base64"));
        seed("sealed", &format!("go-{name}-content"), "2", &sealed.clear);
    }
    seed("sealed", "content-invalid-key", "2", r#"{"A=B":"1","":"2","C":"\u0000"}"#);
    seed("sealed", "content-number", "2", r#"{"A":1}"#);
    seed("sealed", "content-twice", "2", r#"{"A":"1","A":"2"}"#);
    seed("sealed", "damaged-tag", "3", [30, 1]);
    seed("sealed", "damaged-version", "3", [0, 0, 0, 0, 3]);
    seed("sealed", "whole", "3", [255]);
}

fn frames<M: Message>(target: &str, name: &str, messages: Vec<M>) {
    let mut stream = BytesMut::new();
    for message in messages {
        message.into_frame().expect("a message").encode(&mut stream);
    }
    seed(target, name, "\x20", &stream);
}

fn link() {
    let environment: Environment = [("A", "1")].into_iter().collect();
    let limits = Limits { memory_bytes: 1 << 28, script_bytes: 1 << 20, reply_bytes: 1 << 20, concurrency: 32 };
    let welcome = Welcome {
        version: 7,
        agent_id: "a".into(),
        work_dir: "/w".into(),
        compiled_dir: None,
        deno: Some("/d".into()),
        start_timeout_ms: 40_000,
        prestart: Some(Prestart { memory_bytes: 1 << 28 }),
        direct: true,
    };
    let start = Start {
        name: "echo".into(),
        namespace: "default".into(),
        r#type: WorkloadType::Wasm,
        argv: vec!["-v".into()],
        environment,
        artifact: "/a".into(),
        sha256: "ab".into(),
        limits,
        require_static: false,
        host_services: true,
    };
    frames("link", "to-agent-start", vec![ToAgent::Welcome(welcome), ToAgent::Start(Box::new(start))]);
    let headers = vec![("A".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())];
    let invoke = Invoke { subject: "echo.a".into(), headers: headers.clone(), timeout_ms: 5000 };
    let body = || Bytes::from_static(b"\xff\x00 payload");
    frames("link", "to-agent-invoke", vec![ToAgent::Invoke(7, invoke, body()), ToAgent::Ping(1), ToAgent::HostMore(2)]);
    frames("link", "to-agent-stop", vec![ToAgent::Stop { grace_ms: 5000 }]);
    let info = ObjectInfo { name: "o".into(), size: 3, digest: Some("SHA-256=".into()), modified: None };
    let error = HostError {
        service: "kv".into(),
        method: "get".into(),
        code: HostErrorCode::NoResponders,
        message: "m".into(),
        retry: true,
    };
    let replies = [
        Ok(HostReply::Done),
        Ok(HostReply::Missing),
        Ok(HostReply::Revision { revision: 3 }),
        Ok(HostReply::Flag { value: true }),
        Ok(HostReply::Keys { keys: vec!["a".into()] }),
        Ok(HostReply::Object { info: info.clone() }),
        Ok(HostReply::Objects { objects: vec![info] }),
        Ok(HostReply::Messages { messages: vec![MessageHead { headers: headers.clone(), length: 3 }] }),
        Ok(HostReply::Http { status: 200, headers: headers.clone(), url: "http://a/".into() }),
        Err(error),
    ];
    let replies = (1..).zip(replies).map(|(n, reply)| ToAgent::HostReply(n, reply, body())).collect();
    frames("link", "to-agent-host-replies", replies);
    let event = WatchEvent { key: "k".into(), revision: 1, deleted: false };
    let data = vec![ToAgent::HostData(1, Some(event), body()), ToAgent::HostData(2, None, body())];
    frames("link", "to-agent-host-data", data);

    let hello = Hello { version: 3, agent_version: "0.1.0".into(), pid: 1 };
    frames("link", "to-node-started", vec![ToNode::Hello(hello), ToNode::Started { process_group: Some(7) }]);
    let rejection = Rejection { message: "no".into() };
    let exit = Exit { code: Some(1), signal: None, message: "exit status 1".into() };
    frames("link", "to-node-end", vec![ToNode::Rejected(rejection), ToNode::Exited(exit), ToNode::Pong(3)]);
    let failure = Failure::new(FailureKind::OutOfMemory, "a\nb");
    let outcomes = vec![ToNode::Outcome(7, 12, Ok((headers.clone(), body()))), ToNode::Outcome(8, 1, Err(failure))];
    frames("link", "to-node-outcomes", outcomes);
    frames("link", "to-node-log", vec![ToNode::Log { level: Level::Warn, text: "a line".into() }]);
    let key = || "k".to_owned();
    let requests = [
        HostRequest::Kv(KvRequest::Get { key: key() }),
        HostRequest::Kv(KvRequest::Set { key: key(), ttl_ms: Some(1) }),
        HostRequest::Kv(KvRequest::Create { key: key(), ttl_ms: None }),
        HostRequest::Kv(KvRequest::Update { key: key(), revision: u64::MAX }),
        HostRequest::Kv(KvRequest::Delete { key: key() }),
        HostRequest::Kv(KvRequest::Exists { key: key() }),
        HostRequest::Kv(KvRequest::Keys),
        HostRequest::Kv(KvRequest::Watch { key: None }),
        HostRequest::ObjectStore(ObjectRequest::Put { name: key() }),
        HostRequest::ObjectStore(ObjectRequest::Get { name: key() }),
        HostRequest::ObjectStore(ObjectRequest::Delete { name: key() }),
        HostRequest::ObjectStore(ObjectRequest::List),
        HostRequest::ObjectStore(ObjectRequest::Info { name: key() }),
        HostRequest::Messaging(MessagingRequest::Publish { subject: "a".into(), headers: headers.clone() }),
        HostRequest::Messaging(MessagingRequest::Request { subject: "a".into(), headers: vec![], timeout_ms: Some(1) }),
        HostRequest::Messaging(MessagingRequest::RequestMany {
            subject: "a".into(),
            headers: vec![],
            max_messages: Some(3),
            stall_ms: Some(4),
            timeout_ms: None,
        }),
        HostRequest::Http(HttpRequest {
            method: "GET".into(),
            url: "http://a/".into(),
            headers,
            timeout_ms: None,
            redirect: Redirect::Manual,
        }),
    ];
    for request in requests {
        let (service, method) = request.name();
        frames("link", &format!("to-node-{service}-{method}"), vec![ToNode::HostCall(1, 7, request, body())]);
    }
    let data = vec![ToNode::HostData(1, body()), ToNode::HostMore(1), ToNode::HostCancel(1)];
    frames("link", "to-node-host-data", data);
    let (left, ago) = (Waits { left_ms: Some(2000), ago_ms: None }, Waits { left_ms: None, ago_ms: Some(1) });
    let signs = vec![ToAgent::Direct(7), ToAgent::DirectWaits(7, left), ToAgent::DirectWaits(7, ago)];
    frames("link", "to-agent-direct", signs);
    frames("link", "to-node-direct", vec![ToNode::Direct(7), ToNode::DirectWaits(7)]);
    let request = Ok(HostRequest::Kv(KvRequest::Get { key: key() }));
    frames("link", "direct-ask", vec![Ask { number: 1, call: 7, promise: true, request, body: body() }]);
    let answer = Ok(HostReply::Revision { revision: 3 });
    frames("link", "direct-answer", vec![Answer { number: 1, answer, body: body() }]);
    seed("link", "too-long", "\x01", [0xff; 8]);
    seed("link", "head-too-long", "\x01", b"\0\0\0\x0d\x41\0\0\0\0\0\0\0\0\xff\xff\xff\xff");
}

fn config() {
    let documents = std::fs::read_to_string(root().join("../docs/configuration.md")).expect("the documentation");
    for (number, part) in documents.split("```json\n").skip(1).enumerate() {
        seed("config", &format!("documented-{number}"), "", part.split("```").next().unwrap_or_default());
    }
    let whole: Value = serde_json::from_str(include_str!("seeds/config.json")).expect("a configuration");
    seed("config", "everything", "", serde_json::to_string_pretty(&whole).expect("JSON"));
    for (key, value) in whole.as_object().expect("an object") {
        if value.is_object() || value.is_array() {
            seed("config", &format!("key-{}", key.replace('_', "-")), "", json!({key: value}).to_string());
        }
    }
    seed("config", "misspelt", "", r#"{"machine_pool_sise":1,"node_limits":{"max_workload":3},"otel_metrics":true}"#);
    seed(
        "config",
        "out-of-range",
        "",
        r#"{"machine_pool_size":0,"stop_grace_ms":86400001,"cni":{"subnet":"1.2.3.4/33"}}"#,
    );
    seed(
        "config",
        "wrong-types",
        "",
        r#"{"tags":[],"autostart":{"workloads":[7,{"name":1}]},"claims":"lax","nexus":null}"#,
    );
    seed("config", "no-object", "", "[]");
}

fn state() {
    let record: Value = serde_json::from_str(include_str!("seeds/record.json")).expect("a record");
    seed("state", "record", "1", record.to_string());
    let mut older = record;
    for member in ["wants_host_services", "limits", "claim"] {
        older["spec"].as_object_mut().expect("an object").remove(member);
    }
    seed("state", "record-of-an-older-node", "1", older.to_string());
    seed("state", "environment", "2", json!({"record": older.to_string(), "more": ""}).to_string());
    seed("state", "no-record", "2", r#"{"other":"x"}"#);
    seed("state", "file", "0", "eGt2MSYzZ/A6PK6R1+6oLb16AoZqMIcA08K+2VA9tD0t73P/ERaKmhud5huprg==\n");
}

fn subjects() {
    seed("subject", "triggers", "", "a.b\na.*\na.>\n>\n*.b\n$NEX.x\n$SYS.>\n_INBOX.>\na..b\n.a\na b\n>.a");
    seed("subject", "names", "", "echo\nA-b_9\na.b\n*\nä\nnative\nelf\nV8\nINFO+2\nERROR-9\nWARN+x");
    seed("subject", "locations", "", "nats://B/dir/key\nNATS://B/k/\nnats://B//k\nhttp://b/k\nnats://b\nnats:///k");
    seed(
        "subject",
        "control",
        "",
        "$NEX.DEPLOY.default.N\n$NEX.WPING.shop\n$NEX.WPING.shop.cart\n$NEX.logs.s.N.i.cart",
    );
    seed("subject", "headers", "", "a\r\nb\rc");
}
