//! What to run, and the signed and sealed requests made of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nex_identity::claims::{Action, Scope};
use nex_identity::{Claims, Issuer, XKeyPair};
use nex_protocol::control::deploy::{DeployRequest, NatsConnection};
use nex_protocol::control::lame_duck::LameDuckRequest;
use nex_protocol::control::limits::WorkloadLimits;
use nex_protocol::control::stop::StopRequest;
use nex_protocol::subject::TriggerSubject;
use nex_protocol::{Environment, Location, Namespace, WorkloadName, WorkloadType};

use crate::error::ClientError;

/// A workload as its owner describes it; no node chosen yet.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// Its name.
    pub name: WorkloadName,
    /// What it is.
    pub workload_type: WorkloadType,
    /// Where its artifact lies.
    pub location: Location,
    /// SHA-256 of the artifact, lower-case hex. The signed claim binds the workload to it.
    pub sha256: String,
    /// Variables it is given.
    pub environment: Environment,
    /// Arguments of a service.
    pub argv: Vec<String>,
    /// Whether a service is restarted when it fails.
    pub essential: bool,
    /// Text for people.
    pub description: String,
    /// Subjects that trigger a function.
    pub trigger_subjects: Vec<TriggerSubject>,
    /// JetStream domain of the object store, empty for the server's own.
    pub jsdomain: String,
    /// Connection for host services, instead of the node's.
    pub host_services: Option<NatsConnection>,
    /// Whether it needs host services: a service gets credentials by its environment, and what cannot have them is
    /// refused.
    pub wants_host_services: bool,
    /// Connection that triggers arrive on, instead of the node's.
    pub trigger_connection: Option<NatsConnection>,
    /// What it may take, instead of the node's defaults.
    pub limits: WorkloadLimits,
}

impl Deployment {
    /// A workload with nothing but what it must have.
    pub fn new(name: WorkloadName, workload_type: WorkloadType, location: Location, sha256: impl Into<String>) -> Self {
        Self {
            name,
            workload_type,
            location,
            sha256: sha256.into(),
            environment: Environment::default(),
            argv: Vec::new(),
            essential: false,
            description: String::new(),
            trigger_subjects: Vec::new(),
            jsdomain: String::new(),
            host_services: None,
            wants_host_services: false,
            trigger_connection: None,
            limits: WorkloadLimits::default(),
        }
    }

    /// The request for one node: environment sealed by `publisher` so that only the owner of `node_xkey` opens it, and a
    /// claim signed by `issuer` that is good for this artifact in this namespace on this node, once, for some minutes.
    ///
    /// # Errors
    /// [`ClientError::Claim`] or [`ClientError::Seal`].
    pub fn request(
        &self,
        issuer: &Issuer,
        publisher: &XKeyPair,
        namespace: &Namespace,
        node: &str,
        node_xkey: &str,
    ) -> Result<DeployRequest, ClientError> {
        let location = self.location.to_string();
        let scope = Scope {
            action: Action::Deploy,
            node,
            namespace: Some(namespace.as_str()),
            location: Some(&location),
            workload: None,
        };
        let claims = Claims::deploy(self.name.as_str(), &self.sha256).bound(&scope, now());
        Ok(DeployRequest {
            argv: self.argv.clone(),
            description: self.description.clone(),
            r#type: self.workload_type.to_string(),
            location: Some(self.location.clone()),
            essential: self.essential,
            workload_jwt: claims.sign(issuer, now())?,
            environment: publisher.seal(&self.environment, node_xkey)?,
            jsdomain: self.jsdomain.clone(),
            sender_public_key: publisher.public_key(),
            target_node: node.to_owned(),
            trigger_subjects: self.trigger_subjects.iter().map(ToString::to_string).collect(),
            trigger_connection: self.trigger_connection.clone(),
            host_services: self.host_services.clone(),
            wants_host_services: self.wants_host_services,
            limits: self.limits,
            ..DeployRequest::default()
        })
    }
}

/// The request to end a workload, signed by the issuer it was deployed with.
///
/// # Errors
/// [`ClientError::Claim`].
pub fn stop_request(
    issuer: &Issuer,
    namespace: &Namespace,
    node: &str,
    workload_id: &str,
    workload_name: &str,
) -> Result<StopRequest, ClientError> {
    let scope = Scope {
        action: Action::Stop,
        node,
        namespace: Some(namespace.as_str()),
        location: None,
        workload: Some(workload_id),
    };
    Ok(StopRequest {
        workload_id: workload_id.to_owned(),
        workload_jwt: Claims::stop(workload_name).bound(&scope, now()).sign(issuer, now())?,
        target_node: node.to_owned(),
    })
}

/// The request to enter lame duck mode, signed when there is an issuer: nodes that have a list of issuers want that.
///
/// # Errors
/// [`ClientError::Claim`].
pub fn lame_duck_request(
    issuer: Option<&Issuer>,
    node: &str,
    delay: Option<Duration>,
) -> Result<LameDuckRequest, ClientError> {
    let scope = Scope { action: Action::LameDuck, node, namespace: None, location: None, workload: None };
    let sign = |issuer| Claims::lame_duck(node).bound(&scope, now()).sign(issuer, now());
    Ok(LameDuckRequest {
        node_jwt: issuer.map(sign).transpose()?.unwrap_or_default(),
        delay_ms: delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
    })
}

/// Seconds since 1970; 0 on a machine whose clock is before that, which nodes then refuse or not by their own.
fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_secs()).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_signed_sealed_and_bound_to_the_artifact() {
        let (issuer, publisher, node) = (Issuer::generate(), XKeyPair::generate(), XKeyPair::generate());
        let mut deployment = Deployment::new(
            "echo".parse().unwrap(),
            WorkloadType::V8,
            "nats://B/echo".parse().unwrap(),
            "ab".repeat(32),
        );
        deployment.environment.set("KEY", "s3cret");
        deployment.trigger_subjects.push("js.echo".parse().unwrap());
        let request = deployment.request(&issuer, &publisher, &Namespace::default(), "N1", &node.public_key()).unwrap();
        let claims = Claims::verify(&request.workload_jwt, now()).unwrap();
        assert_eq!((claims.workload_name(), claims.hash()), ("echo", Some("ab".repeat(32).as_str())));
        assert_eq!(claims.iss, issuer.public_key());
        let scope = Scope {
            action: Action::Deploy,
            node: "N1",
            namespace: Some("default"),
            location: Some("nats://B/echo"),
            workload: None,
        };
        assert_eq!((claims.check_scope(&scope), claims.check_complete(&scope, now())), (Ok(()), Ok(())));
        let opened = node.open(&request.environment, &request.sender_public_key).unwrap();
        assert_eq!(opened.get("KEY"), Some("s3cret"));
        assert_eq!((request.r#type.as_str(), request.target_node.as_str()), ("v8", "N1"));
        assert!(!serde_json::to_string(&request).unwrap().contains("s3cret"));
    }

    #[test]
    fn a_node_without_a_usable_xkey_is_an_error() {
        let deployment =
            Deployment::new("a".parse().unwrap(), WorkloadType::Native, "nats://B/a".parse().unwrap(), "00");
        let result = deployment.request(&Issuer::generate(), &XKeyPair::generate(), &Namespace::default(), "N1", "");
        assert!(matches!(result, Err(ClientError::Seal(_))));
    }
}
