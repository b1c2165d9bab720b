//! A loaded function: one task that owns its worker and its calls.
//!
//! States: loaded (calls go to the worker), replacing (calls wait for the next worker to load the source), stopping
//! (nothing new begins), ended. A call's deadline is answered at once; whether the worker is stuck is found out after
//! that, by a ping it has [`GIVE_WAY`] to answer. Queued calls survive the worker; dispatched ones do not.
//!
//! A worker that is left without a call is asked the same way, and calls wait for its answer: one that goes on computing
//! is replaced. It is asked again as long as it uses the processor; one that does not causes no work here at all. And it
//! is asked with its next call, which need not wait for its own deadline when the worker is not there for it.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nex_protocol::link::message::{Exit, Failure, FailureKind, Outcome};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::calls::{Calls, Dispatched, Expired, Refused, Settled};
use super::protocol::FromWorker;
use super::worker::{DYING, EVENTS, Ended, Event, Settings, Worker};
use super::{LOAD, memory};
use crate::call::{self, Call};
use crate::reply;
use crate::workload::{self, Finish, Inbox, Sign};

/// Time a worker has to show that JavaScript gives way, once a call has missed its deadline, where it is started in
/// [`QUICK_START`]. Where that takes longer, as in a machine that is translated, everything does, and it has as much more.
const GIVE_WAY: Duration = Duration::from_millis(100);

/// Time in which a worker is started and has loaded a function on a machine of our days that is busy.
const QUICK_START: Duration = Duration::from_millis(500);

/// The most that a slow start counts: a function can compute while it is loaded, too.
const SLOWEST: u32 = 20;

/// How often the worker's memory is looked at while calls run.
const LOOK: Duration = Duration::from_millis(100);

/// Time after its last call when a worker is looked at first: a timer that the call left behind has fired by then.
const LOOK_SOON: Duration = Duration::from_millis(5);

/// How often a worker without a call is looked at then, while it computes.
const LOOK_IDLE: Duration = Duration::from_secs(1);

/// Time a worker without a call has to answer a ping when it does not compute: it may wait for its log to be taken.
const GIVE_WAY_IDLE: Duration = Duration::from_secs(1);

/// Time a worker's end may take when the function ends too: its log is worth more then than the time.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A function whose workers die so often in such a time, with no call to blame, is given up.
const DEATHS: usize = 5;
const DEATHS_WITHIN: Duration = Duration::from_secs(10);

/// Time before a worker that died with no call to blame is replaced; doubled with every such death.
const PAUSE: Duration = Duration::from_millis(25);

/// What the calls are told that were with a worker when another call was its end.
const ANOTHERS_FAULT: &str = "the worker was replaced because another call did not give way";

/// What is wrong with an answer to a question nobody asked.
pub(crate) const UNASKED: &str = "an answer nobody asked for";

/// A ping that waits for its pong.
#[derive(Debug)]
struct Probe {
    number: u64,
    until: Instant,
    /// Another call has missed its deadline since: the pong says nothing about that one.
    again: bool,
    idle: Option<IdleProbe>,
}

impl Probe {
    /// Of a worker that a call has waited for in vain.
    fn new(number: u64, give_way: Duration) -> Self {
        Self { number, until: Instant::now() + give_way, again: false, idle: None }
    }

    /// Of a worker that has no call yet.
    fn idle(number: u64, give_way: Duration) -> Self {
        let idle = IdleProbe { last: Instant::now() + give_way.max(GIVE_WAY_IDLE), computed: None };
        Self { idle: Some(idle), ..Self::new(number, give_way) }
    }
}

/// More about a ping of a worker without a call.
#[derive(Debug)]
struct IdleProbe {
    /// When patience ends in any case.
    last: Instant,
    /// Time it had computed when the pong was missed first.
    computed: Option<Duration>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Function {
    settings: Settings,
    calls: Calls,
    worker: Option<Worker>,
    /// When the worker must have loaded the source; none once it has.
    loading_until: Option<Instant>,
    /// Time the worker has to answer a ping; see [`GIVE_WAY`].
    give_way: Duration,
    /// When the next worker is started, while there is none.
    replace_at: Instant,
    probe: Option<Probe>,
    /// Pings so far, and what makes numbers of them that cannot be guessed: a function can write pongs too.
    pings: u64,
    secret: [u8; 16],
    /// Whether the worker had a call since it was asked whether it computes without one.
    busy: bool,
    /// Whether the worker ever had a call.
    served: bool,
    /// When the worker is looked at next while it has no call, and the time it had computed when it was last.
    look_idle: Option<(Instant, Option<Duration>)>,
    look: Interval,
    /// Deaths with no call to blame, lately.
    deaths: VecDeque<Instant>,
    /// Nothing new begins.
    stopping: bool,
    /// The function ends with its worker.
    ending: bool,
}

/// What a function waits for.
enum Happening {
    Stop(Sign),
    Call(Call),
    Worker(Event),
    Deadline,
    Stuck,
    LoadOver,
    Look,
    LookIdle,
    Replace,
}

/// Why a worker is gone, as the calls that were with it are told.
struct Death {
    kind: FailureKind,
    text: String,
    /// Whether it speaks against the function when no call was with the worker.
    counts: bool,
}

impl Death {
    fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), counts: true }
    }

    /// One of our own making.
    fn planned(text: &str) -> Self {
        Self { kind: FailureKind::Killed, text: text.to_owned(), counts: false }
    }
}

impl Function {
    /// A function whose first worker has loaded it, in such a time.
    pub(crate) fn new(settings: Settings, worker: Worker, loaded_in: Duration) -> Self {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            calls: Calls::new(settings.limits.concurrency),
            settings,
            worker: Some(worker),
            loading_until: None,
            give_way: give_way(loaded_in),
            replace_at: Instant::now(),
            probe: None,
            pings: 0,
            secret: secret(),
            busy: false,
            served: false,
            look_idle: Some((Instant::now() + LOOK_IDLE, None)),
            look,
            deaths: VecDeque::new(),
            stopping: false,
            ending: false,
        }
    }

    /// Takes calls until told to stop, or given up.
    pub(crate) async fn run(mut self, inbox: &mut Inbox) -> Finish {
        let finish = loop {
            self.dispatch().await;
            self.rest();
            if self.stopping && self.calls.idle() {
                break Finish::stopped();
            }
            match self.next(inbox).await {
                Happening::Stop(Sign::Stop) => self.stop().await,
                Happening::Stop(Sign::OutOfGrace) => break Finish::stopped(),
                Happening::Call(call) => self.take(call).await,
                Happening::Worker(event) => self.hear(event).await,
                Happening::Deadline => self.expire().await,
                Happening::Stuck => self.stuck().await,
                Happening::LoadOver => self.load_over().await,
                Happening::Look => self.look_at_memory().await,
                Happening::LookIdle => self.look_idle().await,
                Happening::Replace => self.replace(),
            }
            if self.deaths.len() >= DEATHS {
                let message = format!("the worker ended {DEATHS} times within {} s", DEATHS_WITHIN.as_secs());
                break Finish::Exited(Exit { message, ..Exit::default() });
            }
        };
        self.wind_up().await;
        finish
    }

    async fn next(&mut self, inbox: &mut Inbox) -> Happening {
        let stopping = self.stopping;
        let deadline = self.calls.next_deadline();
        let stuck_at = self.probe.as_ref().map(|probe| probe.until);
        let look_idle = self.look_idle.map(|(time, _)| time);
        let (loading, absent, quiet) = (self.loading_until, self.worker.is_none(), self.calls.quiet());
        let worker = async {
            match &mut self.worker {
                Some(worker) => worker.event().await,
                None => std::future::pending().await,
            }
        };
        // Neither of the two can keep the other from being heard.
        let heard = async {
            tokio::select! {
                event = worker => Happening::Worker(event),
                Some(call) = inbox.calls.recv() => Happening::Call(call),
            }
        };
        tokio::select! {
            // The clock counts before the worker, who could go on talking for ever. See `catch_up` for what it said in
            // time.
            biased;
            sign = workload::next_sign(&mut inbox.stop, stopping) => Happening::Stop(sign),
            () = at(deadline) => Happening::Deadline,
            () = at(stuck_at) => Happening::Stuck,
            () = at(loading) => Happening::LoadOver,
            _ = self.look.tick(), if !quiet => Happening::Look,
            () = at(look_idle) => Happening::LookIdle,
            () = tokio::time::sleep_until(self.replace_at), if absent && !stopping => Happening::Replace,
            happening = heard => happening,
        }
    }

    /// Hears what the worker has said already, before it is judged by the clock: a reply that is there in time is in
    /// time. No more than what fits between it and us.
    async fn catch_up(&mut self) {
        for _ in 0..EVENTS {
            let Some(event) = self.worker.as_mut().and_then(Worker::event_now) else { return };
            self.hear(event).await;
        }
    }

    async fn take(&mut self, call: Call) {
        let node = &self.settings.node;
        if self.stopping {
            return call::refuse(node, call.id, FailureKind::Killed, "the function is being stopped").await;
        }
        match self.calls.enqueue(call) {
            Ok(()) => {}
            Err((call, Refused::Full)) => {
                call::refuse(node, call.id, FailureKind::Overloaded, "too many calls wait for this function").await;
            }
            Err((call, Refused::Duplicate)) => {
                tracing::warn!(call = call.id, "the node used a call number twice");
            }
        }
    }

    /// Gives the worker every call it may have.
    async fn dispatch(&mut self) {
        if self.calls.worn() && self.calls.idle() && self.worker.is_some() {
            tracing::info!("worker replaced: too many of its calls never ended");
            self.lose(Death::planned("the worker was worn out")).await;
        }
        // A call that is not with the worker survives it.
        let doubtful = self.loading_until.is_some() || self.probe.as_ref().is_some_and(|probe| probe.idle.is_some());
        let Some(worker) = self.worker.as_ref().filter(|_| !doubtful) else { return };
        let mut rested = self.calls.idle() && self.probe.is_none();
        while let Some(call) = self.calls.dispatch(Instant::now()) {
            let mut ping = None;
            if std::mem::take(&mut rested) {
                self.pings += 1;
                let probe = Probe::idle(number(&self.secret, self.pings), self.give_way);
                ping = Some(probe.number);
                self.probe = Some(probe);
            }
            (self.busy, self.served, self.look_idle) = (true, true, None);
            let deadline = epoch_ms(call.deadline);
            // Refused only by a worker that is gone, and that it is gone will be heard next.
            worker.call(call, deadline, ping);
        }
    }

    async fn hear(&mut self, event: Event) {
        match event {
            Event::Message(message) => self.hear_message(message).await,
            Event::Garbage(error) => self.lose(Death::new(FailureKind::Function, garbage(error))).await,
            Event::Closed => self.lose_dead().await,
        }
    }

    async fn hear_message(&mut self, message: FromWorker) {
        match message {
            FromWorker::Outcome(id, outcome) => match self.calls.settle(id) {
                Settled::Call(Dispatched { begun, .. }) => {
                    if let Some(worker) = &mut self.worker {
                        worker.host_calls.end_of(id);
                    }
                    let outcome = reply::check(outcome, self.settings.limits.reply_bytes);
                    call::answer(&self.settings.node, id, begun, outcome).await;
                }
                Settled::Abandoned => {}
                Settled::Unknown => self.unasked().await,
            },
            FromWorker::Yielded(id) => {
                if !self.calls.yielded(id) {
                    self.unasked().await;
                }
            }
            FromWorker::Pong(number) => match self.probe.take_if(|probe| probe.number == number) {
                Some(Probe { again: true, .. }) => self.ping(),
                Some(_) => self.calls.gave_way(),
                None => self.unasked().await,
            },
            FromWorker::Loaded => {
                if let Some(until) = self.loading_until.take() {
                    let left = until.saturating_duration_since(Instant::now());
                    self.give_way = give_way(LOAD.saturating_sub(left));
                    self.look_idle = Some((Instant::now() + LOOK_IDLE, None));
                } else {
                    self.unasked().await;
                }
            }
            FromWorker::Refused(why) => {
                // It loaded before: the source depends on something that has changed, the clock or chance.
                let text = format!("the source does not load any more: {why}");
                self.lose(Death::new(FailureKind::Killed, text)).await;
            }
            FromWorker::Log(..) => {}
            message @ (FromWorker::HostCall(..) | FromWorker::HostCancel(_) | FromWorker::HostMore(_)) => {
                if let Some(worker) = &mut self.worker {
                    worker.host_calls.hear(message, |call| self.calls.deadline(call));
                }
            }
        }
    }

    /// Answers every call whose time is up, then finds out whether the worker is stuck.
    async fn expire(&mut self) {
        self.catch_up().await;
        let mut suspect = false;
        while let Some(expired) = self.calls.expire(Instant::now()) {
            let node = &self.settings.node;
            match expired {
                Expired::Dispatched(Dispatched { id, begun, .. }) => {
                    suspect = true;
                    call::answer(node, id, begun, Err(call::timed_out())).await;
                }
                Expired::Queued(id) => {
                    let overloaded = call::overloaded();
                    call::refuse(node, id, overloaded.kind, &overloaded.message).await;
                }
            }
        }
        match &mut self.probe {
            Some(probe) => probe.again |= suspect,
            None if suspect => self.ping(),
            None => {}
        }
    }

    fn ping(&mut self) {
        let Some(worker) = &self.worker else { return };
        self.pings += 1;
        let probe = Probe::new(number(&self.secret, self.pings), self.give_way);
        worker.ping(probe.number);
        self.probe = Some(probe);
    }

    /// The worker is left without a call: it will be looked at.
    fn rest(&mut self) {
        if self.busy && self.calls.idle() {
            self.busy = false;
            self.look_idle = Some((Instant::now() + LOOK_SOON, None));
        }
    }

    /// Looks at a worker without a call, for the last time unless it has computed since the last time.
    async fn look_idle(&mut self) {
        let Some((_, before)) = self.look_idle.take() else { return };
        let Some(worker) = &self.worker else { return };
        let Some(computed) = worker.computed() else { return };
        if before.is_some_and(|before| computed <= before) {
            return;
        }
        self.look_idle = Some((Instant::now() + LOOK_IDLE, Some(computed)));
        if self.probe.is_none() {
            self.pings += 1;
            let probe = Probe::idle(number(&self.secret, self.pings), self.give_way);
            worker.ping(probe.number);
            self.probe = Some(probe);
        }
        self.look_at_memory().await;
    }

    async fn load_over(&mut self) {
        self.catch_up().await;
        if self.loading_until.is_some_and(|until| until <= Instant::now()) {
            let text = format!("the source did not finish loading within {} s", LOAD.as_secs());
            self.lose(Death::new(FailureKind::Killed, text)).await;
        }
    }

    /// The worker answered what it was not asked: the function has written to its stream.
    async fn unasked(&mut self) {
        self.lose(Death::new(FailureKind::Function, garbage(UNASKED))).await;
    }

    /// The worker did not answer a ping in time: it is ended, unless it waits for the node on behalf of a call that
    /// still has time, or did so a moment ago.
    async fn stuck(&mut self) {
        // Lets the reader take what has arrived, should all of us have been late.
        tokio::task::yield_now().await;
        self.catch_up().await;
        let now = Instant::now();
        let (Some(worker), Some(probe)) = (&self.worker, &mut self.probe) else { return };
        if probe.until > now {
            return;
        }
        if let Some(until) = worker.host_calls.blocked_until(now)
            && until + self.give_way > now
        {
            probe.until = until + self.give_way;
            return;
        }
        let Some(idle) = &mut probe.idle else {
            return self.lose(Death::new(FailureKind::Killed, ANOTHERS_FAULT)).await;
        };
        // That it computes, and is not just kept from running, can be made sure of.
        let computed = worker.computed().unwrap_or_default();
        let since = computed.saturating_sub(*idle.computed.get_or_insert(computed));
        // One that has a call has that call's deadline too.
        if since < self.give_way / 2 && (now < idle.last || !self.calls.idle()) {
            probe.until = now + self.give_way;
            return;
        }
        tracing::info!("worker replaced: it went on computing without a call");
        let death =
            Death::new(FailureKind::Killed, "the worker was replaced because an earlier call went on computing");
        // One that does so after a call is replaced as often as it is called.
        self.lose(Death { counts: !self.served, ..death }).await;
    }

    async fn look_at_memory(&mut self) {
        let most = memory::most_resident(&self.settings.limits);
        let resident = self.worker.as_ref().and_then(Worker::resident);
        if resident.is_some_and(|resident| resident > most) {
            let text = self.too_much_memory();
            self.lose(Death::new(FailureKind::OutOfMemory, text)).await;
        }
    }

    fn too_much_memory(&self) -> String {
        format!("the function needed more than the {} bytes of memory it may have", self.settings.limits.memory_bytes)
    }

    /// The worker died by itself.
    async fn lose_dead(&mut self) {
        let blameless = self.calls.quiet();
        let Some(ended) = self.end_worker(false).await else { return };
        let death = if ended.out_of_memory {
            Death::new(FailureKind::OutOfMemory, self.too_much_memory())
        } else {
            Death::new(FailureKind::Function, last_words(&ended, "running the function"))
        };
        self.fail(death, blameless).await;
    }

    /// The worker is to go.
    async fn lose(&mut self, death: Death) {
        let blameless = self.calls.quiet();
        self.end_worker(true).await;
        self.fail(death, blameless).await;
    }

    /// Ends the worker and answers the calls it had outcomes of.
    async fn end_worker(&mut self, kill: bool) -> Option<Ended> {
        let worker = self.worker.take()?;
        let patience = if self.ending { LAST_WORDS } else { DYING };
        let calls = &self.calls;
        let mut ended = worker.end(kill, patience, |id| calls.deadline(id).is_some()).await;
        for (id, outcome) in ended.outcomes.drain() {
            if let Settled::Call(Dispatched { begun, .. }) = self.calls.settle(id) {
                let outcome = reply::check(outcome, self.settings.limits.reply_bytes);
                call::answer(&self.settings.node, id, begun, outcome).await;
            }
        }
        Some(ended)
    }

    /// The worker is gone: answers the calls that were with it, makes room for the next. `blameless` when none was.
    async fn fail(&mut self, death: Death, blameless: bool) {
        let lost = self.calls.lose();
        let node = &self.settings.node;
        // Whoever made the worker stuck has missed its deadline, most likely, and had its answer: it is none of these.
        let stuck = death.kind == FailureKind::Killed;
        let all_alike = stuck || (lost.culprit.is_none() && death.kind == FailureKind::OutOfMemory);
        for call in lost.others {
            let failure = if all_alike {
                Failure::new(death.kind, &death.text)
            } else {
                Failure::new(FailureKind::Killed, "the worker was replaced because another call was its end")
            };
            call::answer(node, call.id, call.begun, Err(failure)).await;
        }
        if let Some(call) = lost.culprit {
            let outcome: Outcome = Err(Failure::new(death.kind, &death.text));
            call::answer(node, call.id, call.begun, outcome).await;
        }
        let loading = self.loading_until.take().is_some();
        (self.probe, self.look_idle, self.busy, self.served) = (None, None, false, false);
        self.replace_at = Instant::now();
        if (blameless || loading) && death.counts {
            tracing::warn!(reason = death.text, "worker died without a call to blame");
            self.count_death();
        }
    }

    fn count_death(&mut self) {
        let now = Instant::now();
        self.deaths.retain(|death| now.duration_since(*death) < DEATHS_WITHIN);
        let doubled = u32::try_from(self.deaths.len()).unwrap_or(u32::MAX).min(8);
        self.deaths.push_back(now);
        self.replace_at = now + PAUSE * 2u32.saturating_pow(doubled);
    }

    fn replace(&mut self) {
        match Worker::start(&self.settings) {
            Ok(worker) => {
                self.worker = Some(worker);
                self.loading_until = Some(Instant::now() + LOAD);
            }
            Err(error) => {
                tracing::warn!(%error, "no worker can be started");
                self.count_death();
            }
        }
    }

    async fn stop(&mut self) {
        self.stopping = true;
        for call in self.calls.drain_queue() {
            let why = "the function was stopped before the call's turn came";
            call::refuse(&self.settings.node, call.id, FailureKind::Killed, why).await;
        }
    }

    /// Ends the worker and answers what is left.
    async fn wind_up(&mut self) {
        self.ending = true;
        self.lose(Death::planned("the function was stopped while the call ran")).await;
        for call in self.calls.drain_queue() {
            call::refuse(&self.settings.node, call.id, FailureKind::Killed, "the function has ended").await;
        }
    }
}

/// Resolves at that time; never when there is none.
async fn at(time: Option<Instant>) {
    match time {
        // The timer may hear of it only when nothing else is to be done.
        Some(time) if time <= Instant::now() => {}
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// A point of our clock on everyone's clock.
fn epoch_ms(instant: Instant) -> u64 {
    let then = SystemTime::now() + instant.saturating_duration_since(Instant::now());
    then.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What is said about bytes that are no message.
pub(crate) fn garbage(error: impl std::fmt::Display) -> String {
    format!("the function wrote into the stream its worker answers on ({error}): write to console instead")
}

/// What is said about a worker that died by itself.
pub(crate) fn last_words(ended: &Ended, doing: &str) -> String {
    let words = ended.last_line.as_deref().map(|line| format!(": {line}")).unwrap_or_default();
    format!("the worker ended while {doing} ({}){words}", ended.status)
}

/// Time a worker has to answer a ping, when one is started in so long.
fn give_way(start: Duration) -> Duration {
    let times = start.as_millis().checked_div(QUICK_START.as_millis()).unwrap_or(1);
    GIVE_WAY * u32::try_from(times).unwrap_or(SLOWEST).clamp(1, SLOWEST)
}

/// Asked of the system here and now: what the standard library keeps for its maps may be the same in every machine that is a
/// copy of another.
fn secret() -> [u8; 16] {
    let mut secret = [0; 16];
    // There is nothing to wait for and nothing that could fail in so few bytes, except on a system that has none at all.
    let _ = rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty());
    secret
}

/// A number that who does not know the secret cannot guess.
fn number(secret: &[u8; 16], count: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (secret, count).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_of_a_slow_machine_has_more_time_to_answer_and_not_without_end() {
        let times = [0, 499, 2600, 60_000].map(|ms| give_way(Duration::from_millis(ms)).as_millis());
        assert_eq!(times, [100, 100, 500, 2000]);
    }
}
