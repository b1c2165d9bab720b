//! A loaded function: one task that owns its worker and its calls.
//!
//! States: loaded (calls go to the worker), replacing (calls wait for the next worker to start and to load the source, see
//! [`replacement`]), stopping (nothing new begins), ended. A call's deadline is answered at once; whether the worker is
//! stuck is found out after that, see [`watch`]. Queued calls survive the worker; dispatched ones do not.

mod replacement;
mod watch;

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nex_protocol::link::message::{Exit, FailureKind};
use tokio::time::{Instant, Interval, MissedTickBehavior};

pub(crate) use self::replacement::too_slow;
use self::replacement::{DEATHS, DEATHS_WITHIN, Death};
use self::watch::{LOOK, LOOK_IDLE, Probe, number, secret};
use super::calls::{Calls, Dispatched, Expired, Refused, Settled};
use super::deno::{EVENTS, Ended, Event};
use super::fresh::{Fresh, NotReady, Ready};
use super::pace::Pace;
use super::protocol::FromWorker;
use super::worker::{Settings, Worker};
use crate::call::{self, Call};
use crate::reply;
use crate::workload::{self, DirectSign, Finish, Inbox, Sign};

/// What is wrong with an answer to a question nobody asked.
pub(crate) const UNASKED: &str = "an answer nobody asked for";

/// See the module.
#[derive(Debug)]
pub(crate) struct Function {
    settings: Settings,
    calls: Calls,
    worker: Option<Worker>,
    /// The next worker, until it takes the source.
    fresh: Option<Fresh>,
    /// When the worker must have loaded the source; none once it has.
    loading_until: Option<Instant>,
    /// How slow the machine was when the worker was started.
    pace: Pace,
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
    Direct(DirectSign),
    Fresh(Result<Ready, NotReady>),
    Deadline,
    Stuck,
    LoadOver,
    Look,
    LookIdle,
    Replace,
}

impl Function {
    /// A function whose first worker has loaded it.
    pub(crate) fn new(settings: Settings, worker: Worker, pace: Pace) -> Self {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            calls: Calls::new(settings.limits.concurrency),
            settings,
            worker: Some(worker),
            fresh: None,
            loading_until: None,
            pace,
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
        self.offer_direct_way().await;
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
                Happening::Direct(sign) => self.hear_of_direct_way(sign),
                Happening::Fresh(ready) => self.start_over(ready).await,
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
        let (loading, absent, quiet) =
            (self.loading_until, self.worker.is_none() && self.fresh.is_none(), self.calls.quiet());
        let worker = async {
            match (&mut self.worker, &mut self.fresh) {
                (Some(worker), _) => Happening::Worker(worker.event().await),
                (None, Some(fresh)) => Happening::Fresh(fresh.ready().await),
                (None, None) => std::future::pending().await,
            }
        };
        // Neither of the two can keep the other from being heard.
        let heard = async {
            tokio::select! {
                happening = worker => happening,
                Some(call) = inbox.calls.recv() => Happening::Call(call),
            }
        };
        tokio::select! {
            // The clock counts before the worker, who could go on talking for ever. See `catch_up` for what it said in
            // time.
            biased;
            sign = workload::next_sign(&mut inbox.stop, stopping) => Happening::Stop(sign),
            // Few: each answers what we said ourselves.
            Some(sign) = inbox.direct.recv() => Happening::Direct(sign),
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
                let probe = Probe::idle(number(&self.secret, self.pings), self.pace.give_way());
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
            FromWorker::Ready => self.unasked().await,
            FromWorker::Loaded => {
                if self.loading_until.take().is_some() {
                    self.look_idle = Some((Instant::now() + LOOK_IDLE, None));
                    self.offer_direct_way().await;
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

    /// The worker answered what it was not asked: the function has written to its stream.
    async fn unasked(&mut self) {
        self.lose(Death::new(FailureKind::Function, garbage(UNASKED))).await;
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
        if let Some(fresh) = self.fresh.take() {
            fresh.kill().await;
        }
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
