//! The pools of a node: that of its usual places for agents, and one for each further size of microVM.

use std::sync::Arc;
use std::time::Duration;

use nex_protocol::control::limits::WorkloadLimits;
use nex_sandbox::Pool;
use nex_sandbox::microvm::{Counts, Tally};

use crate::config::{Config, MachineTemplate};

/// Time a claim waits for a ready agent.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Pools {
    usual: Pool,
    further: Vec<(MachineTemplate, Pool)>,
    machines: Option<Arc<Tally>>,
}

impl Pools {
    pub(crate) fn new(usual: Pool, further: Vec<(MachineTemplate, Pool)>, machines: Option<Arc<Tally>>) -> Self {
        Self { usual, further, machines }
    }

    /// The sums of all microVMs; none without.
    pub fn machines(&self) -> Option<Counts> {
        self.machines.as_ref().map(|tally| tally.counts())
    }

    /// The pool of `machine_template`: the one whose state is the node's.
    pub fn usual(&self) -> &Pool {
        &self.usual
    }

    /// The pool that a workload with these limits gets its agents from, and how long it waits for one. A machine of a
    /// further size may have to be made first, the first of all has to boot.
    pub fn of(&self, limits: &WorkloadLimits, config: &Config) -> (&Pool, Duration) {
        let template = config.template_for(limits);
        match self.further.iter().find(|(size, _)| *size == template) {
            Some((_, pool)) => (pool, CLAIM_TIMEOUT.max(config.boot_timeout)),
            None => (&self.usual, CLAIM_TIMEOUT),
        }
    }
}
