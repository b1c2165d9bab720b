//! Calls of a function: admission, the agent they run in, and their one outcome.
//!
//! A call waits for its turn (at most `concurrency` run, at most `max_pending` wait) and for an agent, then goes to
//! the agent as a frame; its outcome comes back through the actor's receive loop. All waiting is inside the call's
//! deadline.
//!
//! Promises: every call has exactly one outcome; an agent that is lost fails the calls in it at once; an agent that
//! does not keep the deadline is not waited for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nex_link::Sender;
use nex_protocol::link::message::{Failure, FailureKind, Headers, Invoke, Outcome, ToAgent};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::millis;
use crate::config::FunctionLimits;

/// The agent keeps the deadline itself; this much later the node stops waiting for it.
const AGENT_SLACK: Duration = Duration::from_millis(250);

/// An outcome and the nanoseconds the engine took.
pub type Timed = (u64, Outcome);

/// Calls in one agent that have no outcome yet.
#[derive(Debug)]
pub struct Instance {
    sender: Sender<ToAgent>,
    next: AtomicU64,
    // None once the agent is gone: nothing is added any more.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Timed>>>>,
}

impl Instance {
    /// An agent that runs the function now.
    pub fn new(sender: Sender<ToAgent>) -> Self {
        Self { sender, next: AtomicU64::new(1), waiting: Mutex::new(Some(HashMap::new())) }
    }

    /// Hands an outcome to the call that waits for it. One for no call (it was given up, or the agent made it up) is
    /// ignored; says whether it was.
    pub fn settle(&self, call: u64, timed: Timed) -> bool {
        let waiting = self.with_waiting(|waiting| waiting.remove(&call)).flatten();
        waiting.is_some_and(|waiting| waiting.send(timed).is_ok())
    }

    /// Fails all calls and takes no more: the agent is gone.
    pub fn close(&self) {
        // Dropping the senders wakes the calls.
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn with_waiting<T>(&self, run: impl FnOnce(&mut HashMap<u64, oneshot::Sender<Timed>>) -> T) -> Option<T> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(run)
    }

    async fn run(&self, subject: String, headers: Headers, payload: Bytes, deadline: Instant) -> Timed {
        let lost =
            || (0, Err(Failure::new(FailureKind::Killed, "the agent of this function was lost during the call")));
        let call = self.next.fetch_add(1, Ordering::Relaxed);
        let (settle, outcome) = oneshot::channel();
        if self.with_waiting(|waiting| waiting.insert(call, settle)).is_none() {
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
                self.with_waiting(|waiting| waiting.remove(&call));
                lost()
            }
            Err(_) => {
                self.with_waiting(|waiting| waiting.remove(&call));
                (0, Err(Failure::new(FailureKind::Timeout, "the function did not answer within its deadline")))
            }
        }
    }
}

/// The way into a function, the same through all its agents.
#[derive(Debug)]
pub struct Gate {
    instance: watch::Receiver<Option<Arc<Instance>>>,
    turns: Semaphore,
    pending: AtomicUsize,
    limits: FunctionLimits,
}

impl Gate {
    /// A gate to whatever agent runs the function.
    pub fn new(instance: watch::Receiver<Option<Arc<Instance>>>, limits: FunctionLimits) -> Self {
        let turns = usize::try_from(limits.concurrency).unwrap_or(1);
        Self { instance, turns: Semaphore::new(turns), pending: AtomicUsize::new(0), limits }
    }

    /// Runs one call.
    pub async fn call(&self, subject: String, headers: Headers, payload: Bytes) -> Timed {
        let deadline = Instant::now() + self.limits.timeout;
        let _turn = match self.turns.try_acquire() {
            Ok(turn) => turn,
            Err(_) => match self.wait_for_turn(deadline).await {
                Ok(turn) => turn,
                Err(failure) => return (0, Err(failure)),
            },
        };
        let mut instance = self.instance.clone();
        let running = timeout_at(deadline, instance.wait_for(Option::is_some));
        let running = match running.await {
            Ok(Ok(running)) => running.clone(),
            _ => None,
        };
        match running {
            Some(running) => running.run(subject, headers, payload, deadline).await,
            None => {
                (0, Err(Failure::new(FailureKind::Killed, "the function is not running now; it is being restarted")))
            }
        }
    }

    async fn wait_for_turn(&self, deadline: Instant) -> Result<tokio::sync::SemaphorePermit<'_>, Failure> {
        let overloaded = |text: &str| Failure::new(FailureKind::Overloaded, text);
        // Counted while it waits, however the wait ends.
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let ahead = self.pending.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.pending);
        if ahead >= self.limits.max_pending {
            return Err(overloaded("too many calls of this function wait already"));
        }
        match timeout_at(deadline, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(overloaded("the call waited for its turn until its deadline")),
        }
    }

    /// Waits until no call runs, but not longer than `within`.
    pub async fn drained(&self, within: Duration) {
        let _ = timeout(within, self.turns.acquire_many(self.limits.concurrency)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nex_link::{Receiver, open};
    use nex_protocol::link::message::ToNode;

    fn limits(concurrency: u32, max_pending: usize, timeout_ms: u64) -> FunctionLimits {
        FunctionLimits { timeout: Duration::from_millis(timeout_ms), concurrency, max_pending, script_bytes: 0 }
    }

    struct Fixture {
        gate: Arc<Gate>,
        publish: watch::Sender<Option<Arc<Instance>>>,
        instance: Arc<Instance>,
        agent: Receiver<ToAgent>,
        _far: Sender<ToNode>,
    }

    fn fixture(limits: FunctionLimits) -> Fixture {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (near_read, near_write) = tokio::io::split(near);
        let (far_read, far_write) = tokio::io::split(far);
        let (sender, _receiver) = open::<ToNode, ToAgent>(near_read, near_write, 1 << 20);
        let (_far, agent) = open::<ToAgent, ToNode>(far_read, far_write, 1 << 20);
        let instance = Arc::new(Instance::new(sender));
        let (publish, watch) = watch::channel(Some(Arc::clone(&instance)));
        Fixture { gate: Arc::new(Gate::new(watch, limits)), publish, instance, agent, _far }
    }

    fn start(gate: &Arc<Gate>) -> tokio::task::JoinHandle<Timed> {
        let gate = Arc::clone(gate);
        tokio::spawn(async move { gate.call("s".into(), vec![], Bytes::new()).await })
    }

    async fn next_call(agent: &mut Receiver<ToAgent>) -> u64 {
        match agent.receive().await.unwrap().unwrap() {
            ToAgent::Invoke(call, ..) => call,
            other => panic!("{other:?}"),
        }
    }

    fn kind((_, outcome): Timed) -> FailureKind {
        outcome.unwrap_err().kind
    }

    #[tokio::test]
    async fn an_outcome_reaches_its_call_and_others_are_ignored() {
        let mut f = fixture(limits(2, 0, 5000));
        let running = start(&f.gate);
        let call = next_call(&mut f.agent).await;
        assert!(!f.instance.settle(call + 1, (1, Ok((vec![], Bytes::new())))));
        assert!(f.instance.settle(call, (7, Ok((vec![], Bytes::from_static(b"x"))))));
        assert!(!f.instance.settle(call, (7, Ok((vec![], Bytes::new())))), "a second outcome is for nobody");
        assert_eq!(running.await.unwrap(), (7, Ok((vec![], Bytes::from_static(b"x")))));
    }

    #[tokio::test]
    async fn a_lost_agent_fails_its_calls_at_once_and_later_ones_go_to_the_next() {
        let mut f = fixture(limits(2, 0, 5000));
        let running = start(&f.gate);
        next_call(&mut f.agent).await;
        f.publish.send_replace(None);
        f.instance.close();
        assert_eq!(kind(running.await.unwrap()), FailureKind::Killed);
        let later = start(&f.gate);
        tokio::task::yield_now().await;
        let mut next = fixture(limits(1, 0, 1));
        f.publish.send_replace(Some(Arc::clone(&next.instance)));
        let call = next_call(&mut next.agent).await;
        next.instance.settle(call, (1, Ok((vec![], Bytes::new()))));
        assert!(later.await.unwrap().1.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_limits_calls_wait_until_their_deadline_or_are_refused_at_once() {
        let mut f = fixture(limits(1, 1, 1000));
        let running = start(&f.gate);
        let call = next_call(&mut f.agent).await;
        let waiting = start(&f.gate);
        tokio::task::yield_now().await;
        let began = Instant::now();
        let refused = f.gate.call("s".into(), vec![], Bytes::new()).await;
        assert_eq!((kind(refused), began.elapsed()), (FailureKind::Overloaded, Duration::ZERO));
        assert_eq!(kind(waiting.await.unwrap()), FailureKind::Overloaded);
        f.instance.settle(call, (1, Ok((vec![], Bytes::new()))));
        assert!(running.await.unwrap().1.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_says_nothing_is_not_waited_for() {
        let mut f = fixture(limits(1, 0, 1000));
        let running = start(&f.gate);
        let call = next_call(&mut f.agent).await;
        assert_eq!(kind(running.await.unwrap()), FailureKind::Timeout);
        assert!(!f.instance.settle(call, (1, Ok((vec![], Bytes::new())))), "too late");
    }
}
