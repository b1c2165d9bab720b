//! Where calls are measured: a server, a node with workloads on it, and the bare responder beside them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use nex_client::Deployment;
use nex_e2e::{PATIENCE, World, body};
use nex_protocol::control::deploy::RunResponse;
use nex_testkit::Process;
use serde_json::{Value, json};

use crate::responder;
use crate::workloads::Kind;

/// The configuration of every node that is measured, with some more of it.
pub(crate) fn config(more: &[(&str, Value)]) -> Value {
    let mut config = json!({});
    if let Some(config) = config.as_object_mut() {
        config.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    }
    config
}

/// A world with a responder.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Kept for as long as it is asked.
    pub(crate) responder: Process,
    /// The client that calls.
    pub(crate) client: async_nats::Client,
    pub(crate) world: World,
}

impl Stage {
    /// One with nothing on it.
    pub(crate) async fn empty() -> Result<Self> {
        let world = World::with(config(&[])).await?;
        let responder = responder::start(world.server.url()).await?;
        let client = world.server.client().await?;
        Ok(Self { responder, client, world })
    }

    /// One with a workload of each kind, which has answered.
    pub(crate) async fn full() -> Result<Self> {
        let stage = Self::empty().await?;
        for kind in Kind::ALL {
            let deployment = describe(&stage.world, kind, kind.word(), &kind.subject(), &kind.artifact()?).await?;
            stage.world.send(&deployment).await?;
            stage.first_reply(kind, &kind.subject()).await?;
        }
        Ok(stage)
    }

    /// Asks until somebody answers.
    async fn first_reply(&self, kind: Kind, subject: &str) -> Result<()> {
        first_reply(&self.client, kind, subject).await
    }
}

/// Uploads an artifact and describes a workload of it.
pub(crate) async fn describe(
    world: &World,
    kind: Kind,
    name: &str,
    subject: &str,
    artifact: &[u8],
) -> Result<Deployment> {
    let sha256 = world.put(name, artifact).await?;
    describe_stored(world, kind, name, name, subject, &sha256)
}

/// Describes a workload of an artifact that was uploaded before.
pub(crate) fn describe_stored(
    world: &World,
    kind: Kind,
    key: &str,
    name: &str,
    subject: &str,
    sha256: &str,
) -> Result<Deployment> {
    let mut deployment = world.deployment(key, kind.workload_type(), sha256)?;
    deployment.name = name.parse()?;
    match kind {
        Kind::Service => {
            deployment.environment.set("NATS_URL", world.server.url());
            deployment.essential = true;
        }
        _ => deployment.trigger_subjects = vec![subject.parse()?],
    }
    Ok(deployment)
}

/// One request, and a reply that is right.
pub(crate) async fn call(client: &async_nats::Client, kind: Kind, subject: &str, payload: Bytes) -> Result<()> {
    let reply = client.request(subject.to_owned(), payload.clone()).await?;
    let reply = body(&reply)?;
    ensure!(kind.is_reply(&payload, reply), "{} gave a wrong reply of {} bytes", kind.label(), reply.len());
    Ok(())
}

/// Asks until somebody answers.
pub(crate) async fn first_reply(client: &async_nats::Client, kind: Kind, subject: &str) -> Result<()> {
    let asked = async {
        while call(client, kind, subject, Bytes::from_static(b"first")).await.is_err() {
            // Nobody listens yet, which the server says at once.
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.with_context(|| format!("no reply from {}", kind.label()))
}

/// Deploys what is described; the node's key is known to whoever deploys often.
pub(crate) async fn deploy(world: &World, deployment: &Deployment, xkey: &str) -> Result<RunResponse> {
    let (namespace, node) = (world.client.namespace(), world.node.id());
    let request = deployment.request(&world.issuer, &world.publisher, namespace, node, xkey)?;
    Ok(world.client.deploy(&request, node).await?)
}
