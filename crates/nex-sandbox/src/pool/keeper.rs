//! The one task of a pool: prepares, pings, hands over, and ends what nobody wants.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::demand::Demand;
use super::{PoolSettings, PoolStatus};
use crate::{Agent, PrepareError, Sandbox};

/// Time between two pings of a ready agent.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// See the module.
pub(super) struct Keeper<S> {
    sandbox: Arc<S>,
    settings: PoolSettings,
    ready: VecDeque<Agent>,
    waiting: VecDeque<Waiting>,
    preparing: JoinSet<Result<Agent, PrepareError>>,
    failures: u32,
    demand: Demand,
    /// Agents that nobody is going to want, which end.
    surplus: JoinSet<()>,
    /// Ready agents that are asked whether they live; none comes back for one that does not.
    pinged: JoinSet<Option<Agent>>,
    report: watch::Sender<PoolStatus>,
}

/// A taker.
struct Waiting {
    give: oneshot::Sender<Agent>,
    /// Whether there was no agent when it came.
    missed: bool,
}

impl<S: Sandbox> Keeper<S> {
    /// A keeper of no agents yet.
    pub(super) fn new(sandbox: Arc<S>, settings: PoolSettings, report: watch::Sender<PoolStatus>) -> Self {
        Self {
            sandbox,
            settings,
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            preparing: JoinSet::new(),
            failures: 0,
            demand: Demand::new(settings.parallel),
            surplus: JoinSet::new(),
            pinged: JoinSet::new(),
            report,
        }
    }

    /// Keeps agents ready until told to close, then ends them.
    pub(super) async fn run(
        mut self,
        mut claims: mpsc::Receiver<oneshot::Sender<Agent>>,
        mut closing: oneshot::Receiver<()>,
    ) {
        let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.refill();
            let mut nobody_waited = false;
            let lost_tokens = self.ready.iter().map(|agent| agent.lost.clone()).collect();
            let fading = self.demand.fades_at();
            tokio::select! {
                _ = &mut closing => break,
                claim = claims.recv() => match claim {
                    Some(claim) => {
                        self.waiting.retain(|waiting| !waiting.give.is_closed());
                        nobody_waited = self.waiting.is_empty();
                        let missed = self.ready.is_empty() && self.pinged.is_empty();
                        self.waiting.push_back(Waiting { give: claim, missed });
                    }
                    None => break,
                },
                Some(done) = self.preparing.join_next() => self.prepared(done),
                () = any_cancelled(lost_tokens) => self.drop_lost(),
                Some(answer) = self.pinged.join_next() => self.answered(answer.ok().flatten()),
                _ = pings.tick(), if self.pinged.is_empty() => self.ping(),
                () = at(fading) => self.demand.fade(Instant::now()),
                Some(_) = self.surplus.join_next() => {}
            }
            self.serve();
            self.report_status(nobody_waited && !self.waiting.is_empty());
        }
        self.preparing.shutdown().await;
        self.pinged.shutdown().await;
        for agent in self.ready.drain(..) {
            self.surplus.spawn(agent.destroy());
        }
        while self.surplus.join_next().await.is_some() {}
        self.sandbox.close().await;
    }

    fn drop_lost(&mut self) {
        let before = self.ready.len();
        self.ready.retain(|agent| {
            let lost = agent.lost.is_cancelled();
            if lost {
                let out_of_memory = agent.place.ran_out_of_memory();
                warn!(agent = %agent.id, out_of_memory, "an agent was lost while it waited in the pool; it is replaced");
            }
            !lost
        });
        let lost = before - self.ready.len();
        if lost > 0 {
            self.report.send_modify(|status| status.lost += lost as u64);
        }
    }

    /// Asks all that are ready. They cannot be taken meanwhile, which takes no time where they live.
    fn ping(&mut self) {
        for mut agent in self.ready.drain(..) {
            let within = self.settings.ping_timeout;
            self.pinged.spawn(async move {
                if agent.answers(within).await {
                    return Some(agent);
                }
                warn!(agent = %agent.id, "an agent hung while it waited in the pool; it is replaced");
                agent.destroy().await;
                None
            });
        }
    }

    fn answered(&mut self, agent: Option<Agent>) {
        match agent {
            Some(agent) => self.ready.push_back(agent),
            None => self.report.send_modify(|status| status.lost += 1),
        }
    }

    /// Starts preparations until ready and coming agents cover the pool's size and those who wait.
    fn refill(&mut self) {
        // Those who gave up are not waited for.
        self.waiting.retain(|waiting| !waiting.give.is_closed());
        let target = self.settings.size + self.demand.ahead();
        while self.ready.len() > target {
            // The newest: those who waited longest have shown that they live.
            self.surplus.extend(self.ready.pop_back().map(Agent::destroy));
        }
        let wanted = target + self.waiting.len();
        if wanted == 0 {
            // Nobody tries again by itself: who comes next is not to pay for it.
            self.failures = 0;
        }
        let parallel = if self.failures > 0 { 1 } else { self.settings.parallel.max(1) };
        while self.ready.len() + self.preparing.len() + self.pinged.len() < wanted && self.preparing.len() < parallel {
            let sandbox = Arc::clone(&self.sandbox);
            let delay = self.failures.checked_sub(1).map(|n| self.settings.backoff.jittered(n));
            self.preparing.spawn(async move {
                if let Some(delay) = delay {
                    tokio::time::sleep(delay).await;
                }
                sandbox.prepare().await
            });
        }
    }

    fn prepared(&mut self, done: Result<Result<Agent, PrepareError>, tokio::task::JoinError>) {
        match done {
            Ok(Ok(agent)) => {
                debug!(agent = %agent.id, "agent ready");
                self.failures = 0;
                self.report.send_modify(|status| status.last_error = None);
                self.ready.push_back(agent);
            }
            Ok(Err(error)) => self.failed(&error.to_string()),
            Err(error) => self.failed(&error.to_string()),
        }
    }

    fn failed(&mut self, error: &str) {
        self.failures = self.failures.saturating_add(1);
        warn!(error, failures = self.failures, "could not prepare an agent; trying again");
        self.report.send_modify(|status| {
            status.last_error = Some(error.to_owned());
            status.failures += 1;
        });
    }

    /// Gives ready agents to those who wait, in order.
    fn serve(&mut self) {
        self.drop_lost();
        while !self.ready.is_empty() {
            let Some(Waiting { give, missed }) = self.waiting.pop_front() else { break };
            let Some(agent) = self.ready.pop_front() else { break };
            match give.send(agent) {
                Ok(()) => {
                    // Those who gave up are no demand.
                    if missed {
                        self.demand.shortage(Instant::now());
                    }
                    self.report.send_modify(|status| {
                        status.claims += 1;
                        status.misses += u64::from(missed);
                    });
                }
                Err(agent) => self.ready.push_front(agent),
            }
        }
    }

    fn report_status(&self, short: bool) {
        let (ready, target) = (self.ready.len() + self.pinged.len(), self.settings.size + self.demand.ahead());
        self.report.send_if_modified(|status| {
            status.shortages += u64::from(short);
            let changed = (status.ready, status.target) != (ready, target);
            (status.ready, status.target) = (ready, target);
            changed || short
        });
    }
}

/// Resolves at that moment; never when there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Resolves when one of the tokens is cancelled; never when there is none.
async fn any_cancelled(tokens: Vec<CancellationToken>) {
    let mut cancelled: Vec<_> = tokens.into_iter().map(|token| Box::pin(token.cancelled_owned())).collect();
    std::future::poll_fn(move |cx| {
        if cancelled.iter_mut().any(|token| token.as_mut().poll(cx).is_ready()) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}
