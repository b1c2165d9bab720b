//! DEPLOY: the checks, in the order and with the texts of Go Nex 0.2.7, and ours after them.
//!
//! A deploy is answered when the workload runs, or with the first thing that is wrong. What is checked here needs no
//! artifact; the rest (size, digest, a ready agent, the agent's own checks) is the actor's.

use nex_identity::Claims;
use nex_identity::claims::{Action, Scope};
use nex_protocol::control::deploy::{DeployRequest, RunResponse};
use nex_protocol::control::limits::WorkloadLimits;
use nex_protocol::event::SYSTEM;
use nex_protocol::subject::{self, TriggerSubject};
use nex_protocol::{Code, Environment, Fault, Location, Namespace, WorkloadName, WorkloadType};
use tracing::{error, info};

use super::Control;
use super::used_claims::Use;
use crate::artifact::parse_sha256;
use crate::config::AutostartWorkload;
use crate::connection::meaningful;
use crate::workload::{Spec, actor, limits, unix_now, unix_now_ms};

/// Longest description, bytes, and most triggers: INFO lists them all, and must fit into one message.
const MAX_DESCRIPTION: usize = 4096;
const MAX_TRIGGERS: usize = 64;

impl Control {
    pub(super) async fn deploy(&self, namespace: Namespace, body: &[u8]) -> Result<RunResponse, Fault> {
        if self.is_lame_duck() {
            let text = "Node is in lame duck mode. Workload deploy request denied";
            return Err(Fault::new(Code::LameDuck, text));
        }
        // There the node tells of itself.
        if namespace.as_str() == SYSTEM {
            let text = format!("Invalid subject for workload deployment: the namespace {SYSTEM} is the node's own");
            return Err(Fault::new(Code::InvalidSubject, text));
        }
        self.shared.table.check_room()?;
        let (spec, claim) = self.check(namespace, body)?;
        let workload = actor::deploy(&self.shared, spec).await?;
        claim.spend();
        Ok(RunResponse {
            started: true,
            id: workload.id.clone(),
            issuer: workload.spec.issuer.clone(),
            name: workload.spec.name.to_string(),
        })
    }

    /// From the bytes of a request to what is to run, and the claim that allows it.
    fn check(&self, namespace: Namespace, body: &[u8]) -> Result<(Spec, Use), Fault> {
        let unreadable = |reason: &str| {
            Fault::new(Code::BadRequest, format!("Unable to deserialize deploy request: {}", without_quotes(reason)))
        };
        let request: DeployRequest = serde_json::from_slice(body).map_err(|error| unreadable(&error.to_string()))?;
        if request.description.len() > MAX_DESCRIPTION {
            return Err(unreadable(&format!("the description has more than {MAX_DESCRIPTION} bytes")));
        }
        if request.trigger_subjects.len() > MAX_TRIGGERS {
            return Err(unreadable(&format!("there are more than {MAX_TRIGGERS} trigger subjects")));
        }
        if !request.jsdomain.is_empty() && !subject::is_domain(&request.jsdomain) {
            return Err(unreadable("jsdomain is no name of a JetStream domain"));
        }
        let kind = self.supported(&request.r#type)?;
        let trigger_subjects = self.triggers(kind, &request.trigger_subjects)?;
        let environment = self.environment(&request)?;
        let now = unix_now().cast_signed();
        let claims = Claims::verify(&request.workload_jwt, now).map_err(invalid)?;
        let name: WorkloadName = claims.workload_name().parse().map_err(invalid)?;
        if request.workload_name.as_deref().is_some_and(|asked| asked != name.as_str()) {
            return Err(invalid("the claim is for a workload of another name"));
        }
        if !self.authority.trusts(&claims.iss) {
            return Err(Fault::new(Code::UntrustedIssuer, format!("invalid workload issuer: {}", claims.iss)));
        }
        let claimed_sha256 = self.claimed_hash(&claims, &request)?;
        if !request.target_node.is_empty() && request.target_node != self.node_id {
            let text = format!("Invalid deploy request: it is for node {}", request.target_node);
            return Err(Fault::new(Code::WrongTarget, text));
        }
        let location: Location = request
            .location
            .ok_or_else(|| Fault::new(Code::BadRequest, "Unable to deserialize deploy request: location is missing"))?;
        self.bucket(location.bucket(), &namespace)?;
        if request.essential && kind.is_function() {
            // As Go's agent says; it is harmless, for functions are always restarted.
            let text = format!("Invalid deploy request: essential flag is not supported for workload type: {kind}");
            return Err(Fault::new(Code::BadRequest, text));
        }
        limits::check(&request.limits, kind, &self.shared)?;
        let scope = Scope {
            action: Action::Deploy,
            node: &self.node_id,
            namespace: Some(namespace.as_str()),
            location: Some(&location.to_string()),
            workload: None,
        };
        let claim = self.authority.take(&request.workload_jwt, &claims, &scope, now);
        let claim = claim.map_err(|denied| denied.fault("Invalid deploy request: "))?;
        let spec = Spec {
            name,
            namespace,
            r#type: kind,
            argv: request.argv,
            description: request.description,
            essential: request.essential,
            environment,
            trigger_subjects,
            location,
            jsdomain: request.jsdomain,
            claimed_sha256,
            issuer: claims.iss,
            // A clock that is ahead must not keep its owner from stopping what he deployed.
            claimed_at: claims.iat.min(now),
            trigger_connection: meaningful(request.trigger_connection),
            host_services: meaningful(request.host_services),
            wants_host_services: request.wants_host_services,
            limits: request.limits,
            claim: claim.fingerprint(),
            configured: false,
            deployed_at_ms: unix_now_ms(),
        };
        Ok((spec, claim))
    }

    fn supported(&self, text: &str) -> Result<WorkloadType, Fault> {
        text.parse::<WorkloadType>()
            .ok()
            .filter(|kind| self.types.contains(kind))
            .ok_or_else(|| Fault::new(Code::UnsupportedType, format!("Unsupported workload type on this node: {text}")))
    }

    fn triggers(&self, kind: WorkloadType, subjects: &[String]) -> Result<Vec<TriggerSubject>, Fault> {
        if !subjects.is_empty() && !kind.is_function() {
            let text = format!("Unsupported workload type for trigger subject registration: {kind}");
            return Err(Fault::new(Code::TriggersUnsupported, text));
        }
        if subjects.is_empty() && kind.is_function() {
            let text = "Invalid deploy request: a function needs at least one trigger subject";
            return Err(Fault::new(Code::InvalidTrigger, text));
        }
        let mut parsed: Vec<TriggerSubject> = Vec::with_capacity(subjects.len());
        for text in subjects {
            let subject: TriggerSubject = text
                .parse()
                .map_err(|error| Fault::new(Code::InvalidTrigger, format!("Invalid deploy request: {error}")))?;
            if self.shared.config.deny_trigger_subjects.iter().any(|denied| denied.overlaps(&subject)) {
                return Err(Fault::new(
                    Code::TriggerDenied,
                    format!("The trigger subject {subject} overlaps with subject(s) in this node's deny list"),
                ));
            }
            // Twice the same subject in one queue group would only halve each other's messages.
            if !parsed.contains(&subject) {
                parsed.push(subject);
            }
        }
        Ok(parsed)
    }

    /// Whether the node, as it is configured now, would still take a workload that it once took.
    ///
    /// # Errors
    /// The refusal.
    pub fn check_policies(&self, spec: &Spec) -> Result<(), Fault> {
        self.supported(spec.r#type.as_str())?;
        let subjects: Vec<String> = spec.trigger_subjects.iter().map(ToString::to_string).collect();
        self.triggers(spec.r#type, &subjects)?;
        self.bucket(spec.location.bucket(), &spec.namespace)?;
        limits::check(&spec.limits, spec.r#type, &self.shared)
    }

    fn bucket(&self, bucket: &str, namespace: &Namespace) -> Result<(), Fault> {
        if self.shared.config.takes_artifacts_from(bucket, namespace) {
            return Ok(());
        }
        let text = format!("Invalid deploy request: namespace {namespace} takes no artifacts from bucket '{bucket}'");
        Err(Fault::new(Code::ArtifactUnavailable, text))
    }

    fn environment(&self, request: &DeployRequest) -> Result<Environment, Fault> {
        let failed = |reason: &dyn std::fmt::Display| {
            let text = format!("Failed to decrypt environment for deploy request: {reason}");
            Fault::new(Code::EnvironmentSealed, text)
        };
        if request.environment.is_empty() {
            return Ok(Environment::default());
        }
        let xkey = self.shared.state.xkey();
        let environment = xkey.open(&request.environment, &request.sender_public_key).map_err(|e| failed(&e))?;
        match environment.invalid_key() {
            Some(key) => Err(failed(&format_args!("'{key}' cannot be the name of a variable"))),
            None => Ok(environment),
        }
    }

    fn claimed_hash(&self, claims: &Claims, request: &DeployRequest) -> Result<Option<String>, Fault> {
        let claimed = claims.hash().and_then(parse_sha256);
        if claimed.is_none() && self.shared.config.require_artifact_hash {
            let text = "Invalid deploy request: the claim holds no SHA-256 of the artifact";
            return Err(Fault::new(Code::HashMissing, text));
        }
        // A claim to stop, which lies open on the wire, must not run something of its name.
        if !claims.is_to_deploy() {
            return Err(invalid("the claim is not one to deploy"));
        }
        // 0.3.0-rc1 sends the hash beside the claim too; they must agree.
        if let Some(beside) = request.hash.as_deref().filter(|hash| !hash.is_empty())
            && !claims.hash().is_some_and(|claimed| claimed.eq_ignore_ascii_case(beside))
        {
            let text = "Invalid deploy request: artifact hash claim does not match request";
            return Err(Fault::new(Code::HashMismatch, text));
        }
        Ok(claimed)
    }
}

/// An error of the decoder without what it quotes: where a text stands in the wrong place, it may be a secret.
fn without_quotes(text: &str) -> String {
    text.split('"').enumerate().map(|(index, part)| if index % 2 == 0 { part } else { "\"…\"" }).collect()
}

fn invalid(reason: impl std::fmt::Display) -> Fault {
    Fault::new(Code::InvalidClaim, format!("Invalid deploy request: {reason}"))
}

/// Starts the workloads of the configuration. What does not run at once (an object store that is not there yet, say)
/// is tried again like a workload that failed; what never can is told in the log and keeps nothing else from running.
pub fn autostart(control: &Control, workloads: &[AutostartWorkload], issuer: &str) {
    for workload in workloads {
        let AutostartWorkload { name, namespace, .. } = workload;
        match configured(control, workload, issuer).and_then(|spec| actor::autostart(&control.shared, spec)) {
            Ok(()) => info!(%name, %namespace, "starting a workload of the configuration"),
            Err(fault) => {
                error!(%name, %namespace, %fault, help = fault.code.help(), "a workload of the configuration cannot run");
            }
        }
    }
}

fn configured(control: &Control, workload: &AutostartWorkload, issuer: &str) -> Result<Spec, Fault> {
    let kind = control.supported(workload.r#type.as_str())?;
    let subjects: Vec<String> = workload.trigger_subjects.iter().map(ToString::to_string).collect();
    Ok(Spec {
        name: workload.name.clone(),
        namespace: workload.namespace.clone(),
        r#type: kind,
        argv: workload.argv.clone(),
        description: workload.description.clone(),
        essential: workload.essential,
        environment: workload.environment.clone(),
        trigger_subjects: control.triggers(kind, &subjects)?,
        location: workload.location.clone(),
        jsdomain: workload.jsdomain.clone(),
        claimed_sha256: None,
        issuer: issuer.to_owned(),
        claimed_at: 0,
        trigger_connection: None,
        host_services: None,
        wants_host_services: false,
        limits: WorkloadLimits::default(),
        claim: None,
        configured: true,
        deployed_at_ms: unix_now_ms(),
    })
}
