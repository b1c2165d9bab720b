//! Workloads: what was asked for ([`Spec`]), what it is doing ([`Status`]), and the table of them ([`table`]).
//!
//! ```text
//! Fetching -> Starting -> Running -> Stopping -> (gone)
//!     |           |          |
//!     |           |          +-> Backoff -> Starting …      exit ≠ 0, agent lost, health lost
//!     |           |                  +----> Failed -> (gone)  given up: stays until it is stopped, or the node starts again
//!     +-----------+-----------------------> (gone)          never ran: the deploy is refused
//! ```
//! A function that runs has any number of agents, none while nobody calls it ([`fleet`]).
//!
//! One task ([`actor`]) owns each workload and moves its state; everybody else sends it a message or looks at the
//! status. Calls go by [`gate`] and [`call`], past the actor, for they must not wait for it.

pub mod actor;
mod assignment;
mod attend;
pub mod budget;
pub mod call;
mod credentials;
mod direct;
mod fleet;
pub mod gate;
pub mod host_calls;
mod launch;
mod leave;
pub mod limits;
mod scale;
mod start;
pub mod table;
pub mod trigger;

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use nex_protocol::control::deploy::NatsConnection;
use nex_protocol::control::limits::WorkloadLimits;
use nex_protocol::subject::TriggerSubject;
use nex_protocol::{Environment, Location, Namespace, WorkloadName, WorkloadType};
use serde::{Deserialize, Serialize};

/// What to run, checked. Serialized into the node's sealed records only: it holds the environment in clear.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Name.
    pub name: WorkloadName,
    /// Namespace, from the subject of the request.
    pub namespace: Namespace,
    /// Type.
    pub r#type: WorkloadType,
    /// Arguments of a service.
    pub argv: Vec<String>,
    /// Text for people.
    pub description: String,
    /// Restarted after a failure.
    pub essential: bool,
    /// Environment.
    pub environment: Environment,
    /// Subjects that trigger it.
    pub trigger_subjects: Vec<TriggerSubject>,
    /// Where its artifact lies.
    pub location: Location,
    /// JetStream domain of the object store; empty for none.
    pub jsdomain: String,
    /// SHA-256 of the claim, lower-case hex.
    pub claimed_sha256: Option<String>,
    /// Public key of who deployed it, and may stop it.
    pub issuer: String,
    /// When the deploy claim was signed, seconds since 1970 by the issuer's clock: older claims do not stop it.
    pub claimed_at: i64,
    /// Connection to subscribe to triggers on, when not that of host services.
    pub trigger_connection: Option<NatsConnection>,
    /// Connection of host services, when not the node's.
    pub host_services: Option<NatsConnection>,
    /// Whether the deploy asked for host services by name.
    #[serde(default)]
    pub wants_host_services: bool,
    /// What it may take, as far as the deploy said.
    #[serde(default)]
    pub limits: WorkloadLimits,
    /// Fingerprint of the claim it was deployed with, which is not used again.
    #[serde(default)]
    pub claim: Option<String>,
    /// Whether the node's configuration names it: then nobody but the configuration ends it.
    #[serde(default)]
    pub configured: bool,
    /// When it was deployed, milliseconds since 1970.
    pub deployed_at_ms: u64,
}

/// Where a workload comes from, which decides what its failures mean before it first runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Somebody deploys it and waits for the answer: the first failure is the answer. Kept in a record.
    Request,
    /// The configuration names it: tried again until it runs. The configuration is its record.
    Autostart,
    /// It ran when the node ended: tried again until it runs.
    Restored {
        /// The artifact it ran, hex.
        sha256: String,
    },
}

impl Spec {
    /// Whether it is to be refused when it cannot have host services.
    pub fn asks_for_host_services(&self) -> bool {
        self.wants_host_services || self.host_services.is_some()
    }

    /// Time since it was deployed.
    pub fn age(&self) -> Duration {
        let deployed = SystemTime::UNIX_EPOCH + Duration::from_millis(self.deployed_at_ms);
        SystemTime::now().duration_since(deployed).unwrap_or_default()
    }
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Milliseconds since 1970.
pub fn unix_now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    millis(now)
}

/// Milliseconds of a duration, as they go over the wire.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What is kept on disk of a workload.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// What to run.
    pub spec: Spec,
    /// The artifact it ran, hex.
    pub sha256: String,
}

/// Where a workload is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its artifact is being fetched and verified.
    Fetching,
    /// An agent is being claimed and told to run it.
    Starting,
    /// It runs.
    Running,
    /// It failed and will be started again.
    Backoff,
    /// It failed too often and is not started again; it waits to be stopped, or for the next start of the node.
    Failed,
    /// It is being ended.
    Stopping,
    /// It has ended for good.
    Gone,
}

impl State {
    /// The spelling in INFO.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Fetching => "fetching",
            State::Starting => "starting",
            State::Running => "running",
            State::Backoff => "backoff",
            State::Failed => "failed",
            State::Stopping => "stopping",
            State::Gone => "gone",
        }
    }
}

/// What a workload is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Where it is in its life.
    pub state: State,
    /// Restarts since it was deployed or the node started.
    pub restarts: u32,
    /// Agents of a function that take calls.
    pub agents: u32,
}

/// Counters of a function's calls; written after the reply has left.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls that were answered with a result.
    pub succeeded: AtomicU64,
    /// Calls that were answered with an error.
    pub failed: AtomicU64,
    /// Nanoseconds spent in the engine.
    pub runtime_ns: AtomicU64,
    /// Agents that came because a call found none.
    pub cold_starts: AtomicU64,
    /// Agents that came because calls queued.
    pub grown: AtomicU64,
    /// Nanoseconds from when these agents were wanted until they took calls.
    pub starting_ns: AtomicU64,
}
