//! The `process` sandbox: the agent is a child process of the node. Named `no_sandbox` in the configuration, for it
//! does not isolate a workload from the machine.
//!
//! What it does give: a cleared environment, a folder of its own (mode 0700) that is removed with it, a process group
//! of its own (a Ctrl-C at the node's terminal does not reach it), and a private socket, the agent's standard input,
//! as its only link. An agent whose link closes ends its workload and itself, so nothing outlives a killed node.

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::time::Duration;

use nex_link::open;
use nex_protocol::link::VERSION;
use nex_protocol::link::frame::MAX_LINK_FRAME;
use nex_protocol::link::message::Welcome;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::agent::{new_id, shake_hands};
use crate::{Agent, Place, PrepareError, Sandbox};

/// Time an agent has to end by itself after its link was closed, before it is killed.
const END_GRACE: Duration = Duration::from_secs(3);

/// How agents are started.
#[derive(Debug, Clone)]
pub struct ProcessSettings {
    /// The `nex-agent` program.
    pub agent: PathBuf,
    /// Folder in which each agent gets one of its own.
    pub agents_dir: PathBuf,
    /// Folder for compiled artifacts.
    pub compiled_dir: PathBuf,
    /// Deno, when there is one.
    pub deno: Option<PathBuf>,
    /// Time an agent has for the handshake.
    pub handshake_timeout: Duration,
    /// Filter of the agents' own log, as `NEX_AGENT_LOG` takes it.
    pub log_filter: String,
}

/// Starts agents as child processes.
#[derive(Debug)]
pub struct ProcessSandbox {
    settings: ProcessSettings,
}

impl ProcessSandbox {
    /// Makes the folders, and removes what agents of a node that died have left in them.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn new(settings: ProcessSettings) -> std::io::Result<Self> {
        if settings.agents_dir.exists() {
            std::fs::remove_dir_all(&settings.agents_dir)?;
        }
        make_dir(&settings.agents_dir)?;
        make_dir(&settings.compiled_dir)?;
        Ok(Self { settings })
    }
}

fn make_dir(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Sandbox for ProcessSandbox {
    async fn prepare(&self) -> Result<Agent, PrepareError> {
        let system = |what: String| move |source| PrepareError::System { what, source };
        let settings = &self.settings;
        let id = new_id();
        let work_dir = settings.agents_dir.join(&id);
        make_dir(&work_dir).map_err(system(format!("cannot make {}", work_dir.display())))?;
        let mut place = ProcessPlace::new(work_dir.clone());

        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(system("cannot make a socket".into()))?;
        ours.set_nonblocking(true).map_err(system("cannot set up a socket".into()))?;
        let mut command = Command::new(&settings.agent);
        command
            .env_clear()
            .env("NEX_AGENT_LOG", &settings.log_filter)
            .current_dir(&work_dir)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child =
            command.spawn().map_err(system(format!("cannot start the agent {}", settings.agent.display())))?;
        // The command holds the agent's end of the socket: dropped, so that only the agent has it.
        drop(command);
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(forward_log(id.clone(), stderr));
        }
        let lost = CancellationToken::new();
        place.watch(child, lost.clone());

        let stream = UnixStream::from_std(ours).map_err(system("cannot use a socket".into()))?;
        let (read, write) = stream.into_split();
        let (sender, mut receiver) = open(read, write, MAX_LINK_FRAME);
        let welcome = Welcome {
            version: VERSION,
            agent_id: id.clone(),
            work_dir,
            compiled_dir: Some(settings.compiled_dir.clone()),
            deno: settings.deno.clone(),
        };
        match shake_hands(&sender, &mut receiver, welcome, settings.handshake_timeout).await {
            Ok(()) => Ok(Agent { id, sender, receiver, lost, place: Box::new(place) }),
            Err(error) => {
                drop((sender, receiver));
                Box::new(place).destroy().await;
                Err(error)
            }
        }
    }
}

/// The agent's own log, line by line, into the node's.
async fn forward_log(id: String, stderr: ChildStderr) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        info!(target: "nex_agent", agent = %id, "{line}");
    }
}

/// A child process, its workload's process group, and its folder.
struct ProcessPlace {
    work_dir: PathBuf,
    agent: Option<Pid>,
    workload: Option<Pid>,
    gone: CancellationToken,
    reaper: Option<JoinHandle<()>>,
}

impl ProcessPlace {
    fn new(work_dir: PathBuf) -> Self {
        Self { work_dir, agent: None, workload: None, gone: CancellationToken::new(), reaper: None }
    }

    /// Reaps the child and tells when it is gone.
    fn watch(&mut self, mut child: Child, lost: CancellationToken) {
        self.agent = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let gone = lost.clone();
        self.gone = lost;
        self.reaper = Some(tokio::spawn(async move {
            let status = child.wait().await;
            debug!(?status, "agent process ended");
            gone.cancel();
        }));
    }

    /// Kills what is left. The agent's id is used only while it is not reaped, so it cannot be somebody else's.
    fn kill(&mut self) {
        if let Some(agent) = self.agent.take().filter(|_| !self.gone.is_cancelled()) {
            let _ = kill_process_group(agent, Signal::KILL);
        }
        if let Some(group) = self.workload.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Place for ProcessPlace {
    fn note_process_group(&mut self, leader: Option<u32>) {
        self.workload = leader.and_then(|leader| Pid::from_raw(leader.cast_signed()));
    }

    fn destroy(mut self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            // The link is closed by now or closes with this; an agent that behaves ends its workload in order.
            if tokio::time::timeout(END_GRACE, self.gone.cancelled()).await.is_ok() {
                // It has ended its workload itself, unless it was killed.
                self.agent = None;
            }
            self.kill();
            if let Some(reaper) = self.reaper.take() {
                let _ = reaper.await;
            }
        })
    }
}

impl Drop for ProcessPlace {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.work_dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(agent: &str, dir: &Path, handshake: u64) -> ProcessSandbox {
        ProcessSandbox::new(ProcessSettings {
            agent: agent.into(),
            agents_dir: dir.join("agents"),
            compiled_dir: dir.join("compiled"),
            deno: None,
            handshake_timeout: Duration::from_millis(handshake),
            log_filter: "warn".into(),
        })
        .unwrap()
    }

    #[tokio::test]
    async fn a_missing_agent_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = sandbox("/nowhere/nex-agent", dir.path(), 500).prepare().await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/nex-agent"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_is_no_agent_is_killed_and_its_folder_removed() {
        let dir = tempfile::tempdir().unwrap();
        // Reads for ever and never greets; `cat` writes back nothing until it is sent something.
        let error = sandbox("/bin/cat", dir.path(), 50).prepare().await.unwrap_err();
        assert!(matches!(error, PrepareError::HandshakeTimeout(_)), "{error}");
        assert_eq!(std::fs::read_dir(dir.path().join("agents")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn an_agent_that_ends_at_once_is_reported_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let error = sandbox("/bin/true", dir.path(), 2000).prepare().await.unwrap_err();
        assert!(matches!(error, PrepareError::Ended(_)), "{error}");
    }
}
