//! The story: a server, a node, workloads of every kind, a request to each, and an orderly end.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nex_testkit::{Binaries, Examples, NatsServer, Process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::requests::request;
use crate::shell::Shell;

/// How long the node may take to appear, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What each workload is deployed from, on which trigger, and how it answers which payload.
const FUNCTIONS: [(&str, &str, &str, &str); 3] = [
    ("echofunction.js", "js.echo", "heya", "heya"),
    ("echofunction.ts", "ts.echo", "heya", "heya"),
    ("echofunction.wasm", "wasm.echo", "hello", "hellowasm.echo"),
];

/// The running parts. Whatever is still running when it is dropped is killed.
#[derive(Debug)]
pub(crate) struct Walkthrough {
    shell: Shell,
    examples: Examples,
    node: Option<Process>,
    server: Option<NatsServer>,
    // Last, so that it is removed when nothing uses it any more.
    folder: TempDir,
}

/// A workload that was accepted.
#[derive(Debug)]
struct Deployed {
    node: String,
    workload: String,
}

impl Walkthrough {
    /// Nothing is started yet.
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("nex-demo-").tempdir()?;
        let home = folder.path().join("home");
        fs::create_dir(&home)?;
        Binaries::agent()?;
        let shell = Shell::new(Binaries::nex()?, nex_testkit::workspace_root(), &home);
        Ok(Self { shell, examples: nex_testkit::examples()?, node: None, server: None, folder })
    }

    /// All that the demo writes is in here.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Tells the story, up to where everything is stopped again.
    pub(crate) async fn run(&mut self) -> Result<()> {
        chapter("A NATS server with JetStream");
        let server = NatsServer::start().await?;
        println!("\nlistening on {}", server.url());
        let (url, client) = (server.url(), server.client().await?);
        self.server = Some(server);
        self.shell.export("NATS_URL", &url);

        chapter("A node");
        self.start_node().await?;
        let node = self.wait_for_node().await?;
        self.shell.nex(&["node", "ls"]).await?;

        chapter("A service");
        let mut deployed = Vec::new();
        let service = self.path(&self.examples.echo_service()?);
        deployed.push(self.devrun(&[&service, &format!("NATS_URL={url}")]).await?);
        request(&client, "svc.echo", "hey", "hey").await?;
        request_discovery(&client).await?;

        chapter("Functions");
        for (file, subject, payload, expected) in FUNCTIONS {
            let file = self.path(&self.examples.folder().join(file));
            deployed.push(self.devrun(&[&file, &format!("--trigger_subject={subject}")]).await?);
            request(&client, subject, payload, expected).await?;
        }

        chapter("What runs where");
        self.shell.nex(&["node", "ls"]).await?;
        let info = self.shell.nex(&["node", "info", &node]).await?;
        for Deployed { workload, .. } in &deployed {
            if !info.contains(workload.as_str()) {
                bail!("`nex node info` does not show workload {workload}");
            }
        }

        chapter("The end");
        for Deployed { node, workload } in &deployed {
            self.shell.nex(&["stop", node, workload]).await?;
        }
        for (_, subject, ..) in FUNCTIONS {
            if client.request(subject.to_owned(), "gone?".into()).await.is_ok() {
                bail!("{subject} still answers after its function was stopped");
            }
        }
        Ok(())
    }

    /// Stops what is running, in order, and removes the folder.
    pub(crate) async fn end(mut self) -> Result<()> {
        let node = self.end_node().await;
        let server = match &mut self.server {
            Some(server) => server.stop().await,
            None => Ok(()),
        };
        node?;
        server?;
        self.folder.close().context("cannot remove the demo's folder")
    }

    /// Shows what node and server had to say, for whoever looks into a failure.
    pub(crate) fn show_logs(&self) {
        if let Some(log) = self.server.as_ref().and_then(NatsServer::log) {
            eprintln!("\nthe end of the server's log:{}", log.tail(15));
        }
        if let Some(node) = &self.node {
            eprintln!("\nthe end of the node's log:{}", node.log().tail(60));
        }
    }

    async fn start_node(&mut self) -> Result<()> {
        let config = self.folder.path().join("node.json");
        let text = json!({
            "no_sandbox": true,
            "workload_types": ["native", "v8", "wasm"],
            "tags": { "node_name": "demo" },
        });
        fs::write(&config, format!("{text:#}\n"))?;
        println!("\n$ cat {}\n{text:#}\n", config.display());

        let state = self.folder.path().join("state");
        let mut command = self.shell.command();
        command.args(["node", "up", "--no-sandbox", "--config"]).arg(&config).arg("--state-dir").arg(&state);
        println!("$ nex node up --no-sandbox --config {} --state-dir {} &", config.display(), state.display());
        self.node = Some(Process::spawn("nex node up", command).await?);
        Ok(())
    }

    /// The id of the node, once `nex node ls` shows it.
    async fn wait_for_node(&self) -> Result<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(node) = self.node.as_ref().filter(|node| !node.is_running()) {
                bail!("the node ended at its start ({})", node.wait().await?);
            }
            // As long as no node answers the command fails, as it should.
            match self.shell.quietly(&["node", "ls", "--json"]).await {
                Ok(nodes) => {
                    let nodes: Value = serde_json::from_str(&nodes).context("`nex node ls --json` printed no JSON")?;
                    if let Some(id) = find_node_id(&nodes) {
                        return Ok(id.to_owned());
                    }
                }
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => {}
            }
            if Instant::now() > end {
                bail!("`nex node ls` did not show the node within {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn devrun(&self, arguments: &[&str]) -> Result<Deployed> {
        let arguments: Vec<&str> = std::iter::once("devrun").chain(arguments.iter().copied()).collect();
        let output = self.shell.nex(&arguments).await?;
        let word_after = |marker: &str| {
            let (_, rest) = output.split_once(marker)?;
            rest.split_whitespace().next().map(|word| word.trim_end_matches('.').to_owned())
        };
        word_after("with ID: ")
            .zip(word_after(" on node "))
            .map(|(workload, node)| Deployed { node, workload })
            .context("`nex devrun` did not tell the workload's id and node")
    }

    async fn end_node(&mut self) -> Result<()> {
        let Some(node) = self.node.take() else { return Ok(()) };
        println!("\n$ kill %1   # SIGTERM to the node");
        let status = node.terminate(PATIENCE).await?;
        if !status.success() {
            bail!("the node ended with {status}:{}", node.log().tail(40));
        }
        println!("the node ended with exit status 0");
        Ok(())
    }

    /// A path as one would type it in the project's root.
    fn path(&self, path: &Path) -> String {
        let root = nex_testkit::workspace_root();
        path.strip_prefix(&root).unwrap_or(path).display().to_string()
    }
}

fn chapter(title: &str) {
    println!("\n\n## {title}");
}

/// Finds the service as `nats micro ls` does: by asking all services who they are.
async fn request_discovery(client: &async_nats::Client) -> Result<()> {
    println!("\n$ nats micro ls");
    let reply = client.request("$SRV.PING.EchoService", "".into()).await.context("EchoService cannot be discovered")?;
    let service: Value = serde_json::from_slice(&reply.payload)?;
    let text = |key: &str| service.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    println!("{}  {}  {}", text("name"), text("version"), text("id"));
    Ok(())
}

/// The first public key of a node (`N…`, 56 letters and digits) in a list of nodes.
fn find_node_id(nodes: &Value) -> Option<&str> {
    match nodes {
        Value::String(text) => (text.len() == 56 && text.starts_with('N')).then_some(text),
        Value::Array(values) => values.iter().find_map(find_node_id),
        Value::Object(fields) => fields.values().find_map(find_node_id),
        _ => None,
    }
}
