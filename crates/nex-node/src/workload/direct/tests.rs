//! A worker's direct way, with the test at the worker's ends of pipes and socket.

use std::path::PathBuf;

use nex_host_services::messaging::{MemoryBus, Reply};
use nex_host_services::{Backends, Settings};
use nex_protocol::link::direct::{OPEN_PROMISES, PROMISES};
use nex_protocol::link::frame::MAX_LINK_FRAME;
use nex_protocol::link::host::{HostErrorCode, KvRequest, MessagingRequest, ObjectRequest};
use nex_protocol::link::message::{ToAgent, ToNode};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::*;

const CALL: u64 = 1;

/// The node's end, and a worker's.
struct Fixture {
    direct: Direct,
    asks: pipe::Sender,
    answers: pipe::Receiver,
    promises: UnixStream,
    buffer: BytesMut,
    resolved: BytesMut,
    services: HostServices,
    bus: Arc<MemoryBus>,
    _call: tokio::task::JoinSet<()>,
    _folder: tempfile::TempDir,
}

fn pipes() -> (tempfile::TempDir, [PathBuf; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let paths = [ASKS, ANSWERS].map(|name| folder.path().join(name));
    for path in &paths {
        rustix::fs::mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
    }
    (folder, paths)
}

/// A function with one call in its agent, which has so much time.
async fn fixture(time: Duration) -> Fixture {
    let (folder, [asks, answers]) = pipes();
    // As the agent holds them while the node opens its ends.
    let held = [&asks, &answers].map(|path| pipe::OpenOptions::new().read_write(true).open_sender(path).unwrap());
    let bus = Arc::new(MemoryBus::default());
    let backends = Backends { messaging: Arc::<MemoryBus>::clone(&bus), ..Backends::in_memory(&Settings::default()) };
    let services = HostServices::with_backends(backends, Settings::default());
    let (near, _far) = tokio::io::duplex(1 << 16);
    let (read, write) = tokio::io::split(near);
    let (sender, _) = nex_link::open::<ToNode, ToAgent>(read, write, MAX_LINK_FRAME);
    let instance = Arc::new(Instance::new(sender));
    let mut call = tokio::task::JoinSet::new();
    let called = Arc::clone(&instance);
    let deadline = Instant::now() + time;
    call.spawn(async move {
        let _ = called.run("s".into(), vec![], Bytes::new(), deadline).await;
    });
    while instance.deadline(CALL).is_none() {
        tokio::task::yield_now().await;
    }
    let (nowhere, _) = mpsc::channel(1);
    let limit = Duration::from_secs(60);
    let terms = Terms { services: services.clone(), tenant: Arc::new(tenant()), nowhere, instance, limit };
    let listener = UnixListener::bind(folder.path().join(PROMISES)).unwrap();
    let direct = Direct::open(7, folder.path(), terms).unwrap();
    let (promises, _) = listener.accept().await.unwrap();
    let asks = pipe::OpenOptions::new().open_sender(&asks).unwrap();
    let answers = pipe::OpenOptions::new().open_receiver(&answers).unwrap();
    drop(held);
    let (buffer, resolved) = (BytesMut::new(), BytesMut::new());
    Fixture { direct, asks, answers, promises, buffer, resolved, services, bus, _call: call, _folder: folder }
}

fn tenant() -> Tenant {
    Tenant { namespace: "default".parse().unwrap(), workload: "w".parse().unwrap() }
}

fn get(key: &str) -> HostRequest {
    HostRequest::Kv(KvRequest::Get { key: key.into() })
}

fn request(subject: &str) -> HostRequest {
    let (subject, headers) = (subject.to_owned(), vec![]);
    HostRequest::Messaging(MessagingRequest::Request { subject, headers, timeout_ms: None })
}

fn publish(subject: &str) -> HostRequest {
    HostRequest::Messaging(MessagingRequest::Publish { subject: subject.to_owned(), headers: vec![] })
}

fn promise(number: u64, call: u64, request: HostRequest) -> BytesMut {
    written(Ask { number, call, promise: true, request: Ok(request), body: Bytes::new() })
}

fn bytes(number: u64, call: u64, request: HostRequest, body: &[u8]) -> BytesMut {
    written(Ask { number, call, promise: false, request: Ok(request), body: Bytes::copy_from_slice(body) })
}

fn written(ask: Ask) -> BytesMut {
    let mut bytes = BytesMut::new();
    ask.into_frame().unwrap().encode(&mut bytes);
    bytes
}

impl Fixture {
    async fn ask(&mut self, number: u64, call: u64, request: HostRequest, body: &[u8]) -> Answer {
        self.asks.write_all(&bytes(number, call, request, body)).await.unwrap();
        self.answer().await
    }

    /// The next answer, while the node attends to the worker.
    async fn answer(&mut self) -> Answer {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer, usize::MAX >> 1).unwrap() {
                return Answer::from_frame(frame).unwrap();
            }
            tokio::select! {
                over = self.direct.progress() => panic!("{over:?}"),
                read = self.answers.read_buf(&mut self.buffer) => assert_ne!(read.unwrap(), 0),
            }
        }
    }

    /// What comes of the next promise, while the node attends to the worker.
    async fn resolved(&mut self) -> Answer {
        loop {
            if let Some(frame) = Frame::decode(&mut self.resolved, usize::MAX >> 1).unwrap() {
                return Answer::from_frame(frame).unwrap();
            }
            tokio::select! {
                over = self.direct.progress() => panic!("{over:?}"),
                read = self.promises.read_buf(&mut self.resolved) => assert_ne!(read.unwrap(), 0),
            }
        }
    }

    /// How the way ends once this was written.
    async fn broken_by(&mut self, bytes: &[u8]) -> Over {
        self.asks.write_all(bytes).await.unwrap();
        self.direct.progress().await
    }
}

#[tokio::test]
async fn questions_are_answered_one_after_the_other() {
    let mut worker = fixture(Duration::from_secs(60)).await;
    let set = HostRequest::Kv(KvRequest::Set { key: "k".into(), ttl_ms: None });
    let set = worker.ask(1, CALL, set, b"value").await;
    assert!(set.answer.is_ok(), "{set:?}");
    let found = worker.ask(2, CALL, get("k"), b"").await;
    assert_eq!((found.number, &found.body[..]), (2, &b"value"[..]), "{found:?}");
    assert!(matches!(found.answer, Ok(HostReply::Revision { .. })), "{found:?}");
    assert_eq!(worker.ask(3, CALL, get("none"), b"").await.answer, Ok(HostReply::Missing));
    assert_eq!(worker.direct.waits(8), None, "another worker");
    let waits = worker.direct.waits(7).unwrap();
    assert!(waits.left_ms.is_none() && waits.ago_ms.is_some(), "{waits:?}");
}

#[tokio::test]
async fn an_answer_that_is_larger_than_the_pipe_arrives_whole() {
    let mut worker = fixture(Duration::from_secs(60)).await;
    let (download, _) = mpsc::channel(1);
    let request = HostRequest::Kv(KvRequest::Set { key: "k".into(), ttl_ms: None });
    let body: Bytes = (0..300_000u32).map(|at| at.to_le_bytes()[0]).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    let set = HostCall { request, body: body.clone(), upload: None, download, deadline };
    worker.services.call(&tenant(), set).await.unwrap();
    assert_eq!(worker.ask(1, CALL, get("k"), b"").await.body, body);
    assert_eq!(worker.ask(2, CALL, get("none"), b"").await.answer, Ok(HostReply::Missing));
}

#[tokio::test]
async fn a_question_needs_a_call_that_is_in_the_agent_and_ends_with_it() {
    let end = Instant::now() + Duration::from_millis(300);
    let mut worker = fixture(Duration::from_millis(300)).await;
    for call in [0, 2, u64::MAX] {
        let error = worker.ask(1, call, get("k"), b"").await.answer.unwrap_err();
        assert_eq!((error.code, error.retry), (HostErrorCode::Invalid, false), "{error:?}");
    }
    let mut silent = worker.bus.subscribe("silent".parse().unwrap());
    let request = MessagingRequest::Request { subject: "silent".into(), headers: vec![], timeout_ms: Some(60_000) };
    let late = worker.ask(2, CALL, HostRequest::Messaging(request), b"").await.answer.unwrap_err();
    // Inside the call's own time, so that the function hears of it.
    assert_eq!((late.code, late.message.as_str()), (HostErrorCode::Timeout, "nobody answered in time"));
    assert!(silent.try_recv().is_ok());
    tokio::time::sleep_until(end + Duration::from_millis(100)).await;
    let over = worker.ask(3, CALL, get("k"), b"").await.answer.unwrap_err();
    assert_eq!(over.code, HostErrorCode::Invalid, "its time is up");
    let before = worker.direct.last;
    worker.ask(4, CALL, get("k"), b"").await.answer.unwrap_err();
    assert_eq!(worker.direct.last, before, "asking in vain is no sign of life");
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_an_error_for_the_function() {
    let mut worker = fixture(Duration::from_secs(60)).await;
    let ask = Ask { number: 4, call: CALL, promise: false, request: Err("nonsense".into()), body: Bytes::new() };
    let mut bytes = BytesMut::new();
    ask.into_frame().unwrap().encode(&mut bytes);
    worker.asks.write_all(&bytes).await.unwrap();
    let error = worker.answer().await.answer.unwrap_err();
    assert_eq!((error.service.as_str(), error.code), ("host", HostErrorCode::Invalid));
}

#[tokio::test]
async fn what_no_worker_writes_ends_the_way() {
    let object = HostRequest::ObjectStore(ObjectRequest::List);
    let watch = HostRequest::Kv(KvRequest::Watch { key: None });
    let twice = [bytes(1, CALL, get("k"), b""), bytes(2, CALL, get("k"), b"")].concat();
    let large = bytes(1, CALL, get("k"), &vec![0; LARGEST]);
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0, 0, 0, 13, 99, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
        vec![0, 0, 0, 13, 71, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 200],
        bytes(1, CALL, object, b"").to_vec(),
        bytes(1, CALL, watch, b"").to_vec(),
        twice,
        large[..100].to_vec(),
    ] {
        let mut worker = fixture(Duration::from_secs(60)).await;
        let over = worker.broken_by(&garbage).await;
        assert!(matches!(over, Over::Broken(_)), "{over:?}: {garbage:?}");
    }
}

#[tokio::test]
async fn a_second_question_before_the_answer_ends_the_way() {
    let mut worker = fixture(Duration::from_secs(60)).await;
    let _silent = worker.bus.subscribe("silent".parse().unwrap());
    worker.asks.write_all(&bytes(1, CALL, request("silent"), b"")).await.unwrap();
    let begun = tokio::time::timeout(Duration::from_millis(50), worker.direct.progress()).await;
    assert!(begun.is_err(), "{begun:?}");
    assert!(worker.direct.waits(7).unwrap().left_ms.is_some_and(|left| left > 50_000));
    let over = worker.broken_by(&bytes(2, CALL, get("k"), b"")).await;
    assert!(matches!(over, Over::Broken(_)), "{over:?}");
}

#[tokio::test]
async fn promises_wait_beside_each_other_and_beside_a_question_that_blocks() {
    let mut worker = fixture(Duration::from_secs(60)).await;
    let mut slow = worker.bus.subscribe("slow".parse().unwrap());
    let asked = [promise(1, CALL, request("slow")), promise(2, CALL, get("k")), bytes(3, CALL, get("k"), b"")].concat();
    worker.asks.write_all(&asked).await.unwrap();
    assert_eq!(worker.resolved().await, Answer { number: 2, answer: Ok(HostReply::Missing), body: Bytes::new() });
    assert_eq!(worker.answer().await.number, 3);
    let waits = worker.direct.waits(7).unwrap();
    assert!(waits.left_ms.is_none(), "a promise blocks nobody: {waits:?}");
    let reply = slow.recv().await.unwrap().reply.unwrap();
    reply.send(Reply { headers: vec![], payload: "at last".into() }).unwrap();
    let last = worker.resolved().await;
    assert_eq!((last.number, &last.body[..]), (1, &b"at last"[..]), "{last:?}");
}

#[tokio::test]
async fn a_promise_needs_a_call_too_and_ends_with_its_deadline() {
    let mut worker = fixture(Duration::from_millis(300)).await;
    let _silent = worker.bus.subscribe("silent".parse().unwrap());
    let asked = [promise(1, CALL, request("silent")), promise(2, 9, get("k"))].concat();
    worker.asks.write_all(&asked).await.unwrap();
    let refused = worker.resolved().await;
    assert_eq!((refused.number, refused.answer.unwrap_err().code), (2, HostErrorCode::Invalid));
    let late = worker.resolved().await;
    assert_eq!((late.number, late.answer.unwrap_err().code), (1, HostErrorCode::Timeout));
}

#[tokio::test]
async fn a_call_that_ends_ends_its_promises_and_what_was_asked_before_is_begun() {
    let mut worker = fixture(Duration::from_secs(60)).await;
    let mut heard = worker.bus.subscribe("heard".parse().unwrap());
    let _silent = worker.bus.subscribe("silent".parse().unwrap());
    worker.asks.write_all(&promise(1, CALL, request("silent"))).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), worker.direct.progress()).await.is_err());
    let asked = [promise(2, CALL, publish("heard")), promise(3, CALL, request("silent"))].concat();
    worker.asks.write_all(&asked).await.unwrap();
    worker.direct.end_of(CALL + 1);
    assert!(heard.try_recv().is_ok());
    worker.direct.end_of(CALL);
    let mut ended = Vec::new();
    for _ in 0..3 {
        let answer = worker.resolved().await;
        let error = answer.answer.unwrap_err();
        assert_eq!(error.message, "the function's call ended before the answer came: await it");
        ended.push(answer.number);
    }
    ended.sort_unstable();
    assert_eq!(ended, [1, 2, 3]);
    worker.asks.write_all(&promise(1, CALL, get("k"))).await.unwrap();
    assert_eq!(worker.resolved().await.answer, Ok(HostReply::Missing), "the number is free");
}

#[tokio::test]
async fn what_no_worker_does_with_promises_ends_the_way() {
    let twice = [promise(1, CALL, request("silent")), promise(1, CALL, request("silent"))].concat();
    let many: Vec<u8> =
        (0..=OPEN_PROMISES as u64).flat_map(|number| promise(number, CALL, request("silent"))).collect();
    for garbage in [twice, many] {
        let mut worker = fixture(Duration::from_secs(60)).await;
        let _silent = worker.bus.subscribe("silent".parse().unwrap());
        let over = worker.broken_by(&garbage).await;
        assert!(matches!(over, Over::Broken(_)), "{over:?}");
    }
}

#[tokio::test]
async fn one_that_asks_for_ever_and_reads_no_answer_loses_its_way() {
    let mut worker = fixture(Duration::from_secs(60)).await;
    let ask = promise(1, 9, get("k"));
    let over = loop {
        tokio::select! {
            over = worker.direct.progress() => break over,
            written = worker.asks.write_all(&ask) => written.unwrap(),
        }
    };
    assert_eq!(over, Over::Broken("the answers to promises are not read"));
}

#[tokio::test]
async fn a_worker_without_a_socket_has_no_promises() {
    let worker = fixture(Duration::from_secs(60)).await;
    std::fs::remove_file(worker._folder.path().join(PROMISES)).unwrap();
    let terms = worker.direct.terms.clone();
    let mut direct = Direct::open(8, worker._folder.path(), terms).unwrap();
    let mut asks = pipe::OpenOptions::new().open_sender(worker._folder.path().join(ASKS)).unwrap();
    asks.write_all(&promise(1, CALL, get("k"))).await.unwrap();
    assert!(matches!(direct.progress().await, Over::Broken(_)));
}

#[tokio::test]
async fn a_worker_that_ends_ends_its_way() {
    let mut worker = fixture(Duration::from_secs(60)).await;
    let Fixture { direct, asks, answers, .. } = &mut worker;
    drop((std::mem::replace(asks, other()), std::mem::replace(answers, others())));
    assert_eq!(direct.progress().await, Over::Gone);
}

fn other() -> pipe::Sender {
    pipe::pipe().unwrap().0
}

fn others() -> pipe::Receiver {
    pipe::pipe().unwrap().1
}

#[tokio::test]
async fn only_pipes_in_that_folder_are_opened() {
    let worker = fixture(Duration::from_secs(60)).await;
    let open = |folder: &Path| Direct::open(1, folder, worker.direct.terms.clone());
    let (elsewhere, paths) = pipes();
    let _held = paths.each_ref().map(|path| pipe::OpenOptions::new().read_write(true).open_sender(path).unwrap());
    assert!(open(elsewhere.path()).is_ok());

    for name in [ASKS, ANSWERS] {
        let folder = tempfile::tempdir().unwrap();
        for (pipe, path) in [ASKS, ANSWERS].into_iter().zip(&paths) {
            if pipe != name {
                std::fs::hard_link(path, folder.path().join(pipe)).unwrap();
            }
        }
        let path = folder.path().join(name);
        assert!(open(folder.path()).is_err(), "{name} is not there");
        std::os::unix::fs::symlink(elsewhere.path().join(name), &path).unwrap();
        assert!(open(folder.path()).is_err(), "{name} is a link to a pipe");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "content").unwrap();
        assert!(open(folder.path()).is_err(), "{name} is a file");
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
    }
    let link = worker._folder.path().join("link");
    std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
    assert!(open(&link).is_err(), "the folder is a link");
}
