//! The warm pool: ready agents, handed over one by one.
//!
//! One task owns the pool. Its life is a loop over five events: an agent became ready or failed to, a taker asks, a
//! ready agent was lost, a demand fades, the pool closes. It keeps `size` agents ready, and as many as `parallel` more while
//! takers have to wait again and again ([`crate::demand`]); it prepares more for takers who wait, with at most `parallel`
//! preparations at a time. A preparation that fails is retried after a backoff, for ever: a node with
//! a broken agent stays up, says so in its log, and refuses deploys.
//!
//! Promises: a taker gets a ready agent of its own or, after its own bounded wait, [`PoolExhausted`]; takers are
//! served in the order they came; an agent is never handed to two; closing ends every agent that was not taken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::demand::Demand;
use crate::{Agent, Backoff, PrepareError, Sandbox};

/// How a pool behaves.
#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    /// Agents to keep ready.
    pub size: usize,
    /// Preparations at a time.
    pub parallel: usize,
    /// Delays after failed preparations.
    pub backoff: Backoff,
}

/// What a pool is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolStatus {
    /// Agents that can be claimed at once.
    pub ready: usize,
    /// Why the last preparation failed; none once one succeeds.
    pub last_error: Option<String>,
    /// How often somebody had to wait for an agent while nobody else did.
    pub shortages: u64,
    /// Agents that are kept ready now: the pool's size, and more while there is a demand.
    pub target: usize,
    /// Agents that were handed over.
    pub claims: u64,
    /// Of these, those who had to wait for one.
    pub misses: u64,
    /// Preparations that failed.
    pub failures: u64,
    /// Agents that were lost while they waited.
    pub lost: u64,
}

/// No agent became ready in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no available agent client in pool{}", .reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
pub struct PoolExhausted {
    /// Why agents do not become ready, if that is known.
    pub reason: Option<String>,
}

/// Handle of a pool; clones share it.
#[derive(Debug, Clone)]
pub struct Pool {
    claims: mpsc::Sender<oneshot::Sender<Agent>>,
    status: watch::Receiver<PoolStatus>,
}

/// Ends the pool when awaited with [`PoolTask::close`].
#[derive(Debug)]
pub struct PoolTask {
    close: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl PoolTask {
    /// Ends all agents that nobody took; returns when they are gone.
    pub async fn close(self) {
        let _ = self.close.send(());
        let _ = self.task.await;
    }
}

impl Pool {
    /// Starts filling a pool.
    pub fn spawn<S: Sandbox>(sandbox: Arc<S>, settings: PoolSettings) -> (Pool, PoolTask) {
        let (claims, incoming) = mpsc::channel(64);
        let (report, status) = watch::channel(PoolStatus::default());
        let (close, closing) = oneshot::channel();
        let keeper = Keeper {
            sandbox,
            settings,
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            preparing: JoinSet::new(),
            failures: 0,
            demand: Demand::new(settings.parallel),
            surplus: JoinSet::new(),
            report,
        };
        let task = tokio::spawn(keeper.run(incoming, closing));
        (Pool { claims, status }, PoolTask { close, task })
    }

    /// Takes a ready agent, waiting for one as long as `within`.
    ///
    /// # Errors
    /// [`PoolExhausted`] when none became ready in time or the pool is closed.
    pub async fn claim(&self, within: Duration) -> Result<Agent, PoolExhausted> {
        let taken = async {
            let (give, take) = oneshot::channel();
            self.claims.send(give).await.ok()?;
            take.await.ok()
        };
        // A claim that is given up drops its receiver; the keeper notices and serves the next taker.
        match timeout(within, taken).await {
            Ok(Some(agent)) => Ok(agent),
            _ => Err(PoolExhausted { reason: self.status.borrow().last_error.clone() }),
        }
    }

    /// What the pool is doing now.
    pub fn status(&self) -> PoolStatus {
        self.status.borrow().clone()
    }

    /// What the pool is doing, as it changes.
    pub fn watch(&self) -> watch::Receiver<PoolStatus> {
        self.status.clone()
    }

    /// Waits until an agent is ready or a preparation has failed; says which.
    pub async fn first_result(&self) -> PoolStatus {
        let mut status = self.status.clone();
        let settled = status.wait_for(|s| s.ready > 0 || s.last_error.is_some()).await;
        settled.map(|s| s.clone()).unwrap_or_default()
    }
}

struct Keeper<S> {
    sandbox: Arc<S>,
    settings: PoolSettings,
    ready: VecDeque<Agent>,
    waiting: VecDeque<Waiting>,
    preparing: JoinSet<Result<Agent, PrepareError>>,
    failures: u32,
    demand: Demand,
    /// Agents that nobody is going to want, which end.
    surplus: JoinSet<()>,
    report: watch::Sender<PoolStatus>,
}

/// A taker.
struct Waiting {
    give: oneshot::Sender<Agent>,
    /// Whether there was no agent when it came.
    missed: bool,
}

impl<S: Sandbox> Keeper<S> {
    async fn run(mut self, mut claims: mpsc::Receiver<oneshot::Sender<Agent>>, mut closing: oneshot::Receiver<()>) {
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
                        let missed = self.ready.is_empty();
                        self.waiting.push_back(Waiting { give: claim, missed });
                    }
                    None => break,
                },
                Some(done) = self.preparing.join_next() => self.prepared(done),
                () = any_cancelled(lost_tokens) => self.drop_lost(),
                () = at(fading) => self.demand.fade(Instant::now()),
                Some(_) = self.surplus.join_next() => {}
            }
            self.serve();
            self.report_status(nobody_waited && !self.waiting.is_empty());
        }
        self.preparing.shutdown().await;
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
                warn!(agent = %agent.id, "an agent was lost while it waited in the pool; it is replaced");
            }
            !lost
        });
        let lost = before - self.ready.len();
        if lost > 0 {
            self.report.send_modify(|status| status.lost += lost as u64);
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
        let parallel = if self.failures > 0 { 1 } else { self.settings.parallel.max(1) };
        while self.ready.len() + self.preparing.len() < wanted && self.preparing.len() < parallel {
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
        let (ready, target) = (self.ready.len(), self.settings.size + self.demand.ahead());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemorySandbox;

    const LONG: Duration = Duration::from_secs(5);

    fn pool(size: usize) -> (Arc<MemorySandbox>, Pool, PoolTask) {
        let sandbox = Arc::new(MemorySandbox::default());
        let backoff = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(2) };
        let (pool, task) = Pool::spawn(Arc::clone(&sandbox), PoolSettings { size, parallel: 2, backoff });
        (sandbox, pool, task)
    }

    #[tokio::test]
    async fn every_claim_gets_an_agent_of_its_own_even_beyond_the_size() {
        let (sandbox, pool, task) = pool(2);
        let claims: Vec<_> = (0..10)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.claim(LONG).await })
            })
            .collect();
        let mut agents = Vec::new();
        for claim in claims {
            agents.push(claim.await.unwrap().unwrap());
        }
        let mut ids: Vec<_> = agents.iter().map(|a| a.id.clone()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 10);
        drop(agents);
        task.close().await;
        assert_eq!(sandbox.alive(), 0, "closing ends what was ready, dropping what was taken");
    }

    #[tokio::test]
    async fn a_shortage_is_counted_once_for_all_who_wait_at_the_same_time() {
        let (sandbox, pool, task) = pool(1);
        pool.watch().wait_for(|status| status.ready == 1).await.unwrap();
        assert_eq!(pool.status().shortages, 0);
        sandbox.fail(true);
        pool.claim(LONG).await.unwrap().destroy().await;
        let (first, second) = (pool.claim(Duration::from_millis(200)), pool.claim(Duration::from_millis(200)));
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_err() && second.is_err());
        assert_eq!(pool.status().shortages, 1);
        assert!(pool.claim(Duration::from_millis(50)).await.is_err());
        assert_eq!(pool.status().shortages, 2);
        task.close().await;
    }

    #[tokio::test]
    async fn more_agents_are_kept_ready_while_takers_have_to_wait_and_what_was_taken_is_counted() {
        let (sandbox, pool, task) = pool(1);
        let mut claims = JoinSet::new();
        for _ in 0..6 {
            let pool = pool.clone();
            claims.spawn(async move { pool.claim(LONG).await });
        }
        let taken = claims.join_all().await;
        assert!(taken.iter().all(Result::is_ok));
        let status = pool.watch().wait_for(|status| status.ready == 3).await.unwrap().clone();
        assert_eq!((status.target, status.claims), (3, 6), "two more than its size, as many as are prepared at a time");
        assert!((1..=6).contains(&status.misses), "{status:?}");
        drop(taken);
        task.close().await;
        assert_eq!(sandbox.alive(), 0);
    }

    #[tokio::test]
    async fn an_empty_pool_is_a_bounded_wait_and_says_why() {
        let (sandbox, pool, task) = pool(1);
        sandbox.fail(true);
        // The one prepared before the switch, if any.
        let _ = pool.claim(Duration::from_millis(50)).await;
        let error = pool.claim(Duration::from_millis(100)).await.unwrap_err();
        assert!(error.to_string().starts_with("no available agent client in pool"), "{error}");
        assert!(error.reason.is_some());
        sandbox.fail(false);
        assert!(pool.claim(LONG).await.is_ok(), "recovers by itself");
        task.close().await;
    }

    #[tokio::test]
    async fn an_agent_lost_while_it_waits_is_replaced() {
        let (sandbox, pool, task) = pool(1);
        pool.status.clone().wait_for(|s| s.ready == 1).await.unwrap();
        sandbox.lose_all();
        let agent = pool.claim(LONG).await.unwrap();
        assert!(!agent.lost.is_cancelled());
        task.close().await;
    }

    #[tokio::test]
    async fn a_taker_who_gave_up_costs_no_agent() {
        let (sandbox, pool, task) = pool(1);
        sandbox.fail(true);
        let _ = pool.claim(Duration::from_millis(20)).await;
        let _ = pool.claim(Duration::from_millis(20)).await;
        sandbox.fail(false);
        pool.claim(LONG).await.unwrap();
        pool.status.clone().wait_for(|s| s.ready == 1).await.unwrap();
        assert!(sandbox.alive() <= 2);
        task.close().await;
    }
}
