//! The warm pool: ready agents, handed over one by one.
//!
//! One task owns the pool. Its life is a loop over six events: an agent became ready or failed to, a taker asks, a
//! ready agent was lost, ready agents are to be pinged, a demand fades, the pool closes. It keeps `size` agents ready, and as many as `parallel` more while
//! takers have to wait again and again ([`demand`]); it prepares more for takers who wait, with at most `parallel`
//! preparations at a time. A preparation that fails is retried after a backoff, for ever: a node with
//! a broken agent stays up, says so in its log, and refuses deploys.
//!
//! A ready agent that does not answer a ping hangs, which nobody would see before it is used: it is replaced.
//!
//! Promises: a taker gets a ready agent of its own or, after its own bounded wait, [`PoolExhausted`]; takers are
//! served in the order they came; an agent is never handed to two; closing ends every agent that was not taken.

mod demand;
mod keeper;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{Agent, Backoff, Sandbox};
use keeper::Keeper;

/// How a pool behaves.
#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    /// Agents to keep ready.
    pub size: usize,
    /// Preparations at a time.
    pub parallel: usize,
    /// Delays after failed preparations.
    pub backoff: Backoff,
    /// Time that a ready agent has to answer a ping.
    pub ping_timeout: Duration,
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
        let task = tokio::spawn(Keeper::new(sandbox, settings, report).run(incoming, closing));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemorySandbox;
    use nex_protocol::link::message::{ToAgent, ToNode};
    use tokio::task::JoinSet;

    const LONG: Duration = Duration::from_secs(5);

    fn pool(size: usize) -> (Arc<MemorySandbox>, Pool, PoolTask) {
        let sandbox = Arc::new(MemorySandbox::default());
        let backoff = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(2) };
        let (pool, task) =
            Pool::spawn(Arc::clone(&sandbox), PoolSettings { size, parallel: 2, backoff, ping_timeout: LONG });
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

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_hangs_while_it_waits_is_replaced_and_one_that_answers_is_not() {
        let (sandbox, pool, task) = pool(1);
        pool.watch().wait_for(|status| status.ready == 1).await.unwrap();
        let (sender, mut pings) = sandbox.far_ends().pop().unwrap();
        for _ in 0..2 {
            assert_eq!(pings.receive().await.unwrap(), Some(ToAgent::Ping(0)));
            sender.send(ToNode::Pong(0)).await.unwrap();
        }
        assert_eq!(pool.status().lost, 0);
        assert_eq!(pings.receive().await.unwrap(), Some(ToAgent::Ping(0)), "which is not answered");
        pool.watch().wait_for(|status| status.lost == 1 && status.ready == 1).await.unwrap();
        assert_eq!(pings.receive().await.unwrap(), None);
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
