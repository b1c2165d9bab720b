//! STOP: only who deployed a workload may end it. Where the node has a list of issuers, it is one of them; a workload
//! whose issuer was taken off the list is anybody's on it to end.

use nex_identity::Claims;
use nex_identity::claims::{Action, Scope};
use nex_protocol::control::stop::{StopRequest, StopResponse};
use nex_protocol::{Code, Fault, Namespace};

use super::Control;
use crate::workload::table::Workload;
use crate::workload::unix_now;

impl Control {
    pub(super) async fn stop(&self, namespace: &Namespace, body: &[u8]) -> Result<StopResponse, Fault> {
        let request: StopRequest = serde_json::from_slice(body)
            .map_err(|error| Fault::new(Code::BadRequest, format!("Unable to deserialize stop request: {error}")))?;
        let unknown = || Fault::new(Code::NoSuchWorkload, "No such workload");
        let workload = self.shared.table.get(&request.workload_id).ok_or_else(unknown)?;
        // Who asks in the wrong namespace learns nothing, not even that his claim would do.
        if workload.spec.namespace != *namespace {
            return Err(unknown());
        }
        if !request.target_node.is_empty() && request.target_node != self.node_id {
            let text = format!("Invalid stop request: it is for node {}", request.target_node);
            return Err(Fault::new(Code::WrongTarget, text));
        }
        self.check_stop_claim(&request.workload_jwt, &workload)?;
        workload.stop("Workload undeploy requested", false).await;
        Ok(StopResponse {
            stopped: true,
            id: workload.id.clone(),
            issuer: workload.spec.issuer.clone(),
            name: workload.spec.name.to_string(),
        })
    }

    fn check_stop_claim(&self, token: &str, workload: &Workload) -> Result<(), Fault> {
        const BEGINNING: &str = "Invalid stop request: ";
        let invalid =
            |reason: &dyn std::fmt::Display| Fault::new(Code::InvalidStopClaim, format!("{BEGINNING}{reason}"));
        let now = unix_now().cast_signed();
        let claims = Claims::verify(token, now).map_err(|error| invalid(&error))?;
        // Deploy claims lie open on the wire: one must not do for a stop, nor may a stop of an earlier deploy.
        if claims.is_to_deploy() {
            return Err(invalid(&"the claim is one to deploy"));
        }
        if claims.iat < workload.spec.claimed_at {
            return Err(invalid(&"the claim is older than the workload"));
        }
        // Go Nex 0.2.7 signs the name, 0.3.0-rc1 the id.
        if claims.sub != workload.spec.name.as_str() && claims.sub != workload.id {
            return Err(invalid(&"the claim is for another workload"));
        }
        if workload.spec.configured {
            return Err(invalid(&"the node's configuration runs it (autostart): take it out there"));
        }
        let deployer = &workload.spec.issuer;
        if !self.authority.trusts(&claims.iss) {
            return Err(Fault::new(Code::UntrustedIssuer, format!("invalid workload issuer: {}", claims.iss)));
        }
        if claims.iss != *deployer && self.authority.trusts(deployer) {
            return Err(invalid(&"the issuer is not the one who deployed the workload"));
        }
        let scope = Scope {
            action: Action::Stop,
            node: &self.node_id,
            namespace: Some(workload.spec.namespace.as_str()),
            location: None,
            workload: Some(&workload.id),
        };
        // Stops of the original that were signed in one second for one name are the same, and each is meant; what they
        // end is gone, and cannot be ended by repeating them.
        if claims.has_nonce() || self.shared.config.strict_claims {
            let taken = self.authority.take(token, &claims, &scope, now);
            taken.map_err(|denied| denied.fault(BEGINNING))?.spend();
        } else {
            claims
                .check_scope(&scope)
                .map_err(|error| Fault::new(Code::ClaimElsewhere, format!("{BEGINNING}{error}")))?;
        }
        Ok(())
    }
}
