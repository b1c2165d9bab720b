//! An agent without a node: this program starts it and speaks the link, as a node does.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use nex_link::{Receiver, Sender};
use nex_protocol::Environment;
use nex_protocol::link::VERSION;
use nex_protocol::link::frame::MAX_LINK_FRAME;
use nex_protocol::link::message::{Invoke, Limits, Start, ToAgent, ToNode, Welcome};
use nex_testkit::{Binaries, program};
use tokio::process::{Child, Command};

use crate::workloads::Kind;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a node gives its functions when nothing else is said.
const LIMITS: Limits = Limits { memory_bytes: 256 << 20, script_bytes: 1 << 20, reply_bytes: 1 << 20, concurrency: 32 };

/// An agent that runs a function.
#[derive(Debug)]
pub(crate) struct Agent {
    to: Sender<ToAgent>,
    from: Receiver<ToNode>,
    number: u64,
    // Fields are dropped in this order: the process is killed before its folder is removed.
    _process: Child,
    _folder: tempfile::TempDir,
}

impl Agent {
    /// Starts one, and a function in it.
    pub(crate) async fn start(kind: Kind) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("nex-bench-").tempdir()?;
        let artifact = folder.path().join("artifact");
        std::fs::write(&artifact, kind.artifact()?)?;
        std::fs::set_permissions(&artifact, std::fs::Permissions::from_mode(0o755))?;
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(Binaries::agent()?);
        command.stdin(Stdio::from(OwnedFd::from(theirs))).process_group(0).kill_on_drop(true);
        let process = command.spawn().context("the agent does not start")?;
        ours.set_nonblocking(true)?;
        let (to, from, _) = nex_link::over_socket(ours, MAX_LINK_FRAME)?;
        let mut agent = Self { to, from, number: 0, _process: process, _folder: folder };

        let ToNode::Hello(hello) = agent.receive().await? else { bail!("the agent does not say hello") };
        if hello.version != VERSION {
            bail!("the agent speaks version {} of the link: build everything anew", hello.version);
        }
        let work_dir = agent._folder.path().to_owned();
        let welcome = Welcome {
            version: VERSION,
            agent_id: "bench".to_owned(),
            work_dir,
            compiled_dir: None,
            deno: program("NEX_DENO", "deno"),
            prestart: None,
            direct: false,
            start_timeout_ms: 60_000,
        };
        agent.to.send(ToAgent::Welcome(welcome)).await?;
        let start = Start {
            name: kind.word().to_owned(),
            namespace: "bench".to_owned(),
            r#type: kind.workload_type(),
            argv: Vec::new(),
            environment: Environment::default(),
            artifact,
            sha256: "0".repeat(64),
            limits: LIMITS,
            require_static: false,
            host_services: false,
        };
        agent.to.send(ToAgent::Start(Box::new(start))).await?;
        loop {
            match agent.receive().await? {
                ToNode::Started { .. } => return Ok(agent),
                ToNode::Rejected(why) => bail!("the agent does not start the function: {}", why.message),
                _ => {}
            }
        }
    }

    async fn receive(&mut self) -> Result<ToNode> {
        let message = tokio::time::timeout(PATIENCE, self.from.receive()).await.context("the agent is silent")?;
        message?.context("the agent has ended")
    }

    /// Calls the function.
    pub(crate) async fn call(&mut self, kind: Kind, subject: &str, payload: &Bytes) -> Result<()> {
        self.number += 1;
        let invoke = Invoke { subject: subject.to_owned(), headers: Vec::new(), timeout_ms: 5000 };
        self.to.send(ToAgent::Invoke(self.number, invoke, payload.clone())).await?;
        loop {
            match self.receive().await? {
                ToNode::Outcome(number, _, outcome) if number == self.number => {
                    let (_, reply) =
                        outcome.map_err(|failure| anyhow::anyhow!("a call failed: {}", failure.message))?;
                    anyhow::ensure!(kind.is_reply(payload, &reply), "{} gave a wrong reply", kind.label());
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    /// Asks the agent itself, which answers at once: the least that a message there and one back can cost.
    pub(crate) async fn ping(&mut self) -> Result<()> {
        self.number += 1;
        self.to.send(ToAgent::Ping(self.number)).await?;
        while self.receive().await? != ToNode::Pong(self.number) {}
        Ok(())
    }
}
