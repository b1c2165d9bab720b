//! The host calls of one worker: each a task, within the deadline of the function's call it is part of.
//!
//! Nothing of what the worker says is believed. It names a call of the function: that call must be with this worker
//! and have time left. It chooses the number of each host call: that must not be in use. What it may have open, and
//! hold in the agent's memory, is bounded. A host call ends with its answer, with its deadline, when the worker gives
//! it up, when the function's call has its outcome, or with the worker; in all but the first the node is told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nex_link::{Sender, begun};
use nex_protocol::link::direct::Waits;
use nex_protocol::link::frame::MAX_LINK_FRAME;
use nex_protocol::link::host::{
    HostError, HostErrorCode, HostReply, HostRequest, KvRequest, ObjectRequest, WatchEvent,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::protocol::{Ask, FromWorker, ToWorker};
use crate::host::Host;

/// Host calls a worker may have open.
const OPEN: usize = 64;

/// Objects that are collected at a time; each may have as many bytes as the function has memory.
const DOWNLOADS: usize = 4;

/// Largest payload that travels to the node in one piece; only objects go in chunks.
const ONE_PIECE: usize = MAX_LINK_FRAME - (1 << 20);

/// No call of a function takes longer; keeps the arithmetic on clocks total.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes of one permit of the budget.
const UNIT: usize = 1 << 10;

/// The host calls of a worker. Dropping it gives them all up.
#[derive(Debug)]
pub(crate) struct HostCalls {
    host: Host,
    /// Where promises are answered.
    messages: Sender<ToWorker>,
    /// Where calls that block the worker are.
    answers: Sender<ToWorker>,
    open: HashMap<u64, Open>,
    tasks: JoinSet<u64>,
    /// Payloads in the agent's memory, both ways.
    budget: Budget,
    downloads: Arc<Semaphore>,
    /// When a call that blocked the worker had its answer.
    last_answer: Option<Instant>,
    /// Until when it may wait for the node past us, as the node said last; in the past when it did so then.
    directly: Option<Instant>,
}

/// An open host call.
#[derive(Debug)]
struct Open {
    call: u64,
    request: HostRequest,
    deadline: Instant,
    sync: bool,
    /// Whether the worker waits for it, when it is synchronous.
    waited_for: Arc<AtomicBool>,
    /// Changes of a watch that are wanted.
    wanted: Arc<Semaphore>,
    task: AbortHandle,
}

/// One host call, as its task needs it.
struct Job {
    number: u64,
    call: u64,
    request: HostRequest,
    body: Bytes,
    deadline: Instant,
    way: Sender<ToWorker>,
    host: Host,
    budget: Budget,
    downloads: Arc<Semaphore>,
    waited_for: Arc<AtomicBool>,
    wanted: Arc<Semaphore>,
}

/// Room for payloads, in units.
#[derive(Debug, Clone)]
struct Budget {
    room: Arc<Semaphore>,
    all: u32,
}

/// A payload that is counted as long as it is kept.
struct Counted {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Budget {
    fn new(bytes: u64) -> Self {
        let units = bytes.div_ceil(UNIT as u64).max(1);
        let all = u32::try_from(units).unwrap_or(u32::MAX);
        Self { room: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// One that is larger than everything is counted as everything: that it may be so large is decided elsewhere.
    fn units(&self, bytes: &Bytes) -> u32 {
        u32::try_from(bytes.len().div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.all)
    }

    /// Counts a payload that is here already; none when there is no room.
    fn take(&self, bytes: Bytes) -> Option<Bytes> {
        if bytes.is_empty() {
            return Some(bytes);
        }
        let room = Arc::clone(&self.room).try_acquire_many_owned(self.units(&bytes)).ok()?;
        Some(Bytes::from_owner(Counted { bytes, _room: room }))
    }

    /// Counts a payload once there is room.
    async fn wait(&self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        match Arc::clone(&self.room).acquire_many_owned(self.units(&bytes)).await {
            Ok(room) => Bytes::from_owner(Counted { bytes, _room: room }),
            Err(_) => bytes,
        }
    }
}

impl HostCalls {
    /// No calls.
    pub(crate) fn new(host: Host, messages: Sender<ToWorker>, answers: Sender<ToWorker>, memory_bytes: u64) -> Self {
        Self {
            host,
            messages,
            answers,
            open: HashMap::new(),
            tasks: JoinSet::new(),
            budget: Budget::new(memory_bytes),
            downloads: Arc::new(Semaphore::new(DOWNLOADS)),
            last_answer: None,
            directly: None,
        }
    }

    /// Takes what the worker says about host calls. `deadline` tells that of a call of the function; none when the call
    /// is not with the worker.
    pub(crate) fn hear(&mut self, message: FromWorker, deadline: impl FnOnce(u64) -> Option<Instant>) {
        match message {
            FromWorker::HostCall(number, ask, body) => {
                let deadline = deadline(ask.call);
                self.begin(number, *ask, body, deadline);
            }
            FromWorker::HostCancel(number) => self.cancel(number),
            FromWorker::HostMore(number) => self.more(number),
            _ => {}
        }
    }

    fn begin(&mut self, number: u64, ask: Ask, body: Bytes, deadline: Option<Instant>) {
        let Ask { call, sync, request } = ask;
        if self.open.contains_key(&number) {
            // Two answers with one number would be worse than none.
            tracing::debug!(number, "the worker used the number of an open host call");
            return;
        }
        match self.admit(request, body, deadline) {
            Ok((request, body, deadline)) => self.run(number, call, sync, request, body, deadline),
            Err(error) => self.refuse(number, sync, error),
        }
    }

    fn admit(
        &self,
        request: Result<HostRequest, String>,
        body: Bytes,
        deadline: Option<Instant>,
    ) -> Result<(HostRequest, Bytes, Instant), HostError> {
        let request = request.map_err(HostError::no_request)?;
        let fail = |code, text: String| Err(HostError::new(&request, code, text));
        let Some(deadline) = deadline else { return Err(HostError::without_call(&request)) };
        if self.open.len() >= OPEN {
            return fail(HostErrorCode::Quota, format!("{OPEN} host calls are open already"));
        }
        let chunked = matches!(request, HostRequest::ObjectStore(ObjectRequest::Put { .. }));
        if !chunked && body.len() > ONE_PIECE {
            let text = format!("the payload has {} bytes, {ONE_PIECE} are allowed", body.len());
            return fail(HostErrorCode::TooLarge, text);
        }
        match self.budget.take(body) {
            Some(body) => Ok((request, body, deadline)),
            None => fail(HostErrorCode::Quota, "too many bytes are on their way already".to_owned()),
        }
    }

    fn run(&mut self, number: u64, call: u64, sync: bool, request: HostRequest, body: Bytes, deadline: Instant) {
        let is_watch = matches!(request, HostRequest::Kv(KvRequest::Watch { .. }));
        let (waited_for, wanted) = (Arc::new(AtomicBool::new(sync && !is_watch)), Arc::new(Semaphore::new(0)));
        let job = Job {
            number,
            call,
            request: request.clone(),
            body,
            deadline,
            way: self.way(sync).clone(),
            host: self.host.clone(),
            budget: self.budget.clone(),
            downloads: Arc::clone(&self.downloads),
            waited_for: Arc::clone(&waited_for),
            wanted: Arc::clone(&wanted),
        };
        // Begun here: host calls go to the node in the order in which the function made them.
        let task = self.tasks.spawn(begun(async move {
            if is_watch {
                job.watch().await;
            } else {
                job.call().await;
            }
            number
        }));
        self.open.insert(number, Open { call, request, deadline, sync, waited_for, wanted, task });
    }

    fn way(&self, sync: bool) -> &Sender<ToWorker> {
        if sync { &self.answers } else { &self.messages }
    }

    /// A worker that asks for more than it may, and does not read what it is told, is not waited for.
    fn refuse(&self, number: u64, sync: bool, error: HostError) {
        if !self.way(sync).try_send(ToWorker::HostReply(number, Err(error), Bytes::new())) {
            tracing::debug!(number, "the worker does not read the answers to its host calls");
        }
    }

    /// The worker wants the next change of a watch.
    fn more(&self, number: u64) {
        let Some(open) = self.open.get(&number) else { return };
        if open.wanted.available_permits() < OPEN {
            open.waited_for.store(open.sync, Ordering::Relaxed);
            open.wanted.add_permits(1);
        }
    }

    /// The worker gives a call up.
    fn cancel(&mut self, number: u64) {
        if let Some(open) = self.open.remove(&number) {
            open.task.abort();
        }
    }

    /// The function's call has its outcome: what it left open is given up.
    pub(crate) fn end_of(&mut self, call: u64) {
        let left: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.call == call).map(|(number, _)| *number).collect();
        for number in left {
            let Some(open) = self.open.remove(&number) else { continue };
            open.task.abort();
            self.refuse(number, open.sync, HostError::call_ended(open.request.name()));
        }
    }

    /// Gives everything up.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.tasks.abort_all();
    }

    /// Resolves when a host call is over; never when none is open. Cancel-safe.
    pub(crate) async fn one_over(&mut self) {
        match self.tasks.join_next_with_id().await {
            // Not one with the same number that began after this one was given up.
            Some(Ok((task, number))) => {
                if self.open.get(&number).is_some_and(|open| open.task.id() == task)
                    && let Some(open) = self.open.remove(&number)
                    && open.sync
                {
                    self.last_answer = Some(Instant::now());
                }
            }
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }

    /// Until when the worker may be waiting for the node; a time in the past when it did so then.
    pub(crate) fn blocked_until(&self, now: Instant) -> Option<Instant> {
        let waited_for = |open: &&Open| open.waited_for.load(Ordering::Relaxed) && open.deadline > now;
        let open = self.open.values().filter(waited_for).map(|open| open.deadline).max();
        open.or(self.last_answer).max(self.directly)
    }

    /// The node says whether the worker waits for it past us.
    pub(crate) fn waits_directly(&mut self, Waits { left_ms, ago_ms }: Waits) {
        let now = Instant::now();
        // Longer than any call may take, whatever is said.
        let left = left_ms.map(|left| now + Duration::from_millis(left).min(LONGEST));
        self.directly = left.or(ago_ms.and_then(|ago| now.checked_sub(Duration::from_millis(ago))));
    }
}

impl Job {
    async fn call(self) {
        let Self { number, call, request, body, deadline, way, host, budget, downloads, waited_for, .. } = self;
        let late = HostError::call_out_of_time(request.name());
        let work = async {
            let is_download = matches!(request, HostRequest::ObjectStore(ObjectRequest::Get { .. }));
            let _slot = if is_download { downloads.acquire_owned().await.ok() } else { None };
            let (reply, body) = host.call(call, request, body).await?;
            Ok((reply, budget.wait(body).await))
        };
        let (answer, body) = match tokio::time::timeout_at(deadline, work).await {
            Ok(Ok((reply, body))) => (Ok(reply), body),
            Ok(Err(error)) => (Err(error), Bytes::new()),
            Err(_) => (Err(late), Bytes::new()),
        };
        // When the worker is gone, so is who would care.
        let _ = way.send(ToWorker::HostReply(number, answer, body)).await;
        waited_for.store(false, Ordering::Relaxed);
    }

    async fn watch(self) {
        let answer = match tokio::time::timeout_at(self.deadline, self.changes()).await {
            Ok(Ok(())) => Ok(HostReply::Done),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(HostError::call_out_of_time(self.request.name())),
        };
        let _ = self.way.send(ToWorker::HostReply(self.number, answer, Bytes::new())).await;
        self.waited_for.store(false, Ordering::Relaxed);
    }

    /// Hands on changes as they are wanted, until the node ends the watch.
    async fn changes(&self) -> Result<(), HostError> {
        let mut watch = self.host.watch(self.call, self.request.clone()).await?;
        loop {
            let Ok(wanted) = self.wanted.acquire().await else { return Ok(()) };
            wanted.forget();
            let Some(change) = watch.next().await else { return Ok(()) };
            let (event, body): (WatchEvent, Bytes) = change?;
            let body = self.budget.wait(body).await;
            self.waited_for.store(false, Ordering::Relaxed);
            let _ = self.way.send(ToWorker::HostEvent(self.number, event, body)).await;
        }
    }
}
