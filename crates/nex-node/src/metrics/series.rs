//! The names of the series, and what of a [`Snapshot`] is told by them. See docs/operations.md.
//!
//! Where Go Nex has a metric, the name is the one that its Prometheus exporter gives it; there each happening is added two or
//! three times, under several sets of labels, here once. Workloads of the same namespace and name share their series.

use std::collections::BTreeMap;
use std::fmt;

use super::exposition::Kind::{Counter, Gauge};
use super::exposition::{Exposition, Kind};
use super::process::Process;
use super::snapshot::{Function, Snapshot, Workload};
use crate::workload::State;

/// Whose a series is: namespace and name.
type Named<'s> = (&'s str, &'s str);

/// Workloads of one namespace.
#[derive(Default)]
struct Namespace {
    bytes: u64,
    memory_mib: u64,
    vcpus: u64,
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl Snapshot {
    fn text(&self) -> String {
        let mut exposition = Exposition::default();
        self.node(&mut exposition);
        self.workloads(&mut exposition);
        self.functions(&mut exposition);
        self.pool(&mut exposition);
        if let Some(machines) = &self.machines {
            super::machines::tell(machines, self.counts_in_monitors, &mut exposition);
        }
        self.control(&mut exposition);
        if let Some(process) = &self.process {
            of_process(process, &mut exposition);
        }
        exposition.into_text()
    }

    fn node(&self, exposition: &mut Exposition) {
        exposition
            .family("nex_node_info", Gauge, "The node")
            .sample(&[("id", &self.node_id), ("version", self.version)], 1);
        let agents: u64 = self.workloads.iter().map(|workload| u64::from(workload.agents)).sum();
        let agents = agents + u64::try_from(self.pool.ready).unwrap_or_default();
        exposition.family("nex_vm_count", Gauge, "Agents with a workload, and ready ones").sample(&[], agents);
        exposition
            .family("nex_pending_bytes", Gauge, "Bytes of messages in functions, running and waiting")
            .sample(&[], self.pending_bytes);
    }

    fn workloads(&self, exposition: &mut Exposition) {
        let mut kinds: BTreeMap<Named<'_>, u64> = BTreeMap::new();
        let mut namespaces: BTreeMap<&str, Namespace> = BTreeMap::new();
        let mut restarts: BTreeMap<Named<'_>, u64> = BTreeMap::new();
        let mut states: BTreeMap<(Named<'_>, &str, &str), u64> = BTreeMap::new();
        for workload in &self.workloads {
            let Workload { namespace, name, kind, state, .. } = workload;
            *kinds.entry((namespace, kind.as_str())).or_default() += 1;
            let sums = namespaces.entry(namespace).or_default();
            sums.bytes += workload.bytes;
            sums.memory_mib += u64::from(workload.agents) * workload.machine.memsize_mib;
            sums.vcpus += u64::from(workload.agents) * workload.machine.vcpu_count;
            *restarts.entry((namespace, name)).or_default() += u64::from(workload.restarts);
            let up = u64::from(*state == State::Running);
            *states.entry(((namespace, name), kind.as_str(), state.as_str())).or_default() += up;
        }
        let mut family = exposition.family("nex_workload_count", Gauge, "Workloads, whatever they are doing");
        for ((namespace, kind), count) in kinds {
            family.sample(&[("namespace", namespace), ("workload_type", kind)], count);
        }
        let mut family = exposition.family("nex_deployed_bytes_count", Gauge, "Sizes of the workloads' artifacts");
        for (namespace, sums) in &namespaces {
            family.sample(&[("namespace", namespace)], sums.bytes);
        }
        if self.machines.is_some() {
            let help = "Memory of the workloads' microVMs, MiB";
            let mut family = exposition.family("nex_total_memory_allocation_mib_count", Gauge, help);
            for (namespace, sums) in &namespaces {
                family.sample(&[("namespace", namespace)], sums.memory_mib);
            }
            let help = "Processors of the workloads' microVMs";
            let mut family = exposition.family("nex_total_vcpu_allocation_count", Gauge, help);
            for (namespace, sums) in &namespaces {
                family.sample(&[("namespace", namespace)], sums.vcpus);
            }
        }
        let mut family = exposition.family("nex_workload_up", Gauge, "1 while the workload runs");
        for (((namespace, name), kind, state), up) in states {
            let labels = [("namespace", namespace), ("workload_name", name), ("workload_type", kind), ("state", state)];
            family.sample(&labels, up);
        }
        let help = "Restarts since the deploy or the node's start";
        let mut family = exposition.family("nex_workload_restarts_total", Counter, help);
        for ((namespace, name), count) in restarts {
            family.sample(&[("namespace", namespace), ("workload_name", name)], count);
        }
    }

    fn functions(&self, exposition: &mut Exposition) {
        let mut functions: BTreeMap<Named<'_>, Function> = BTreeMap::new();
        for workload in &self.workloads {
            if let Some(function) = &workload.function {
                *functions.entry((&workload.namespace, &workload.name)).or_default() += function;
            }
        }
        type Value = fn(&Function) -> u128;
        let plain: [(&str, Kind, &str, Value); 6] = [
            ("nex_function_trigger_total", Counter, "Calls that were answered with a result", |f| f.succeeded.into()),
            ("nex_function_failed_trigger_total", Counter, "Calls that were answered with an error", |f| {
                f.failed.into()
            }),
            ("nex_function_runtime_nanosec_total", Counter, "Time of calls in the engine, nanoseconds", |f| {
                f.runtime.as_nanos()
            }),
            ("nex_function_instances", Gauge, "Agents that take calls", |f| f.instances.into()),
            ("nex_function_calls_running", Gauge, "Calls that run", |f| f.running as u128),
            ("nex_function_calls_waiting", Gauge, "Calls that wait for their turn", |f| f.waiting as u128),
        ];
        for (name, kind, help, value) in plain {
            let mut family = exposition.family(name, kind, help);
            for ((namespace, name), function) in &functions {
                family.sample(&[("namespace", namespace), ("workload_name", name)], value(function));
            }
        }
        let help = "Agents that were started because a call found none, or because calls queued";
        let mut family = exposition.family("nex_function_cold_starts_total", Counter, help);
        for ((namespace, name), function) in &functions {
            for (cause, count) in [("call", function.cold_starts), ("queue", function.grown)] {
                family.sample(&[("namespace", namespace), ("workload_name", name), ("cause", cause)], count);
            }
        }
        let help = "Time from when these agents were wanted until they took calls";
        let mut family = exposition.family("nex_function_starting_seconds_total", Counter, help);
        for ((namespace, name), function) in &functions {
            family.sample(&[("namespace", namespace), ("workload_name", name)], function.starting.as_secs_f64());
        }
    }

    fn pool(&self, exposition: &mut Exposition) {
        let pool = &self.pool;
        let levels = [
            ("nex_pool_ready", "Agents that are ready", pool.ready),
            ("nex_pool_target", "Agents that are to be ready", pool.target),
        ];
        for (name, help, level) in levels {
            exposition.family(name, Gauge, help).sample(&[], level);
        }
        let counts = [
            ("nex_pool_claims_total", "Agents that were handed over", pool.claims),
            ("nex_pool_misses_total", "Agents that somebody had to wait for", pool.misses),
            ("nex_pool_failures_total", "Agents that did not come up", pool.failures),
            ("nex_pool_lost_total", "Agents that were lost before anybody wanted them", pool.lost),
        ];
        for (name, help, count) in counts {
            exposition.family(name, Counter, help).sample(&[], count);
        }
    }

    fn control(&self, exposition: &mut Exposition) {
        let mut family = exposition.family("nex_control_requests_total", Counter, "Control requests");
        for requests in &self.requests {
            family.sample(&[("endpoint", requests.endpoint)], requests.all);
        }
        let mut family = exposition.family("nex_control_refusals_total", Counter, "Control requests that were refused");
        for requests in &self.requests {
            family.sample(&[("endpoint", requests.endpoint)], requests.refused);
        }
        let help = "Time that control requests took";
        let mut family = exposition.family("nex_control_request_seconds_total", Counter, help);
        for requests in &self.requests {
            family.sample(&[("endpoint", requests.endpoint)], requests.took.as_secs_f64());
        }
    }
}

/// Under the names that all clients of Prometheus have for them.
fn of_process(process: &Process, exposition: &mut Exposition) {
    let seconds = process.cpu.as_secs_f64();
    exposition.family("process_cpu_seconds_total", Counter, "Processor time of the node").sample(&[], seconds);
    exposition
        .family("process_resident_memory_bytes", Gauge, "Resident memory of the node")
        .sample(&[], process.resident_bytes);
    exposition.family("process_open_fds", Gauge, "Open files of the node").sample(&[], process.open_files);
    let mut limit = exposition.family("process_max_fds", Gauge, "Files that the node may have open");
    if let Some(most) = process.most_files {
        limit.sample(&[], most);
    }
    exposition
        .family("process_start_time_seconds", Gauge, "When the node started, seconds since 1970")
        .sample(&[], process.started.as_secs_f64());
}

#[cfg(test)]
mod tests;
