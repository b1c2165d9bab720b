//! Whole-system tests: a real nats-server, real nodes and agents, real engines. The tests are in `tests/`, a file a
//! subject; this is the ground they stand on.

pub mod groups;
pub mod machines;
mod metrics;
mod operator;
mod user;
mod web;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::{Message, Subscriber, jetstream};
use futures_util::StreamExt;
use nex_client::deployment::{Deployment, stop_request};
use nex_client::{Client, ClientError};
use nex_identity::{Issuer, XKeyPair};
use nex_protocol::control::deploy::RunResponse;
use nex_protocol::control::info::InfoResponse;
use nex_protocol::control::stop::StopResponse;
use nex_protocol::{Location, Namespace, WorkloadType};
use nex_testkit::{NatsServer, NexNode};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use metrics::{metrics_address, scrape};
pub use operator::Operator;
pub use user::User;
pub use web::web_server;

/// Bucket that test artifacts are put into.
pub const BUCKET: &str = "E2E";

/// Longest wait for something that should happen soon; generous, for machines are slow when many tests run.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A server, a node on it, and somebody who deploys.
#[derive(Debug)]
pub struct World {
    /// The node; dropped before its server.
    pub node: NexNode,
    /// The server.
    pub server: NatsServer,
    /// A client of it.
    pub nats: async_nats::Client,
    /// A client of the control interface, namespace `default`.
    pub client: Client,
    /// Time an answer may take.
    pub patience: Duration,
    /// Who deploys.
    pub issuer: Issuer,
    /// Who seals environments.
    pub publisher: XKeyPair,
}

impl World {
    /// A node with the default configuration of tests.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start() -> Result<Self> {
        Self::with(serde_json::json!({})).await
    }

    /// A node with these keys in its configuration.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn with(config: Value) -> Result<Self> {
        Self::on(NatsServer::start().await?, config).await
    }

    /// A node on a given server.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn on(server: NatsServer, config: Value) -> Result<Self> {
        let node = NexNode::builder(&server).await?.config(config).start().await?;
        let nats = server.client().await?;
        Ok(Self::of(server, node, nats))
    }

    /// A node on a server in operator mode, where it is one user of many.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn operated(server: NatsServer, operator: &Operator, config: Value) -> Result<Self> {
        let creds = operator.creds_file("node", &operator.administrator()?)?;
        let nats = async_nats::ConnectOptions::with_credentials_file(&creds).await?.connect(server.url()).await?;
        let builder = NexNode::builder_with(&server, nats.clone()).env("NATS_CREDS", creds.display().to_string());
        let node = builder.config(config).start().await?;
        Ok(Self::of(server, node, nats))
    }

    /// A world of parts.
    pub fn of(server: NatsServer, node: NexNode, nats: async_nats::Client) -> Self {
        let client = Client::new(nats.clone(), Namespace::default(), Duration::from_secs(10));
        Self {
            node,
            server,
            nats,
            client,
            patience: PATIENCE,
            issuer: Issuer::generate(),
            publisher: XKeyPair::generate(),
        }
    }

    /// Puts an artifact into the bucket; gives its SHA-256.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn put(&self, key: &str, artifact: &[u8]) -> Result<String> {
        let config = jetstream::object_store::Config { bucket: BUCKET.to_owned(), ..Default::default() };
        let jetstream = jetstream::new(self.nats.clone());
        let store = match jetstream.get_object_store(BUCKET).await {
            Ok(store) => store,
            Err(_) => jetstream.create_object_store(config).await?,
        };
        store.put(key, &mut &artifact[..]).await?;
        Ok(hex::encode(Sha256::digest(artifact)))
    }

    /// Describes a workload whose artifact is in the bucket under its name.
    ///
    /// # Errors
    /// When the name is none.
    pub fn deployment(&self, name: &str, kind: WorkloadType, sha256: &str) -> Result<Deployment> {
        Ok(Deployment::new(name.parse()?, kind, Location::new(BUCKET, name)?, sha256))
    }

    /// Sends a deployment to the node.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn send(&self, deployment: &Deployment) -> Result<RunResponse, ClientError> {
        let info = self.info().await?;
        let request = deployment.request(
            &self.issuer,
            &self.publisher,
            self.client.namespace(),
            self.node.id(),
            &info.public_xkey,
        )?;
        self.client.deploy(&request, self.node.id()).await
    }

    /// Uploads and deploys a function.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn function(&self, name: &str, kind: WorkloadType, source: &[u8], trigger: &str) -> Result<RunResponse> {
        let sha256 = self.put(name, source).await?;
        let mut deployment = self.deployment(name, kind, &sha256)?;
        deployment.trigger_subjects = vec![trigger.parse()?];
        Ok(self.send(&deployment).await?)
    }

    /// Uploads the system's shell and deploys it as a service that runs a script.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn shell_service(&self, name: &str, script: &str, essential: bool) -> Result<RunResponse> {
        let sha256 = self.put(name, &std::fs::read("/bin/sh")?).await?;
        let mut deployment = self.deployment(name, WorkloadType::Native, &sha256)?;
        deployment.argv = vec!["-c".to_owned(), script.to_owned()];
        deployment.essential = essential;
        Ok(self.send(&deployment).await?)
    }

    /// Stops a workload.
    ///
    /// # Errors
    /// The node's refusal.
    pub async fn stop(&self, workload: &RunResponse) -> Result<StopResponse, ClientError> {
        let request =
            stop_request(&self.issuer, self.client.namespace(), self.node.id(), &workload.id, &workload.name)?;
        self.client.stop(&request, self.node.id()).await
    }

    /// INFO of the node.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn info(&self) -> Result<InfoResponse, ClientError> {
        self.client.node_info(self.node.id()).await
    }

    /// A request to a function, or whoever listens.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn call(&self, subject: &str, payload: impl Into<Vec<u8>>) -> Result<Message> {
        let request = async_nats::Request::new().payload(payload.into().into()).timeout(Some(self.patience));
        Ok(self.nats.send_request(subject.to_owned(), request).await?)
    }

    /// Events from now on.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn events(&self) -> Result<Events> {
        Ok(Events { patience: self.patience, ..Events::subscribe(&self.nats).await? })
    }
}

/// The body of a successful reply.
///
/// # Errors
/// When the reply says that the call failed.
pub fn body(reply: &Message) -> Result<&[u8]> {
    match failure(reply) {
        Some((code, text)) => bail!("the call failed with {code}: {text}"),
        None => Ok(&reply.payload),
    }
}

/// Code and text of a failed call's reply.
pub fn failure(reply: &Message) -> Option<(u16, String)> {
    let headers = reply.headers.as_ref()?;
    let code = headers.get("Nats-Service-Error-Code")?.as_str().parse().ok()?;
    Some((code, headers.get("Nats-Service-Error")?.as_str().to_owned()))
}

/// The events of all nodes on a server.
#[derive(Debug)]
pub struct Events {
    events: Subscriber,
    patience: Duration,
}

impl Events {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn subscribe(nats: &async_nats::Client) -> Result<Self> {
        let events = nats.subscribe("$NEX.events.>").await?;
        round_trip(nats).await?;
        Ok(Self { events, patience: PATIENCE })
    }

    /// The data of the next event of this type.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn next(&mut self, kind: &str) -> Result<Value> {
        let mut event = self.next_of(&[kind]).await?;
        Ok(event.get_mut("data").map(Value::take).unwrap_or_default())
    }

    /// The next event of one of these types, whole.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn next_of(&mut self, kinds: &[&str]) -> Result<Value> {
        let wanted = async {
            loop {
                let event = self.events.next().await.context("the subscription ended")?;
                let event: Value = serde_json::from_slice(&event.payload)?;
                if event.get("type").and_then(Value::as_str).is_some_and(|kind| kinds.contains(&kind)) {
                    return Ok(event);
                }
            }
        };
        tokio::time::timeout(self.patience, wanted).await.with_context(|| format!("no event of {kinds:?} in time"))?
    }
}

/// Waits until the server has handled what a client sent before: a flush only writes.
///
/// # Errors
/// When the server does not answer.
pub async fn round_trip(nats: &async_nats::Client) -> Result<()> {
    let inbox = nats.new_inbox();
    let mut echo = nats.subscribe(inbox.clone()).await?;
    nats.publish(inbox, "".into()).await?;
    tokio::time::timeout(PATIENCE, echo.next()).await?.context("the connection ended")?;
    Ok(())
}

/// Seconds since 1970.
pub fn unix_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_secs().cast_signed()
}

/// Runs a check until it holds, or time is up: for what no event tells.
///
/// # Errors
/// When it does not hold in time.
pub async fn eventually<F: Future<Output = bool>>(what: &str, check: impl FnMut() -> F) -> Result<()> {
    eventually_within(PATIENCE, what, check).await
}

/// The same, where it takes longer.
///
/// # Errors
/// When it does not hold in time.
pub async fn eventually_within<F: Future<Output = bool>>(
    patience: Duration,
    what: &str,
    mut check: impl FnMut() -> F,
) -> Result<()> {
    let holds = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience, holds).await.with_context(|| format!("not in time: {what}"))
}

/// Whether a process of this id exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X'])))
}

/// All living processes below this one.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![];
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        // Children are listed by the thread that made them.
        for task in std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
                found.push(child);
                parents.push(child);
            }
        }
    }
    found
}
