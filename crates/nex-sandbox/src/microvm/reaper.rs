//! A process of its own that ends a node's machines when the node is killed.
//!
//! ```text
//! waiting for the end of a pipe that the node holds --the node ended, however--> monitors killed -> gone
//! ```
//! The kernel kills QEMU and an unjailed Firecracker with their node. A jailed one it does not: that order is forgotten when a
//! program becomes another user, and a guest that hangs does not notice that its link is closed. The reaper needs no signal
//! and no timer: the kernel closes the pipe of whoever ends. It only kills; folders and networks are left to the next start,
//! which may be there already.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

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

/// Waits until nobody holds the other end of `node`, then kills the machines in this folder.
pub fn reap(mut node: impl Read, machines: &Path) {
    let mut byte = [0];
    // Nothing is ever written; whatever it says, a read that ends for good is the end.
    while match node.read(&mut byte) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == io::ErrorKind::Interrupted,
    } {}
    reclaim::kill(machines);
}
