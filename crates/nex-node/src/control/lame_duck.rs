//! LAMEDUCK: the order to leave. Who may give it: everybody, while everybody may deploy; else who signs with a key that
//! the node trusts. The original lets everybody empty any node.

use std::time::Duration;

use nex_identity::Claims;
use nex_identity::claims::{Action, Scope};
use nex_protocol::control::lame_duck::{LameDuckRequest, LameDuckResponse};
use nex_protocol::event::Event;
use nex_protocol::{Code, Fault};
use tracing::{info, warn};

use super::Control;
use crate::workload::{millis, unix_now};

const FAILED: &str = "Failed to enter lame duck mode";

/// Longest delay, a day.
const LONGEST: Duration = Duration::from_secs(86_400);

impl Control {
    pub(super) fn enter_lame_duck(&self, body: &[u8]) -> Result<LameDuckResponse, Fault> {
        let request = if body.trim_ascii().is_empty() {
            LameDuckRequest::default()
        } else {
            serde_json::from_slice::<Option<LameDuckRequest>>(body)
                .map_err(|error| Fault::new(Code::BadRequest, format!("{FAILED}: {error}")))?
                .unwrap_or_default()
        };
        let trusted = self.check_order(&request)?;
        let usual = self.shared.config.lame_duck_delay;
        let mut delay = request.delay_ms.map_or(usual, Duration::from_millis).min(LONGEST);
        if !trusted {
            // It may have been anybody: he cannot have all workloads ended at once.
            delay = delay.max(usual);
        }
        if self.shared.lame_duck.enter(delay) {
            warn!(?delay, "entered lame duck mode: no deploys are taken, and the node leaves after the delay");
            self.shared.publisher.node_event(&Event::NodeEnteredLameDuck {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                id: self.node_id.clone(),
                leaves_in_ms: millis(delay),
            });
        }
        let leaves_in = self.shared.lame_duck.leaves_in().unwrap_or_default();
        Ok(LameDuckResponse { node_id: self.node_id.clone(), success: true, leaves_in_ms: millis(leaves_in) })
    }

    /// Checks that the order may be given; says whether it comes from somebody the node has reason to trust.
    fn check_order(&self, request: &LameDuckRequest) -> Result<bool, Fault> {
        if request.node_jwt.is_empty() {
            if self.authority.trusts_everybody() && !self.shared.config.strict_claims {
                return Ok(false);
            }
            return Err(Fault::new(Code::LameDuckRefused, format!("{FAILED}: this node takes signed orders only")));
        }
        let now = unix_now().cast_signed();
        let refused = |reason: String| Fault::new(Code::LameDuckRefused, format!("{FAILED}: {reason}"));
        let claims = Claims::verify(&request.node_jwt, now).map_err(|error| refused(error.to_string()))?;
        if claims.sub != self.node_id {
            return Err(refused("the claim is for another node".to_owned()));
        }
        if !self.authority.trusts(&claims.iss) {
            return Err(refused(format!("the issuer {} is not one this node trusts", claims.iss)));
        }
        // The original knows no such claims, so all of them are ours and can be held to the full: one that was meant for
        // an earlier life of the node must not end this one.
        let scope =
            Scope { action: Action::LameDuck, node: &self.node_id, namespace: None, location: None, workload: None };
        self.authority.check_strictly(&claims, &scope, now).map_err(refused)?;
        let taken = self.authority.take(&request.node_jwt, &claims, &scope, now);
        taken.map_err(|denied| denied.fault(&format!("{FAILED}: ")))?.spend();
        info!(issuer = claims.iss, "lame duck mode was ordered");
        Ok(!self.authority.trusts_everybody())
    }
}
