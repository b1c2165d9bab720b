//! Events as published on `$NEX.events.<namespace>.<type>`: CloudEvents 1.0, structured JSON.
//!
//! Node events carry the namespace `system`; those of workloads the workload's own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Namespace of node-level events.
pub const SYSTEM: &str = "system";

/// A CloudEvent, <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CloudEvent {
    /// Always `1.0`.
    pub specversion: String,
    /// Unique per event.
    pub id: String,
    /// Public key of the node.
    pub source: String,
    /// Which kind of event; see [`Event::kind`].
    pub r#type: String,
    /// Always `application/json`.
    pub datacontenttype: String,
    /// When it happened, RFC 3339.
    pub time: String,
    /// What happened; see [`Event`].
    pub data: serde_json::Value,
    /// Extension attribute of Go Nex on workload events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A [`CloudEvent`] as it is written, of parts that are somebody else's.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "those of CloudEvent")]
pub struct Envelope<'a> {
    pub specversion: &'a str,
    pub id: String,
    pub source: &'a str,
    pub r#type: &'a str,
    pub datacontenttype: &'a str,
    pub time: String,
    pub data: &'a Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<&'a str>,
}

/// What a node reports. The serialized form is the `data` of its [`CloudEvent`]; members that Go Nex 0.2.7 does not
/// send come after those it does.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Event {
    /// The node answers requests from now on.
    NodeStarted {
        /// Version of nex.
        version: String,
        /// Node id.
        id: String,
        /// Its tags.
        #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
        tags: std::collections::BTreeMap<String, String>,
    },
    /// The node has left.
    NodeStopped {
        /// Node id.
        id: String,
        /// Whether its workloads were stopped in order.
        graceful: bool,
    },
    /// The node takes no new work and will leave.
    NodeEnteredLameDuck {
        /// Version of nex.
        version: String,
        /// Node id.
        id: String,
        /// Milliseconds until it ends its workloads and leaves.
        leaves_in_ms: u64,
    },
    /// Still there, every 30 s.
    Heartbeat {
        /// Version of nex.
        version: String,
        /// Node id.
        node_id: String,
        /// Group of nodes this one belongs to.
        #[serde(skip_serializing_if = "String::is_empty")]
        nexus: String,
        /// Time since start, as [`crate::uptime`] prints it.
        uptime: String,
        /// Its tags.
        #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
        tags: std::collections::BTreeMap<String, String>,
        /// Workloads on the node.
        running_machines: usize,
        /// Whether one artifact may run twice in a namespace (0.3.0-rc1).
        allow_duplicate_workloads: bool,
    },
    /// A workload wanted an agent and none was ready.
    PoolEmpty {
        /// Node id.
        id: String,
        /// Agents the pool keeps ready when it is full.
        pool_size: usize,
        /// Why there is none, when preparing agents fails.
        #[serde(skip_serializing_if = "String::is_empty")]
        message: String,
    },
    /// An artifact was fetched and has the digest it should have.
    ArtifactFetched {
        /// Name of the workload.
        workload_name: String,
        /// Id of the workload.
        workload_id: String,
        /// Where it came from.
        location: String,
        /// SHA-256, hex.
        hash: String,
        /// Its size, bytes.
        total_bytes: u64,
    },
    /// A workload runs.
    WorkloadDeployed {
        /// Name of the workload.
        workload_name: String,
        /// Always 0.
        code: i32,
        /// Id of the workload.
        workload_id: String,
        /// Whether it is restarted when it fails.
        essential: bool,
        /// Size of its artifact, bytes.
        total_bytes: u64,
    },
    /// A workload does not run any more.
    WorkloadUndeployed {
        /// Name of the workload.
        workload_name: String,
        /// Exit code; -1 when it had none.
        code: i32,
        /// Why it ended.
        message: String,
        /// Id of the workload.
        workload_id: String,
    },
    /// A workload is started again after a delay.
    WorkloadRestarting {
        /// Name of the workload.
        workload_name: String,
        /// Its id, which stays.
        workload_id: String,
        /// How many restarts without a stable spell between them.
        attempt: u32,
        /// Milliseconds until the attempt.
        delay_ms: u64,
        /// Why it ended.
        message: String,
    },
    /// A workload failed too often without a stable spell between and is not started again.
    WorkloadGivenUp {
        /// Name of the workload.
        workload_name: String,
        /// Its id.
        workload_id: String,
        /// Restarts that were tried.
        attempts: u32,
        /// Why it ended last.
        message: String,
    },
    /// A function is not triggered on one of its subjects any more, and the node goes on trying to subscribe again.
    TriggerFailed {
        /// Name of the workload.
        workload_name: String,
        /// Its id.
        workload_id: String,
        /// The subject.
        trigger_subject: String,
        /// Why.
        message: String,
    },
    /// A function has another number of agents than before. All ours.
    FunctionScaled {
        /// Name of the workload.
        workload_name: String,
        /// Its id.
        workload_id: String,
        /// Namespace of the workload.
        namespace: String,
        /// Agents before.
        before: usize,
        /// Agents that take calls now.
        instances: usize,
        /// Why.
        reason: ScaleReason,
        /// Milliseconds from when an agent was wanted until it took calls; for `call` and `queue`.
        #[serde(skip_serializing_if = "Option::is_none")]
        took_ms: Option<u64>,
        /// What was the end of the agent; for `lost`.
        #[serde(skip_serializing_if = "String::is_empty")]
        message: String,
    },
    /// A function answered.
    FunctionExecSucceeded {
        /// Name of the workload.
        workload_name: String,
        /// Subject of the message that triggered it.
        trigger_subject: String,
        /// Run time in the engine.
        elapsed_nanos: u64,
        /// Namespace of the workload.
        namespace: String,
        /// Id of the workload.
        workload_id: String,
    },
    /// A function failed; its caller was told.
    FunctionExecFailed {
        /// Name of the workload.
        workload_name: String,
        /// Subject of the message that triggered it.
        trigger_subject: String,
        /// Namespace of the workload.
        namespace: String,
        /// Text of the error.
        error: String,
        /// Id of the workload.
        workload_id: String,
    },
}

/// Why a function has another number of agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ScaleReason {
    /// It had none, and a call came: a cold start.
    Call,
    /// Calls waited for their turn for too long.
    Queue,
    /// Fewer will do.
    Quiet,
    /// No call came for its idle timeout.
    Idle,
    /// One of several failed.
    Lost,
}

impl Event {
    /// The types of all events, in the order of the variants.
    pub const KINDS: [&'static str; 14] = [
        "node_started",
        "node_stopped",
        "node_entered_lameduck",
        "heartbeat",
        "pool_empty",
        "artifact_fetched",
        "workload_deployed",
        "workload_undeployed",
        "workload_restarting",
        "workload_given_up",
        "trigger_failed",
        "function_scaled",
        "function_exec_succeeded",
        "function_exec_failed",
    ];

    /// The `type` of the CloudEvent and last token of its subject.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::NodeStarted { .. } => "node_started",
            Event::NodeStopped { .. } => "node_stopped",
            Event::NodeEnteredLameDuck { .. } => "node_entered_lameduck",
            Event::Heartbeat { .. } => "heartbeat",
            Event::PoolEmpty { .. } => "pool_empty",
            Event::ArtifactFetched { .. } => "artifact_fetched",
            Event::WorkloadDeployed { .. } => "workload_deployed",
            Event::WorkloadUndeployed { .. } => "workload_undeployed",
            Event::WorkloadRestarting { .. } => "workload_restarting",
            Event::WorkloadGivenUp { .. } => "workload_given_up",
            Event::TriggerFailed { .. } => "trigger_failed",
            Event::FunctionScaled { .. } => "function_scaled",
            Event::FunctionExecSucceeded { .. } => "function_exec_succeeded",
            Event::FunctionExecFailed { .. } => "function_exec_failed",
        }
    }
}
