//! The direct way of one JavaScript worker to its node: synchronous host calls past the agent, over two pipes.
//!
//! States: open (no call), answering (one call: it waits for NATS, then its answer for room in the pipe), closed (the
//! worker or its agent is gone, or the worker broke the protocol; see [`Over`]). Driven by the task that attends to the
//! agent; nobody else touches the pipes.
//!
//! Nothing that comes from the pipe is believed: frames are bounded before they are kept, a call has to belong to a call
//! of the function that is in this agent and ends with that one's deadline, there is one at a time, and whose keys and
//! subjects are meant is known from the link. The folder of the pipes is the one that the node chose, never one that an
//! agent names, and what is no pipe of this user is not opened.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use nex_host_services::{HostCall, HostServices, Tenant};
use nex_link::begun;
use nex_protocol::link::direct::{ANSWERS, ASKS, Answer, Ask, LARGEST, Waits};
use nex_protocol::link::frame::Frame;
use nex_protocol::link::host::{HostError, HostErrorCode, HostReply, HostRequest};
use nex_protocol::link::message::Message;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, timeout_at};

use super::call::Instance;
use super::host_calls::only_waits;
use super::millis;

/// Bytes that are read at a time: most questions are shorter.
const READ: usize = 4 << 10;

/// A payload up to this size is copied, so that its frame is one write.
const COPIED: usize = 16 << 10;

/// Time a worker has to read its answer: it does nothing else.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// How a direct way ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// The worker or its agent has closed it.
    Gone,
    /// The worker did what no worker of ours does; what exactly.
    Broken(&'static str),
}

/// What the calls of a worker need of its node.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) services: HostServices,
    pub(super) tenant: Tenant,
    /// The calls that are in the agent.
    pub(super) instance: Arc<Instance>,
    /// The longest that any call may take.
    pub(super) limit: Duration,
}

/// See the module. Dropping it closes the pipes and ends the call.
pub(super) struct Direct {
    /// The agent's name for the worker.
    worker: u32,
    terms: Terms,
    asks: pipe::Receiver,
    answers: pipe::Sender,
    /// What was read and is no whole question yet.
    buffer: BytesMut,
    open: Option<Open>,
    /// When a call had its answer.
    last: Option<Instant>,
}

/// The one call.
struct Open {
    deadline: Instant,
    step: Step,
}

/// How far it is.
enum Step {
    /// It waits for NATS.
    Waiting(BoxFuture<'static, Answer>),
    /// Its answer goes into the pipe; what does not fit into one piece stays where it is, and is counted there.
    Writing { first: BytesMut, rest: Bytes, until: Instant },
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direct").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl Direct {
    /// Opens the pipes that are in the folder.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::InvalidInput`] when something else is there.
    pub(super) fn open(worker: u32, folder: &Path, terms: Terms) -> io::Result<Self> {
        let directory = openat(CWD, folder, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let asks = own_pipe(&directory, ASKS, OFlags::RDONLY)?;
        let answers = own_pipe(&directory, ANSWERS, OFlags::WRONLY)?;
        Ok(Self {
            worker,
            terms,
            asks: pipe::Receiver::from_owned_fd(asks)?,
            answers: pipe::Sender::from_owned_fd(answers)?,
            buffer: BytesMut::new(),
            open: None,
            last: None,
        })
    }

    /// Whether that worker waits for its node; none when it is not this one.
    pub(super) fn waits(&self, worker: u32) -> Option<Waits> {
        let left = |open: &Open| millis(open.deadline.saturating_duration_since(Instant::now()));
        (worker == self.worker).then(|| Waits {
            left_ms: self.open.as_ref().map(left),
            ago_ms: self.last.map(|last| millis(last.elapsed())),
        })
    }

    /// Answers what is asked, until the way is over. Cancel-safe.
    pub(super) async fn progress(&mut self) -> Over {
        loop {
            let Self { open, asks, answers, buffer, .. } = self;
            if buffer.capacity() - buffer.len() < READ {
                buffer.reserve(READ);
            }
            tokio::select! {
                biased;
                answered = step(open, answers) => match answered {
                    Ok(()) => {
                        self.open = None;
                        self.last = Some(Instant::now());
                    }
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        return Over::Broken("an answer was not read in time");
                    }
                    Err(_) => return Over::Gone,
                },
                read = asks.read_buf(buffer) => match read {
                    Ok(0) | Err(_) => return Over::Gone,
                    Ok(_) => if let Err(what) = self.heard() {
                        return Over::Broken(what);
                    },
                },
            }
        }
    }

    /// Takes what was read: nothing yet, or one whole question and nothing more.
    fn heard(&mut self) -> Result<(), &'static str> {
        if self.open.is_some() {
            return Err("a question came before the last one had its answer");
        }
        let frame = match Frame::decode(&mut self.buffer, LARGEST) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            Err(_) => return Err("something came that is no frame"),
        };
        if !self.buffer.is_empty() {
            return Err("more than one question came at once");
        }
        let ask = Ask::from_frame(frame).map_err(|_| "a frame came that is no question")?;
        self.begin(ask)
    }

    fn begin(&mut self, ask: Ask) -> Result<(), &'static str> {
        let Ask { number, call, request, body } = ask;
        let now = Instant::now();
        let refused = |error| writing(Answer { number, answer: Err(error), body: Bytes::new() });
        let (deadline, step) = match (request, self.terms.instance.deadline(call)) {
            (Err(message), _) => {
                let (service, method) = ("host".to_owned(), "call".to_owned());
                let error = HostError { service, method, code: HostErrorCode::Invalid, message, retry: false };
                (now, refused(error))
            }
            (Ok(request), _) if !only_waits(&request) => {
                return Err("a question came that has to go through the agent");
            }
            (Ok(request), Some(deadline)) if deadline > now => {
                let call = answer(self.terms.clone(), number, request, body, deadline);
                // Begun here: calls go to NATS in the order in which they came.
                (deadline, Step::Waiting(Box::pin(begun(call))))
            }
            (Ok(request), _) => {
                let text = "host services work only while the function's call runs that asks for them";
                (now, refused(HostError::new(&request, HostErrorCode::Invalid, text)))
            }
        };
        self.open = Some(Open { deadline, step });
        Ok(())
    }
}

/// Brings the one call to its end, when there is one; never resolves when there is none. Cancel-safe.
async fn step(open: &mut Option<Open>, answers: &mut pipe::Sender) -> io::Result<()> {
    let Some(Open { step, .. }) = open else { return std::future::pending().await };
    if let Step::Waiting(call) = step {
        *step = writing(call.await);
    }
    let Step::Writing { first, rest, until } = step else { return Ok(()) };
    while first.has_remaining() || rest.has_remaining() {
        let bytes = if first.has_remaining() { first.chunk() } else { rest.chunk() };
        // At once, when there is room; only a large answer waits for the worker to read.
        let written = match answers.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                timeout_at(*until, answers.write(bytes)).await.map_err(|_| io::ErrorKind::TimedOut)??
            }
            written => written?,
        };
        if first.has_remaining() { first.advance(written) } else { rest.advance(written) }
    }
    Ok(())
}

async fn answer(terms: Terms, number: u64, request: HostRequest, body: Bytes, deadline: Instant) -> Answer {
    let Terms { services, tenant, limit, .. } = terms;
    // Nothing that only waits has parts.
    let (download, _) = mpsc::channel(1);
    let late = HostError::new(&request, HostErrorCode::Timeout, "the function's call has no time left");
    let call = HostCall { request, body, upload: None, download, deadline: Instant::now() + limit };
    let (answer, body) = match timeout_at(deadline, services.call(&tenant, call)).await {
        Ok(Ok((reply, body))) => (Ok(reply), body),
        Ok(Err(error)) => (Err(error), Bytes::new()),
        Err(_) => (Err(late), Bytes::new()),
    };
    Answer { number, answer, body }
}

/// The step that hands out an answer.
fn writing(answer: Answer) -> Step {
    let number = answer.number;
    let (mut first, mut rest) = (BytesMut::new(), Bytes::new());
    let frame = answer.into_frame().or_else(|_| {
        // Plain texts and numbers have a JSON form; were there one without, its question needs an answer all the same.
        Answer { number, answer: Ok(HostReply::Done), body: Bytes::new() }.into_frame()
    });
    if let Ok(frame) = frame {
        frame.encode_prefix(&mut first);
        if frame.body.len() <= COPIED {
            first.extend_from_slice(&frame.body);
        } else {
            rest = frame.body;
        }
    }
    Step::Writing { first, rest, until: Instant::now() + TAKEN_WITHIN }
}

/// A named pipe of this user, by its name in a folder. Links are not followed, and opening never waits.
fn own_pipe(folder: &OwnedFd, name: &str, access: OFlags) -> io::Result<OwnedFd> {
    let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let pipe = openat(folder, name, flags, Mode::empty())?;
    let found = fstat(&pipe)?;
    let ours = found.st_uid == rustix::process::geteuid().as_raw();
    if FileType::from_raw_mode(found.st_mode) != FileType::Fifo || !ours {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("'{name}' is no pipe of this user")));
    }
    Ok(pipe)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use nex_host_services::messaging::MemoryBus;
    use nex_host_services::{Backends, Settings};
    use nex_protocol::link::frame::MAX_LINK_FRAME;
    use nex_protocol::link::host::{KvRequest, MessagingRequest, ObjectRequest};
    use nex_protocol::link::message::{ToAgent, ToNode};

    use super::*;

    const CALL: u64 = 1;

    /// The node's end, and a worker's.
    struct Fixture {
        direct: Direct,
        asks: pipe::Sender,
        answers: pipe::Receiver,
        buffer: BytesMut,
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
        let backends =
            Backends { messaging: Arc::<MemoryBus>::clone(&bus), ..Backends::in_memory(&Settings::default()) };
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
        let terms = Terms { services: services.clone(), tenant: tenant(), instance, limit: Duration::from_secs(60) };
        let direct = Direct::open(7, folder.path(), terms).unwrap();
        let asks = pipe::OpenOptions::new().open_sender(&asks).unwrap();
        let answers = pipe::OpenOptions::new().open_receiver(&answers).unwrap();
        drop(held);
        Fixture { direct, asks, answers, buffer: BytesMut::new(), services, bus, _call: call, _folder: folder }
    }

    fn tenant() -> Tenant {
        Tenant { namespace: "default".parse().unwrap(), workload: "w".parse().unwrap() }
    }

    fn get(key: &str) -> HostRequest {
        HostRequest::Kv(KvRequest::Get { key: key.into() })
    }

    fn bytes(number: u64, call: u64, request: HostRequest, body: &[u8]) -> BytesMut {
        let ask = Ask { number, call, request: Ok(request), body: Bytes::copy_from_slice(body) };
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
        let mut worker = fixture(Duration::from_millis(300)).await;
        for call in [0, 2, u64::MAX] {
            let error = worker.ask(1, call, get("k"), b"").await.answer.unwrap_err();
            assert_eq!((error.code, error.retry), (HostErrorCode::Invalid, false), "{error:?}");
        }
        let mut silent = worker.bus.subscribe("silent".parse().unwrap());
        let request = MessagingRequest::Request { subject: "silent".into(), headers: vec![], timeout_ms: Some(60_000) };
        let late = worker.ask(2, CALL, HostRequest::Messaging(request), b"").await.answer.unwrap_err();
        assert_eq!(
            (late.code, late.message.as_str()),
            (HostErrorCode::Timeout, "the function's call has no time left")
        );
        assert!(silent.try_recv().is_ok());
        let over = worker.ask(3, CALL, get("k"), b"").await.answer.unwrap_err();
        assert_eq!(over.code, HostErrorCode::Invalid, "its time is up");
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_read_is_an_error_for_the_function() {
        let mut worker = fixture(Duration::from_secs(60)).await;
        let ask = Ask { number: 4, call: CALL, request: Err("nonsense".into()), body: Bytes::new() };
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
        let request = MessagingRequest::Request { subject: "silent".into(), headers: vec![], timeout_ms: None };
        worker.asks.write_all(&bytes(1, CALL, HostRequest::Messaging(request), b"")).await.unwrap();
        let begun = tokio::time::timeout(Duration::from_millis(50), worker.direct.progress()).await;
        assert!(begun.is_err(), "{begun:?}");
        assert!(worker.direct.waits(7).unwrap().left_ms.is_some_and(|left| left > 50_000));
        let over = worker.broken_by(&bytes(2, CALL, get("k"), b"")).await;
        assert!(matches!(over, Over::Broken(_)), "{over:?}");
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
}
