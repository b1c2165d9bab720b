//! Reads what the node knows of itself, at the moment somebody asks. Takes locks for look-ups only, one workload at a time.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::process::Process;
use super::snapshot::{Function, Snapshot, Workload};
use crate::config::{Config, Vmm};
use crate::control::Control;
use crate::workload::{State, table};

impl Snapshot {
    /// What the node is doing now.
    pub(crate) fn of(control: &Control) -> Self {
        let shared = &control.shared;
        Self {
            node_id: control.node_id.clone(),
            version: env!("CARGO_PKG_VERSION"),
            workloads: shared.table.all().iter().map(|workload| of_workload(workload, &shared.config)).collect(),
            machines: shared.pools.machines(),
            counts_in_monitors: shared.config.vmm == Vmm::Firecracker,
            pool: shared.pools.usual().status(),
            pending_bytes: shared.budget.taken(),
            requests: control.requests(),
            process: Process::this(),
        }
    }
}

fn of_workload(workload: &table::Workload, config: &Config) -> Workload {
    let (spec, status) = (&workload.spec, *workload.status.borrow());
    let is_function = spec.r#type.is_function();
    // A service has its agent for as long as it runs, its end included.
    let has_one = u32::from(matches!(status.state, State::Running | State::Stopping));
    Workload {
        namespace: spec.namespace.to_string(),
        name: spec.name.to_string(),
        kind: spec.r#type,
        state: status.state,
        restarts: status.restarts,
        bytes: workload.size(),
        agents: if is_function { status.agents } else { has_one },
        machine: config.template_for(&spec.limits),
        function: is_function.then(|| of_function(workload, status.agents)),
    }
}

fn of_function(workload: &table::Workload, instances: u32) -> Function {
    let counters = &workload.counters;
    let (running, waiting) = workload.gate.in_work();
    Function {
        succeeded: counters.succeeded.load(Relaxed),
        failed: counters.failed.load(Relaxed),
        runtime: Duration::from_nanos(counters.runtime_ns.load(Relaxed)),
        running,
        waiting,
        instances,
        cold_starts: counters.cold_starts.load(Relaxed),
        grown: counters.grown.load(Relaxed),
        starting: Duration::from_nanos(counters.starting_ns.load(Relaxed)),
    }
}
