//! Signed claims: NATS JWT v2, "generic" claims, as Go Nex 0.2.7 and 0.3.0-rc1 make and read them.
//!
//! ```text
//! base64url({"typ":"JWT","alg":"ed25519-nkey"}) . base64url(claims) . base64url(ed25519(header.claims))
//! ```
//! Claims are `jti iat iss sub exp nbf nats{…, version: 2}`. A deploy claim names the workload (as `sub`, or as
//! `nats.name` where `sub` is a request id) and the artifact (`nats.hash`). Reading checks the signature against the
//! claim's own issuer and the times; whether that issuer is trusted is the caller's business.
//!
//! Ours also say what exactly they authorize ([`Scope`]): the action, the namespace, the node, the location, and a nonce
//! that makes each different from all others. Go Nex signs none of it, and ignores it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::BASE32_NOPAD;
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha512_256};

use crate::keys::Issuer;

/// Longest token that is read, bytes.
pub const MAX_TOKEN: usize = 16 << 10;

/// A token is no valid claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// There is none.
    #[error("the claim is missing")]
    Missing,
    /// Not three parts of base64url, or their JSON is not that of claims.
    #[error("the claim is not a JWT: {0}")]
    Malformed(&'static str),
    /// Another algorithm than `ed25519-nkey` (or `ed25519`, its name in version 1).
    #[error("the claim is signed with '{0}', not with ed25519-nkey")]
    Algorithm(String),
    /// The issuer is no public nkey.
    #[error("the issuer of the claim is not a public nkey")]
    Issuer,
    /// The signature is not the issuer's.
    #[error("the signature of the claim is not its issuer's")]
    Signature,
    /// `exp` has passed.
    #[error("the claim has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("the claim is not valid yet")]
    NotYet,
    /// The claim could not be signed.
    #[error("cannot sign: {0}")]
    Sign(String),
}

/// What a claim is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To run a workload.
    Deploy,
    /// To end one.
    Stop,
    /// To have a node leave.
    LameDuck,
}

impl Action {
    /// The spelling in a claim.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Deploy => "deploy",
            Action::Stop => "stop",
            Action::LameDuck => "lameduck",
        }
    }
}

/// What exactly a claim authorizes, or what is asked for and must be authorized. What is not given is not bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope<'a> {
    /// What is done.
    pub action: Action,
    /// The node that does it.
    pub node: &'a str,
    /// The namespace it is done in; none for what concerns a whole node.
    pub namespace: Option<&'a str>,
    /// Where the artifact lies, for a deploy.
    pub location: Option<&'a str>,
    /// Id of the workload, for a stop.
    pub workload: Option<&'a str>,
}

impl<'a> Scope<'a> {
    fn parts(&self) -> [(&'static str, Option<&'a str>); 5] {
        [
            ("action", Some(self.action.as_str())),
            ("node", Some(self.node)),
            ("namespace", self.namespace),
            ("location", self.location),
            ("workload", self.workload),
        ]
    }
}

/// A claim does not authorize what is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// It is for something else.
    #[error("the claim is for another {part} ('{claimed}')")]
    Elsewhere {
        /// What differs.
        part: &'static str,
        /// What the claim says.
        claimed: String,
    },
    /// It leaves open what it has to say.
    #[error("the claim does not say which {0} it is for")]
    Open(&'static str),
    /// It never expires, or not soon enough.
    #[error("the claim must expire within {} s", MAX_LIFETIME)]
    Lifetime,
    /// It has nothing that tells it from others.
    #[error("the claim has no nonce")]
    NoNonce,
}

/// How long the claims of our clients are valid, seconds. Longer than clocks differ, shorter than somebody needs who
/// finds one in an old record.
pub const LIFETIME: i64 = 300;

/// How long a claim may be valid where that is looked at, seconds.
pub const MAX_LIFETIME: i64 = 3600;

#[derive(Serialize, Deserialize)]
struct Header {
    typ: String,
    alg: String,
}

/// Claims whose signature holds, or that are to be signed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// Audience; unused by nex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub aud: String,
    /// Expiry, seconds since 1970; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exp: i64,
    /// Id: base32 of SHA-512/256 over the standard claims, so not over `nats`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// When it was signed, seconds since 1970.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub iat: i64,
    /// Public key of the signer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub iss: String,
    /// Unused by nex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Not valid before, seconds since 1970; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nbf: i64,
    /// What the claim is about: the workload's name, or a request id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sub: String,
    /// Data: `hash`, `name`, and `version`, which is 2.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub nats: Map<String, Value>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

impl Claims {
    /// A claim to deploy the workload of this name with the artifact of this SHA-256 (hex).
    pub fn deploy(workload_name: &str, sha256: &str) -> Self {
        let mut claims = Self { sub: workload_name.to_owned(), ..Self::default() };
        claims.nats.insert("hash".to_owned(), sha256.into());
        claims
    }

    /// A claim to stop the workload of this name.
    pub fn stop(workload_name: &str) -> Self {
        Self { sub: workload_name.to_owned(), ..Self::default() }
    }

    /// A claim about a node as a whole.
    pub fn lame_duck(node: &str) -> Self {
        Self { sub: node.to_owned(), ..Self::default() }
    }

    /// Binds the claim to what it authorizes, and has it expire [`LIFETIME`] after `now`.
    #[must_use]
    pub fn bound(mut self, scope: &Scope<'_>, now: i64) -> Self {
        for (part, value) in scope.parts() {
            if let Some(value) = value {
                self.nats.insert(part.to_owned(), value.into());
            }
        }
        self.nats.insert("nonce".to_owned(), nuid::next().to_string().into());
        self.exp = now.saturating_add(LIFETIME);
        self
    }

    /// Whether all that the claim says of its scope fits what is asked for.
    ///
    /// # Errors
    /// [`ScopeError::Elsewhere`].
    pub fn check_scope(&self, asked: &Scope<'_>) -> Result<(), ScopeError> {
        for (part, asked) in asked.parts() {
            let Some(claimed) = self.nats.get(part) else { continue };
            // What is there and no text authorizes nothing.
            if claimed.as_str().is_none() || claimed.as_str() != asked {
                let claimed = claimed.as_str().map_or_else(|| claimed.to_string(), str::to_owned);
                return Err(ScopeError::Elsewhere { part, claimed });
            }
        }
        Ok(())
    }

    /// Whether the claim leaves nothing open: every part of the scope is there, a nonce, and a near expiry.
    ///
    /// # Errors
    /// [`ScopeError`].
    pub fn check_complete(&self, asked: &Scope<'_>, now: i64) -> Result<(), ScopeError> {
        for (part, value) in asked.parts() {
            if value.is_some() && !self.nats.contains_key(part) {
                return Err(ScopeError::Open(part));
            }
        }
        if !self.has_nonce() {
            return Err(ScopeError::NoNonce);
        }
        if self.exp == 0 || self.exp > now.saturating_add(MAX_LIFETIME) {
            return Err(ScopeError::Lifetime);
        }
        Ok(())
    }

    /// Whether there is something in the claim that tells it from all others.
    pub fn has_nonce(&self) -> bool {
        self.nats.get("nonce").and_then(Value::as_str).is_some_and(|nonce| !nonce.is_empty())
    }

    /// Whether the claim could be one to deploy: our clients say so, those of Go Nex put a hash into it, be it only a
    /// placeholder.
    pub fn is_to_deploy(&self) -> bool {
        self.nats.contains_key("hash")
    }

    /// The name of the workload: `nats.name` (0.3.0-rc1), else `sub`.
    pub fn workload_name(&self) -> &str {
        self.nats.get("name").and_then(Value::as_str).unwrap_or(&self.sub)
    }

    /// `nats.hash`, whatever it is.
    pub fn hash(&self) -> Option<&str> {
        self.nats.get("hash").and_then(Value::as_str)
    }

    /// Signs at this time (seconds since 1970).
    ///
    /// # Errors
    /// [`ClaimsError::Sign`] when the key cannot sign.
    pub fn sign(self, issuer: &Issuer, now: i64) -> Result<String, ClaimsError> {
        self.sign_by(issuer.pair(), now)
    }

    /// Signs with a key of any kind, for claims that are not about workloads.
    ///
    /// # Errors
    /// [`ClaimsError::Sign`] when the key cannot sign.
    pub fn sign_by(mut self, signer: &KeyPair, now: i64) -> Result<String, ClaimsError> {
        let sign_error = |error: &dyn std::fmt::Display| ClaimsError::Sign(error.to_string());
        self.iss = signer.public_key();
        self.iat = now;
        self.jti = String::new();
        // As jwt.go does: the id is a digest of the standard claims, without itself and without the data.
        let data = std::mem::take(&mut self.nats);
        let standard = serde_json::to_vec(&self).map_err(|e| sign_error(&e))?;
        self.jti = BASE32_NOPAD.encode(&Sha512_256::digest(&standard));
        self.nats = data;
        self.nats.insert("version".to_owned(), 2.into());
        let header = Header { typ: "JWT".to_owned(), alg: "ed25519-nkey".to_owned() };
        let mut token = encode(&header).map_err(|e| sign_error(&e))?;
        token.push('.');
        token.push_str(&encode(&self).map_err(|e| sign_error(&e))?);
        let signature = signer.sign(token.as_bytes()).map_err(|e| sign_error(&e))?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// Reads a token and checks its signature, expiry and start at this time (seconds since 1970).
    ///
    /// # Errors
    /// [`ClaimsError`].
    pub fn verify(token: &str, now: i64) -> Result<Self, ClaimsError> {
        if token.is_empty() {
            return Err(ClaimsError::Missing);
        }
        if token.len() > MAX_TOKEN {
            return Err(ClaimsError::Malformed("too long"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(ClaimsError::Malformed("not three parts"))?;
        let (header, body) = signed.split_once('.').ok_or(ClaimsError::Malformed("not three parts"))?;
        let header: Header = decode(header, "header")?;
        if !header.typ.eq_ignore_ascii_case("jwt") {
            return Err(ClaimsError::Malformed("its type is not JWT"));
        }
        // Version 1 signed the body alone, version 2 header and body.
        let signed = match header.alg.as_str() {
            "ed25519-nkey" => signed,
            "ed25519" => body,
            other => return Err(ClaimsError::Algorithm(other.to_owned())),
        };
        let claims: Claims = decode(body, "body")?;
        let signature =
            URL_SAFE_NO_PAD.decode(signature).map_err(|_| ClaimsError::Malformed("signature is not base64url"))?;
        let issuer = KeyPair::from_public_key(&claims.iss).map_err(|_| ClaimsError::Issuer)?;
        issuer.verify(signed.as_bytes(), &signature).map_err(|_| ClaimsError::Signature)?;
        if claims.exp != 0 && claims.exp <= now {
            return Err(ClaimsError::Expired);
        }
        if claims.nbf > now {
            return Err(ClaimsError::NotYet);
        }
        Ok(claims)
    }

    /// Whether the issuer is an account key, as it should be.
    pub fn issued_by_account(&self) -> bool {
        KeyPair::from_public_key(&self.iss).is_ok_and(|key| key.key_pair_type() == KeyPairType::Account)
    }
}

/// What tells a token from others, hex: a digest of its claims. Not of the whole token, whose other parts somebody might
/// spell differently without breaking the signature.
pub fn fingerprint(token: &str) -> String {
    let body = token.split('.').nth(1).unwrap_or_default();
    data_encoding::HEXLOWER.encode(&Sha512_256::digest(body.as_bytes()))
}

fn encode<T: Serialize>(value: &T) -> Result<String, serde_json::Error> {
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(value)?))
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str, which: &'static str) -> Result<T, ClaimsError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| ClaimsError::Malformed(which))?;
    serde_json::from_slice(&bytes).map_err(|_| ClaimsError::Malformed(which))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_720_000_000;

    #[test]
    fn a_signed_claim_reads_back_and_binds_name_and_hash() {
        let issuer = Issuer::generate();
        let token = Claims::deploy("echo", "ab12").sign(&issuer, NOW).unwrap();
        let claims = Claims::verify(&token, NOW).unwrap();
        assert_eq!((claims.workload_name(), claims.hash()), ("echo", Some("ab12")));
        assert_eq!(claims.iss, issuer.public_key());
        assert_eq!(claims.jti.len(), 52, "base32 of 32 bytes without padding");
        assert!(claims.issued_by_account());
    }

    const SCOPE: Scope<'static> = Scope {
        action: Action::Deploy,
        node: "N1",
        namespace: Some("shop"),
        location: Some("nats://B/k"),
        workload: None,
    };

    #[test]
    fn a_bound_claim_fits_its_scope_alone_and_is_complete() {
        let claims = Claims::deploy("echo", "ab").bound(&SCOPE, NOW);
        assert_eq!(claims.check_scope(&SCOPE), Ok(()));
        assert_eq!(claims.check_complete(&SCOPE, NOW), Ok(()));
        for (other, part) in [
            (Scope { action: Action::Stop, ..SCOPE }, "action"),
            (Scope { node: "N2", ..SCOPE }, "node"),
            (Scope { namespace: Some("SHOP"), ..SCOPE }, "namespace"),
            (Scope { location: Some("nats://B/other"), ..SCOPE }, "location"),
            (Scope { location: None, ..SCOPE }, "location"),
        ] {
            let error = claims.check_scope(&other).unwrap_err();
            assert!(matches!(error, ScopeError::Elsewhere { part: found, .. } if found == part), "{error}");
        }
        let other = Claims::deploy("echo", "ab").bound(&SCOPE, NOW);
        assert_ne!(claims.nats.get("nonce"), other.nats.get("nonce"), "no two claims are the same");
    }

    #[test]
    fn what_a_claim_leaves_open_fits_everything_and_is_not_complete() {
        let claims = Claims::deploy("echo", "ab");
        assert_eq!(claims.check_scope(&SCOPE), Ok(()));
        assert_eq!(claims.check_complete(&SCOPE, NOW), Err(ScopeError::Open("action")));
        let bound = claims.bound(&SCOPE, NOW);
        for exp in [0, NOW + MAX_LIFETIME + 1] {
            let lasting = Claims { exp, ..bound.clone() };
            assert_eq!(lasting.check_complete(&SCOPE, NOW), Err(ScopeError::Lifetime));
        }
        let mut repeated = bound.clone();
        repeated.nats.insert("nonce".into(), "".into());
        assert_eq!(repeated.check_complete(&SCOPE, NOW), Err(ScopeError::NoNonce));
        let mut odd = bound;
        odd.nats.insert("node".into(), serde_json::json!(["N1"]));
        assert!(odd.check_scope(&SCOPE).is_err(), "what is no text is no node");
    }

    #[test]
    fn a_changed_token_is_refused() {
        let token = Claims::stop("echo").sign(&Issuer::generate(), NOW).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let other = Claims::stop("other").sign(&Issuer::generate(), NOW).unwrap();
        let other: Vec<&str> = other.split('.').collect();
        let swapped = format!("{}.{}.{}", parts[0], other[1], parts[2]);
        assert_eq!(Claims::verify(&swapped, NOW), Err(ClaimsError::Signature));
        let none = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"none"}"#);
        let unsigned = format!("{none}.{}.", parts[1]);
        assert_eq!(Claims::verify(&unsigned, NOW), Err(ClaimsError::Algorithm("none".into())));
    }

    #[test]
    fn a_fingerprint_is_that_of_the_claims_alone() {
        let issuer = Issuer::generate();
        let token = Claims::stop("a").sign(&issuer, NOW).unwrap();
        let respelt = token.replacen(token.split('.').next().unwrap(), "AAAA", 1);
        assert_eq!(fingerprint(&token), fingerprint(&respelt));
        assert_ne!(fingerprint(&token), fingerprint(&Claims::stop("b").sign(&issuer, NOW).unwrap()));
    }

    #[test]
    fn times_are_checked() {
        let issuer = Issuer::generate();
        let expired = Claims { exp: NOW, ..Claims::stop("a") }.sign(&issuer, NOW - 10).unwrap();
        assert_eq!(Claims::verify(&expired, NOW), Err(ClaimsError::Expired));
        let early = Claims { nbf: NOW + 1, ..Claims::stop("a") }.sign(&issuer, NOW).unwrap();
        assert_eq!(Claims::verify(&early, NOW), Err(ClaimsError::NotYet));
    }

    #[test]
    fn garbage_is_refused_without_a_panic() {
        for token in ["", ".", "..", "a.b.c", "\u{0}.é.x", &"x.".repeat(9000)] {
            assert!(Claims::verify(token, NOW).is_err());
        }
    }
}
