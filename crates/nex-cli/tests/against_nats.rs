//! The commands against a real nats-server, with a node played by the test: what they send, and what they make of the
//! answers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails should say where; the exemption for tests does not reach their shared functions"
)]

use std::collections::BTreeMap;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_util::StreamExt;
use nex_identity::{Claims, Issuer, XKeyPair};
use nex_protocol::control::auction::AuctionRequest;
use nex_protocol::control::deploy::{DeployRequest, RunResponse};
use nex_protocol::control::info::{InfoResponse, MachineSummary, Memory, WorkloadSummary};
use nex_protocol::control::ping::PingResponse;
use nex_protocol::control::stop::{StopRequest, StopResponse};
use nex_protocol::envelope::{failure, kind, success};
use nex_protocol::{Code, Fault};
use nex_testkit::NatsServer;
use tokio::process::Command;

const NODE: &str = "NCOBPU3MCEA7LF6XADFD4P74CHW2OL6GQZYPPRRNPDSBNQ5BJPFHHQB5";

/// Seconds since the epoch: claims that are bound to a purpose expire.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_secs()).unwrap()
}

/// A node that believes everything and remembers it.
struct Node {
    xkey: XKeyPair,
    tags: BTreeMap<String, String>,
    types: Vec<&'static str>,
    refuses: bool,
    workloads: Vec<(String, String)>,
    deployed: Vec<DeployRequest>,
    stopped: Vec<StopRequest>,
}

impl Node {
    fn new(types: &[&'static str]) -> Self {
        let tags = [("node_name", "quiet-fox"), ("nex.os", "linux"), ("nex.arch", "amd64"), ("nex.unsafe", "true")];
        Self {
            xkey: XKeyPair::generate(),
            tags: tags.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            types: types.to_vec(),
            refuses: false,
            workloads: Vec::new(),
            deployed: Vec::new(),
            stopped: Vec::new(),
        }
    }

    fn presence(&self) -> PingResponse {
        PingResponse {
            node_id: NODE.into(),
            nexus: "nexus".into(),
            version: "0.1.0".into(),
            uptime: "5s".into(),
            target_xkey: self.xkey.public_key(),
            tags: self.tags.clone(),
            running_machines: self.workloads.len(),
        }
    }

    fn answer(&mut self, subject: &str, body: &[u8]) -> Option<Vec<u8>> {
        let command = subject.split('.').nth(1)?;
        let answer = match command {
            "PING" => success(kind::PING, &self.presence()),
            "AUCTION" => {
                let fits = AuctionRequest::lenient(body).accepts(&self.presence(), &self.types);
                return fits.then(|| success(kind::AUCTION, &self.presence()).unwrap());
            }
            "INFO" => success(kind::INFO, &self.info()),
            "DEPLOY" if self.refuses => {
                return Some(failure(kind::RUN, &Fault::new(Code::PoolExhausted, "no available agent client in pool")));
            }
            "DEPLOY" => {
                let request: DeployRequest = serde_json::from_slice(body).unwrap();
                let claims = Claims::verify(&request.workload_jwt, now()).unwrap();
                let id = format!("w{}", self.deployed.len() + 1);
                self.workloads.push((id.clone(), claims.workload_name().to_owned()));
                self.deployed.push(request);
                let name = claims.workload_name().to_owned();
                success(kind::RUN, &RunResponse { started: true, id, issuer: claims.iss, name })
            }
            "STOP" => {
                let request: StopRequest = serde_json::from_slice(body).unwrap();
                let claims = Claims::verify(&request.workload_jwt, now()).unwrap();
                self.workloads.retain(|(id, _)| *id != request.workload_id);
                let (id, name) = (request.workload_id.clone(), claims.workload_name().to_owned());
                self.stopped.push(request);
                success(kind::STOP, &StopResponse { stopped: true, id, issuer: claims.iss, name })
            }
            other => panic!("{other}"),
        };
        Some(answer.unwrap())
    }

    fn info(&self) -> InfoResponse {
        let machine = |(id, name): &(String, String)| MachineSummary {
            id: id.clone(),
            healthy: true,
            uptime: "5s".into(),
            workload: WorkloadSummary { name: name.clone(), runtime: "5s".into(), ..WorkloadSummary::default() },
            ..MachineSummary::default()
        };
        InfoResponse {
            version: "0.1.0".into(),
            public_xkey: self.xkey.public_key(),
            memory: Some(Memory { total: 63_883_232, free: 33_545_884, available: 56_529_000 }),
            machines: self.workloads.iter().map(machine).collect(),
            ..InfoResponse::default()
        }
    }
}

struct World {
    server: NatsServer,
    home: tempfile::TempDir,
    node: Arc<Mutex<Node>>,
}

impl World {
    async fn with(node: Node) -> Self {
        let world = Self::empty().await;
        let nats = world.server.client().await.unwrap();
        // One subscription a command, as a node has: on `>` the server would hear of answers for commands unknown to it.
        let mut subscriptions = Vec::new();
        for subject in ["$NEX.PING", "$NEX.AUCTION", "$NEX.INFO.*.*", "$NEX.DEPLOY.*.*", "$NEX.STOP.*.*"] {
            subscriptions.push(nats.subscribe(subject).await.unwrap());
        }
        // When this is back, the server knows of the subscriptions.
        let mut echo = nats.subscribe("echo").await.unwrap();
        nats.publish("echo", "".into()).await.unwrap();
        echo.next().await.unwrap();
        *world.node.lock().unwrap() = node;
        let node = Arc::clone(&world.node);
        tokio::spawn(async move {
            let mut requests = futures_util::stream::select_all(subscriptions);
            while let Some(request) = requests.next().await {
                let answer = node.lock().unwrap().answer(&request.subject, &request.payload);
                if let (Some(answer), Some(reply)) = (answer, request.reply) {
                    nats.publish(reply, answer.into()).await.unwrap();
                }
            }
        });
        world
    }

    async fn empty() -> Self {
        let server = NatsServer::start().await.unwrap();
        Self { server, home: tempfile::tempdir().unwrap(), node: Arc::new(Mutex::new(Node::new(&[]))) }
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nex"));
        command.env_clear().env("HOME", self.home.path()).env("NATS_URL", self.server.url()).args(arguments);
        command.output().await.unwrap()
    }

    async fn success(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.is_empty(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn failure(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        stderr
    }

    fn node<T>(&self, look: impl FnOnce(&mut Node) -> T) -> T {
        look(&mut self.node.lock().unwrap())
    }
}

fn elf(machine: u8) -> Vec<u8> {
    let mut content = vec![7; 200_000];
    content[..6].copy_from_slice(b"\x7fELF\x02\x01");
    (content[18], content[19]) = (machine, 0);
    content
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nodes_lists_are_empty_and_requests_say_what_to_do() {
    let world = World::empty().await;
    let started = Instant::now();
    assert_eq!(world.success(&["node", "ls"]).await, "No nodes discovered\n");
    assert_eq!(world.success(&["node", "ls", "--json"]).await, "[]\n");
    assert!(started.elapsed().as_millis() < 1500, "{:?}", started.elapsed());
    let nobody = format!("nex: no node answered on {}", world.server.url());
    let script = world.file("echo.js", "(s, p) => p");
    for arguments in [
        &["node", "info", NODE][..],
        &["node", "info", "quiet-fox"],
        &["devrun", &script, "--trigger_subject", "js.echo"],
    ] {
        let message = world.failure(arguments).await;
        assert!(message.starts_with(&nobody) && message.contains("`nex node ls`"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_listed_and_shown() {
    let world = World::with(Node::new(&["v8"])).await;
    let list = world.success(&["node", "ls"]).await;
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [vec!["ID", "Name", "Version", "Workloads"], vec![NODE, "quiet-fox", "0.1.0", "0"]]);
    let full = world.success(&["nodes", "ls", "--full"]).await;
    for word in ["Nexus", "Sandboxed", "false", "linux", "amd64"] {
        assert!(full.contains(word), "{word}: {full}");
    }
    let json: Vec<PingResponse> = serde_json::from_str(&world.success(&["node", "ls", "--json"]).await).unwrap();
    assert_eq!(json[0].node_id, NODE);
    for reference in [NODE, "quiet-fox", "NCOB", "ncobpu"] {
        let info = world.success(&["node", "info", reference]).await;
        assert!(info.contains(&format!("Node: {NODE}\n")) && info.contains("Free: 33,545,884\n"), "{info}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&world.success(&["node", "info", NODE, "--json"]).await).unwrap();
    assert_eq!((json["node_id"].as_str(), json["version"].as_str()), (Some(NODE), Some("0.1.0")));
    assert!(world.failure(&["node", "info", "NOPE"]).await.contains("no node has the name 'NOPE'"));
}

#[tokio::test(flavor = "multi_thread")]
async fn devrun_uploads_signs_seals_and_replaces() {
    let world = World::with(Node::new(&["native"])).await;
    let service = world.file("echo.service", elf(62));
    let first = world.success(&["devrun", &service, "nats_url=nats://x=y", "--argv", "-v 'a b'", "--essential"]).await;
    let lines: Vec<&str> = first.lines().collect();
    assert!(lines[0].starts_with("Created issuer account key: ") && lines[1].starts_with("Created publisher xkey: "));
    let accepted = "Workload 'echoservice' accepted. You can now refer to this workload with ID: w1 on node";
    assert_eq!(lines[2], format!("{accepted} {NODE}"));

    let request = world.node(|node| node.deployed[0].clone());
    assert_eq!((request.r#type.as_str(), request.essential), ("native", true));
    assert_eq!(request.argv, ["-v", "a b"]);
    assert_eq!(request.description, "Workload published in devmode");
    assert_eq!(request.location.unwrap().to_string(), "nats://NEXCLIFILES/echoservice");
    let environment = world.node(|node| node.xkey.open(&request.environment, &request.sender_public_key)).unwrap();
    assert_eq!(environment.get("nats_url"), Some("nats://x=y"));
    let artifact = nex_client::Artifact::of_file(service.as_ref()).unwrap();
    let claims = Claims::verify(&request.workload_jwt, now()).unwrap();
    assert_eq!(claims.hash(), Some(artifact.sha256.as_str()));
    let bucket = nex_client::Bucket::open(&world.server.client().await.unwrap(), None, "NEXCLIFILES").await.unwrap();
    assert_eq!(bucket.info("echoservice").await.unwrap(), artifact);

    world.node(|node| node.workloads.push(("other".into(), "bystander".into())));
    let json: serde_json::Value = serde_json::from_str(&world.success(&["devrun", &service, "--json"]).await).unwrap();
    assert_eq!((json["id"].as_str(), json["node_id"].as_str()), (Some("w2"), Some(NODE)));
    let stopped: Vec<String> = world.node(|node| node.stopped.iter().map(|r| r.workload_id.clone()).collect());
    assert_eq!(stopped, ["w1"], "the older one of the same name, and no other");
    world.success(&["devrun", &service, "--no-stop"]).await;
    assert_eq!(world.node(|node| node.stopped.len()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn devrun_says_which_need_nobody_meets_and_passes_refusals_on() {
    let world = World::with(Node::new(&["native"])).await;
    let script = world.file("echo.js", "(s, p) => p");
    let message = world.failure(&["devrun", &script, "--trigger_subject", "js.echo"]).await;
    assert!(message.contains("1 node answered, but it does not run v8 workloads"), "{message}");
    let foreign = world.file("foreign", elf(183));
    let message = world.failure(&["devrun", &foreign]).await;
    assert!(message.contains("native workloads on linux/arm64: build it for linux/amd64"), "{message}");
    world.node(|node| node.refuses = true);
    let service = world.file("service", elf(62));
    let message = world.failure(&["devrun", &service]).await;
    assert_eq!(message, "nex: no available agent client in pool (try again shortly, or raise machine_pool_size)\n");
    world.node(|node| node.tags.insert("nex.lameduck".into(), "true".into()));
    assert!(world.failure(&["devrun", &service]).await.contains("lame duck"));
    assert!(world.success(&["node", "ls"]).await.contains(&format!("{NODE}*")));
}

#[tokio::test(flavor = "multi_thread")]
async fn run_takes_the_hash_from_the_object_and_stop_finds_names() {
    let world = World::with(Node::new(&["wasm"])).await;
    let nats = world.server.client().await.unwrap();
    let module = world.file("m.wasm", b"\0asm\x01\0\0\0");
    let artifact = nex_client::Artifact::of_file(module.as_ref()).unwrap();
    let bucket = nex_client::Bucket::open_or_create(&nats, None, "PROD", 1 << 20).await.unwrap();
    bucket.upload("m", module.as_ref(), &artifact, |_| {}).await.unwrap();
    let (issuer, xkey) = (world.home.path().join("i.nk"), world.home.path().join("x.xk"));
    Issuer::load_or_create(&issuer).unwrap();
    XKeyPair::load_or_create(&xkey).unwrap();
    let (issuer, xkey) = (issuer.display().to_string(), xkey.display().to_string());

    let run = |url: &'static str| {
        [
            "run",
            url,
            "quiet-fox",
            "A=1",
            "--issuer",
            &issuer,
            "--xkey",
            &xkey,
            "--name",
            "m",
            "--type",
            "wasm",
            "--trigger_subject",
            "w.*",
            "--hs_url",
            "nats://hs",
            "--description",
            "d",
        ]
        .map(str::to_owned)
    };
    let arguments = run("nats://PROD/m");
    let told = world.success(&arguments.each_ref().map(String::as_str)).await;
    assert_eq!(told, format!("Workload 'm' accepted. You can now refer to this workload with ID: w1 on node {NODE}\n"));
    let request = world.node(|node| node.deployed[0].clone());
    assert_eq!(Claims::verify(&request.workload_jwt, now()).unwrap().hash(), Some(artifact.sha256.as_str()));
    assert_eq!(request.host_services.unwrap().nats_url, "nats://hs");
    assert_eq!((request.trigger_subjects, request.description), (vec!["w.*".to_owned()], "d".to_owned()));
    let missing = run("nats://PROD/none");
    let message = world.failure(&missing.each_ref().map(String::as_str)).await;
    assert!(message.contains("there is no object 'none' in bucket 'PROD'"), "{message}");
    let missing = run("nats://NONE/m");
    let message = world.failure(&missing.each_ref().map(String::as_str)).await;
    assert!(message.contains("there is no object store bucket 'NONE'"), "{message}");

    let message = world.failure(&["stop", NODE, "nothing", "--issuer", &issuer]).await;
    assert!(message.contains("no workload 'nothing' in namespace default"), "{message}");
    assert_eq!(world.success(&["stop", NODE, "m", "--issuer", &issuer]).await, "Workload 'm' stopped.\n");
    assert_eq!(world.node(|node| node.stopped[0].workload_id.clone()), "w1");
    let by_id = world.success(&["stop", "quiet-fox", "w9", "--name", "x", "--issuer", &issuer, "--json"]).await;
    let by_id: StopResponse = serde_json::from_str(&by_id).unwrap();
    assert_eq!((by_id.id.as_str(), by_id.name.as_str()), ("w9", "x"));
}
