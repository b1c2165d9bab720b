//! Host calls: what a function asks of its node, over the link.
//!
//! [`Host`] is what runtimes call; [`Answers`] is what the session feeds with the node's answers. Each open call has a
//! number and a place of its own for what comes of it, so that a slow one holds up neither the link nor the others. Most
//! have one answer, whole; what goes or comes in pieces is in [`parts`].
//!
//! Promises: a call has one answer, or none because it was dropped, and then the node is told; when the link ends, all
//! open calls fail; what is collected of what the node sends is bounded by the function's memory limit, and what is
//! not collected comes no faster than it is taken.

mod parts;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nex_link::Sender;
use nex_protocol::link::host::{
    HostError, HostErrorCode, HostReply, HostRequest, KvRequest, ObjectRequest, WatchEvent,
};
use nex_protocol::link::message::ToNode;
use tokio::sync::oneshot;

use parts::{Answer, Far, Upload};
pub(crate) use parts::{Download, Part};

/// How a call ended, and its payload.
type End = (Result<HostReply, HostError>, Bytes);

/// An open call, as the session sees it.
enum Open {
    /// One whose answer is whole.
    Whole(oneshot::Sender<End>),
    /// One that sends or receives in pieces.
    InParts(Far),
}

type Table = Mutex<Option<BTreeMap<u64, Open>>>;

/// The way to the node's host services; clones share it.
#[derive(Clone)]
pub(crate) struct Host {
    node: Sender<ToNode>,
    next: Arc<AtomicU64>,
    open: Arc<Table>,
    limit: usize,
}

/// Where the session puts the node's answers.
#[derive(Clone)]
pub(crate) struct Answers {
    open: Arc<Table>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

fn locked(table: &Table) -> MutexGuard<'_, Option<BTreeMap<u64, Open>>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both ends; what one call may bring back is bounded by `limit` bytes.
pub(crate) fn connect(node: Sender<ToNode>, limit: u64) -> (Host, Answers) {
    let open = Arc::new(Mutex::new(Some(BTreeMap::new())));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    (Host { node, next: Arc::new(AtomicU64::new(1)), open: Arc::clone(&open), limit }, Answers { open })
}

impl Answers {
    /// The end of a call.
    pub(crate) fn reply(&self, number: u64, answer: Result<HostReply, HostError>, body: Bytes) {
        let open = locked(&self.open).as_mut().and_then(|open| open.remove(&number));
        match open {
            Some(Open::Whole(end)) => drop(end.send((answer, body))),
            Some(Open::InParts(far)) => far.heard(Answer::End(answer, body)),
            None => {}
        }
    }

    /// A part of an answer. One of a call whose answer is whole means nothing.
    pub(crate) fn data(&self, number: u64, event: Option<WatchEvent>, body: Bytes) {
        self.with_parts(number, |far| far.heard(Answer::Data(event, body)));
    }

    /// The node has taken a chunk.
    pub(crate) fn more(&self, number: u64) {
        self.with_parts(number, Far::taken);
    }

    fn with_parts(&self, number: u64, run: impl FnOnce(&Far)) {
        if let Some(Open::InParts(far)) = locked(&self.open).as_ref().and_then(|open| open.get(&number)) {
            run(far);
        }
    }

    /// The link has ended: every open call fails, and no new one begins.
    pub(crate) fn close(&self) {
        for open in locked(&self.open).take().into_iter().flatten().map(|(_, open)| open) {
            // One that is whole fails by its sender's end.
            if let Open::InParts(far) = open {
                far.close();
            }
        }
    }
}

impl Host {
    /// One host call for the function's call `call`, 0 for none. The body of `objectStore.put` goes as chunks, that of
    /// `objectStore.get` comes as chunks; both are whole here. Dropping the future cancels the call at the node.
    ///
    /// # Errors
    /// The node's, or [`HostErrorCode::Unavailable`] when the link has ended.
    pub(crate) async fn call(
        &self,
        call: u64,
        request: HostRequest,
        body: Bytes,
    ) -> Result<(HostReply, Bytes), HostError> {
        match &request {
            HostRequest::ObjectStore(ObjectRequest::Put { .. }) => {
                self.exchange(call, request, Bytes::new(), Some(Upload::Whole(body))).await
            }
            HostRequest::ObjectStore(ObjectRequest::Get { .. }) | HostRequest::Kv(KvRequest::Watch { .. }) => {
                self.exchange(call, request, body, None).await
            }
            _ => self.ask(call, request, body).await,
        }
    }

    /// A call whose answer is whole, which needs neither a queue nor a window.
    async fn ask(&self, call: u64, request: HostRequest, body: Bytes) -> Result<(HostReply, Bytes), HostError> {
        let what = request.name();
        let (end, ended) = oneshot::channel();
        let open = Entry { host: self, number: self.enter(Open::Whole(end)).ok_or_else(|| lost(what))? };
        self.node.send(ToNode::HostCall(open.number, call, request, body)).await.map_err(|_| lost(what))?;
        let (answer, body) = ended.await.map_err(|_| lost(what))?;
        answer.map(|reply| (reply, body))
    }

    /// Puts a call into the table, under the number it has from now on; none when the link has ended.
    fn enter(&self, open: Open) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        locked(&self.open).as_mut()?.insert(number, open);
        Some(number)
    }

    /// Ends a call. The node is told when it has not ended it itself.
    fn leave(&self, number: u64) {
        let was_open = locked(&self.open).as_mut().and_then(|open| open.remove(&number)).is_some();
        // With a full link the message waits in a task of its own.
        if was_open
            && !self.node.try_send(ToNode::HostCancel(number))
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let node = self.node.clone();
            runtime.spawn(async move {
                let _ = node.send(ToNode::HostCancel(number)).await;
            });
        }
    }
}

/// A call whose answer is whole, in the table. Dropping it ends the call.
struct Entry<'a> {
    host: &'a Host,
    number: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.host.leave(self.number);
    }
}

fn lost(what: (&'static str, &'static str)) -> HostError {
    HostError::of(what, HostErrorCode::Unavailable, "the link to the node has ended")
}

#[cfg(test)]
mod tests;
