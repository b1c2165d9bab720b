//! The table of a node's workloads, and admission to it.
//!
//! Limits are checked and places taken under one lock, so that two deploys at the same time cannot both take the last
//! one. The lock is held for look-ups only, never across an await.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nex_protocol::{Code, Fault, Namespace};
use tokio::sync::{mpsc, oneshot, watch};

use super::actor::Stop;
use super::gate::Gate;
use super::{Counters, Spec, State, Status};
use crate::artifact::Artifact;
use crate::config::NodeLimits;

/// A workload as others see it.
#[derive(Debug)]
pub struct Workload {
    /// Its id: stays the same through restarts.
    pub id: String,
    /// What it is.
    pub spec: Arc<Spec>,
    /// What it is doing.
    pub status: watch::Receiver<Status>,
    /// Counters of its calls.
    pub counters: Arc<Counters>,
    /// Where its calls wait, if it is a function.
    pub gate: Arc<Gate>,
    /// To its actor.
    stops: mpsc::Sender<Stop>,
    /// Size that was admitted and digest; none until its artifact is known.
    artifact: Mutex<(u64, Option<String>)>,
}

impl Workload {
    /// A workload without an artifact yet.
    pub fn new(
        id: String,
        spec: Arc<Spec>,
        (status, counters, gate): (watch::Receiver<Status>, Arc<Counters>, Arc<Gate>),
        stops: mpsc::Sender<Stop>,
    ) -> Self {
        Self { id, spec, status, counters, gate, stops, artifact: Mutex::default() }
    }

    /// Ends it, and waits until it is gone. One that ends by itself at the same moment is as good.
    pub async fn stop(&self, reason: &str, keep_record: bool) {
        let (done, gone) = oneshot::channel();
        let stop = Stop { reason: reason.to_owned(), keep_record, done };
        if self.stops.send(stop).await.is_ok() {
            let _ = gone.await;
        }
        let mut status = self.status.clone();
        let _ = status.wait_for(|status| status.state == State::Gone).await;
    }

    /// SHA-256 of its artifact, hex; empty until it is known.
    pub fn sha256(&self) -> String {
        self.lock().1.clone().unwrap_or_default()
    }

    /// Size of its artifact; 0 until it is known.
    pub fn size(&self) -> u64 {
        self.lock().0
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Option<String>)> {
        self.artifact.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it runs now.
    pub fn is_running(&self) -> bool {
        self.status.borrow().state == State::Running
    }
}

/// The table.
#[derive(Debug)]
pub struct Table {
    limits: NodeLimits,
    allow_duplicates: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    workloads: HashMap<String, Arc<Workload>>,
    closed: bool,
}

impl Table {
    /// An empty table.
    pub fn new(limits: NodeLimits, allow_duplicates: bool) -> Self {
        Self { limits, allow_duplicates, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room for one more workload, as far as their number goes.
    ///
    /// # Errors
    /// The refusal.
    pub fn check_room(&self) -> Result<(), Fault> {
        Self::room(&self.lock(), &self.limits)
    }

    fn room(inner: &Inner, limits: &NodeLimits) -> Result<(), Fault> {
        if inner.closed {
            return Err(Fault::new(Code::Draining, "Node is shutting down. Workload deploy request denied"));
        }
        if limits.max_workloads > 0 && inner.workloads.len() as u64 >= limits.max_workloads {
            let text = "Node is at maximum workload limit. Deploy request denied";
            return Err(Fault::new(Code::WorkloadLimit, text));
        }
        Ok(())
    }

    /// Takes a place for a workload.
    ///
    /// # Errors
    /// The refusal, when there is none.
    pub fn insert(&self, workload: Arc<Workload>) -> Result<(), Fault> {
        let mut inner = self.lock();
        Self::room(&inner, &self.limits)?;
        inner.workloads.insert(workload.id.clone(), workload);
        Ok(())
    }

    /// Admits an artifact of this size for a workload.
    ///
    /// # Errors
    /// The refusal, when it or all together would be too large.
    pub fn admit_bytes(&self, id: &str, size: u64) -> Result<(), Fault> {
        let inner = self.lock();
        if self.limits.max_workload_bytes > 0 && size > self.limits.max_workload_bytes {
            return Err(Fault::new(Code::ArtifactTooLarge, "Workload file size would exceed node limitations"));
        }
        let others: u64 = inner.workloads.values().filter(|w| w.id != id).map(|w| w.lock().0).sum();
        if self.limits.max_total_bytes > 0 && others.saturating_add(size) > self.limits.max_total_bytes {
            return Err(Fault::new(Code::TotalBytesLimit, "Workload file size would exceed node total limitations"));
        }
        if let Some(workload) = inner.workloads.get(id) {
            workload.lock().0 = size;
        }
        Ok(())
    }

    /// Notes a workload's artifact, unless the node takes each only once per namespace and has it.
    ///
    /// # Errors
    /// The refusal.
    pub fn admit_artifact(&self, id: &str, artifact: &Artifact) -> Result<(), Fault> {
        let inner = self.lock();
        let Some(workload) = inner.workloads.get(id) else { return Ok(()) };
        let same = |other: &Arc<Workload>| {
            other.id != id
                && other.spec.namespace == workload.spec.namespace
                && other.lock().1.as_deref() == Some(&artifact.sha256)
        };
        if !self.allow_duplicates && inner.workloads.values().any(same) {
            return Err(Fault::new(
                Code::Duplicate,
                "Failed to deploy workload: attempted to deploy duplicate workload to node configured to reject \
                 duplicates",
            ));
        }
        *workload.lock() = (artifact.size, Some(artifact.sha256.clone()));
        Ok(())
    }

    /// Takes a workload out.
    pub fn remove(&self, id: &str) {
        self.lock().workloads.remove(id);
    }

    /// A workload by id.
    pub fn get(&self, id: &str) -> Option<Arc<Workload>> {
        self.lock().workloads.get(id).cloned()
    }

    /// All workloads, oldest first.
    pub fn all(&self) -> Vec<Arc<Workload>> {
        let mut all: Vec<_> = self.lock().workloads.values().cloned().collect();
        all.sort_by(|a, b| (a.spec.deployed_at_ms, &a.id).cmp(&(b.spec.deployed_at_ms, &b.id)));
        all
    }

    /// The workloads of a namespace. `shop` and `Shop` are two, as they are to the permissions of NATS; Go Nex takes
    /// them for one here, and so shows one tenant's workloads to the other.
    pub fn of(&self, namespace: &Namespace) -> Vec<Arc<Workload>> {
        let mut all = self.all();
        all.retain(|workload| workload.spec.namespace == *namespace);
        all
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().workloads.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes no more workloads.
    pub fn close(&self) {
        self.lock().closed = true;
    }
}
