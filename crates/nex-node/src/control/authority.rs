//! Who may do what: signed claims against what is asked for.
//!
//! A claim passes when its signature and times hold, its issuer is one the node trusts, everything it says of its scope
//! fits the request, and it was not used before. A strict node (`"claims": "strict"`) also wants it to say everything,
//! and to be signed after the node began to remember claims.

use nex_identity::Claims;
use nex_identity::claims::{Scope, fingerprint};
use nex_protocol::{Code, Fault};

use super::used_claims::{Refusal, Use, UsedClaims};

/// What the node asks of claims.
#[derive(Debug)]
pub(super) struct Authority {
    issuers: Vec<String>,
    strict: bool,
    /// Seconds since 1970: what was signed earlier may have been used without our knowing.
    since: i64,
    used: UsedClaims,
}

/// A claim that is refused; the text still without what is refused because of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Denied {
    /// Entry of the catalogue.
    code: Code,
    /// The reason.
    reason: String,
}

impl Denied {
    fn new(code: Code, reason: impl std::fmt::Display) -> Self {
        Self { code, reason: reason.to_string() }
    }

    /// The refusal, its text begun as the original begins it.
    pub(super) fn fault(self, beginning: &str) -> Fault {
        Fault::new(self.code, format!("{beginning}{}", self.reason))
    }
}

impl Authority {
    /// An authority that trusts these issuers; all, when there are none. `now` in seconds since 1970.
    pub(super) fn new(issuers: Vec<String>, strict: bool, used: UsedClaims, now: i64) -> Self {
        Self { issuers, strict, since: now, used }
    }

    /// Whether everybody may sign.
    pub(super) fn trusts_everybody(&self) -> bool {
        self.issuers.is_empty()
    }

    /// Whether this issuer may sign.
    pub(super) fn trusts(&self, issuer: &str) -> bool {
        self.issuers.is_empty() || self.issuers.iter().any(|trusted| trusted == issuer)
    }

    /// Takes a claim for what is asked for. Claims without a nonce are those of the original: two of them that were
    /// signed in one second are the same, so that only a deploy's is held to be used up.
    ///
    /// # Errors
    /// Why it does not do.
    pub(super) fn take(&self, token: &str, claims: &Claims, asked: &Scope<'_>, now: i64) -> Result<Use, Denied> {
        claims.check_scope(asked).map_err(|error| Denied::new(Code::ClaimElsewhere, error))?;
        if self.strict {
            self.check_strictly(claims, asked, now).map_err(|error| Denied::new(Code::ClaimIncomplete, error))?;
        }
        self.used.take(&fingerprint(token), claims.exp, now).map_err(|refusal| match refusal {
            Refusal::Used => Denied::new(Code::ClaimUsed, "the claim was used before"),
            Refusal::Full => Denied::new(Code::Busy, "too many claims are in their time of validity"),
        })
    }

    /// Whether a claim says everything, and was signed since the node began to remember which were used.
    ///
    /// # Errors
    /// The reason why not.
    pub(super) fn check_strictly(&self, claims: &Claims, asked: &Scope<'_>, now: i64) -> Result<(), String> {
        claims.check_complete(asked, now).map_err(|error| error.to_string())?;
        if claims.iat < self.since {
            return Err("the claim was signed before this node started: sign a new one, and see that the clocks agree"
                .to_owned());
        }
        Ok(())
    }

    /// Remembers a claim that was spent in an earlier life of the node.
    pub(super) fn remember(&self, fingerprint: &str) {
        self.used.remember(fingerprint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nex_identity::Issuer;
    use nex_identity::claims::Action;

    const NOW: i64 = 1_720_000_000;
    const SCOPE: Scope<'static> = Scope {
        action: Action::Deploy,
        node: "N1",
        namespace: Some("shop"),
        location: Some("nats://B/k"),
        workload: None,
    };

    fn signed(claims: Claims, at: i64) -> (String, Claims) {
        let token = claims.sign(&Issuer::generate(), at).unwrap();
        let claims = Claims::verify(&token, NOW).unwrap();
        (token, claims)
    }

    fn code(authority: &Authority, token: &str, claims: &Claims, scope: &Scope<'_>) -> Option<Code> {
        authority.take(token, claims, scope, NOW).map(Use::spend).err().map(|denied| denied.code)
    }

    #[test]
    fn a_bound_claim_passes_once_and_nowhere_else() {
        let authority = Authority::new(vec![], true, UsedClaims::default(), NOW);
        let (token, claims) = signed(Claims::deploy("a", "ab").bound(&SCOPE, NOW), NOW);
        let elsewhere = Scope { namespace: Some("other"), ..SCOPE };
        assert_eq!(code(&authority, &token, &claims, &elsewhere), Some(Code::ClaimElsewhere));
        assert_eq!(code(&authority, &token, &claims, &SCOPE), None);
        assert_eq!(code(&authority, &token, &claims, &SCOPE), Some(Code::ClaimUsed));
    }

    #[test]
    fn a_strict_node_takes_neither_open_nor_early_claims_and_another_does() {
        let (open_token, open) = signed(Claims::deploy("a", "ab"), NOW);
        let (early_token, early) = signed(Claims::deploy("a", "ab").bound(&SCOPE, NOW), NOW - 1);
        for (strict, expected) in [(true, Some(Code::ClaimIncomplete)), (false, None)] {
            let authority = Authority::new(vec![], strict, UsedClaims::default(), NOW);
            assert_eq!(code(&authority, &open_token, &open, &SCOPE), expected);
            assert_eq!(code(&authority, &early_token, &early, &SCOPE), expected);
        }
    }

    #[test]
    fn a_list_of_issuers_leaves_out_everybody_else() {
        let authority = Authority::new(vec!["A1".into()], false, UsedClaims::default(), NOW);
        assert!(authority.trusts("A1") && !authority.trusts("A2") && !authority.trusts_everybody());
        assert!(Authority::new(vec![], false, UsedClaims::default(), NOW).trusts("A2"));
    }
}
