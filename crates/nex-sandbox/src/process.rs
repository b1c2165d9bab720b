//! The `process` sandbox: the agent is a child process of the node. Named `no_sandbox` in the configuration, for it
//! does not isolate a workload from the machine.
//!
//! What it does give: a cleared environment, a folder of its own (mode 0700) that is removed with it, a process group
//! of its own (a Ctrl-C at the node's terminal does not reach it), and a private socket, the agent's standard input,
//! as its only link. An agent whose link closes ends its workload and itself, so nothing outlives a killed node.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nex_link::over_socket;
use nex_protocol::link::VERSION;
use nex_protocol::link::frame::MAX_LINK_FRAME;
use nex_protocol::link::message::{Prestart, Welcome};
use rustix::process::{Pid, Signal, getpgid, kill_process_group};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStderr, Command};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::agent::{millis, new_id, shake_hands};
use crate::cgroup::{Cgroups, Resources};
use crate::child::WatchedChild;
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
    /// Time a workload has to start, as agents are told.
    pub start_timeout: Duration,
    /// Whether agents start Deno while they wait.
    pub prestart: Option<Prestart>,
    /// Time an agent has for the handshake.
    pub handshake_timeout: Duration,
    /// Filter of the agents' own log, as `NEX_AGENT_LOG` takes it.
    pub log_filter: String,
    /// Control groups, where they can be made.
    pub cgroups: Option<Arc<Cgroups>>,
}

/// Starts agents as child processes.
#[derive(Debug)]
pub struct ProcessSandbox {
    settings: ProcessSettings,
}

impl ProcessSandbox {
    /// Makes the folders, and removes what agents of a node that died have left in them. What cannot be removed (an
    /// agent that is still dying writes there) is left aside and does not keep a node from starting.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn new(settings: ProcessSettings) -> std::io::Result<Self> {
        let aside = settings.agents_dir.with_extension("old");
        remove_tree(&aside);
        if std::fs::rename(&settings.agents_dir, &aside).is_ok() {
            remove_tree(&aside);
        }
        make_dir(&settings.agents_dir)?;
        make_dir(&settings.compiled_dir)?;
        Ok(Self { settings })
    }
}

/// Removes a folder of an agent as far as that is possible: a workload may have taken away its own permissions.
pub(crate) fn remove_tree(path: &Path) {
    if std::fs::remove_dir_all(path).is_ok() {
        return;
    }
    // Permissions are no obstacle to root, who must not change any where somebody else can put links.
    if !rustix::process::geteuid().is_root() {
        open_up(path);
    }
    if let Err(error) = std::fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        warn!(path = %path.display(), %error, "cannot remove what an agent has left");
    }
}

/// Gives the owner back his permissions on every folder below. Links are not followed.
fn open_up(path: &Path) {
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        return;
    }
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        open_up(&entry.path());
    }
}

pub(crate) fn make_dir(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Sandbox for ProcessSandbox {
    async fn prepare(&self) -> Result<Agent, PrepareError> {
        let system = |what: String| move |source| PrepareError::System { what, source };
        let settings = &self.settings;
        let id = new_id();
        let work_dir = settings.agents_dir.join(&id);
        make_dir(&work_dir).map_err(system(format!("cannot make {}", work_dir.display())))?;
        let mut place = ProcessPlace::new(id.clone(), work_dir.clone(), settings.cgroups.clone());

        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(system("cannot make a socket".into()))?;
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
        place.agent.watch(child, lost.clone());

        let (sender, mut receiver, _) =
            over_socket(ours, MAX_LINK_FRAME).map_err(system("cannot use a socket".into()))?;
        let welcome = Welcome {
            version: VERSION,
            agent_id: id.clone(),
            work_dir,
            compiled_dir: Some(settings.compiled_dir.clone()),
            deno: settings.deno.clone(),
            start_timeout_ms: millis(settings.start_timeout),
            prestart: settings.prestart,
            direct: true,
        };
        match shake_hands(&sender, &mut receiver, welcome, settings.handshake_timeout).await {
            Ok(()) => Ok(Agent { id, sender, receiver, lost, place: Box::new(place), shares_files: true }),
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
    agent: WatchedChild,
    workload: Option<Pid>,
}

impl ProcessPlace {
    fn new(id: String, work_dir: PathBuf, cgroups: Option<Arc<Cgroups>>) -> Self {
        Self { work_dir, agent: WatchedChild::new(id, cgroups), workload: None }
    }

    /// The process group with this leader, if it is one that the agent started. The number comes from the agent, and
    /// must not make us kill somebody else: 1 would stand for every process there is.
    fn group_of_agent(&self, leader: u32) -> Option<Pid> {
        let pid = Pid::from_raw(i32::try_from(leader).ok()?).filter(|_| leader > 1)?;
        let leads = getpgid(Some(pid)).is_ok_and(|group| group == pid);
        let stat = std::fs::read_to_string(format!("/proc/{leader}/stat")).ok()?;
        let parent: i32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        (leads && Some(parent) == self.agent.pid().map(|agent| agent.as_raw_nonzero().get())).then_some(pid)
    }

    /// Kills what is left.
    fn kill(&mut self) {
        for group in [self.agent.take(), self.workload.take()].into_iter().flatten() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Place for ProcessPlace {
    fn note_process_group(&mut self, leader: Option<u32>) {
        self.workload = leader.and_then(|leader| self.group_of_agent(leader));
    }

    fn folder(&self) -> Option<&Path> {
        Some(&self.work_dir)
    }

    fn bound(&mut self, resources: &Resources) -> std::io::Result<()> {
        self.agent.bound(resources)
    }

    fn ran_out_of_memory(&self) -> bool {
        self.agent.ran_out_of_memory()
    }

    fn destroy(mut self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            // The link is closed by now or closes with this; an agent that behaves ends its workload in order.
            self.agent.ends_within(END_GRACE).await;
            self.kill();
            self.agent.reaped().await;
        })
    }
}

impl Drop for ProcessPlace {
    fn drop(&mut self) {
        self.kill();
        remove_tree(&self.work_dir);
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
            start_timeout: Duration::from_secs(40),
            prestart: None,
            handshake_timeout: Duration::from_millis(handshake),
            log_filter: "warn".into(),
            cgroups: None,
        })
        .unwrap()
    }

    #[test]
    fn a_folder_whose_owner_took_away_his_permissions_is_removed_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("agents/a/locked");
        std::fs::create_dir_all(inner.join("deep")).unwrap();
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o000)).unwrap();
        sandbox("/bin/true", dir.path(), 500);
        assert_eq!(std::fs::read_dir(dir.path().join("agents")).unwrap().count(), 0);
        assert!(!dir.path().join("agents.old").exists());
    }

    #[tokio::test]
    async fn a_process_group_that_is_not_the_agents_is_never_noted() {
        let mut place = ProcessPlace::new("id".into(), tempfile::tempdir().unwrap().keep(), None);
        place.agent.pretend(Pid::from_raw(std::process::id().cast_signed()));
        // Its child, but of our own group; everybody; nobody; init.
        let mut child = std::process::Command::new("/bin/sleep").arg("100").spawn().unwrap();
        for number in [child.id(), 0, 1, u32::MAX, u32::MAX - 1] {
            place.note_process_group(Some(number));
            assert_eq!(place.workload, None, "{number}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // Not to be killed by the test's own guard.
        place.agent.pretend(None);
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
