//! A child process that cannot outlive the test that started it.
//!
//! One thread owns each child from its start to its end. That thread makes it, because the kernel's "kill me when my
//! parent dies" is about the parent's *thread*: a worker of an async runtime may go away at any time, this one goes
//! only after the child or with the whole test. It also is the only one to wait for the child, so that its process id
//! stays its own until then; signals go through a pidfd, which never means another process.
//!
//! The child gets a process group of its own: a Ctrl-C at the terminal reaches the test, which then ends its children
//! in the order that it wants.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{
    Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
};
use tokio::sync::{oneshot, watch};

use crate::Log;

/// How long the output may take to come to its end after the process has.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A running (or ended) child process with its captured output.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    pidfd: Arc<OwnedFd>,
    log: Log,
    exit: watch::Receiver<Option<ExitStatus>>,
    owner: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command`; its standard output and error go to [`Process::log`], its standard input is empty.
    pub async fn spawn(name: impl Into<String>, mut command: Command) -> Result<Self> {
        let name = name.into();
        let (output, input) = std::io::pipe()?;
        command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input).process_group(0);
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec the closure makes two system calls and touches no memory but its own copy of
        // `parent`; both calls are async-signal-safe, and nothing in it allocates or takes a lock.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may have died before the kernel was told to watch it.
                if getppid() == Some(parent) { Ok(()) } else { Err(std::io::ErrorKind::NotConnected.into()) }
            });
        }

        let (started, start) = oneshot::channel();
        let (ended, exit) = watch::channel(None);
        let owner = std::thread::Builder::new().name(name.clone()).spawn(move || own(command, started, &ended))?;
        let (pid, pidfd) = start.await.context("the thread that starts it ended")?.with_context(|| name.clone())?;
        Ok(Self { name, pid, pidfd: Arc::new(pidfd), log: Log::follow(output), exit, owner: Some(owner) })
    }

    /// The name given at the start, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id. After the end it may be another's: to signal, use [`Process::signal`].
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has printed.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The exit status, once it has ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// Sends a signal; to a process that has ended, none.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot signal {}", self.name)),
        }
    }

    /// Waits until it ends by itself, and until its last words are in the log. Put a timeout around it.
    pub async fn wait(&self) -> Result<ExitStatus> {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await.map(|status| *status);
        // Not for ever: a child of its own that lives on holds the output open.
        let _ = tokio::time::timeout(LAST_WORDS, self.log.closed()).await;
        status.ok().flatten().with_context(|| format!("lost sight of {}", self.name))
    }

    /// SIGTERM, and its exit status; an error (and SIGKILL) when it has not ended after `patience`.
    pub async fn terminate(&self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        match tokio::time::timeout(patience, self.wait()).await {
            Ok(status) => status,
            Err(_) => {
                self.kill().await?;
                bail!("{} did not end within {patience:?} of SIGTERM; it printed:{}", self.name, self.log.tail(40))
            }
        }
    }

    /// SIGKILL, and its exit status.
    pub async fn kill(&self) -> Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        self.wait().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.signal(Signal::KILL);
        if let Some(owner) = self.owner.take() {
            let _ = owner.join();
        }
    }
}

/// The life of the thread that owns one child.
fn own(
    mut command: Command,
    started: oneshot::Sender<Result<(u32, OwnedFd)>>,
    ended: &watch::Sender<Option<ExitStatus>>,
) {
    let child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()));
    // Closes this side's copies of the output pipe, without which its reader would never see the end.
    drop(command);
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return drop(started.send(Err(error))),
    };
    let pidfd = Pid::from_raw(child.id().cast_signed())
        .context("no process id")
        .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
    let handed_over = match pidfd {
        Ok(pidfd) => started.send(Ok((child.id(), pidfd))).is_ok(),
        Err(error) => {
            let _ = started.send(Err(error));
            false
        }
    };
    if !handed_over {
        // Nobody is left to hold the guard.
        let _ = child.kill();
    }
    let status = child.wait().ok();
    ended.send_replace(status);
}
