//! A real node: `nex node up` in no-sandbox mode, with a generated configuration, on a state folder.
//!
//! The guard knows its node among several on one server by the node's name: each is given its own, as the tag
//! `node_name`, unless the test gives one.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use nex_protocol::control::ping::{PingResponse, tag};
use nex_protocol::{envelope, subject};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Binaries, Log, NatsServer, Process, binaries};

/// How long a node may take to answer its first ping, or to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one ping waits for answers, and how long until the next when nobody listens yet.
const PING: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(20);

static NODES: AtomicU32 = AtomicU32::new(1);

/// What a node is started with; see [`NexNode::builder`].
#[derive(Debug)]
pub struct NexNodeBuilder {
    url: String,
    client: async_nats::Client,
    account: Option<(String, String)>,
    config: Value,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    state: Option<PathBuf>,
    sandboxed: bool,
}

impl NexNodeBuilder {
    /// Merges these keys into the generated configuration file; objects are merged, everything else is replaced.
    #[must_use]
    pub fn config(mut self, overrides: Value) -> Self {
        merge(&mut self.config, overrides);
        self
    }

    /// One more argument for `nex node up`.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// One more environment variable for the node.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Workloads live in a sandbox, which the configuration must describe.
    #[must_use]
    pub fn sandboxed(mut self) -> Self {
        self.sandboxed = true;
        merge(&mut self.config, json!({"no_sandbox": false}));
        self
    }

    /// Uses this state folder, which outlives the guard, in place of one of its own.
    #[must_use]
    pub fn state_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state = Some(folder.into());
        self
    }

    /// Starts the node and does not wait for anything: for nodes that are meant to fail.
    pub async fn spawn(self) -> Result<NexNode> {
        let folder = tempfile::Builder::new().prefix("nex-node-").tempdir()?;
        let state = self.state.unwrap_or_else(|| folder.path().join("state"));
        let config = folder.path().join("node.json");
        std::fs::write(&config, serde_json::to_vec_pretty(&self.config)?)?;

        // Looked for only for its error: without the agent the node would fail in a way that is harder to read.
        Binaries::agent()?;
        let mut command = Command::new(Binaries::nex()?);
        command.args(["node", "up", "--config"]).arg(&config).arg("--state-dir").arg(&state);
        if !self.sandboxed {
            command.arg("--no-sandbox");
        }
        command.args(&self.arguments);
        // Nothing of the person who runs the tests: neither keys nor NATS contexts.
        binaries::forget_user(&mut command);
        command.env("HOME", folder.path()).env("NEX_HOME", folder.path().join("home")).env_remove("XDG_CONFIG_HOME");
        command.env("NATS_URL", &self.url);
        if let Some((user, password)) = &self.account {
            command.env("NATS_USER", user).env("NATS_PASSWORD", password);
        }
        command.envs(self.environment);

        let name = self.config.pointer("/tags/node_name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let process = Process::spawn(format!("node {name}"), command).await?;
        Ok(NexNode { process, client: self.client, name, id: None, state, folder })
    }

    /// Starts the node and waits until it answers.
    pub async fn start(self) -> Result<NexNode> {
        let mut node = self.spawn().await?;
        node.wait_ready().await?;
        Ok(node)
    }
}

/// A running node. Dropping it kills the node, and with it its agents.
#[derive(Debug)]
pub struct NexNode {
    // Fields are dropped in this order: the process is gone before its folder is.
    process: Process,
    client: async_nats::Client,
    name: String,
    id: Option<String>,
    state: PathBuf,
    folder: TempDir,
}

impl NexNode {
    /// A node on this server, ready to take work.
    pub async fn start(server: &NatsServer) -> Result<Self> {
        Self::builder(server).await?.start().await
    }

    /// A node with something said about it.
    pub async fn builder(server: &NatsServer) -> Result<NexNodeBuilder> {
        Ok(Self::builder_with(server, server.client().await?))
    }

    /// The same, on a server that lets nobody in without credentials: `client` has some, and the node is to be given
    /// some by argument or environment.
    pub fn builder_with(server: &NatsServer, client: async_nats::Client) -> NexNodeBuilder {
        let number = NODES.fetch_add(1, Ordering::Relaxed);
        NexNodeBuilder {
            url: server.url(),
            client,
            account: server.account().cloned(),
            config: json!({
                "no_sandbox": true,
                "workload_types": ["native", "v8", "wasm"],
                "machine_pool_size": 1,
                "tags": { "node_name": format!("test-{}-{number}", std::process::id()) },
            }),
            arguments: Vec::new(),
            environment: Vec::new(),
            state: None,
            sandboxed: false,
        }
    }

    /// Waits until the node answers a ping, and returns its id; an error when it ends, or takes too long.
    pub async fn wait_ready(&mut self) -> Result<String> {
        self.wait_ready_within(PATIENCE).await
    }

    /// The same, for nodes that have machines to boot first.
    pub async fn wait_ready_within(&mut self, patience: Duration) -> Result<String> {
        let answer = async {
            loop {
                if let Some(id) = self.ping().await? {
                    return anyhow::Ok(id);
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let id = tokio::select! {
            answer = tokio::time::timeout(patience, answer) => answer
                .with_context(|| format!("no answer from {} within {patience:?}:{}", self.name, self.log().tail(40)))??,
            status = self.process.wait() => {
                bail!("{} ended at its start ({}):{}", self.name, status?, self.log().tail(40))
            }
        };
        self.id = Some(id.clone());
        Ok(id)
    }

    /// Its id among the answers to one ping of all nodes.
    async fn ping(&self) -> Result<Option<String>> {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await?;
        self.client.publish_with_reply(subject::PING, inbox, Vec::new().into()).await?;
        // A server that knows of no node says so at once, by an answer that is none.
        while let Ok(Some(answer)) = tokio::time::timeout(PING, answers.next()).await {
            let Ok(answer) = envelope::open::<PingResponse>(envelope::kind::PING, &answer.payload) else { break };
            if answer.tag_is(tag::NODE_NAME, &self.name) {
                return Ok(Some(answer.node_id));
            }
        }
        Ok(None)
    }

    /// Its id, once it was ready.
    pub fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    /// Its name: the tag `node_name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its state folder.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// A folder for the test's own files, gone with the node.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has printed.
    pub fn log(&self) -> &Log {
        self.process.log()
    }

    /// The process itself, to signal or to wait for.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// SIGTERM, and its exit status; an error when it does not end.
    pub async fn terminate(&self) -> Result<ExitStatus> {
        self.process.terminate(PATIENCE).await
    }

    /// SIGKILL, and its exit status.
    pub async fn kill(&self) -> Result<ExitStatus> {
        self.process.kill().await
    }
}

/// Lays `over` on `base`: key by key where both are objects.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_are_laid_on_key_by_key() {
        let mut config = json!({"tags": {"a": "1"}, "list": [1, 2], "kept": true});
        merge(&mut config, json!({"tags": {"b": "2"}, "list": [3], "new": {"deep": 1}}));
        assert_eq!(config, json!({"tags": {"a": "1", "b": "2"}, "list": [3], "kept": true, "new": {"deep": 1}}));
    }
}
