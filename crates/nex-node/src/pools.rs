//! The pools of a node: that of its usual places for agents, and one for each further size of microVM.

use nex_protocol::control::limits::WorkloadLimits;
use nex_sandbox::Pool;

use crate::config::{Config, MachineTemplate};

/// See the module.
#[derive(Debug)]
pub struct Pools {
    usual: Pool,
    further: Vec<(MachineTemplate, Pool)>,
}

impl Pools {
    pub(crate) fn new(usual: Pool, further: Vec<(MachineTemplate, Pool)>) -> Self {
        Self { usual, further }
    }

    /// The pool of `machine_template`: the one whose state is the node's.
    pub fn usual(&self) -> &Pool {
        &self.usual
    }

    /// The pool that a workload with these limits gets its agents from.
    pub fn of(&self, limits: &WorkloadLimits, config: &Config) -> &Pool {
        let template = config.template_for(limits);
        if template == config.machine_template {
            return &self.usual;
        }
        self.further.iter().find(|(size, _)| *size == template).map_or(&self.usual, |(_, pool)| pool)
    }
}
