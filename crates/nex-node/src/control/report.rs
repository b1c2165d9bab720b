//! Answers that only look: the bid to an AUCTION, INFO, and WPING.

use std::sync::atomic::Ordering;
use std::time::Duration;

use nex_protocol::control::auction::AuctionRequest;
use nex_protocol::control::info::{InfoResponse, MachineSummary, PoolSummary, WorkloadSummary};
use nex_protocol::control::ping::PingResponse;
use nex_protocol::control::workload_ping::{WorkloadPingMachine, WorkloadPingResponse};
use nex_protocol::{Namespace, uptime};

use super::Control;
use crate::host;
use crate::workload::table::Workload;

impl Control {
    /// The bid, when this node fits and has room.
    pub(super) fn bid(&self, request: &[u8]) -> Option<PingResponse> {
        let bid = self.ping();
        let fits = AuctionRequest::lenient(request).accepts(&bid, &self.type_names());
        // Go Nex bids even when it would refuse the deploy that follows.
        let takes_work = !self.is_lame_duck() && self.shared.table.check_room().is_ok();
        (fits && takes_work).then_some(bid)
    }

    /// The node and the workloads of one namespace.
    pub(super) fn info(&self, namespace: &Namespace) -> InfoResponse {
        let ping = self.ping();
        let pool = self.shared.pools.usual().status();
        InfoResponse {
            version: ping.version,
            uptime: ping.uptime,
            public_xkey: ping.target_xkey,
            tags: ping.tags,
            memory: host::memory(),
            machines: self.shared.table.of(namespace).iter().map(|workload| summary(workload)).collect(),
            supported_workload_types: self.type_names().into_iter().map(str::to_owned).collect(),
            available_agents: pool.ready,
            allow_duplicate_workloads: Some(self.shared.config.allow_duplicate_workloads),
            pool: Some(PoolSummary {
                ready: pool.ready,
                target: pool.target,
                claims: pool.claims,
                misses: pool.misses,
                failures: pool.failures,
                last_error: pool.last_error,
            }),
        }
    }

    /// The workloads of a namespace, or one of them; none when there is none, and then nothing is said.
    pub(super) fn workload_ping(&self, namespace: &Namespace, asked: Option<&str>) -> Option<WorkloadPingResponse> {
        let workloads = self.shared.table.of(namespace);
        let mut machines: Vec<_> = workloads.iter().map(|workload| machine(workload)).collect();
        machines.retain(|machine| asked.is_none_or(|asked| machine.is_meant_by(asked)));
        if machines.is_empty() {
            return None;
        }
        let ping = self.ping();
        Some(WorkloadPingResponse {
            node_id: ping.node_id,
            target_xkey: ping.target_xkey,
            version: ping.version,
            tags: ping.tags,
            uptime: ping.uptime,
            running_machines: machines,
        })
    }
}

fn machine(workload: &Workload) -> WorkloadPingMachine {
    let spec = &workload.spec;
    let status = *workload.status.borrow();
    WorkloadPingMachine {
        id: workload.id.clone(),
        namespace: spec.namespace.to_string(),
        name: spec.name.to_string(),
        r#type: spec.r#type.to_string(),
        state: status.state.as_str().to_owned(),
        uptime: uptime::format(spec.age()),
        restarts: status.restarts,
    }
}

fn summary(workload: &Workload) -> MachineSummary {
    let spec = &workload.spec;
    let status = *workload.status.borrow();
    let age = uptime::format(spec.age());
    let runtime = if spec.r#type.is_function() {
        uptime::runtime(Duration::from_nanos(workload.counters.runtime_ns.load(Ordering::Relaxed)))
    } else {
        age.clone()
    };
    MachineSummary {
        id: workload.id.clone(),
        healthy: workload.is_running(),
        uptime: age.clone(),
        namespace: spec.namespace.to_string(),
        workload: WorkloadSummary {
            name: spec.name.to_string(),
            description: spec.description.clone(),
            runtime,
            r#type: spec.r#type.to_string(),
            hash: workload.sha256(),
            id: workload.id.clone(),
            essential: spec.essential,
            uptime: age,
            state: status.state.as_str().to_owned(),
            restarts: status.restarts,
            instances: spec.r#type.is_function().then_some(status.agents),
            trigger_subjects: spec.trigger_subjects.iter().map(ToString::to_string).collect(),
            limits: spec.limits,
        },
    }
}
