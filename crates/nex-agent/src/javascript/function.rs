//! A loaded function: one task that owns its worker and its calls.
//!
//! States: loaded (calls go to the worker), replacing (calls wait for the next worker to load the source), stopping
//! (nothing new begins), ended. A call's deadline is answered at once; whether the worker is stuck is found out after
//! that, by a ping it has [`GIVE_WAY`] to answer. Queued calls survive the worker; dispatched ones do not.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nex_protocol::link::message::{Exit, Failure, FailureKind, Outcome};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::calls::{Calls, Dispatched, Expired, Refused, Settled};
use super::protocol::FromWorker;
use super::worker::{Ended, Event, Settings, Worker};
use super::{LOAD, memory, reply};
use crate::call::{self, Call};
use crate::workload::{self, Finish, Inbox, Sign};

/// Time a worker has to show that JavaScript gives way, once a call has missed its deadline.
const GIVE_WAY: Duration = Duration::from_millis(100);

/// How often the worker's memory is looked at while calls run.
const LOOK: Duration = Duration::from_millis(100);

/// A function whose workers die so often in such a time, with no call to blame, is given up.
const DEATHS: usize = 5;
const DEATHS_WITHIN: Duration = Duration::from_secs(10);

/// Time before a worker that died with no call to blame is replaced; doubled with every such death.
const PAUSE: Duration = Duration::from_millis(25);

/// What the calls are told that were with a worker when another call was its end.
const ANOTHERS_FAULT: &str = "the worker was replaced because another call did not give way";

/// See the module.
#[derive(Debug)]
pub(crate) struct Function {
    settings: Settings,
    calls: Calls,
    worker: Option<Worker>,
    /// When the worker must have loaded the source; none once it has.
    loading_until: Option<Instant>,
    /// When the next worker is started, while there is none.
    replace_at: Instant,
    /// The ping that waits for its pong, and until when.
    probe: Option<(u64, Instant)>,
    pings: u64,
    look: Interval,
    /// Deaths with no call to blame, lately.
    deaths: VecDeque<Instant>,
    /// Nothing new begins.
    stopping: bool,
    /// Outcomes of calls that were never asked for.
    strays: u64,
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
    /// A function whose first worker has loaded it.
    pub(crate) fn new(settings: Settings, worker: Worker) -> Self {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            calls: Calls::new(settings.limits.concurrency),
            settings,
            worker: Some(worker),
            loading_until: None,
            replace_at: Instant::now(),
            probe: None,
            pings: 0,
            look,
            deaths: VecDeque::new(),
            stopping: false,
            strays: 0,
        }
    }

    /// Takes calls until told to stop, or given up.
    pub(crate) async fn run(mut self, inbox: &mut Inbox) -> Finish {
        let finish = loop {
            self.dispatch().await;
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
                Happening::LoadOver => {
                    let text = format!("the source did not finish loading within {} s", LOAD.as_secs());
                    self.lose(Death::new(FailureKind::Killed, text), true).await;
                }
                Happening::Look => self.look_at_memory().await,
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
        let stuck_at = self.probe.map(|(_, until)| until);
        let (loading, absent, quiet) = (self.loading_until, self.worker.is_none(), self.calls.quiet());
        let worker = async {
            match &mut self.worker {
                Some(worker) => worker.event().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // What the worker said counts before the clock does: a reply that is there in time is in time.
            biased;
            sign = workload::next_sign(&mut inbox.stop, stopping) => Happening::Stop(sign),
            event = worker => Happening::Worker(event),
            () = at(deadline) => Happening::Deadline,
            () = at(stuck_at) => Happening::Stuck,
            () = at(loading) => Happening::LoadOver,
            _ = self.look.tick(), if !quiet => Happening::Look,
            () = tokio::time::sleep_until(self.replace_at), if absent && !stopping => Happening::Replace,
            Some(call) = inbox.calls.recv() => Happening::Call(call),
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
            self.lose(Death::planned("the worker was worn out"), true).await;
        }
        let Some(worker) = self.worker.as_ref().filter(|_| self.loading_until.is_none()) else { return };
        while let Some(call) = self.calls.dispatch(Instant::now()) {
            let deadline = epoch_ms(call.deadline);
            // Refused only by a worker that is gone, and that it is gone will be heard next.
            worker.call(call, deadline);
        }
    }

    async fn hear(&mut self, event: Event) {
        match event {
            Event::Message(message) => self.hear_message(message).await,
            Event::Garbage(error) => {
                self.lose(Death::new(FailureKind::Function, garbage(&error)), true).await;
            }
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
                Settled::Unknown => {
                    self.strays += 1;
                    tracing::debug!(call = id, strays = self.strays, "outcome of a call that is not in flight");
                }
            },
            FromWorker::Yielded(id) => self.calls.yielded(id),
            FromWorker::Pong(number) => {
                self.probe = self.probe.filter(|(expected, _)| *expected != number);
            }
            FromWorker::Loaded => self.loading_until = None,
            FromWorker::Refused(why) => {
                // It loaded before: the source depends on something that has changed, the clock or chance.
                let text = format!("the source does not load any more: {why}");
                self.lose(Death::new(FailureKind::Killed, text), true).await;
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
        if suspect
            && self.probe.is_none()
            && let Some(worker) = &self.worker
        {
            self.pings += 1;
            worker.ping(self.pings);
            self.probe = Some((self.pings, Instant::now() + GIVE_WAY));
        }
    }

    /// The worker did not answer a ping in time: it is ended, unless it waits for the node on behalf of a call that
    /// still has time, or did so a moment ago.
    async fn stuck(&mut self) {
        let now = Instant::now();
        let waited = self.worker.as_ref().and_then(|worker| worker.host_calls.blocked_until(now));
        if let (Some(until), Some((number, _))) = (waited, self.probe)
            && until + GIVE_WAY > now
        {
            self.probe = Some((number, until + GIVE_WAY));
            return;
        }
        self.probe = None;
        self.lose(Death::new(FailureKind::Killed, ANOTHERS_FAULT), true).await;
    }

    async fn look_at_memory(&mut self) {
        let most = memory::most_resident(&self.settings.limits);
        let resident = self.worker.as_ref().and_then(Worker::resident);
        if resident.is_some_and(|resident| resident > most) {
            let text = self.too_much_memory();
            self.lose(Death::new(FailureKind::OutOfMemory, text), true).await;
        }
    }

    fn too_much_memory(&self) -> String {
        format!("the function needed more than the {} bytes of memory it may have", self.settings.limits.memory_bytes)
    }

    /// The worker died by itself.
    async fn lose_dead(&mut self) {
        let Some(worker) = self.worker.take() else { return };
        let ended = worker.end(false).await;
        let death = if ended.out_of_memory {
            Death::new(FailureKind::OutOfMemory, self.too_much_memory())
        } else {
            Death::new(FailureKind::Function, last_words(&ended, "running the function"))
        };
        self.lose(death, false).await;
    }

    /// The worker is gone or is to go: answers the calls that were with it, makes room for the next.
    async fn lose(&mut self, death: Death, kill: bool) {
        if let Some(worker) = self.worker.take() {
            worker.end(kill).await;
        }
        let blameless = self.calls.quiet();
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
        self.probe = None;
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
        self.lose(Death::planned("the function was stopped while the call ran"), true).await;
        for call in self.calls.drain_queue() {
            call::refuse(&self.settings.node, call.id, FailureKind::Killed, "the function has ended").await;
        }
    }
}

/// Resolves at that time; never when there is none.
async fn at(time: Option<Instant>) {
    match time {
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
pub(crate) fn garbage(error: &nex_link::LinkError) -> String {
    format!("the function wrote into the stream its worker answers on ({error}): write to console instead")
}

/// What is said about a worker that died by itself.
pub(crate) fn last_words(ended: &Ended, doing: &str) -> String {
    let words = ended.last_line.as_deref().map(|line| format!(": {line}")).unwrap_or_default();
    format!("the worker ended while {doing} ({}){words}", ended.status)
}
