//! DEPLOY: run this workload on that node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limits::WorkloadLimits;
use super::null_as_default;
use crate::location::Location;

/// Request to run a workload.
///
/// The namespace is not in here: it is the subject's. The environment is sealed for the node's xkey.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DeployRequest {
    /// Arguments of a service; the program's name is not among them.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub argv: Vec<String>,
    /// Text for people.
    #[serde(deserialize_with = "null_as_default")]
    pub description: String,
    /// `native`, `v8` or `wasm`; a text because an unknown one gets its own refusal.
    #[serde(deserialize_with = "null_as_default")]
    pub r#type: String,
    /// Where the artifact lies.
    pub location: Option<Location>,
    /// Whether a service is restarted after a failure.
    #[serde(deserialize_with = "null_as_default")]
    pub essential: bool,
    /// Signed claim.
    #[serde(deserialize_with = "null_as_default")]
    pub workload_jwt: String,
    /// Sealed environment, standard base64.
    #[serde(deserialize_with = "null_as_default")]
    pub environment: String,
    /// JetStream domain of the object store.
    #[serde(deserialize_with = "null_as_default")]
    pub jsdomain: String,
    /// Public curve key of the sender, `X…`.
    #[serde(deserialize_with = "null_as_default")]
    pub sender_public_key: String,
    /// Node this is meant for.
    #[serde(deserialize_with = "null_as_default")]
    pub target_node: String,
    /// Subjects that trigger a function.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub trigger_subjects: Vec<String>,
    /// Connection to subscribe to triggers on, instead of the node's (0.2.7).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger_connection: Option<NatsConnection>,
    /// Set by Go nodes that re-send a request to themselves; ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_count: Option<u64>,
    /// Likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retried_at: Option<String>,
    /// Connection for host services, instead of the node's.
    #[serde(skip_serializing_if = "Option::is_none", alias = "host_services_config")]
    pub host_services: Option<NatsConnection>,
    /// Whether the workload needs host services: a service gets credentials in its environment, and what cannot have
    /// them is refused. Functions that can have them have them anyway.
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_as_default")]
    pub wants_host_services: bool,
    /// What the workload may take, instead of the node's defaults.
    #[serde(skip_serializing_if = "WorkloadLimits::is_empty", deserialize_with = "null_as_default")]
    pub limits: WorkloadLimits,
    /// Request id (0.3.0-rc1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// SHA-256 of the artifact (0.3.0-rc1); the signed claim is what counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Name of the workload (0.3.0-rc1, whose claims have a UUID as subject).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_name: Option<String>,
}

/// A NATS server and a user on it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NatsConnection {
    /// URL, or several with commas between.
    #[serde(deserialize_with = "null_as_default")]
    pub nats_url: String,
    /// User JWT.
    #[serde(deserialize_with = "null_as_default")]
    pub nats_user_jwt: String,
    /// Seed of the user's nkey: a secret.
    #[serde(deserialize_with = "null_as_default")]
    pub nats_user_seed: String,
}

impl std::fmt::Debug for NatsConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsConnection").field("nats_url", &self.nats_url).finish_non_exhaustive()
    }
}

/// The workload runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RunResponse {
    /// Always true.
    pub started: bool,
    /// Workload id.
    pub id: String,
    /// Public key of the issuer of the claim.
    pub issuer: String,
    /// Name of the workload.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_fields_and_order_of_go() {
        let request = DeployRequest {
            argv: vec!["-v".into()],
            r#type: "native".into(),
            location: Some("nats://B/k".parse().unwrap()),
            workload_jwt: "j".into(),
            environment: "e".into(),
            sender_public_key: "X".into(),
            target_node: "N".into(),
            ..DeployRequest::default()
        };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            concat!(
                r#"{"argv":["-v"],"description":"","type":"native","location":{"Scheme":"nats","Opaque":"","User":null,"#,
                r#""Host":"B","Path":"/k","RawPath":"","OmitHost":false,"ForceQuery":false,"RawQuery":"","Fragment":"","#,
                r#""RawFragment":""},"essential":false,"workload_jwt":"j","environment":"e","jsdomain":"","#,
                r#""sender_public_key":"X","target_node":"N"}"#
            )
        );
    }

    #[test]
    fn nulls_and_absent_fields_read_as_empty_and_a_null_body_is_an_error() {
        let request: DeployRequest = serde_json::from_str(r#"{"argv":null,"description":null,"extra":[]}"#).unwrap();
        assert_eq!(request, DeployRequest::default());
        assert!(serde_json::from_str::<DeployRequest>("null").is_err());
    }

    #[test]
    fn a_connection_does_not_print_its_secrets() {
        let connection = NatsConnection { nats_user_seed: "SUABC".into(), ..NatsConnection::default() };
        assert!(!format!("{connection:?}").contains("SUABC"));
    }
}
