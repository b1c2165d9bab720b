//! Host calls of one agent: what its function asks of the node's services.
//!
//! The actor hands on what the agent sends and never waits for it. Calls that only wait for NATS are driven by the
//! actor's own task ([`HostCalls::progress`]): a task of its own would cost each of them the waking of a thread. Those
//! that compute (bodies are decoded, objects hashed) or go on for long have one. Whose keys, objects and subjects are
//! meant is decided here, by the link a call came on, and by nothing in the call.
//!
//! Promises: a call has exactly one answer, within the time a function's call may take, unless the agent gave it up; at
//! most [`OPEN`] are in work, more are refused at once; an object goes no faster than the agent takes it; when the agent
//! is gone, so are its calls.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::FuturesUnordered;
use nex_host_services::{HostCall, HostServices, Tenant, Upload};
use nex_link::{Sender, begun};
use nex_protocol::link::host::{
    CHUNK, HostError, HostErrorCode, HostReply, HostRequest, KvRequest, ObjectRequest, WINDOW, WatchEvent,
};
use nex_protocol::link::message::ToAgent;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout_at};

use super::call::Instance;
use super::direct::{Direct, Over, Terms};

/// Calls of one agent in work at a time. A function has fewer: what comes beyond is an agent gone wild.
const OPEN: usize = 256;

/// Parts of an answer that wait for the link.
const DOWNLOAD: usize = 4;

/// A watch goes on until it is given up or its agent is gone; no clock ends it before.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

/// What takes the parts of an answer and hands them to nobody. Shared, for a channel of its own would be most of what a
/// short call allocates.
pub(super) type Nowhere = mpsc::Sender<(Option<WatchEvent>, Bytes)>;

/// The agent did something that no agent of ours does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent broke the protocol of host calls")]
pub struct ProtocolBroken;

/// The calls of one agent. Dropping it ends them.
#[derive(Debug)]
pub struct HostCalls {
    services: HostServices,
    tenant: Arc<Tenant>,
    nowhere: Nowhere,
    sender: Sender<ToAgent>,
    limit: Duration,
    open: BTreeMap<u64, Open>,
    /// Calls that only wait.
    waiting: FuturesUnordered<Abortable<BoxFuture<'static, u64>>>,
    /// Calls with tasks of their own.
    running: JoinSet<u64>,
    /// Where a JavaScript worker's calls come past the agent.
    direct: Option<Direct>,
}

/// How to give a call up.
#[derive(Debug)]
enum Task {
    Waiting(AbortHandle),
    Running(tokio::task::AbortHandle),
}

#[derive(Debug)]
struct Open {
    upload: Option<mpsc::Sender<Bytes>>,
    /// Chunks of a download that may be sent.
    window: Arc<Semaphore>,
    task: Task,
}

impl HostCalls {
    /// No calls yet; each may take as long as `limit`.
    pub fn new(services: HostServices, tenant: Tenant, sender: Sender<ToAgent>, limit: Duration) -> Self {
        Self {
            services,
            tenant: Arc::new(tenant),
            nowhere: mpsc::channel(1).0,
            sender,
            limit,
            open: BTreeMap::new(),
            waiting: FuturesUnordered::new(),
            running: JoinSet::new(),
            direct: None,
        }
    }

    /// Opens the direct way of a worker, in the place of that of the worker before: the pipes are in the agent's folder.
    ///
    /// # Errors
    /// What the system says; that worker's calls go on coming from the agent.
    pub(super) fn open_direct(&mut self, worker: u32, folder: &Path, instance: &Arc<Instance>) -> io::Result<()> {
        let terms = Terms {
            services: self.services.clone(),
            tenant: Arc::clone(&self.tenant),
            nowhere: self.nowhere.clone(),
            instance: Arc::clone(instance),
            limit: self.limit,
        };
        self.direct = Some(Direct::open(worker, folder, terms)?);
        // One that has no room for this does not read; its worker goes on as before.
        self.sender.try_send(ToAgent::Direct(worker));
        Ok(())
    }

    /// A call of the function has its outcome; what it asked for past the agent is given up. The agent gives up the rest.
    pub(super) fn end_of(&mut self, call: u64) {
        if let Some(direct) = &mut self.direct {
            direct.end_of(call);
        }
    }

    /// Tells the agent whether a worker waits for the node.
    pub(super) fn tell_waits(&self, worker: u32) {
        let waits = self.direct.as_ref().and_then(|direct| direct.waits(worker)).unwrap_or_default();
        self.sender.try_send(ToAgent::DirectWaits(worker, waits));
    }

    /// Begins a call.
    ///
    /// # Errors
    /// [`ProtocolBroken`] when the number is that of a call in work.
    pub fn begin(&mut self, number: u64, request: HostRequest, body: Bytes) -> Result<(), ProtocolBroken> {
        self.sweep();
        if let Some(direct) = &mut self.direct {
            direct.catch_up();
        }
        if self.open.contains_key(&number) {
            return Err(ProtocolBroken);
        }
        if self.open.len() >= OPEN {
            let error = HostError::new(&request, HostErrorCode::Quota, format!("{OPEN} host calls are in work"));
            // An agent that asks this much and does not read its answers is none of ours.
            let told = self.sender.try_send(ToAgent::HostReply(number, Err(error), Bytes::new()));
            return if told { Ok(()) } else { Err(ProtocolBroken) };
        }
        let (upload, chunks) = match request {
            HostRequest::ObjectStore(ObjectRequest::Put { .. }) => {
                let (upload, chunks) = mpsc::channel(WINDOW);
                (Some(upload), Some(chunks))
            }
            _ => (None, None),
        };
        let is_watch = matches!(request, HostRequest::Kv(KvRequest::Watch { .. }));
        let deadline = Instant::now() + if is_watch { FOR_EVER } else { self.limit };
        let (services, tenant) = (self.services.clone(), Arc::clone(&self.tenant));
        let window = Arc::new(Semaphore::new(WINDOW));
        let work = Work { number, sender: self.sender.clone(), window: Arc::clone(&window), deadline };
        // Begun here: calls go to NATS in the order in which they came.
        let task = if only_waits(&request) {
            let (handle, registration) = AbortHandle::new_pair();
            let work = begun(work.wait(services, tenant, request, body, self.nowhere.clone()));
            self.waiting.push(Abortable::new(work, registration));
            Task::Waiting(handle)
        } else {
            Task::Running(self.running.spawn(begun(work.run(services, tenant, request, body, chunks))))
        };
        self.open.insert(number, Open { upload, window, task });
        Ok(())
    }

    /// Hands on a chunk of an upload. One for a call that is over is ignored.
    ///
    /// # Errors
    /// [`ProtocolBroken`] when the agent sends more than its window.
    pub fn data(&mut self, number: u64, chunk: Bytes) -> Result<(), ProtocolBroken> {
        let Some(open) = self.open.get_mut(&number) else { return Ok(()) };
        let Some(upload) = &open.upload else { return Err(ProtocolBroken) };
        if chunk.len() > CHUNK {
            return Err(ProtocolBroken);
        }
        match upload.try_send(chunk) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(ProtocolBroken),
        }
    }

    /// The agent has taken a chunk of a download. What it says of a call that is over is ignored.
    ///
    /// # Errors
    /// [`ProtocolBroken`] when it has taken more than it was sent.
    pub fn more(&mut self, number: u64) -> Result<(), ProtocolBroken> {
        let Some(open) = self.open.get(&number) else { return Ok(()) };
        if open.window.available_permits() >= WINDOW {
            return Err(ProtocolBroken);
        }
        open.window.add_permits(1);
        Ok(())
    }

    /// Ends a call that the agent gave up.
    pub fn cancel(&mut self, number: u64) {
        if let Some(open) = self.open.remove(&number) {
            match open.task {
                Task::Waiting(handle) => handle.abort(),
                Task::Running(handle) => handle.abort(),
            }
        }
    }

    /// Drives the calls that only wait, and those that come past the agent; resolves when the direct way is over. To be
    /// polled whenever the actor waits. Cancel-safe.
    pub(super) async fn progress(&mut self) -> Over {
        let Self { waiting, open, direct, .. } = self;
        let past_the_agent = async {
            match direct {
                Some(direct) => direct.progress().await,
                None => std::future::pending().await,
            }
        };
        let from_the_agent = async {
            while let Some(done) = waiting.next().await {
                // One that was given up has no number any more.
                if let Ok(number) = done {
                    open.remove(&number);
                }
            }
            std::future::pending().await
        };
        let over = tokio::select! {
            biased;
            over = past_the_agent => over,
            never = from_the_agent => never,
        };
        self.direct = None;
        over
    }

    /// Forgets calls that are over.
    fn sweep(&mut self) {
        while let Some(done) = self.running.try_join_next() {
            if let Ok(number) = done {
                self.open.remove(&number);
            }
        }
        // Those that were aborted have no number any more.
        self.open.retain(|_, open| !matches!(&open.task, Task::Running(handle) if handle.is_finished()));
    }
}

/// Whether a call does nothing on this machine but wait for NATS, and not for long.
pub(super) fn only_waits(request: &HostRequest) -> bool {
    match request {
        HostRequest::Kv(KvRequest::Keys | KvRequest::Watch { .. }) => false,
        HostRequest::Kv(_) | HostRequest::Messaging(_) => true,
        HostRequest::ObjectStore(_) | HostRequest::Http(_) => false,
    }
}

/// What became of a part of an answer.
enum Passed {
    Yes,
    /// The call's time was up before the agent had room for it.
    Late,
    /// The agent is gone.
    Gone,
}

/// One call.
struct Work {
    number: u64,
    sender: Sender<ToAgent>,
    window: Arc<Semaphore>,
    deadline: Instant,
}

impl Work {
    /// A call that only waits: its answer has one part.
    async fn wait(
        self,
        services: HostServices,
        tenant: Arc<Tenant>,
        request: HostRequest,
        body: Bytes,
        download: Nowhere,
    ) -> u64 {
        let call = HostCall { request, body, upload: None, download, deadline: self.deadline };
        let answer = services.call(&tenant, call).await;
        self.end(answer).await;
        self.number
    }

    async fn run(
        self,
        services: HostServices,
        tenant: Arc<Tenant>,
        request: HostRequest,
        body: Bytes,
        chunks: Option<mpsc::Receiver<Bytes>>,
    ) -> u64 {
        let (download, mut parts) = mpsc::channel(DOWNLOAD);
        let (took, mut taken) = mpsc::unbounded_channel();
        let upload = chunks.map(|chunks| {
            let taken = Box::new(move || {
                let _ = took.send(());
            });
            Upload { chunks, taken }
        });
        let call = HostCall { request: request.clone(), body, upload, download, deadline: self.deadline };
        let late = || HostError::new(&request, HostErrorCode::Timeout, "the function did not take the object in time");
        let mut answering = std::pin::pin!(services.call(&tenant, call));
        let answer = loop {
            tokio::select! {
                biased;
                Some(()) = taken.recv() => {
                    if self.sender.send(ToAgent::HostMore(self.number)).await.is_err() {
                        return self.number;
                    }
                }
                Some(part) = parts.recv() => match self.part(part).await {
                    Passed::Yes => {}
                    Passed::Late => break Err(late()),
                    Passed::Gone => return self.number,
                },
                answer = &mut answering => break answer,
            }
        };
        let mut answer = answer;
        while answer.is_ok()
            && let Ok(part) = parts.try_recv()
        {
            match self.part(part).await {
                Passed::Yes => {}
                Passed::Late => answer = Err(late()),
                Passed::Gone => return self.number,
            }
        }
        self.end(answer).await;
        self.number
    }

    /// Hands a part on; a chunk of an object once the agent has room for it.
    async fn part(&self, (event, chunk): (Option<WatchEvent>, Bytes)) -> Passed {
        if event.is_none() {
            match timeout_at(self.deadline, self.window.acquire()).await {
                Ok(Ok(permit)) => permit.forget(),
                Ok(Err(_)) | Err(_) => return Passed::Late,
            }
        }
        match self.sender.send(ToAgent::HostData(self.number, event, chunk)).await {
            Ok(()) => Passed::Yes,
            Err(_) => Passed::Gone,
        }
    }

    async fn end(&self, answer: Result<(HostReply, Bytes), HostError>) {
        let (answer, body) = match answer {
            Ok((reply, body)) => (Ok(reply), body),
            Err(error) => (Err(error), Bytes::new()),
        };
        let _ = self.sender.send(ToAgent::HostReply(self.number, answer, body)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nex_host_services::Settings;
    use nex_link::{Receiver, open};
    use nex_protocol::link::frame::MAX_LINK_FRAME;
    use nex_protocol::link::message::ToNode;

    fn fixture() -> (HostCalls, Receiver<ToAgent>, Sender<ToNode>) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (near_read, near_write) = tokio::io::split(near);
        let (far_read, far_write) = tokio::io::split(far);
        let (sender, _receiver) = open::<ToNode, ToAgent>(near_read, near_write, MAX_LINK_FRAME);
        let (far, agent) = open::<ToAgent, ToNode>(far_read, far_write, MAX_LINK_FRAME);
        let services = HostServices::in_memory(Settings::default());
        let tenant = Tenant { namespace: "default".parse().unwrap(), workload: "w".parse().unwrap() };
        (HostCalls::new(services, tenant, sender, Duration::from_secs(5)), agent, far)
    }

    /// The next message to the agent, while the actor waits for what comes.
    async fn heard(calls: &mut HostCalls, agent: &mut Receiver<ToAgent>) -> ToAgent {
        tokio::select! {
            message = agent.receive() => message.unwrap().unwrap(),
            over = calls.progress() => unreachable!("there is no direct way: {over:?}"),
        }
    }

    async fn answer(
        calls: &mut HostCalls,
        agent: &mut Receiver<ToAgent>,
    ) -> (u64, Result<HostReply, HostError>, Bytes) {
        loop {
            match heard(calls, agent).await {
                ToAgent::HostReply(number, answer, body) => return (number, answer, body),
                ToAgent::HostMore(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn kv(request: KvRequest) -> HostRequest {
        HostRequest::Kv(request)
    }

    #[tokio::test]
    async fn calls_are_answered_and_their_numbers_may_be_used_again() {
        let (mut calls, mut agent, _far) = fixture();
        let set = kv(KvRequest::Set { key: "a".into(), ttl_ms: None });
        calls.begin(1, set, Bytes::from_static(b"v")).unwrap();
        assert!(answer(&mut calls, &mut agent).await.1.is_ok());
        // The task of the first may end a moment after its answer.
        while calls.begin(1, kv(KvRequest::Get { key: "a".into() }), Bytes::new()).is_err() {
            tokio::task::yield_now().await;
        }
        let (number, reply, body) = answer(&mut calls, &mut agent).await;
        assert!(matches!(reply, Ok(HostReply::Revision { .. })), "{reply:?}");
        assert_eq!((number, body), (1, Bytes::from_static(b"v")));
    }

    #[tokio::test]
    async fn a_number_in_work_and_chunks_beyond_the_window_are_breaches() {
        let (mut calls, _agent, _far) = fixture();
        calls.begin(1, kv(KvRequest::Watch { key: None }), Bytes::new()).unwrap();
        assert_eq!(calls.begin(1, kv(KvRequest::Keys), Bytes::new()), Err(ProtocolBroken));
        assert_eq!(calls.data(1, Bytes::new()), Err(ProtocolBroken), "a watch has no upload");
        assert_eq!(calls.data(9, Bytes::new()), Ok(()), "a call that is over");
        calls.begin(2, HostRequest::ObjectStore(ObjectRequest::Put { name: "o".into() }), Bytes::new()).unwrap();
        let many = (0..=WINDOW).map(|_| calls.data(2, Bytes::from_static(b"x"))).find(Result::is_err);
        assert_eq!(many, Some(Err(ProtocolBroken)));
        calls.cancel(1);
        calls.begin(1, kv(KvRequest::Keys), Bytes::new()).unwrap();
    }

    #[tokio::test]
    async fn more_calls_than_may_be_open_are_refused_at_once() {
        let (mut calls, mut agent, _far) = fixture();
        for number in 0..=OPEN as u64 {
            calls.begin(number, kv(KvRequest::Watch { key: None }), Bytes::new()).unwrap();
        }
        let (number, refused, _) = answer(&mut calls, &mut agent).await;
        assert_eq!((number, refused.unwrap_err().code), (OPEN as u64, HostErrorCode::Quota));
    }

    #[tokio::test]
    async fn an_object_goes_no_further_than_the_window_until_the_agent_takes_it() {
        let (mut calls, mut agent, _far) = fixture();
        calls.begin(1, HostRequest::ObjectStore(ObjectRequest::Put { name: "o".into() }), Bytes::new()).unwrap();
        let chunks = WINDOW + 2;
        for _ in 0..chunks {
            calls.data(1, Bytes::from(vec![7; CHUNK])).unwrap();
            assert_eq!(heard(&mut calls, &mut agent).await, ToAgent::HostMore(1));
        }
        calls.data(1, Bytes::new()).unwrap();
        assert!(matches!(answer(&mut calls, &mut agent).await, (1, Ok(HostReply::Object { .. }), _)));

        calls.begin(2, HostRequest::ObjectStore(ObjectRequest::Get { name: "o".into() }), Bytes::new()).unwrap();
        for _ in 0..WINDOW {
            assert!(matches!(heard(&mut calls, &mut agent).await, ToAgent::HostData(2, None, _)));
        }
        let more = tokio::time::timeout(Duration::from_millis(50), heard(&mut calls, &mut agent)).await;
        assert!(more.is_err(), "{more:?}");
        for _ in 0..chunks - WINDOW {
            calls.more(2).unwrap();
            assert!(matches!(heard(&mut calls, &mut agent).await, ToAgent::HostData(2, None, _)));
        }
        assert!(matches!(answer(&mut calls, &mut agent).await, (2, Ok(HostReply::Object { .. }), _)));

        calls.begin(3, kv(KvRequest::Watch { key: None }), Bytes::new()).unwrap();
        assert_eq!(calls.more(3), Err(ProtocolBroken), "nothing was sent that could have been taken");
        assert_eq!(calls.more(99), Ok(()), "a call that is over");
    }

    #[tokio::test]
    async fn an_object_that_nobody_takes_ends_at_the_deadline() {
        let (mut calls, mut agent, _far) = fixture();
        calls.begin(1, HostRequest::ObjectStore(ObjectRequest::Put { name: "o".into() }), Bytes::new()).unwrap();
        for _ in 0..=WINDOW {
            calls.data(1, Bytes::from(vec![7; CHUNK])).unwrap();
            assert_eq!(heard(&mut calls, &mut agent).await, ToAgent::HostMore(1));
        }
        calls.data(1, Bytes::new()).unwrap();
        assert!(answer(&mut calls, &mut agent).await.1.is_ok());
        calls.limit = Duration::from_millis(100);
        calls.begin(2, HostRequest::ObjectStore(ObjectRequest::Get { name: "o".into() }), Bytes::new()).unwrap();
        for _ in 0..WINDOW {
            assert!(matches!(heard(&mut calls, &mut agent).await, ToAgent::HostData(2, None, _)));
        }
        let (number, late, _) = answer(&mut calls, &mut agent).await;
        assert_eq!((number, late.unwrap_err().code), (2, HostErrorCode::Timeout));
    }
}
