//! The way into a function: which of its agents takes a call, and which calls wait.
//!
//! ```text
//! call -> a turn in the agent with the fewest calls (at most `concurrency` in each) -> Instance::run
//!      -> else it waits, first come, first served, at most `max_pending` of them -> a turn that comes free, or a new agent
//!      -> else it is refused at once
//! ```
//! All waiting is inside the call's deadline, and bounded in number and, for all functions together, in bytes. The gate starts and ends no agents: it says what there is to do ([`Gate::load`],
//! [`Gate::called_for`]), and [`super::fleet`] acts. Its lock is held for look-ups only.
//!
//! Promises: no agent has more than `concurrency` calls; an agent that was taken out gets no more of them; nobody who waits
//! is passed over.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nex_protocol::link::message::{Failure, FailureKind, Headers};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::budget::Budget;
use super::call::{Instance, Timed};
use super::scale::Load;
use crate::config::FunctionLimits;

/// Bytes that a header takes besides its text.
const HEADER: usize = 64;

/// The way into a function, the same through all its agents.
#[derive(Debug)]
pub struct Gate {
    inner: Mutex<Inner>,
    budget: Arc<Budget>,
    limits: FunctionLimits,
    /// Told when a call has to wait.
    called_for: Notify,
    /// Told when no call runs and none waits.
    quiet: Notify,
}

#[derive(Debug)]
struct Inner {
    seats: Vec<Seat>,
    waiting: VecDeque<oneshot::Sender<Turn>>,
    /// Calls with a turn, those in agents that were taken out included.
    running: usize,
    /// Most calls that ran or waited at a time since that was asked last.
    peak: usize,
    /// When the last call ended.
    last: Instant,
    /// No call gets in any more.
    closed: bool,
}

/// An agent that takes calls.
#[derive(Debug)]
struct Seat {
    instance: Arc<Instance>,
    running: usize,
}

/// The right to run one call in an agent. Dropping it gives it to the next.
#[derive(Debug)]
struct Turn {
    /// None: there is nothing to give back.
    gate: Option<Arc<Gate>>,
    instance: Arc<Instance>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.give_back(&self.instance);
        }
    }
}

enum Admission {
    Now(Turn),
    Later(oneshot::Receiver<Turn>),
    Refused(Failure),
}

fn overloaded(text: &str) -> Failure {
    Failure::new(FailureKind::Overloaded, text)
}

impl Gate {
    /// A gate to no agent yet. All gates of a node share the budget.
    pub fn new(limits: FunctionLimits, budget: Arc<Budget>) -> Arc<Self> {
        let inner = Inner {
            seats: Vec::new(),
            waiting: VecDeque::new(),
            running: 0,
            peak: 0,
            last: Instant::now(),
            closed: false,
        };
        Arc::new(Self { inner: Mutex::new(inner), budget, limits, called_for: Notify::new(), quiet: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn concurrency(&self) -> usize {
        usize::try_from(self.limits.concurrency).unwrap_or(1)
    }

    /// Runs one call.
    pub async fn call(self: &Arc<Self>, subject: String, headers: Headers, payload: Bytes) -> Timed {
        let deadline = Instant::now() + self.limits.timeout;
        let size = headers.iter().fold(payload.len(), |size, (name, value)| size + name.len() + value.len() + HEADER);
        let Some(_share) = self.budget.take(size) else {
            return (
                0,
                Err(overloaded("this node holds as many bytes of messages as it may (functions.max_pending_bytes)")),
            );
        };
        let turn = match self.admit() {
            Admission::Now(turn) => turn,
            Admission::Refused(failure) => return (0, Err(failure)),
            Admission::Later(turn) => match timeout_at(deadline, turn).await {
                Ok(Ok(turn)) => turn,
                Ok(Err(_)) => return (0, Err(Failure::new(FailureKind::Killed, "the function is being ended"))),
                Err(_) => return (0, Err(self.waited_in_vain())),
            },
        };
        turn.instance.run(subject, headers, payload, deadline).await
    }

    fn waited_in_vain(&self) -> Failure {
        let inner = self.lock();
        if inner.running == 0 && !inner.has_waiting() {
            self.quiet.notify_waiters();
        }
        if inner.seats.is_empty() {
            return Failure::new(FailureKind::Killed, "the function is not running now; it is being started");
        }
        overloaded("the call waited for its turn until its deadline")
    }

    fn admit(self: &Arc<Self>) -> Admission {
        let mut inner = self.lock();
        if inner.closed {
            return Admission::Refused(Failure::new(FailureKind::Killed, "the function is being ended"));
        }
        if let Some(instance) = inner.free(self.concurrency()) {
            inner.running += 1;
            inner.note_peak();
            return Admission::Now(Turn { gate: Some(Arc::clone(self)), instance });
        }
        // While there is no agent, those who wait for it are the ones who would run in it, too.
        let room = self.limits.max_pending + if inner.seats.is_empty() { self.concurrency() } else { 0 };
        if inner.waiting.len() >= room {
            inner.waiting.retain(|waiting| !waiting.is_closed());
            if inner.waiting.len() >= room {
                return Admission::Refused(overloaded("too many calls of this function wait already"));
            }
        }
        let (give, turn) = oneshot::channel();
        inner.waiting.push_back(give);
        inner.note_peak();
        drop(inner);
        self.called_for.notify_one();
        Admission::Later(turn)
    }

    fn give_back(self: &Arc<Self>, instance: &Arc<Instance>) {
        let mut inner = self.lock();
        inner.running = inner.running.saturating_sub(1);
        inner.last = Instant::now();
        inner.vacate(instance);
        self.serve(&mut inner);
        if inner.running == 0 && !inner.has_waiting() {
            self.quiet.notify_waiters();
        }
    }

    /// Gives turns to those who wait, as far as there are any.
    fn serve(self: &Arc<Self>, inner: &mut Inner) {
        while !inner.waiting.is_empty() {
            let Some(instance) = inner.free(self.concurrency()) else { return };
            let mut turn = Turn { gate: Some(Arc::clone(self)), instance };
            loop {
                let Some(next) = inner.waiting.pop_front() else {
                    // Everybody has given up meanwhile. Dropping the turn would want the lock that is held here.
                    inner.vacate(&turn.instance);
                    turn.gate = None;
                    return;
                };
                match next.send(turn) {
                    Ok(()) => break,
                    Err(unwanted) => turn = unwanted,
                }
            }
            inner.running += 1;
        }
    }

    /// Sends calls to one more agent.
    pub(super) fn add(self: &Arc<Self>, instance: Arc<Instance>) {
        let mut inner = self.lock();
        inner.last = Instant::now();
        inner.seats.push(Seat { instance, running: 0 });
        self.serve(&mut inner);
    }

    /// Sends no more calls to an agent. Those in it go on.
    pub(super) fn remove(&self, instance: &Arc<Instance>) {
        self.lock().seats.retain(|seat| !Arc::ptr_eq(&seat.instance, instance));
    }

    /// Takes out the agent with the fewest calls, when others are left.
    pub(super) fn remove_one_of_many(&self) -> Option<Arc<Instance>> {
        let mut inner = self.lock();
        if inner.seats.len() < 2 {
            return None;
        }
        let at = inner.seats.iter().enumerate().min_by_key(|(_, seat)| seat.running).map(|(at, _)| at)?;
        Some(inner.seats.swap_remove(at).instance)
    }

    /// Takes out all agents, unless a call runs or waits, or one has ended less than `idle` ago.
    pub(super) fn remove_all_idle(&self, idle: Duration) -> Vec<Arc<Instance>> {
        let mut inner = self.lock();
        if inner.running > 0 || inner.has_waiting() || inner.last.elapsed() < idle {
            return Vec::new();
        }
        inner.seats.drain(..).map(|seat| seat.instance).collect()
    }

    /// Resolves when a call had to wait since this was last waited for.
    pub(super) async fn called_for(&self) {
        self.called_for.notified().await;
    }

    /// What there is to do; forgets the peak.
    pub(super) fn load(&self) -> Load {
        let mut inner = self.lock();
        inner.waiting.retain(|waiting| !waiting.is_closed());
        let now = inner.running + inner.waiting.len();
        let peak = std::mem::replace(&mut inner.peak, now).max(now);
        Load {
            agents: inner.seats.len(),
            concurrency: self.concurrency(),
            waiting: inner.waiting.len(),
            peak,
            last: inner.last,
        }
    }

    /// Calls that run and calls that wait.
    pub fn in_work(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.running, inner.waiting.iter().filter(|waiting| !waiting.is_closed()).count())
    }

    /// Waits until no call runs and none waits, but not longer than `within`.
    pub(super) async fn drained(&self, within: Duration) {
        let drained = async {
            loop {
                let mut quiet = std::pin::pin!(self.quiet.notified());
                quiet.as_mut().enable();
                {
                    let inner = self.lock();
                    if inner.running == 0 && !inner.has_waiting() {
                        return;
                    }
                }
                quiet.await;
            }
        };
        let _ = timeout(within, drained).await;
    }

    /// Fails the calls that wait, and lets no more in.
    pub(super) fn close(&self) {
        let waiting = {
            let mut inner = self.lock();
            inner.closed = true;
            std::mem::take(&mut inner.waiting)
        };
        drop(waiting);
        self.quiet.notify_waiters();
    }
}

impl Inner {
    /// Takes a turn in the agent with the fewest calls; none when all are full.
    fn free(&mut self, concurrency: usize) -> Option<Arc<Instance>> {
        let seat = self.seats.iter_mut().min_by_key(|seat| seat.running)?;
        if seat.running >= concurrency {
            return None;
        }
        seat.running += 1;
        Some(Arc::clone(&seat.instance))
    }

    /// Gives back a turn in an agent, if that still takes calls.
    fn vacate(&mut self, instance: &Arc<Instance>) {
        if let Some(seat) = self.seats.iter_mut().find(|seat| Arc::ptr_eq(&seat.instance, instance)) {
            seat.running = seat.running.saturating_sub(1);
        }
    }

    fn has_waiting(&self) -> bool {
        self.waiting.iter().any(|waiting| !waiting.is_closed())
    }

    fn note_peak(&mut self) {
        self.peak = self.peak.max(self.running + self.waiting.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nex_link::{Receiver, open};
    use nex_protocol::link::message::{ToAgent, ToNode};
    use tokio::task::JoinHandle;

    fn limits(concurrency: u32, max_pending: usize, timeout_ms: u64) -> FunctionLimits {
        let timeout = Duration::from_millis(timeout_ms);
        FunctionLimits { timeout, concurrency, max_pending, ..crate::config::Config::default().functions }
    }

    /// One agent, as far as calls go.
    struct Agent {
        instance: Arc<Instance>,
        calls: Receiver<ToAgent>,
    }

    impl Agent {
        fn new() -> Self {
            let (near, far) = tokio::io::duplex(1 << 16);
            let (near_read, near_write) = tokio::io::split(near);
            let (far_read, far_write) = tokio::io::split(far);
            let (sender, _) = open::<ToNode, ToAgent>(near_read, near_write, 1 << 20);
            let (_, calls) = open::<ToAgent, ToNode>(far_read, far_write, 1 << 20);
            Self { instance: Arc::new(Instance::new(sender)), calls }
        }

        async fn next_call(&mut self) -> u64 {
            match self.calls.receive().await.unwrap().unwrap() {
                ToAgent::Invoke(call, ..) => call,
                other => panic!("{other:?}"),
            }
        }

        async fn answer(&mut self) {
            let call = self.next_call().await;
            assert!(self.instance.settle(call, (1, Ok((vec![], Bytes::new())))));
        }
    }

    fn with_agent(limits: FunctionLimits) -> (Arc<Gate>, Agent) {
        let (gate, agent) = (Gate::new(limits, Budget::new(1 << 20)), Agent::new());
        gate.add(Arc::clone(&agent.instance));
        (gate, agent)
    }

    /// A call that has got as far as it can get by itself.
    async fn start(gate: &Arc<Gate>) -> JoinHandle<Timed> {
        let gate = Arc::clone(gate);
        let call = tokio::spawn(async move { gate.call("s".into(), vec![], Bytes::new()).await });
        tokio::task::yield_now().await;
        call
    }

    fn kind((_, outcome): Timed) -> FailureKind {
        outcome.unwrap_err().kind
    }

    #[tokio::test]
    async fn an_outcome_reaches_its_call_and_others_are_ignored() {
        let (gate, mut agent) = with_agent(limits(2, 0, 5000));
        let running = start(&gate).await;
        let call = agent.next_call().await;
        assert!(!agent.instance.settle(call + 1, (1, Ok((vec![], Bytes::new())))));
        assert!(agent.instance.settle(call, (7, Ok((vec![], Bytes::from_static(b"x"))))));
        assert!(!agent.instance.settle(call, (7, Ok((vec![], Bytes::new())))), "a second outcome is for nobody");
        assert_eq!(running.await.unwrap(), (7, Ok((vec![], Bytes::from_static(b"x")))));
    }

    #[tokio::test]
    async fn a_lost_agent_fails_its_calls_at_once_and_later_ones_go_to_the_next() {
        let (gate, mut agent) = with_agent(limits(2, 0, 5000));
        let running = start(&gate).await;
        agent.next_call().await;
        gate.remove(&agent.instance);
        agent.instance.close();
        assert_eq!(kind(running.await.unwrap()), FailureKind::Killed);
        let later = start(&gate).await;
        assert_eq!(gate.load().waiting, 1);
        gate.called_for().await;
        let mut next = Agent::new();
        gate.add(Arc::clone(&next.instance));
        next.answer().await;
        assert!(later.await.unwrap().1.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_limits_calls_wait_until_their_deadline_or_are_refused_at_once() {
        let (gate, mut agent) = with_agent(limits(1, 1, 1000));
        let running = start(&gate).await;
        let call = agent.next_call().await;
        let waiting = start(&gate).await;
        let began = Instant::now();
        let refused = gate.call("s".into(), vec![], Bytes::new()).await;
        assert_eq!((kind(refused), began.elapsed()), (FailureKind::Overloaded, Duration::ZERO));
        assert_eq!(kind(waiting.await.unwrap()), FailureKind::Overloaded);
        agent.instance.settle(call, (1, Ok((vec![], Bytes::new()))));
        assert!(running.await.unwrap().1.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_says_nothing_is_not_waited_for() {
        let (gate, mut agent) = with_agent(limits(1, 0, 1000));
        let running = start(&gate).await;
        let call = agent.next_call().await;
        assert_eq!(kind(running.await.unwrap()), FailureKind::Timeout);
        assert!(!agent.instance.settle(call, (1, Ok((vec![], Bytes::new())))), "too late");
    }

    #[tokio::test]
    async fn a_message_for_which_the_node_has_no_room_is_refused_at_once() {
        let (gate, mut agent) = with_agent(limits(2, 2, 5000));
        let large = Bytes::from(vec![0; 1 << 20]);
        assert_eq!(kind(gate.call("s".into(), vec![], large).await), FailureKind::Overloaded);
        let small = start(&gate).await;
        agent.answer().await;
        assert!(small.await.unwrap().1.is_ok());
    }

    #[tokio::test]
    async fn calls_go_to_the_agent_with_the_fewest_and_those_who_wait_to_a_new_one() {
        let (gate, mut first) = with_agent(limits(2, 8, 5000));
        let calls = [start(&gate).await, start(&gate).await, start(&gate).await];
        assert_eq!((gate.load().waiting, gate.load().peak), (1, 3));
        let mut second = Agent::new();
        gate.add(Arc::clone(&second.instance));
        second.answer().await;
        let fourth = start(&gate).await;
        second.answer().await;
        first.answer().await;
        first.answer().await;
        for call in calls.into_iter().chain([fourth]) {
            assert!(call.await.unwrap().1.is_ok());
        }
        assert_eq!(gate.load().agents, 2);
    }

    #[tokio::test]
    async fn an_agent_that_was_taken_out_ends_its_calls_and_gets_no_more() {
        let (gate, mut agent) = with_agent(limits(4, 8, 5000));
        let running = start(&gate).await;
        assert!(gate.remove_all_idle(Duration::ZERO).is_empty(), "a call runs");
        assert!(gate.remove_one_of_many().is_none(), "there is no other");
        gate.remove(&agent.instance);
        let waiting = start(&gate).await;
        agent.answer().await;
        assert!(running.await.unwrap().1.is_ok());
        agent.instance.drained(Duration::from_secs(5)).await;
        assert_eq!(gate.load().waiting, 1);
        gate.close();
        assert_eq!(kind(waiting.await.unwrap()), FailureKind::Killed);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_costs_no_turn_and_a_gate_without_calls_is_drained_at_once() {
        let (gate, mut agent) = with_agent(limits(1, 8, 1000));
        let running = start(&gate).await;
        let call = agent.next_call().await;
        let given_up = start(&gate).await;
        given_up.abort();
        let _ = given_up.await;
        agent.instance.settle(call, (1, Ok((vec![], Bytes::new()))));
        assert!(running.await.unwrap().1.is_ok());
        let began = Instant::now();
        gate.drained(Duration::from_secs(60)).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        let next = start(&gate).await;
        agent.answer().await;
        assert!(next.await.unwrap().1.is_ok());
        assert_eq!(gate.remove_all_idle(Duration::ZERO).len(), 1);
    }
}
