//! What a node is doing at one moment, as far as metrics tell it. Plain values: filled by [`super::collect`], or by hand.

use std::ops::AddAssign;
use std::time::Duration;

use nex_protocol::WorkloadType;
use nex_sandbox::PoolStatus;
use nex_sandbox::microvm::Counts;

use super::process::Process;
use crate::config::MachineTemplate;
use crate::workload::State;

/// See the module. Its text is the node's metrics.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Public key of the node.
    pub node_id: String,
    /// Version of nex.
    pub version: &'static str,
    /// All workloads.
    pub workloads: Vec<Workload>,
    /// All microVMs; none where agents are in no such machines.
    pub machines: Option<Counts>,
    /// Whether their monitors count.
    pub counts_in_monitors: bool,
    /// The warm pool.
    pub pool: PoolStatus,
    /// Bytes of messages in functions, running and waiting.
    pub pending_bytes: u64,
    /// The control interface.
    pub requests: Vec<Requests>,
    /// The node's process, when the system tells.
    pub process: Option<Process>,
}

/// One workload.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its name, which others may have, too.
    pub name: String,
    /// Its type.
    pub kind: WorkloadType,
    /// Where it is in its life.
    pub state: State,
    /// Restarts since it was deployed or the node started.
    pub restarts: u32,
    /// Size of its artifact.
    pub bytes: u64,
    /// Agents that it has now.
    pub agents: u32,
    /// Size of the microVM that each of them is in, where they are in any.
    pub machine: MachineTemplate,
    /// What there is to say of a function; none for services.
    pub function: Option<Function>,
}

/// What a function has done, and what it is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Function {
    /// Calls that were answered with a result.
    pub succeeded: u64,
    /// Calls that were answered with an error.
    pub failed: u64,
    /// Time in the engine.
    pub runtime: Duration,
    /// Calls that run.
    pub running: usize,
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// Agents that take calls.
    pub instances: u32,
    /// Agents that came because a call found none.
    pub cold_starts: u64,
    /// Agents that came because calls queued.
    pub grown: u64,
    /// Time from when these agents were wanted until they took calls.
    pub starting: Duration,
}

impl AddAssign<&Function> for Function {
    fn add_assign(&mut self, other: &Function) {
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.runtime += other.runtime;
        self.running += other.running;
        self.waiting += other.waiting;
        self.instances += other.instances;
        self.cold_starts += other.cold_starts;
        self.grown += other.grown;
        self.starting += other.starting;
    }
}

/// The requests of one endpoint of the control interface.
#[derive(Debug, Clone)]
pub struct Requests {
    /// Name of the endpoint, as among those of the micro service.
    pub endpoint: &'static str,
    /// Requests that came.
    pub all: u64,
    /// Those of them that were refused.
    pub refused: u64,
    /// Time they took.
    pub took: Duration,
}
