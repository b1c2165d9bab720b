//! Finds what the demo started and nobody ended.
//!
//! The demo is the "subreaper" of its descendants: one whose parent dies becomes the demo's own child. So none can get
//! out of sight, and one look at the process table at the end tells the truth.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

/// How long descendants that are ending already may take.
const GRACE: Duration = Duration::from_secs(1);

/// Makes this process the parent of its orphaned descendants.
pub(crate) fn adopt_orphans() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("cannot watch over what is started")
}

/// Ends every descendant that is still there after a moment's grace, and returns their names.
pub(crate) async fn end_descendants() -> Result<Vec<String>> {
    let mut waited = Duration::ZERO;
    while waited < GRACE && !children()?.is_empty() {
        let step = Duration::from_millis(20);
        tokio::time::sleep(step).await;
        waited += step;
    }
    let mut ended = Vec::new();
    // Ending one makes its own children ours: so look again until there is none.
    loop {
        let left = children()?;
        if left.is_empty() {
            return Ok(ended);
        }
        for (pid, name) in left {
            // Our child, so its number is its own until we have waited for it.
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            rustix::process::pidfd_send_signal(&pidfd, Signal::KILL)?;
            rustix::process::waitpid(Some(pid), WaitOptions::empty())?;
            ended.push(format!("{name} ({})", pid.as_raw_nonzero()));
        }
    }
}

/// The living children of this process. Those that have ended are waited for on the way.
fn children() -> Result<Vec<(Pid, String)>> {
    let own = std::process::id().to_string();
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read the process table")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // `PID (NAME) STATE PARENT …`; a name may contain anything, so it is taken from the last parenthesis on.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        let mut fields = tail.split_whitespace();
        let (state, parent) = (fields.next(), fields.next());
        if parent != Some(own.as_str()) {
            continue;
        }
        if state == Some("Z") {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        } else {
            children.push((pid, head.split_once('(').map_or(head, |(_, name)| name).to_owned()));
        }
    }
    Ok(children)
}
