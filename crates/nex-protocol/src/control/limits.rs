//! What one workload may take: asked for in a deploy, bounded by the node's policy. All ours.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits of a workload. What is not given is what the node gives by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkloadLimits {
    /// Thousandths of a processor: 500 is half of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Memory, MiB: of a service with all its processes, of one instance of a function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Agents of a function that may run at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_instances: Option<u64>,
    /// Time of one call of a function, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Calls that one agent of a function runs at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u64>,
    /// Time without a call after which a function's agents are let go, milliseconds; 0 keeps them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout_ms: Option<u64>,
}

impl WorkloadLimits {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The limits that bound what is taken, with their names on the wire.
    pub fn named(&self) -> [(&'static str, Option<u64>); 5] {
        [
            ("cpu_millis", self.cpu_millis),
            ("memory_mib", self.memory_mib),
            ("max_instances", self.max_instances),
            ("timeout_ms", self.timeout_ms),
            ("concurrency", self.concurrency),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_limit_is_an_error_and_not_no_limit() {
        assert!(serde_json::from_str::<WorkloadLimits>(r#"{"memory":64}"#).is_err());
        let limits: WorkloadLimits = serde_json::from_str(r#"{"memory_mib":64,"cpu_millis":null}"#).unwrap();
        assert_eq!(limits, WorkloadLimits { memory_mib: Some(64), ..WorkloadLimits::default() });
        assert_eq!(serde_json::to_string(&limits).unwrap(), r#"{"memory_mib":64}"#);
    }
}
