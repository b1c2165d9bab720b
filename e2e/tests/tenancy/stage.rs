//! The ground for a scene: a server with one of the documented configurations, a node, the operator and two tenants.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use async_nats::ConnectOptions;
use async_nats::jetstream::{self, object_store};
use nex_client::{Artifact, Bucket};
use nex_e2e::PATIENCE;
use nex_identity::Credentials;
use nex_protocol::control::deploy::NatsConnection;
use nex_testkit::{NatsServer, NexNode, workspace_root};
use serde_json::json;
use tempfile::TempDir;

use crate::nsc::Made;
use crate::party::{Party, Refusal};

/// How the server tells tenants apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `users.conf`.
    Users,
    /// `accounts.conf`.
    Accounts,
    /// `operator.conf` and `operator.sh`.
    Operator,
}

/// Everything a scene needs.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) layout: Layout,
    /// Dropped before its server.
    pub(crate) node: NexNode,
    pub(crate) admin: Party,
    pub(crate) shop: Party,
    pub(crate) lab: Party,
    users: Users,
    /// Users of accounts that have imports without a right to them.
    pub(crate) thieves: Vec<Credentials>,
    pub(crate) server: NatsServer,
}

/// How users prove who they are.
#[derive(Debug)]
struct Users {
    layout: Layout,
    url: String,
    made: BTreeMap<String, Credentials>,
    folder: TempDir,
}

impl Users {
    async fn connect(&self, user: &str, namespace: &str, node: &str) -> Result<Party> {
        let options = if self.layout == Layout::Operator {
            with_credentials(&self.made[user])?
        } else {
            ConnectOptions::with_user_and_password(user.to_owned(), password(user))
        };
        Party::connect(&self.url, options, namespace, node).await
    }

    /// The user's credentials file.
    fn creds(&self, user: &str) -> PathBuf {
        self.folder.path().join(format!("{user}.creds"))
    }

    /// What a deploy of the function says about its connection.
    fn for_functions(&self, user: &str) -> Result<NatsConnection> {
        if self.layout == Layout::Operator {
            let Credentials { jwt, seed } = &self.made[user];
            return Ok(NatsConnection {
                nats_url: self.url.clone(),
                nats_user_jwt: jwt.clone(),
                nats_user_seed: seed.to_string(),
            });
        }
        let nats_url = self.url.replace("nats://", &format!("nats://{user}:{}@", password(user)));
        Ok(NatsConnection { nats_url, ..NatsConnection::default() })
    }

    async fn node(&self, server: &NatsServer, admin: &Party) -> Result<NexNode> {
        let mut node = NexNode::builder_with(server, admin.nats.clone()).env("NATS_INBOX_PREFIX", "_INBOX.node");
        if self.layout == Layout::Operator {
            for user in ["node", "shop"] {
                let Credentials { jwt, seed } = &self.made[user];
                let text = format!(
                    "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
                     -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
                    seed.as_str()
                );
                std::fs::write(self.creds(user), text)?;
            }
            node = node.env("NATS_CREDS", self.creds("node").display().to_string());
        } else {
            node = node.env("NATS_USER", "node").env("NATS_PASSWORD", password("node"));
        }
        node.config(json!({"artifact_buckets": ["${namespace}", "common"]})).start().await
    }
}

/// Connects as a user of operator mode.
pub(crate) fn with_credentials(user: &Credentials) -> Result<ConnectOptions> {
    let key = Arc::new(nkeys::KeyPair::from_seed(&user.seed)?);
    Ok(ConnectOptions::with_jwt(user.jwt.clone(), move |nonce| {
        let key = Arc::clone(&key);
        async move { key.sign(&nonce).map_err(async_nats::AuthError::new) }
    }))
}

/// A server configuration of the documents.
fn documented(file: &str) -> Result<String> {
    let path = workspace_root().join("docs/security").join(file);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The password that the documents give a user.
fn password(user: &str) -> String {
    format!("change-{user}")
}

impl Stage {
    pub(crate) async fn set(layout: Layout) -> Result<Self> {
        let mut made = Made::by_script()?;
        let mut thieves = vec![];
        let config = match layout {
            Layout::Users => documented("users.conf")?,
            Layout::Accounts => documented("accounts.conf")?,
            Layout::Operator => {
                thieves.push(made.add_thief("THIEF", "$NEX.INFO.lab.*", false)?);
                thieves.push(made.add_thief("FORGER", "$NEX.INFO.lab.*", true)?);
                made.fill_in(&documented("operator.conf")?)?
            }
        };
        let server = NatsServer::builder().config(&config).start().await?;
        let folder = tempfile::tempdir()?;
        let users = Users { layout, url: server.url(), made: made.users, folder };
        let mut admin = users.connect("admin", "admin", "").await?;
        let context = jetstream::new(admin.nats.clone());
        for bucket in ["shop", "lab", "common"] {
            let config = object_store::Config { bucket: bucket.to_owned(), ..object_store::Config::default() };
            context.create_object_store(config).await?;
        }
        let node = users.node(&server, &admin).await?;
        admin.node = node.id().to_owned();
        let mut shop = users.connect("shop", "shop", node.id()).await?;
        let mut lab = users.connect("lab", "lab", node.id()).await?;
        for (tenant, functions) in [(&mut shop, "shop-functions"), (&mut lab, "lab-functions")] {
            let own = Some(users.for_functions(functions)?);
            if layout == Layout::Users {
                // Host services are the node's: a tenant that reached JetStream would reach all of the account.
                tenant.triggers = own;
            } else {
                tenant.host_services = own;
                tenant.jsdomain = Some("nex");
            }
        }
        Ok(Self { layout, node, admin, shop, lab, users, thieves, server })
    }

    /// Another node beside the first.
    pub(crate) async fn another_node(&self) -> Result<NexNode> {
        self.users.node(&self.server, &self.admin).await
    }

    /// How a try is refused.
    pub(crate) fn refusal(&self) -> Refusal {
        match self.layout {
            Layout::Users => Refusal::Violation,
            Layout::Accounts | Layout::Operator => Refusal::NobodyThere,
        }
    }

    /// Prefixes of JetStream's API by which a tenant might reach what is not its own.
    pub(crate) fn jetstream(&self) -> &'static [&'static str] {
        match self.layout {
            Layout::Users => &["$JS.API"],
            Layout::Accounts | Layout::Operator => &["$JS.nex.API"],
        }
    }

    /// Waits until the node has ignored as many requests whose answers were to go where none may.
    pub(crate) async fn has_ignored(&self, count: usize) -> Result<()> {
        let mut ignored = 0;
        let all = self.node.log().find(|line| {
            ignored += usize::from(line.contains("nothing is answered there"));
            (ignored == count).then_some(())
        });
        tokio::time::timeout(PATIENCE, all).await?.context("the node ended")
    }

    /// The flags a tenant's people give `nex`.
    pub(crate) fn connection_flags(&self) -> Vec<String> {
        let flags: &[&str] = match self.layout {
            Layout::Users => &["--user", "shop", "--password", "change-shop", "--inbox-prefix", "_INBOX.shop"],
            Layout::Accounts => &["--user", "shop", "--password", "change-shop", "--jsdomain", "nex"],
            Layout::Operator => &["--creds", &self.users.creds("shop").display().to_string(), "--jsdomain", "nex"],
        };
        flags.iter().map(|flag| (*flag).to_owned()).collect()
    }

    /// The flags that give a function the tenant's connection.
    pub(crate) fn function_flags(&self) -> Vec<String> {
        let NatsConnection { nats_url, nats_user_jwt, nats_user_seed } =
            self.shop.triggers.clone().or(self.shop.host_services.clone()).unwrap_or_default();
        let flags = [("--hs_url", nats_url), ("--hs_jwt", nats_user_jwt), ("--hs_seed", nats_user_seed)];
        let given = flags.into_iter().filter(|(_, value)| !value.is_empty());
        given.flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    /// Puts an artifact into the bucket of all; gives its SHA-256.
    pub(crate) async fn put_in_common(&self, key: &str, bytes: &[u8]) -> Result<String> {
        upload(&self.node, &self.admin, "common", key, bytes).await
    }

    /// Puts an artifact into a tenant's bucket, as whoever may; gives its SHA-256.
    pub(crate) async fn put(&self, tenant: &Party, key: &str, bytes: &str) -> Result<String> {
        let uploader = match self.layout {
            Layout::Users => &self.admin,
            Layout::Accounts | Layout::Operator => tenant,
        };
        upload(&self.node, uploader, tenant.namespace().as_str(), key, bytes.as_bytes()).await
    }
}

async fn upload(node: &NexNode, uploader: &Party, bucket: &str, key: &str, bytes: &[u8]) -> Result<String> {
    let file = node.folder().join(key);
    std::fs::write(&file, bytes)?;
    let artifact = Artifact::of_file(&file)?;
    let bucket = Bucket::open(&uploader.nats, uploader.jsdomain, bucket).await?;
    bucket.upload(key, &file, &artifact, |_| {}).await?;
    Ok(artifact.sha256)
}
