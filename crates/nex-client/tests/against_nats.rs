//! The client against a real nats-server, with nodes played by the test.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails should say where; the exemption for tests does not reach their shared functions"
)]

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use nex_client::artifact::DEFAULT_BUCKET_BYTES;
use nex_client::connection::{ConnectError, Settings};
use nex_client::{Artifact, ArtifactError, Bucket, Client, ClientError};
use nex_protocol::control::deploy::{DeployRequest, RunResponse};
use nex_protocol::control::ping::PingResponse;
use nex_protocol::control::stop::StopRequest;
use nex_protocol::envelope::{failure, kind, success};
use nex_protocol::{Code, Fault, Namespace};
use nex_testkit::NatsServer;
use tokio::io::AsyncReadExt;

const TIMEOUT: Duration = Duration::from_secs(5);

async fn client(server: &NatsServer) -> Client {
    let settings = Settings { servers: server.url(), timeout: TIMEOUT, ..Settings::default() };
    Client::connect(&settings, Namespace::default()).await.unwrap()
}

/// Flushing only writes; when this message is back, the server knows of the subscriptions made before it.
async fn round_trip(nats: &async_nats::Client) {
    let inbox = nats.new_inbox();
    let mut echo = nats.subscribe(inbox.clone()).await.unwrap();
    nats.publish(inbox, "".into()).await.unwrap();
    echo.next().await.unwrap();
}

/// Answers every request on `subject`, after a pause.
async fn responder(server: &NatsServer, subject: &str, pause: Duration, reply: Vec<u8>) {
    let nats = server.client().await.unwrap();
    let mut requests = nats.subscribe(subject.to_owned()).await.unwrap();
    round_trip(&nats).await;
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            tokio::time::sleep(pause).await;
            nats.publish(request.reply.unwrap(), reply.clone().into()).await.unwrap();
        }
    });
}

fn ping_reply(id: &str) -> Vec<u8> {
    success(kind::PING, &PingResponse { node_id: id.into(), ..PingResponse::default() }).unwrap()
}

#[tokio::test]
async fn a_scatter_ends_at_once_when_nobody_is_there() {
    let server = NatsServer::start().await.unwrap();
    let client = client(&server).await;
    let started = Instant::now();
    assert_eq!(client.ping_nodes().await.unwrap(), []);
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_scatter_collects_until_answers_stop_and_leaves_nonsense_out() {
    let server = NatsServer::start().await.unwrap();
    for (id, pause) in [("N1", 0), ("N2", 20), ("N3", 60)] {
        responder(&server, "$NEX.PING", Duration::from_millis(pause), ping_reply(id)).await;
    }
    responder(&server, "$NEX.PING", Duration::ZERO, b"null".to_vec()).await;
    let client = client(&server).await;
    let started = Instant::now();
    let mut ids: Vec<String> = client.ping_nodes().await.unwrap().into_iter().map(|node| node.node_id).collect();
    ids.sort();
    assert_eq!(ids, ["N1", "N2", "N3"]);
    assert!(started.elapsed() < Duration::from_secs(1), "not the whole timeout: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_request_to_nobody_a_refusal_and_nonsense_are_told_apart() {
    let server = NatsServer::start().await.unwrap();
    let client = client(&server).await;
    let error = client.node_info("NNOBODY").await.unwrap_err();
    assert!(matches!(error, ClientError::NoSuchNode { .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("no node answered on {}", server.url())), "{error}");
    assert!(matches!(client.node_info("a b").await, Err(ClientError::NoSuchNode { .. })));

    let refusal = failure(kind::STOP, &Fault::new(Code::NoSuchWorkload, "No such workload"));
    responder(&server, "$NEX.STOP.default.N1", Duration::ZERO, refusal).await;
    let error = client.stop(&StopRequest::default(), "N1").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NoSuchWorkload));
    assert!(error.to_string().starts_with("No such workload ("), "{error}");

    responder(&server, "$NEX.INFO.default.N1", Duration::ZERO, b"garbage".to_vec()).await;
    assert!(matches!(client.node_info("N1").await, Err(ClientError::Reply { .. })));
}

#[tokio::test]
async fn a_deploy_is_given_more_time_than_other_requests() {
    let server = NatsServer::start().await.unwrap();
    let reply = success(kind::RUN, &RunResponse { started: true, id: "w1".into(), ..RunResponse::default() }).unwrap();
    responder(&server, "$NEX.DEPLOY.default.N1", Duration::from_millis(600), reply).await;
    responder(&server, "$NEX.INFO.default.N1", Duration::from_millis(600), Vec::new()).await;
    let client = Client::new(server.client().await.unwrap(), Namespace::default(), Duration::from_millis(200));
    assert_eq!(client.deploy(&DeployRequest::default(), "N1").await.unwrap().id, "w1");
    let error = client.node_info("N1").await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { command: "INFO", .. }), "{error}");
}

#[tokio::test]
async fn wrong_credentials_are_refused_and_right_ones_are_not() {
    let server = NatsServer::builder().account("me", "p@ss").start().await.unwrap();
    let settings = |user: Option<&str>, password: Option<&str>| Settings {
        servers: server.url(),
        user: user.map(str::to_owned),
        password: password.map(Into::into),
        ..Settings::default()
    };
    for (user, password) in [(None, None), (Some("me"), Some("wrong")), (Some("me"), None)] {
        let error = settings(user, password).connect().await.unwrap_err();
        assert!(matches!(error, ConnectError::Unauthorized { .. }), "{error}");
    }
    settings(Some("me"), Some("p@ss")).connect().await.unwrap();
    let inside_the_url = Settings { servers: server.url().replace("://", "://me:p%40ss@"), ..Settings::default() };
    inside_the_url.connect().await.unwrap();
}

#[tokio::test]
async fn an_nkey_file_logs_in() {
    let pair = nkeys::KeyPair::new_user();
    let config = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", pair.public_key());
    let server = NatsServer::builder().config(&config).start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("user.nk");
    std::fs::write(&file, pair.seed().unwrap()).unwrap();
    let settings = Settings { servers: server.url(), nkey: Some(file), ..Settings::default() };
    settings.connect().await.unwrap();
}

#[tokio::test]
async fn a_retrying_connection_comes_back_with_its_server() {
    let mut server = NatsServer::start().await.unwrap();
    let settings = Settings { servers: server.url(), ..Settings::default() };
    let (nats, _) = settings.connect_retrying().await.unwrap();
    let mut subscription = nats.subscribe("x").await.unwrap();
    server.restart().await.unwrap();
    let other = server.client().await.unwrap();
    let arrived = async {
        loop {
            other.publish("x", "hello".into()).await.unwrap();
            if tokio::time::timeout(Duration::from_millis(200), subscription.next()).await.is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), arrived).await.unwrap();
}

/// A file of `size` bytes that are not all the same.
fn file(dir: &tempfile::TempDir, size: usize, salt: u8) -> std::path::PathBuf {
    let path = dir.path().join("artifact");
    let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8 ^ salt).collect();
    std::fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test]
async fn an_upload_streams_reports_progress_and_reads_back_with_the_library() {
    let server = NatsServer::start().await.unwrap();
    let nats = server.client().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bucket = Bucket::open_or_create(&nats, None, "B", DEFAULT_BUCKET_BYTES).await.unwrap();
    for (size, salt) in [(3_000_001, 0), (5, 7), (128 << 10, 1)] {
        let path = file(&dir, size, salt);
        let artifact = Artifact::of_file(&path).unwrap();
        let mut stored = 0;
        bucket.upload("echo", &path, &artifact, |bytes| stored += bytes).await.unwrap();
        assert_eq!(stored, size as u64);
        assert_eq!(bucket.info("echo").await.unwrap(), artifact);
        let store = async_nats::jetstream::new(nats.clone()).get_object_store("B").await.unwrap();
        let mut read = Vec::new();
        store.get("echo").await.unwrap().read_to_end(&mut read).await.unwrap();
        assert_eq!(read, std::fs::read(&path).unwrap());
    }
    // The chunks of the replaced versions are gone: one chunk and one description are left.
    let stream = async_nats::jetstream::new(nats).get_stream("OBJ_B").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 2);
}

#[tokio::test]
async fn a_full_bucket_is_told_before_anything_is_sent_and_replacing_makes_room() {
    let server = NatsServer::start().await.unwrap();
    let nats = server.client().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let open = || Bucket::open_or_create(&nats, None, "SMALL", 1_000_000);
    let path = file(&dir, 700_000, 0);
    let artifact = Artifact::of_file(&path).unwrap();
    open().await.unwrap().upload("a", &path, &artifact, |_| {}).await.unwrap();
    let error = open().await.unwrap().upload("b", &path, &artifact, |_| {}).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Full { limit: 1_000_000, .. }), "{error}");
    open().await.unwrap().upload("a", &path, &artifact, |_| {}).await.unwrap();
}

#[tokio::test]
async fn a_file_that_changes_is_not_stored_and_leaves_nothing_behind() {
    let server = NatsServer::start().await.unwrap();
    let nats = server.client().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, 300_000, 0);
    let artifact = Artifact::of_file(&path).unwrap();
    let bucket = Bucket::open_or_create(&nats, None, "B", DEFAULT_BUCKET_BYTES).await.unwrap();
    for size in [300_000, 300_001, 299_999] {
        file(&dir, size, 9);
        let error = bucket.upload("a", &path, &artifact, |_| {}).await.unwrap_err();
        assert!(matches!(error, ArtifactError::Changed(_)), "{error}");
    }
    assert!(matches!(bucket.info("a").await, Err(ArtifactError::NoObject { .. })));
    let stream = async_nats::jetstream::new(nats).get_stream("OBJ_B").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 0);
}

#[tokio::test]
async fn missing_buckets_objects_and_jetstream_each_have_their_error() {
    let server = NatsServer::start().await.unwrap();
    let nats = server.client().await.unwrap();
    assert!(matches!(Bucket::open(&nats, None, "NONE").await, Err(ArtifactError::NoBucket(_))));
    let bucket = Bucket::open_or_create(&nats, None, "B", DEFAULT_BUCKET_BYTES).await.unwrap();
    assert!(matches!(bucket.info("none").await, Err(ArtifactError::NoObject { .. })));
    assert!(matches!(bucket.info("a b/c.d").await, Err(ArtifactError::NoObject { .. })));

    let without = NatsServer::builder().config("jetstream: disabled").start().await.unwrap();
    let account = "accounts { A { users: [ { user: a, password: b } ] } }\nno_auth_user: a";
    let denied = NatsServer::builder().config(account).start().await.unwrap();
    for server in [without, denied] {
        let nats = server.client().await.unwrap();
        let error = Bucket::open_or_create(&nats, None, "B", 1).await.err().unwrap();
        assert!(error.to_string().starts_with("JetStream is not enabled on this NATS server"), "{error}");
    }
}
