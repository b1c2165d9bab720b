//! The wire forms against documents made by Go (`fixtures/go.json`, made by `conformance/vectors`).
//!
//! Each document decodes to the value it stands for. Where we send such a document too, ours has the bytes of Go's,
//! apart from the members that are ours: those are listed here, one by one, and come after Go's in their object.
//! One spelling differs: Go escapes `<`, `>`, `&` and two line separators in strings, we do not. It is the same JSON.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

use std::collections::BTreeMap;
use std::fmt;

use nex_protocol::control::auction::AuctionRequest;
use nex_protocol::control::deploy::{DeployRequest, NatsConnection, RunResponse};
use nex_protocol::control::info::{InfoResponse, MachineSummary, Memory, PoolSummary, WorkloadSummary};
use nex_protocol::control::ping::PingResponse;
use nex_protocol::control::stop::{StopRequest, StopResponse};
use nex_protocol::envelope::{self, EnvelopeError, kind};
use nex_protocol::event::{CloudEvent, Event};
use nex_protocol::log::{Entry, Level};
use nex_protocol::{Code, Fault, Location};
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

const NODE: &str = "NNODE";
const ID: &str = "cq2b5l6g10l0a0v6rd70";
const NAME: &str = "echofunctionjs";
const HASH: &str = "4d21ab53a1f5b8e14b3a4e9d6e1f2c8e4b7a0d5f9c3e6b1a8d7f2e5c4b9a0d3f";
const JWT: &str = "eyJ0eXAi.eyJzdWIi.c2ln";

/// The bytes of a document as Go wrote them.
fn go(name: &str) -> String {
    #[derive(Deserialize)]
    struct Fixture {
        documents: BTreeMap<String, Box<RawValue>>,
    }
    let fixture: Fixture = serde_json::from_str(include_str!("fixtures/go.json")).unwrap();
    fixture.documents.get(name).unwrap_or_else(|| panic!("no document {name}")).get().to_owned()
}

fn decode<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&go(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn encode<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap()
}

/// JSON that keeps the order of members and the spelling of scalars.
enum Json {
    Object(Vec<(String, Json)>),
    Array(Vec<Json>),
    Scalar(String),
}

/// The members of an object in their order.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl Json {
    fn parse(text: &str) -> Self {
        match text.as_bytes()[0] {
            b'{' => {
                let Members(members) = serde_json::from_str(text).unwrap();
                Json::Object(members.into_iter().map(|(name, raw)| (name, Json::parse(raw.get()))).collect())
            }
            b'[' => {
                let items: Vec<Box<RawValue>> = serde_json::from_str(text).unwrap();
                Json::Array(items.iter().map(|raw| Json::parse(raw.get())).collect())
            }
            _ => Json::Scalar(text.to_owned()),
        }
    }

    /// Takes out the members with these paths, which must be the last of their object; notes which were there.
    fn without(self, ours: &[&str], path: &str, seen: &mut Vec<String>) -> Self {
        match self {
            Json::Object(members) => {
                let mut kept = Vec::new();
                let mut after = None;
                for (name, value) in members {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    if ours.contains(&path.as_str()) {
                        after = Some(path.clone());
                        seen.push(path);
                    } else {
                        assert!(after.is_none(), "{path}, a member of Go's, comes after {after:?}, one of ours");
                        kept.push((name, value.without(ours, &path, seen)));
                    }
                }
                Json::Object(kept)
            }
            Json::Array(items) => {
                let path = format!("{path}[]");
                Json::Array(items.into_iter().map(|item| item.without(ours, &path, seen)).collect())
            }
            scalar @ Json::Scalar(_) => scalar,
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Object(members) => {
                let members: Vec<String> =
                    members.iter().map(|(name, value)| format!("{}:{value}", encode(name))).collect();
                write!(f, "{{{}}}", members.join(","))
            }
            Json::Array(items) => {
                let items: Vec<String> = items.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", items.join(","))
            }
            Json::Scalar(text) => f.write_str(text),
        }
    }
}

/// Our bytes are Go's, plus exactly these members, each the last of its object.
#[track_caller]
fn assert_bytes_of_go(ours: &str, name: &str, extra: &[&str]) {
    let mut seen = Vec::new();
    let stripped = Json::parse(ours).without(extra, "", &mut seen).to_string();
    assert_eq!(stripped, go(name), "{name}");
    seen.sort();
    seen.dedup();
    let mut listed: Vec<String> = extra.iter().map(|path| (*path).to_owned()).collect();
    listed.sort();
    assert_eq!(seen, listed, "{name}: our own members");
}

/// Spells strings as Go's encoder does. The characters occur in strings only.
fn with_escapes_of_go(json: &str) -> String {
    [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")]
        .iter()
        .fold(json.to_owned(), |text, (character, escape)| text.replace(*character, escape))
}

fn location(text: &str) -> Location {
    text.parse().unwrap()
}

fn tags() -> BTreeMap<String, String> {
    [("nex.arch", "amd64"), ("nex.os", "linux"), ("node_name", "snowy-owl")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn deploy_request() -> DeployRequest {
    DeployRequest {
        r#type: "v8".into(),
        location: Some(location("nats://NEXCLIFILES/echofunctionjs")),
        workload_jwt: JWT.into(),
        environment: "eGt2MQ==".into(),
        sender_public_key: "XSENDER".into(),
        target_node: NODE.into(),
        trigger_subjects: vec!["echo.*".into(), "js.echo".into()],
        ..DeployRequest::default()
    }
}

fn host_services() -> NatsConnection {
    NatsConnection { nats_url: "nats://c".into(), ..NatsConnection::default() }
}

#[test]
fn every_fixture_says_what_made_it_and_is_used_here() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/go.json")).unwrap();
    assert!(fixture["made_by"].as_str().unwrap().starts_with("conformance/vectors"));
    let this = include_str!("wire_fixtures.rs");
    for name in fixture["documents"].as_object().unwrap().keys() {
        let used = this.contains(&format!("\"{name}\""))
            || ["event_", "log_", "location_", "url_"]
                .iter()
                .any(|family| name.strip_prefix(family).is_some_and(|member| this.contains(&format!("\"{member}\""))));
        assert!(used, "{name}");
    }
}

#[test]
fn a_deploy_request_of_go_reads_and_ours_has_its_bytes() {
    assert_eq!(decode::<DeployRequest>("deploy_request"), deploy_request());
    assert_bytes_of_go(&encode(&deploy_request()), "deploy_request", &[]);

    let full = DeployRequest {
        argv: vec!["-v".into(), "--port".into(), "8080".into()],
        description: "echoes, \"as is\"\n\tin ünïcode".into(),
        r#type: "native".into(),
        location: Some(location("nats://NEXCLIFILES/dir/echoservice")),
        essential: true,
        jsdomain: "hub".into(),
        trigger_connection: Some(NatsConnection {
            nats_url: "nats://a:4222,nats://b:4222".into(),
            nats_user_jwt: "jwt".into(),
            nats_user_seed: "seed".into(),
        }),
        retry_count: Some(3),
        retried_at: Some("2024-07-02T15:04:05.678Z".into()),
        host_services: Some(host_services()),
        ..deploy_request()
    };
    assert_eq!(decode::<DeployRequest>("deploy_request_full"), full);
    assert_bytes_of_go(&encode(&full), "deploy_request_full", &[]);
}

#[test]
fn members_of_later_versions_come_after_those_of_go_in_a_deploy_request() {
    let request = DeployRequest {
        id: Some("5f0c1f3e-6b1d-4f5a-9c3e-2d7b8a9e0f11".into()),
        hash: Some(HASH.into()),
        workload_name: Some(NAME.into()),
        ..deploy_request()
    };
    assert_bytes_of_go(&encode(&request), "deploy_request", &["id", "hash", "workload_name"]);
}

#[test]
fn a_deploy_request_with_nulls_reads_as_empty() {
    assert_eq!(decode::<DeployRequest>("deploy_request_nil"), DeployRequest::default());
    assert_eq!(serde_json::from_str::<DeployRequest>("{}").unwrap(), DeployRequest::default());
}

#[test]
fn a_deploy_request_of_the_release_candidate_reads() {
    let request: DeployRequest = decode("deploy_request_rc1");
    let expected = DeployRequest {
        id: Some("5f0c1f3e-6b1d-4f5a-9c3e-2d7b8a9e0f11".into()),
        hash: Some(HASH.into()),
        workload_name: Some(NAME.into()),
        r#type: "v8".into(),
        location: Some(location("nats://NEXCLIFILES/echofunctionjs")),
        workload_jwt: JWT.into(),
        host_services: Some(host_services()),
        ..DeployRequest::default()
    };
    assert_eq!(request, expected);
}

#[test]
fn what_go_escapes_is_the_same_text() {
    let request = DeployRequest {
        description: "<a> & b\u{2028}\u{2029}".into(),
        trigger_subjects: vec!["orders.>".into()],
        ..deploy_request()
    };
    assert_eq!(decode::<DeployRequest>("deploy_request_escapes"), request);
    assert_bytes_of_go(&with_escapes_of_go(&encode(&request)), "deploy_request_escapes", &[]);
}

#[test]
fn a_location_reads_in_either_order_of_its_members_and_ours_has_the_bytes_of_go() {
    for (name, text) in [("plain", "nats://NEXCLIFILES/echoservice"), ("folder", "nats://NEXCLIFILES/a/b.c/d")] {
        let expected = location(text);
        assert_eq!(decode::<Location>(&format!("location_{name}")), expected);
        assert_eq!(decode::<Location>(&format!("url_{name}")), expected);
        assert_bytes_of_go(&encode(&expected), &format!("location_{name}"), &[]);
    }
    // The struct has the key unescaped.
    let space = Location::new("NEXCLIFILES", "my key").unwrap();
    assert_eq!(decode::<Location>("location_space"), space);
    assert_eq!(decode::<Location>("url_space"), space);
    assert_bytes_of_go(&encode(&space), "location_space", &[]);
}

#[test]
fn user_query_and_fragment_of_a_location_are_ignored_and_other_schemes_refused() {
    for family in ["location", "url"] {
        let name = |member: &str| format!("{family}_{member}");
        assert_eq!(decode::<Location>(&name("user_and_query")), location("nats://NEXCLIFILES/echo"));
        let error = serde_json::from_str::<Location>(&go(&name("file"))).unwrap_err();
        assert!(error.to_string().contains("its scheme is 'file'"), "{error}");
    }
}

#[test]
fn a_stop_request_of_either_version_reads_and_ours_has_the_bytes_of_go() {
    let request = StopRequest { workload_id: ID.into(), workload_jwt: JWT.into(), target_node: NODE.into() };
    assert_eq!(decode::<StopRequest>("stop_request"), request);
    assert_eq!(decode::<StopRequest>("stop_request_rc1"), request);
    assert_bytes_of_go(&encode(&request), "stop_request", &[]);
}

#[test]
fn an_auction_request_of_go_reads_and_ours_has_its_bytes() {
    let request = AuctionRequest {
        arch: Some("amd64".into()),
        os: Some("linux".into()),
        sandboxed: Some(false),
        tags: [("gpu", "none"), ("zone", "eu")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        workload_types: vec!["native".into(), "wasm".into()],
    };
    for (name, expected) in [("auction_request", request), ("auction_request_nil", AuctionRequest::default())] {
        assert_eq!(AuctionRequest::lenient(go(name).as_bytes()), expected);
        assert_bytes_of_go(&encode(&expected), name, &[]);
    }
}

/// Opens Go's reply, compares, and returns ours with the same data.
#[track_caller]
fn reply<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(name: &str, kind: &str, expected: &T) -> String {
    let read: T = envelope::open(kind, go(name).as_bytes()).unwrap();
    assert_eq!(&read, expected, "{name}");
    String::from_utf8(envelope::success(kind, expected).unwrap()).unwrap()
}

#[test]
fn pings_and_bids_of_go_read_and_ours_have_their_bytes() {
    let short = PingResponse {
        node_id: NODE.into(),
        version: "0.2.7".into(),
        uptime: "1y2d3h4m5s".into(),
        target_xkey: "XNODE".into(),
        ..PingResponse::default()
    };
    let full = PingResponse { nexus: "lab".into(), tags: tags(), running_machines: 2, ..short.clone() };
    for (name, kind, expected) in [
        ("ping_response_short", kind::PING, &short),
        ("ping_response", kind::PING, &full),
        ("auction_response", kind::AUCTION, &full),
    ] {
        assert_bytes_of_go(&reply(name, kind, expected), name, &[]);
    }
}

#[test]
fn an_info_reply_of_go_reads_and_ours_has_its_bytes_before_our_own_members() {
    let workload = WorkloadSummary { hash: HASH.into(), ..WorkloadSummary::default() };
    let expected = InfoResponse {
        version: "0.2.7".into(),
        uptime: "4m5s".into(),
        public_xkey: "XNODE".into(),
        tags: tags(),
        memory: Some(Memory { total: 8_132_344, free: 1_024_000, available: 6_500_000 }),
        machines: vec![
            MachineSummary {
                id: ID.into(),
                healthy: true,
                uptime: "4m1s".into(),
                namespace: "default".into(),
                workload: WorkloadSummary {
                    name: NAME.into(),
                    description: "echoes".into(),
                    runtime: "3ms".into(),
                    r#type: "v8".into(),
                    ..workload.clone()
                },
            },
            MachineSummary {
                id: "cq2b5l6g10l0a0v6rd7g".into(),
                healthy: true,
                uptime: "5s".into(),
                namespace: String::new(),
                workload: WorkloadSummary {
                    name: "echoservice".into(),
                    runtime: "5s".into(),
                    r#type: "native".into(),
                    ..workload
                },
            },
        ],
        supported_workload_types: vec!["native".into(), "v8".into()],
        available_agents: 0,
        allow_duplicate_workloads: None,
        pool: None,
    };
    reply("info_response", kind::INFO, &expected);

    let mut ours = expected;
    ours.available_agents = 2;
    ours.allow_duplicate_workloads = Some(true);
    ours.pool =
        Some(PoolSummary { ready: 2, target: 2, last_error: Some("no kernel".into()), ..PoolSummary::default() });
    for machine in &mut ours.machines {
        machine.workload.id.clone_from(&machine.id);
        machine.workload.essential = true;
        machine.workload.state = "running".into();
        machine.workload.restarts = 1;
        machine.workload.instances = Some(1);
        machine.workload.trigger_subjects = vec!["js.echo".into()];
        machine.workload.uptime.clone_from(&machine.uptime);
        machine.workload.limits.max_instances = Some(2);
    }
    let ours = String::from_utf8(envelope::success(kind::INFO, &ours).unwrap()).unwrap();
    let extra = [
        "data.available_agents",
        "data.allow_duplicate_workloads",
        "data.pool",
        "data.machines[].workload.uptime",
        "data.machines[].workload.limits",
        "data.machines[].workload.id",
        "data.machines[].workload.essential",
        "data.machines[].workload.state",
        "data.machines[].workload.restarts",
        "data.machines[].workload.instances",
        "data.machines[].workload.trigger_subjects",
    ];
    assert_bytes_of_go(&ours, "info_response", &extra);
}

#[test]
fn an_info_reply_with_no_list_of_machines_reads_as_none() {
    let expected = InfoResponse {
        version: "0.2.7".into(),
        uptime: "0s".into(),
        public_xkey: "XNODE".into(),
        ..InfoResponse::default()
    };
    // Ours says `[]` where Go says `null`: a reader of either takes both.
    let ours = reply("info_response_nil", kind::INFO, &expected);
    assert!(ours.ends_with(r#""machines":[],"available_agents":0}}"#), "{ours}");
}

#[test]
fn run_and_stop_replies_of_go_read_and_ours_have_their_bytes() {
    let run = RunResponse { started: true, id: ID.into(), issuer: "AISSUER".into(), name: NAME.into() };
    assert_bytes_of_go(&reply("run_response", kind::RUN, &run), "run_response", &[]);
    let stop = StopResponse { stopped: true, id: ID.into(), issuer: "AISSUER".into(), name: NAME.into() };
    assert_bytes_of_go(&reply("stop_response", kind::STOP, &stop), "stop_response", &[]);
    let lame_duck = json!({ "node_id": NODE, "success": true });
    assert_bytes_of_go(&reply("lameduck_response", kind::LAMEDUCK, &lame_duck), "lameduck_response", &[]);
}

#[test]
fn a_null_error_is_none() {
    let stop: StopResponse = envelope::open(kind::STOP, go("stop_response_null_error").as_bytes()).unwrap();
    assert!(stop.stopped);
}

#[test]
fn refusals_of_go_read_and_ours_have_their_bytes_before_code_and_help() {
    for (name, kind, code, text) in [
        ("run_refused", kind::RUN, Code::LameDuck, "Node is in lame duck mode. Workload deploy request denied"),
        ("stop_refused", kind::STOP, Code::NoSuchWorkload, "No such workload"),
        ("info_refused", kind::INFO, Code::InvalidSubject, "Failed to extract namespace for info request"),
        ("ping_refused", kind::PING, Code::InvalidSubject, "Failed to query running machines on node"),
        ("lameduck_refused", kind::LAMEDUCK, Code::InvalidSubject, "Failed to enter lame duck mode"),
        (
            "run_refused_escapes",
            kind::RUN,
            Code::UnsupportedType,
            "Unsupported workload type on this node: <oci> & more",
        ),
    ] {
        // Whatever the data would have been: here it is an empty string.
        match envelope::open::<RunResponse>(kind, go(name).as_bytes()) {
            Err(EnvelopeError::Refused { code: None, message, help: None }) => assert_eq!(message, text),
            other => panic!("{name}: {other:?}"),
        }
        let ours = String::from_utf8(envelope::failure(kind, &Fault::new(code, text))).unwrap();
        assert_bytes_of_go(&with_escapes_of_go(&ours), name, &["code", "help"]);
        match envelope::open::<RunResponse>(kind, ours.as_bytes()) {
            Err(EnvelopeError::Refused { code: Some(read), message, help: Some(help) }) => {
                assert_eq!((read, message.as_str(), help.as_str()), (code, text, code.help()));
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn events_of_go_read_and_ours_have_their_attributes_in_the_same_bytes() {
    for kind in [
        "node_started",
        "node_stopped",
        "node_entered_lameduck",
        "heartbeat",
        "workload_deployed",
        "workload_undeployed",
        "function_exec_succeeded",
        "function_exec_failed",
    ] {
        let name = format!("event_{kind}");
        let event: CloudEvent = decode(&name);
        assert_eq!((event.specversion.as_str(), event.r#type.as_str()), ("1.0", kind));
        assert_eq!(event.datacontenttype, "application/json");
        assert_eq!(event.time, "2024-07-02T15:04:05.678Z");
        let of_node = kind.starts_with("node") || kind == "heartbeat";
        assert_eq!(event.source, if of_node { NODE.to_owned() } else { format!("{NODE}-{ID}") });
        assert_eq!(event.namespace.as_deref(), (!of_node).then_some("default"));
        // The order inside the data is the next test's.
        let (Json::Object(ours), Json::Object(go)) = (Json::parse(&encode(&event)), Json::parse(&go(&name))) else {
            panic!("{name} is no object");
        };
        assert_eq!(ours.len(), go.len(), "{name}");
        for ((ours_name, ours), (go_name, go)) in ours.iter().zip(&go) {
            assert_eq!(ours_name, go_name, "{name}");
            if ours_name != "data" {
                assert_eq!(ours.to_string(), go.to_string(), "{name}: {ours_name}");
            }
        }
    }
}

#[test]
fn the_data_of_our_events_is_that_of_go_before_our_own_members() {
    let (name, id, namespace) = (NAME.to_owned(), ID.to_owned(), "default".to_owned());
    let zone = BTreeMap::from([("zone".to_owned(), "eu".to_owned())]);
    let version = "0.2.7".to_owned();
    let cases: [(Event, &[&str]); 7] = [
        (Event::NodeStarted { version: version.clone(), id: NODE.into(), tags: zone }, &[]),
        (Event::NodeStopped { id: NODE.into(), graceful: true }, &[]),
        (
            Event::Heartbeat {
                version,
                node_id: NODE.into(),
                uptime: "30s".into(),
                tags: BTreeMap::new(),
                running_machines: 0,
                nexus: String::new(),
                allow_duplicate_workloads: true,
            },
            &["allow_duplicate_workloads"],
        ),
        (
            Event::WorkloadDeployed {
                workload_name: name.clone(),
                workload_id: id.clone(),
                code: 0,
                essential: true,
                total_bytes: 7,
            },
            &["workload_id", "essential", "total_bytes"],
        ),
        (
            Event::WorkloadUndeployed {
                workload_name: name.clone(),
                workload_id: id.clone(),
                code: 137,
                message: "exit status 137".into(),
            },
            &["workload_id"],
        ),
        (
            Event::FunctionExecSucceeded {
                workload_name: name.clone(),
                workload_id: id.clone(),
                trigger_subject: "js.echo".into(),
                elapsed_nanos: 1_234_567,
                namespace: namespace.clone(),
            },
            &["workload_id"],
        ),
        (
            Event::FunctionExecFailed {
                workload_name: name,
                workload_id: id,
                trigger_subject: "js.echo".into(),
                namespace,
                error: "TypeError: x is not a function".into(),
            },
            &["workload_id"],
        ),
    ];
    for (event, ours) in cases {
        let Json::Object(members) = Json::parse(&go(&format!("event_{}", event.kind()))) else {
            panic!("{} is no object", event.kind());
        };
        let (_, data) = members.iter().find(|(member, _)| member == "data").unwrap();
        let mut seen = Vec::new();
        let stripped = Json::parse(&encode(&event)).without(ours, "", &mut seen).to_string();
        assert_eq!(stripped, data.to_string(), "{}", event.kind());
        assert_eq!(seen, ours, "{}", event.kind());
    }
}

#[test]
fn log_entries_of_go_read_with_the_level_they_are_at_or_above() {
    for (name, level, same) in [
        ("DEBUG", Level::Debug, true),
        ("INFO", Level::Info, true),
        ("WARN", Level::Warn, true),
        ("ERROR", Level::Error, true),
        ("DEBUG-4", Level::Debug, false),
        ("INFO+2", Level::Info, false),
        ("WARN+1", Level::Warn, false),
        ("ERROR+4", Level::Error, false),
    ] {
        let name = format!("log_{name}");
        let expected = Entry { text: "listening on :8080".into(), level, id: ID.into() };
        assert_eq!(decode::<Entry>(&name), expected, "{name}");
        if same {
            assert_bytes_of_go(&encode(&expected), &name, &[]);
        }
    }
}

#[test]
fn levels_of_no_name_or_offset_are_errors() {
    for level in ["", "LOUD", "INFO+", "INFO+x", "INFO+99999999999", "+2", "4"] {
        let entry = json!({ "text": "t", "level": level, "id": ID });
        assert!(serde_json::from_value::<Entry>(entry).is_err(), "{level}");
    }
    assert!(
        serde_json::from_value::<Entry>(json!({ "text": "t", "level": "INFO+4", "id": ID })).unwrap().level
            == Level::Warn
    );
}
