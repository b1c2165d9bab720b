//! The last resort: when the node is gone, so is the workload, whatever state the agent is in.
//!
//! An OS thread of its own watches the link for a hang-up. The session sees the same and ends in good order; should it
//! not manage within [`PATIENCE`] (a stuck runtime, a full disk, a workload that ignores SIGTERM), the thread kills the
//! workload's process groups and the agent. It never touches the link's data and holds no lock while it waits.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};

/// Time the session has to end in good order after the link hung up.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Process groups that must not outlive the agent. A group is entered when its leader starts and struck out when the
/// leader is reaped, so an entry always means our own processes.
#[derive(Debug, Clone, Default)]
pub struct Groups(Arc<Mutex<BTreeSet<i32>>>);

impl Groups {
    pub(crate) fn enter(&self, leader: Pid) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(leader.as_raw_pid());
    }

    pub(crate) fn strike(&self, leader: Pid) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&leader.as_raw_pid());
    }

    /// Kills every group there is.
    fn kill(&self) {
        let leaders: Vec<i32> = self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        for leader in leaders.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Starts to watch the link.
///
/// # Errors
/// When no thread can be started.
pub fn watch(link: OwnedFd, groups: Groups) -> io::Result<()> {
    std::thread::Builder::new().name("guard".to_owned()).spawn(move || {
        wait_for_hang_up(&link);
        std::thread::sleep(PATIENCE);
        groups.kill();
        // Not `exit`: it runs handlers and could hang on the very thing the session hangs on.
        let _ = kill_process(getpid(), Signal::KILL);
    })?;
    Ok(())
}

fn wait_for_hang_up(link: &OwnedFd) {
    loop {
        let mut fds = [PollFd::new(link, PollFlags::RDHUP)];
        match poll(&mut fds, None) {
            // HUP and ERR are always reported; that anything is reported means the node is gone.
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_hang_up_and_the_end_of_what_the_node_says_are_both_noticed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        wait_for_hang_up(&ours.into());
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        wait_for_hang_up(&ours.into());
    }

    #[test]
    fn data_is_no_hang_up() {
        use std::io::Write;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"data").unwrap();
        let (said, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            wait_for_hang_up(&ours.into());
            said.send(()).unwrap();
        });
        assert!(heard.recv_timeout(Duration::from_millis(50)).is_err());
        drop(theirs);
        heard.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn groups_that_were_struck_out_are_not_killed() {
        use std::os::unix::process::CommandExt;
        let mut sleeper = std::process::Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let leader = Pid::from_raw(i32::try_from(sleeper.id()).unwrap()).unwrap();
        let groups = Groups::default();
        groups.enter(leader);
        groups.strike(leader);
        groups.kill();
        assert!(sleeper.try_wait().unwrap().is_none());
        groups.enter(leader);
        groups.kill();
        assert!(!sleeper.wait().unwrap().success());
    }
}
