//! The calls of a function in one of its agents, and the one outcome of each.
//!
//! A call goes to the agent as a frame; its outcome comes back through the receive loop of whoever attends to the agent.
//!
//! Promises: every call has exactly one outcome; an agent that is lost fails the calls in it at once; an agent that
//! does not keep the deadline is not waited for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nex_link::Sender;
use nex_protocol::link::message::{Failure, FailureKind, Headers, Invoke, Outcome, ToAgent};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::millis;

/// The agent keeps the deadline itself; this much later the node stops waiting for it.
pub(super) const AGENT_SLACK: Duration = Duration::from_millis(250);

/// An outcome and the nanoseconds the engine took.
pub type Timed = (u64, Outcome);

/// Calls in one agent that have no outcome yet.
#[derive(Debug)]
pub struct Instance {
    sender: Sender<ToAgent>,
    next: AtomicU64,
    // None once the agent is gone: nothing is added any more.
    waiting: Mutex<Option<HashMap<u64, Waiting>>>,
    /// Told whenever no call is left.
    idle: Notify,
}

/// Who waits for an outcome, and until when.
#[derive(Debug)]
struct Waiting {
    settle: oneshot::Sender<Timed>,
    deadline: Instant,
}

impl Instance {
    /// An agent that runs the function now.
    pub fn new(sender: Sender<ToAgent>) -> Self {
        Self { sender, next: AtomicU64::new(1), waiting: Mutex::new(Some(HashMap::new())), idle: Notify::new() }
    }

    /// Hands an outcome to the call that waits for it. One for no call (it was given up, or the agent made it up) is
    /// ignored; says whether it was.
    pub fn settle(&self, call: u64, timed: Timed) -> bool {
        self.forget(call).is_some_and(|waiting| waiting.settle.send(timed).is_ok())
    }

    /// When a call that is in the agent must have its outcome.
    pub(super) fn deadline(&self, call: u64) -> Option<Instant> {
        self.with_waiting(|waiting| waiting.get(&call).map(|waiting| waiting.deadline)).flatten()
    }

    /// Fails all calls and takes no more: the agent is gone.
    pub fn close(&self) {
        // Dropping the senders wakes the calls.
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.idle.notify_waiters();
    }

    /// Whether it takes no calls any more.
    pub fn is_closed(&self) -> bool {
        self.with_waiting(|_| ()).is_none()
    }

    /// Waits until no call is in the agent, but not longer than `within`.
    pub async fn drained(&self, within: Duration) {
        let drained = async {
            loop {
                let mut idle = std::pin::pin!(self.idle.notified());
                idle.as_mut().enable();
                if self.with_waiting(|waiting| waiting.is_empty()).unwrap_or(true) {
                    return;
                }
                idle.await;
            }
        };
        let _ = timeout(within, drained).await;
    }

    fn with_waiting<T>(&self, run: impl FnOnce(&mut HashMap<u64, Waiting>) -> T) -> Option<T> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(run)
    }

    fn forget(&self, call: u64) -> Option<Waiting> {
        let (waiting, idle) = self.with_waiting(|waiting| (waiting.remove(&call), waiting.is_empty()))?;
        if idle {
            self.idle.notify_waiters();
        }
        waiting
    }

    /// Runs one call.
    pub async fn run(&self, subject: String, headers: Headers, payload: Bytes, deadline: Instant) -> Timed {
        let lost =
            || (0, Err(Failure::new(FailureKind::Killed, "the agent of this function was lost during the call")));
        let call = self.next.fetch_add(1, Ordering::Relaxed);
        let (settle, outcome) = oneshot::channel();
        if self.with_waiting(|waiting| waiting.insert(call, Waiting { settle, deadline })).is_none() {
            return lost();
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let invoke = Invoke { subject, headers, timeout_ms: millis(left) };
        let settled = timeout_at(deadline + AGENT_SLACK, async {
            self.sender.send(ToAgent::Invoke(call, invoke, payload)).await.ok()?;
            outcome.await.ok()
        });
        match settled.await {
            Ok(Some(timed)) => timed,
            Ok(None) => {
                self.forget(call);
                lost()
            }
            Err(_) => {
                self.forget(call);
                (0, Err(Failure::new(FailureKind::Timeout, "the function did not answer within its deadline")))
            }
        }
    }
}
