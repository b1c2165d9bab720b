//! Whether a worker is stuck, goes on computing for nobody, or takes too much memory.
//!
//! It is asked by a ping, which it answers when JavaScript gives way: once a call has missed its deadline, and when it is
//! left without a call, while calls wait for its answer. One that goes on computing is replaced. It is asked again as long
//! as it uses the processor; one that does not causes no work here at all. And it is asked with its next call, which need
//! not wait for its own deadline when the worker is not there for it. How long it has to answer depends on the machine
//! ([`super::Pace`]).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use nex_protocol::link::message::{FailureKind, ToNode};
use tokio::time::Instant;

use super::super::memory;
use super::super::worker::Worker;
use super::Function;
use super::replacement::Death;
use crate::workload::DirectSign;

/// How often the worker's memory is looked at while calls run.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Time after its last call when a worker is looked at first: a timer that the call left behind has fired by then.
const LOOK_SOON: Duration = Duration::from_millis(5);

/// How often a worker without a call is looked at then, while it computes.
pub(super) const LOOK_IDLE: Duration = Duration::from_secs(1);

/// Time a worker without a call has to answer a ping when it does not compute: it may wait for its log to be taken.
const GIVE_WAY_IDLE: Duration = Duration::from_secs(1);

/// Time the node has to tell whether a worker waits for it.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// What the calls are told that were with a worker when another call was its end.
const ANOTHERS_FAULT: &str = "the worker was replaced because another call did not give way";

/// A ping that waits for its pong.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) number: u64,
    pub(super) until: Instant,
    /// Another call has missed its deadline since: the pong says nothing about that one.
    pub(super) again: bool,
    pub(super) idle: Option<IdleProbe>,
    /// What the node knows of it.
    node: OfNode,
}

/// Whether the worker waits for the node past us, which only the node can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OfNode {
    NotAsked,
    Asked,
    Told,
}

impl Probe {
    /// Of a worker that a call has waited for in vain.
    pub(super) fn new(number: u64, give_way: Duration) -> Self {
        Self { number, until: Instant::now() + give_way, again: false, idle: None, node: OfNode::NotAsked }
    }

    /// Of a worker that has no call yet.
    pub(super) fn idle(number: u64, give_way: Duration) -> Self {
        let idle = IdleProbe { last: Instant::now() + give_way.max(GIVE_WAY_IDLE), computed: None };
        Self { idle: Some(idle), ..Self::new(number, give_way) }
    }
}

/// More about a ping of a worker without a call.
#[derive(Debug)]
pub(super) struct IdleProbe {
    /// When patience ends in any case.
    last: Instant,
    /// Time it had computed when the pong was missed first.
    computed: Option<Duration>,
}

impl Function {
    /// Tells the node of the worker's pipes, if it has some.
    pub(super) async fn offer_direct_way(&mut self) {
        if let Some(worker) = self.worker.as_ref().filter(|worker| worker.has_pipes()) {
            let _ = self.settings.node.send(ToNode::Direct(worker.id())).await;
        }
    }

    /// What the node says about a worker's direct way; of another worker than this one it is old.
    pub(super) fn hear_of_direct_way(&mut self, sign: DirectSign) {
        let Some(worker) = &mut self.worker else { return };
        match sign {
            DirectSign::Open(id) if id == worker.id() => worker.direct_is_open(),
            DirectSign::Waits(id, waits) if id == worker.id() => {
                worker.host_calls.waits_directly(waits);
                if let Some(probe) = self.probe.as_mut().filter(|probe| probe.node == OfNode::Asked) {
                    (probe.node, probe.until) = (OfNode::Told, Instant::now());
                }
            }
            DirectSign::Open(_) | DirectSign::Waits(..) => {}
        }
    }

    pub(super) fn ping(&mut self) {
        let Some(worker) = &self.worker else { return };
        self.pings += 1;
        let probe = Probe::new(number(&self.secret, self.pings), self.pace.give_way());
        worker.ping(probe.number);
        self.probe = Some(probe);
    }

    /// The worker is left without a call: it will be looked at.
    pub(super) fn rest(&mut self) {
        if self.busy && self.calls.idle() {
            self.busy = false;
            self.look_idle = Some((Instant::now() + LOOK_SOON, None));
        }
    }

    /// Looks at a worker without a call, for the last time unless it has computed since the last time.
    pub(super) async fn look_idle(&mut self) {
        let Some((_, before)) = self.look_idle.take() else { return };
        let Some(worker) = &self.worker else { return };
        let Some(computed) = worker.computed() else { return };
        if before.is_some_and(|before| computed <= before) {
            return;
        }
        self.look_idle = Some((Instant::now() + LOOK_IDLE, Some(computed)));
        if self.probe.is_none() {
            self.pings += 1;
            let probe = Probe::idle(number(&self.secret, self.pings), self.pace.give_way());
            worker.ping(probe.number);
            self.probe = Some(probe);
        }
        self.look_at_memory().await;
    }

    /// The worker did not answer a ping in time: it is ended, unless it waits for the node on behalf of a call that
    /// still has time, or did so a moment ago.
    pub(super) async fn stuck(&mut self) {
        // Lets the reader take what has arrived, should all of us have been late.
        tokio::task::yield_now().await;
        self.catch_up().await;
        let now = Instant::now();
        let (Some(worker), Some(probe)) = (&self.worker, &mut self.probe) else { return };
        if probe.until > now {
            return;
        }
        if let Some(until) = worker.host_calls.blocked_until(now)
            && until + self.pace.give_way() > now
        {
            (probe.node, probe.until) = (OfNode::NotAsked, until + self.pace.give_way());
            return;
        }
        if probe.node == OfNode::NotAsked && worker.goes_directly() {
            (probe.node, probe.until) = (OfNode::Asked, now + TOLD_WITHIN);
            let _ = self.settings.node.send(ToNode::DirectWaits(worker.id())).await;
            return;
        }
        let Some(idle) = &mut probe.idle else {
            return self.lose(Death::new(FailureKind::Killed, ANOTHERS_FAULT)).await;
        };
        // That it computes, and is not just kept from running, can be made sure of.
        let computed = worker.computed().unwrap_or_default();
        let since = computed.saturating_sub(*idle.computed.get_or_insert(computed));
        // One that has a call has that call's deadline too.
        if since < self.pace.give_way() / 2 && (now < idle.last || !self.calls.idle()) {
            probe.until = now + self.pace.give_way();
            return;
        }
        tracing::info!("worker replaced: it went on computing without a call");
        let text = "the worker was replaced because an earlier call went on computing";
        // One that does so after a call is replaced as often as it is called.
        let death = Death { counts: !self.served, ..Death::new(FailureKind::Killed, text) };
        self.lose(death).await;
    }

    pub(super) async fn look_at_memory(&mut self) {
        let most = memory::most_resident(self.settings.limits.memory_bytes);
        let resident = self.worker.as_ref().and_then(Worker::resident);
        if resident.is_some_and(|resident| resident > most) {
            let text = self.too_much_memory();
            self.lose(Death::new(FailureKind::OutOfMemory, text)).await;
        }
    }

    pub(super) fn too_much_memory(&self) -> String {
        format!("the function needed more than the {} bytes of memory it may have", self.settings.limits.memory_bytes)
    }
}

/// Asked of the system here and now: what the standard library keeps for its maps may be the same in every machine that is a
/// copy of another.
pub(super) fn secret() -> [u8; 16] {
    let mut secret = [0; 16];
    // There is nothing to wait for and nothing that could fail in so few bytes, except on a system that has none at all.
    let _ = rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty());
    secret
}

/// A number that who does not know the secret cannot guess.
pub(super) fn number(secret: &[u8; 16], count: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (secret, count).hash(&mut hasher);
    hasher.finish()
}
