//! Signed claims: NATS JWT v2, "generic" claims, as Go Nex 0.2.7 and 0.3.0-rc1 make and read them.
//!
//! ```text
//! base64url({"typ":"JWT","alg":"ed25519-nkey"}) . base64url(claims) . base64url(ed25519(header.claims))
//! ```
//! Claims are `jti iat iss sub exp nbf nats{…, version: 2}`. A deploy claim names the workload (as `sub`, or as
//! `nats.name` where `sub` is a request id) and the artifact (`nats.hash`). Reading checks the signature against the
//! claim's own issuer and the times; whether that issuer is trusted is the caller's business.

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
