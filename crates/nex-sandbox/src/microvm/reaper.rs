//! A process of its own that ends a node's machines when the node is killed.
//!
//! ```text
//! waiting for the end of a pipe that the node holds --the node ended, however--> monitors killed, their groups removed -> gone
//! ```
//! The kernel kills QEMU and an unjailed Firecracker with their node. A jailed one it does not: that order is forgotten when a
//! program becomes another user, and a guest that hangs does not notice that its link is closed. The reaper needs no timer and
//! heeds no signal that asks it to end, which a whole group of processes may get: the kernel closes the pipe of whoever ends.
//! It kills, and removes the control groups of what it killed, whose names nobody will have again; folders and networks are
//! left to the next start, which may be there already.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

use super::reclaim;

/// A reaper that waits. Dropping it tells it that the node has ended, and waits for it.
#[derive(Debug)]
pub struct Reaper {
    child: Child,
    alive: Option<ChildStdin>,
}

impl Reaper {
    /// Starts a command that is to call [`reap`].
    ///
    /// # Errors
    /// What the system says.
    pub fn start(mut command: Command) -> io::Result<Self> {
        // A group of its own: what a terminal tells the node, the node tells the reaper.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        Ok(Self { alive: child.stdin.take(), child })
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.alive = None;
        if let Err(error) = self.child.wait() {
            warn!(%error, "the process that watches over machines cannot be waited for");
        }
    }
}

/// Waits until nobody holds the other end of `node`, then kills the machines in this folder and removes their groups from
/// these.
pub fn reap(mut node: impl Read, machines: &Path, groups: &[PathBuf]) {
    let _deaf = deaf();
    let mut byte = [0];
    // Nothing is ever written; whatever it says, a read that ends for good is the end.
    while match node.read(&mut byte) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == io::ErrorKind::Interrupted,
    } {}
    reclaim::kill(machines, groups);
}

/// Takes the signals that ask a program to end, and does nothing about them.
fn deaf() -> Option<(tokio::runtime::Runtime, Vec<Signal>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().ok()?;
    let taken = {
        let _entered = runtime.enter();
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect()
    };
    Some((runtime, taken))
}
