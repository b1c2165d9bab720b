//! NATS users, made for a workload: a key, and a JWT of an account that says what the user may do.
//!
//! ```text
//! claims: jti iat iss(account or its signing key) sub(user) name exp nats{pub sub resp subs data payload type version}
//! ```
//! The claims are those of NATS JWT v2 (type `user`), as nats-server reads them in operator mode. A user may do what is
//! listed and nothing else; answers to messages it received it may always send.

use nkeys::{KeyPair, KeyPairType};
use serde_json::json;
use zeroize::Zeroizing;

use crate::claims::{Claims, ClaimsError};
use crate::keys::Issuer;

/// Answers a user may send to one message it received.
const ANSWERS: u32 = 1024;

/// How long it may send them, nanoseconds.
const ANSWERING: u64 = 120_000_000_000;

/// What a user may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects it may publish to; wildcards allowed.
    pub publish: Vec<String>,
    /// Subjects it may subscribe to; wildcards allowed.
    pub subscribe: Vec<String>,
}

/// A key for a user that has no JWT yet.
pub struct UserKey(KeyPair);

impl std::fmt::Debug for UserKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("UserKey").field(&self.public_key()).finish()
    }
}

/// What a client connects with.
pub struct Credentials {
    /// The JWT.
    pub jwt: String,
    /// The seed of the user's key.
    pub seed: Zeroizing<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl UserKey {
    /// A new key.
    pub fn generate() -> Self {
        Self(KeyPair::new(KeyPairType::User))
    }

    /// The public key, `U…`.
    pub fn public_key(&self) -> String {
        self.0.public_key()
    }

    /// A user of an account. `signer` is the account's key, or a signing key of the account named. Times are seconds
    /// since 1970; an `expires` of 0 is never.
    ///
    /// # Errors
    /// [`ClaimsError::Sign`] when a key cannot sign or gives no seed.
    pub fn user(
        self,
        name: &str,
        signer: &Issuer,
        account: Option<&str>,
        permissions: &Permissions,
        now: i64,
        expires: i64,
    ) -> Result<Credentials, ClaimsError> {
        let mut claims = Claims { sub: self.public_key(), name: name.to_owned(), exp: expires, ..Claims::default() };
        let data = json!({
            "pub": { "allow": permissions.publish },
            "sub": { "allow": permissions.subscribe },
            "resp": { "max": ANSWERS, "ttl": ANSWERING },
            "subs": -1, "data": -1, "payload": -1,
            "type": "user",
        });
        claims.nats = data.as_object().cloned().unwrap_or_default();
        if let Some(account) = account.filter(|account| *account != signer.public_key()) {
            claims.nats.insert("issuer_account".to_owned(), account.into());
        }
        let jwt = claims.sign(signer, now)?;
        let seed = self.0.seed().map_err(|error| ClaimsError::Sign(error.to_string()))?;
        Ok(Credentials { jwt, seed: Zeroizing::new(seed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_720_000_000;

    #[test]
    fn a_user_is_signed_by_its_account_and_says_what_it_may_do() {
        let account = Issuer::generate();
        let key = UserKey::generate();
        let public = key.public_key();
        let permissions = Permissions { publish: vec!["a.>".into()], subscribe: vec!["b".into()] };
        let made = key.user("w", &account, None, &permissions, NOW, NOW + 60).unwrap();
        let read = Claims::verify(&made.jwt, NOW).unwrap();
        assert_eq!((read.iss, read.sub.as_str(), read.exp), (account.public_key(), public.as_str(), NOW + 60));
        assert_eq!(read.nats["type"], "user");
        assert_eq!(read.nats["version"], 2);
        assert_eq!((&read.nats["pub"]["allow"][0], &read.nats["sub"]["allow"][0]), (&json!("a.>"), &json!("b")));
        assert!(!read.nats.contains_key("issuer_account"));
        assert_eq!(KeyPair::from_seed(&made.seed).unwrap().public_key(), public);
        assert!(!format!("{made:?}").contains(made.seed.as_str()));
    }

    #[test]
    fn a_signing_key_names_the_account_it_signs_for() {
        let (account, signing) = (Issuer::generate().public_key(), Issuer::generate());
        let made = UserKey::generate().user("w", &signing, Some(&account), &Permissions::default(), NOW, 0).unwrap();
        let read = Claims::verify(&made.jwt, NOW).unwrap();
        assert_eq!(read.nats["issuer_account"], account.as_str());
        assert_eq!(read.exp, 0);
    }
}
