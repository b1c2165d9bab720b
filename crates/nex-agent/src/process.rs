//! Processes of a workload: each the leader of its own group, started so that it cannot outlive the agent.
//!
//! Owns: what every child is stripped of (privileges to gain, core dumps, the agent's environment), the wait for its
//! end, and the end of the whole group with it. States of a [`Group`]: running, then reaped; from then on no signal is
//! sent to it any more, for its id may be someone else's.
//!
//! Must be used on the main thread: the kernel ties a child to the *thread* that started it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};

use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getpid, getppid, kill_process_group, pidfd_open, setrlimit,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::guard::Groups;

/// A process and everything in its group.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    /// Readable when the leader has ended; lets us see that before reaping it.
    ended: AsyncFd<OwnedFd>,
    leader: Pid,
    status: Option<ExitStatus>,
    groups: Groups,
}

/// Starts a process as the leader of a new group. `data_bytes` bounds its private memory, where it is to be bounded.
///
/// # Errors
/// What the system said: the process does not run then.
pub(crate) fn spawn(mut command: Command, data_bytes: Option<u64>, groups: &Groups) -> io::Result<Group> {
    let agent = getpid();
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes plain system calls,
    // allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The agent may have died before that call; then nobody would send the signal any more.
            if getppid() != Some(agent) {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
            }
            rustix::thread::set_no_new_privs(true)?;
            setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
            if data_bytes.is_some() {
                setrlimit(Resource::Data, Rlimit { current: data_bytes, maximum: data_bytes })?;
            }
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    match follow(&child) {
        Ok((leader, ended)) => {
            groups.enter(leader);
            Ok(Group { child, ended, leader, status: None, groups: groups.clone() })
        }
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

fn follow(child: &Child) -> io::Result<(Pid, AsyncFd<OwnedFd>)> {
    let leader = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    let pidfd = pidfd_open(leader, PidfdFlags::empty())?;
    // SAFETY: the descriptor must stay open while it is registered. The `AsyncFd` owns it, nothing takes it out or
    // replaces it, and it is unregistered before it is closed.
    let ended = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE)? };
    Ok((leader, ended))
}

impl Group {
    /// Id of the group and of its leader.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The leader's standard output and error, where they are pipes and were not taken yet.
    pub(crate) fn take_output(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// Sends a signal to the whole group, unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill_process_group(self.leader, signal);
        }
    }

    /// Resolves when the leader has ended; what is left of its group is killed by then. Cancel-safe.
    pub(crate) async fn exited(&mut self) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        // An error would mean that the reactor is gone, and the agent with it.
        let _ = self.ended.readable().await;
        self.reap()
    }

    /// Kills what is left of the group, then reaps the leader: in this order, because its id is ours until it is reaped.
    fn reap(&mut self) -> ExitStatus {
        self.signal(Signal::KILL);
        // Dead already, or about to be: this does not block for longer than the kernel needs.
        let status = self.child.wait().unwrap_or_default();
        self.status = Some(status);
        self.groups.strike(self.leader);
        status
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.reap();
        }
    }
}

/// A command with nothing of the agent's own: no environment, no input, output into pipes.
pub(crate) fn bare(program: &std::path::Path, folder: &std::path::Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
