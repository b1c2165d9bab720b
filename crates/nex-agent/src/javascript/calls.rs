//! Which calls wait, which are with the worker, and whose turn it is. State only: no I/O, no clock of its own.
//!
//! A call is queued, then dispatched, then settled or expired. At most one dispatched call is *running*: the worker has
//! not said yet that its function gave way. No other is dispatched until it has, so that when a worker is stuck the
//! queued calls are known not to have begun. A dispatched call that expired is *abandoned*: answered, but possibly
//! still at work in the worker.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use tokio::time::Instant;

use crate::call::{Call, WAITING};

/// A worker with so many abandoned calls is replaced when its other calls are done: each holds on to memory for good.
const WORN: usize = 64;

/// A call that is with the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dispatched {
    /// The node's number for it.
    pub(crate) id: u64,
    /// When it was handed to the worker.
    pub(crate) begun: Instant,
    deadline: Instant,
}

/// Why a call was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many wait.
    Full,
    /// Another call in flight has its number.
    Duplicate,
}

/// What an outcome from the worker belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// A call that waits for it.
    Call(Dispatched),
    /// A call that was answered when its time was up.
    Abandoned,
    /// Nothing that was ever asked for.
    Unknown,
}

/// A call whose time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// It was with the worker.
    Dispatched(Dispatched),
    /// Its turn had not come.
    Queued(u64),
}

/// The calls that went down with a worker.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// The one that did it, when that can be told.
    pub(crate) culprit: Option<Dispatched>,
    /// The others.
    pub(crate) others: Vec<Dispatched>,
}

/// The calls of a function.
#[derive(Debug)]
pub(crate) struct Calls {
    concurrency: usize,
    queue: VecDeque<Call>,
    dispatched: HashMap<u64, Dispatched>,
    running: Option<u64>,
    abandoned: HashSet<u64>,
    deadlines: BTreeSet<(Instant, u64)>,
}

impl Calls {
    /// No calls; at most so many will be dispatched at a time.
    pub(crate) fn new(concurrency: u32) -> Self {
        Self {
            concurrency: concurrency.max(1) as usize,
            queue: VecDeque::new(),
            dispatched: HashMap::new(),
            running: None,
            abandoned: HashSet::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Queues a call.
    pub(crate) fn enqueue(&mut self, call: Call) -> Result<(), (Call, Refused)> {
        let known = self.dispatched.contains_key(&call.id) || self.queue.iter().any(|queued| queued.id == call.id);
        if known || self.abandoned.contains(&call.id) {
            return Err((call, Refused::Duplicate));
        }
        if self.queue.len() >= WAITING {
            return Err((call, Refused::Full));
        }
        self.deadlines.insert((call.deadline, call.id));
        self.queue.push_back(call);
        Ok(())
    }

    /// The next call for the worker, when it may have one; from now on it is dispatched and running.
    pub(crate) fn dispatch(&mut self, now: Instant) -> Option<Call> {
        if self.running.is_some() || self.dispatched.len() >= self.concurrency || self.worn() {
            return None;
        }
        let call = self.queue.pop_front()?;
        self.dispatched.insert(call.id, Dispatched { id: call.id, begun: now, deadline: call.deadline });
        self.running = Some(call.id);
        Some(call)
    }

    /// The function gave way; false when the worker has no such call.
    pub(crate) fn yielded(&mut self, id: u64) -> bool {
        self.running.take_if(|running| *running == id);
        self.dispatched.contains_key(&id) || self.abandoned.contains(&id)
    }

    /// JavaScript gave way after every call that is abandoned had begun: none of them is running, whatever the worker
    /// said about it.
    pub(crate) fn gave_way(&mut self) {
        let abandoned = &self.abandoned;
        self.running.take_if(|running| abandoned.contains(running));
    }

    /// The worker has an outcome.
    pub(crate) fn settle(&mut self, id: u64) -> Settled {
        self.yielded(id);
        if let Some(call) = self.dispatched.remove(&id) {
            self.deadlines.remove(&(call.deadline, id));
            return Settled::Call(call);
        }
        if self.abandoned.remove(&id) { Settled::Abandoned } else { Settled::Unknown }
    }

    /// When a call that is with the worker, and that somebody still waits for, must be answered.
    pub(crate) fn deadline(&self, id: u64) -> Option<Instant> {
        self.dispatched.get(&id).map(|call| call.deadline)
    }

    /// When the next call expires.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes out one call whose time is up.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Expired> {
        let (deadline, id) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.deadlines.pop_first();
        if let Some(call) = self.dispatched.remove(&id) {
            self.abandoned.insert(id);
            return Some(Expired::Dispatched(call));
        }
        self.queue.retain(|call| call.id != id);
        Some(Expired::Queued(id))
    }

    /// The worker is gone, and every call that was with it.
    pub(crate) fn lose(&mut self) -> Lost {
        let running = self.running.take();
        let abandoned = std::mem::take(&mut self.abandoned);
        let mut lost: Vec<Dispatched> = self.dispatched.drain().map(|(_, call)| call).collect();
        for call in &lost {
            self.deadlines.remove(&(call.deadline, call.id));
        }
        // An abandoned call may have done it as well as one that still counts.
        let only = lost.len() == 1 && abandoned.is_empty();
        let culprit = lost.iter().position(|call| running == Some(call.id) || (only && running.is_none()));
        let culprit = culprit.map(|at| lost.swap_remove(at));
        Lost { culprit, others: lost }
    }

    /// Takes out everything that waits.
    pub(crate) fn drain_queue(&mut self) -> Vec<Call> {
        let queue: Vec<Call> = self.queue.drain(..).collect();
        for call in &queue {
            self.deadlines.remove(&(call.deadline, call.id));
        }
        queue
    }

    /// Whether no call that counts is with the worker.
    pub(crate) fn idle(&self) -> bool {
        self.dispatched.is_empty()
    }

    /// Whether nothing at all is known to be at work in the worker.
    pub(crate) fn quiet(&self) -> bool {
        self.dispatched.is_empty() && self.abandoned.is_empty()
    }

    /// Whether the worker has had enough calls that never ended.
    pub(crate) fn worn(&self) -> bool {
        self.abandoned.len() >= WORN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use nex_protocol::link::message::Invoke;

    fn call(id: u64, timeout_ms: u64) -> Call {
        Call::new(id, Invoke { subject: "s".into(), headers: vec![], timeout_ms }, Bytes::new())
    }

    fn with(concurrency: u32, ids: &[u64]) -> Calls {
        let mut calls = Calls::new(concurrency);
        ids.iter().for_each(|&id| calls.enqueue(call(id, 1000)).unwrap());
        calls
    }

    fn next(calls: &mut Calls) -> Option<u64> {
        calls.dispatch(Instant::now()).map(|call| call.id)
    }

    #[tokio::test]
    async fn the_next_call_goes_only_when_the_one_before_gave_way() {
        let mut calls = with(2, &[1, 2, 3]);
        assert_eq!(next(&mut calls), Some(1));
        assert_eq!(next(&mut calls), None, "1 may be busy");
        calls.yielded(1);
        assert_eq!(next(&mut calls), Some(2));
        calls.yielded(2);
        assert_eq!(next(&mut calls), None, "two at a time");
        assert!(matches!(calls.settle(1), Settled::Call(_)));
        assert_eq!(next(&mut calls), Some(3));
    }

    #[tokio::test]
    async fn a_call_that_expired_is_answered_once() {
        let mut calls = with(1, &[]);
        calls.enqueue(call(1, 0)).unwrap();
        assert_eq!(next(&mut calls), Some(1));
        calls.enqueue(call(2, 0)).unwrap();
        let now = Instant::now();
        assert!(matches!(calls.expire(now), Some(Expired::Dispatched(Dispatched { id: 1, .. }))));
        assert_eq!(calls.expire(now), Some(Expired::Queued(2)));
        assert_eq!(calls.expire(now), None);
        assert!(calls.idle() && !calls.quiet());
        assert_eq!(calls.settle(1), Settled::Abandoned);
        assert_eq!(calls.settle(1), Settled::Unknown);
    }

    #[tokio::test]
    async fn an_abandoned_call_that_says_nothing_more_blocks_nobody_once_javascript_gave_way() {
        let mut calls = with(2, &[]);
        calls.enqueue(call(1, 0)).unwrap();
        assert_eq!(next(&mut calls), Some(1));
        calls.gave_way();
        calls.enqueue(call(2, 1000)).unwrap();
        assert_eq!(next(&mut calls), None, "1 still counts");
        assert!(calls.expire(Instant::now()).is_some());
        assert_eq!(next(&mut calls), None);
        calls.gave_way();
        assert_eq!(next(&mut calls), Some(2));
        assert!(calls.yielded(1) && calls.yielded(2) && !calls.yielded(3));
    }

    #[tokio::test]
    async fn a_lost_worker_takes_what_was_dispatched_and_leaves_the_queue() {
        let mut calls = with(3, &[1, 2, 3, 4]);
        for id in [1, 2] {
            assert_eq!(next(&mut calls), Some(id));
            calls.yielded(id);
        }
        assert_eq!(next(&mut calls), Some(3));
        let lost = calls.lose();
        assert_eq!(lost.culprit.map(|call| call.id), Some(3), "the one that was running");
        assert_eq!(lost.others.len(), 2);
        assert_eq!(next(&mut calls), Some(4));
    }

    #[tokio::test]
    async fn nobody_is_blamed_when_it_could_have_been_another() {
        let mut calls = with(3, &[1, 2]);
        for id in [1, 2] {
            assert_eq!(next(&mut calls), Some(id));
            calls.yielded(id);
        }
        let lost = calls.lose();
        assert_eq!((lost.culprit, lost.others.len()), (None, 2));
        assert_eq!(calls.next_deadline(), None);
    }

    #[tokio::test]
    async fn a_number_in_use_and_a_full_queue_are_refused() {
        let mut calls = with(1, &[1]);
        assert!(matches!(calls.enqueue(call(1, 1)), Err((_, Refused::Duplicate))));
        (2..=WAITING as u64).for_each(|id| calls.enqueue(call(id, 1000)).unwrap());
        assert!(matches!(calls.enqueue(call(0, 1)), Err((_, Refused::Full))));
        assert_eq!(calls.drain_queue().len(), WAITING);
        assert_eq!(calls.next_deadline(), None);
    }
}
