//! What an agent is to run and for whom: shared by a workload's actor and everything that attends to one of its agents.

use std::sync::Arc;
use std::time::Duration;

use nex_host_services::{HostServices, Tenant};
use nex_protocol::control::deploy::NatsConnection;
use nex_protocol::log::Level;

use super::Spec;
use super::actor::Shared;

/// See the module. Clones are of the same workload.
#[derive(Debug, Clone)]
pub(super) struct Assignment {
    pub(super) shared: Arc<Shared>,
    /// Id of the workload, the same whatever agent runs it.
    pub(super) id: Arc<str>,
    pub(super) spec: Arc<Spec>,
}

impl Assignment {
    /// A line in the workload's log.
    pub(super) fn log(&self, level: Level, text: String) {
        self.shared.publisher.log(&self.spec.namespace, &self.id, &self.spec.name, level, text);
    }

    /// Whose keys, objects and subjects it uses.
    pub(super) fn tenant(&self) -> Tenant {
        Tenant { namespace: self.spec.namespace.clone(), workload: self.spec.name.clone() }
    }

    /// Time of one call of a function.
    pub(super) fn call_timeout(&self) -> Duration {
        self.spec.function_limits(&self.shared.config).timeout
    }

    /// Host services on a connection; on the node's own when none is wanted.
    pub(super) async fn services_on(&self, wanted: Option<&NatsConnection>) -> Result<HostServices, String> {
        if wanted.is_none() {
            return Ok(self.shared.services.clone());
        }
        let connection = self.shared.nats.for_workload(wanted, &self.spec.namespace, &self.id).await?;
        Ok(self.shared.services.on(connection.client))
    }
}
