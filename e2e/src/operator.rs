//! A nats-server in operator mode: an operator, one account with JetStream, and users of it.
//!
//! The keys outlive nothing: they are made for one server, in a folder that goes with [`Operator`].

use std::path::PathBuf;

use anyhow::Result;
use nex_identity::{Claims, Credentials, Issuer, Permissions, UserKey};
use nex_testkit::NatsServer;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

/// When everything was signed; long ago, and nothing expires.
const SIGNED: i64 = 1_700_000_000;

/// What a server's account is ruled with.
#[derive(Debug)]
pub struct Operator {
    /// The account's public key.
    pub account: String,
    /// A key that signs users of the account.
    pub signing: Issuer,
    folder: TempDir,
}

impl Operator {
    /// Starts a server.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start() -> Result<(NatsServer, Self)> {
        let folder = tempfile::tempdir()?;
        let operator = KeyPair::new_operator();
        let identity = Issuer::generate();
        let (signing, _) = Issuer::load_or_create(&folder.path().join("signing.nk"))?;
        let account = identity.public_key();
        let plain = ["subs", "data", "payload", "imports", "exports", "conn", "leaf"];
        let storing = ["mem_storage", "disk_storage", "streams", "consumer"];
        let unlimited = |limits: &[&str]| {
            let mut all: serde_json::Map<String, Value> =
                limits.iter().map(|limit| ((*limit).to_owned(), json!(-1))).collect();
            all.insert("wildcards".to_owned(), json!(true));
            all
        };
        let operator_jwt = token(&operator, &operator.public_key(), json!({"type": "operator"}))?;
        let account_jwt = token(
            &operator,
            &account,
            json!({
                "type": "account",
                "limits": unlimited(&[&plain[..], &storing[..]].concat()),
                "signing_keys": [signing.public_key()],
            }),
        )?;
        // JetStream needs the server's own account beside it.
        let system = Issuer::generate().public_key();
        let system_jwt = token(&operator, &system, json!({"type": "account", "limits": unlimited(&plain)}))?;
        let config = format!(
            "operator: {operator_jwt}\nsystem_account: {system}\nresolver: MEMORY\n\
             resolver_preload: {{ {account}: {account_jwt}, {system}: {system_jwt} }}"
        );
        let server = NatsServer::builder().config(&config).start().await?;
        Ok((server, Self { account, signing, folder }))
    }

    /// File with the signing key's seed.
    pub fn signing_file(&self) -> PathBuf {
        self.folder.path().join("signing.nk")
    }

    /// A user who may do everything.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn administrator(&self) -> Result<Credentials> {
        let all = Permissions { publish: vec![">".to_owned()], subscribe: vec![">".to_owned()] };
        Ok(UserKey::generate().user("administrator", &self.signing, Some(&self.account), &all, SIGNED, 0)?)
    }

    /// A credentials file of this user.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn creds_file(&self, name: &str, user: &Credentials) -> Result<PathBuf> {
        let path = self.folder.path().join(format!("{name}.creds"));
        let (jwt, seed) = (&user.jwt, user.seed.as_str());
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

/// A JWT about `subject`.
fn token(signer: &KeyPair, subject: &str, data: Value) -> Result<String> {
    let nats = data.as_object().cloned().unwrap_or_default();
    let claims = Claims { sub: subject.to_owned(), name: "test".to_owned(), nats, ..Claims::default() };
    Ok(claims.sign_by(signer, SIGNED)?)
}
