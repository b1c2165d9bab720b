//! A child process that a place consists of: bounded, watched, ended, reaped.
//!
//! States: started, gone (reaped by its watcher). Its id is used only while it is not reaped, so it can never be somebody
//! else's.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Pid;
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::cgroup::{Cgroup, Cgroups, Resources, Swap};

/// The process, and what bounds it.
#[derive(Debug)]
pub(crate) struct WatchedChild {
    id: String,
    cgroups: Option<Arc<Cgroups>>,
    cgroup: Option<Cgroup>,
    pid: Option<Pid>,
    gone: CancellationToken,
    watcher: Option<JoinHandle<()>>,
}

impl WatchedChild {
    /// No process yet. `id` names its control group.
    pub(crate) fn new(id: String, cgroups: Option<Arc<Cgroups>>) -> Self {
        Self { id, cgroups, cgroup: None, pid: None, gone: CancellationToken::new(), watcher: None }
    }

    /// Takes a process: reaps it when it ends, and cancels `lost` then.
    pub(crate) fn watch(&mut self, mut child: Child, lost: CancellationToken) {
        self.pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        self.gone = lost.clone();
        self.watcher = Some(tokio::spawn(async move {
            let status = child.wait().await;
            debug!(?status, "a process of the sandbox ended");
            lost.cancel();
        }));
    }

    /// The process, while it is not reaped.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.pid.filter(|_| !self.gone.is_cancelled())
    }

    /// Takes a process for ours that nobody watches.
    #[cfg(test)]
    pub(crate) fn pretend(&mut self, pid: Option<Pid>) {
        self.pid = pid;
    }

    /// Bounds it, and everything it will start.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn bound(&mut self, resources: &Resources) -> io::Result<()> {
        let no_groups = || io::Error::new(io::ErrorKind::Unsupported, "there are no control groups here");
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the process is gone");
        let pid = self.pid().ok_or_else(gone)?;
        let groups = self.cgroups.as_ref().ok_or_else(no_groups)?;
        let pid = pid.as_raw_nonzero().get().cast_unsigned();
        match &mut self.cgroup {
            Some(group) => groups.tighten(group, &self.id, pid, resources),
            None => {
                self.cgroup = Some(groups.bound(&self.id, pid, resources)?);
                Ok(())
            }
        }
    }

    /// Makes a group with these limits for the process that is to come; gives the files by which that enters it. None where
    /// there are no control groups.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn enclose(&mut self, resources: &Resources) -> io::Result<Vec<OwnedFd>> {
        let Some(groups) = &self.cgroups else { return Ok(Vec::new()) };
        let group = self.cgroup.insert(groups.empty(&self.id, resources, Swap::AsMuch)?);
        group.entrances()
    }

    /// Memory that its group takes now.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        self.cgroup.as_ref().and_then(Cgroup::memory_bytes)
    }

    /// Gives its group, to be dropped when it is reaped.
    pub(crate) fn take_group(&mut self) -> Option<Cgroup> {
        self.cgroup.take()
    }

    /// Whether something in it was killed because all its memory was taken.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        self.cgroup.as_ref().is_some_and(Cgroup::ran_out_of_memory)
    }

    /// Waits until it has ended by itself, so long at most.
    pub(crate) async fn ends_within(&mut self, grace: Duration) {
        let _ = tokio::time::timeout(grace, self.gone.cancelled()).await;
    }

    /// Gives its id, for the last signal that it is sent; none when it is reaped or was given that already.
    pub(crate) fn take(&mut self) -> Option<Pid> {
        let pid = self.pid();
        self.pid = None;
        pid
    }

    /// Waits until it is reaped. It must have been told to end.
    pub(crate) async fn reaped(&mut self) {
        if let Some(watcher) = self.watcher() {
            let _ = watcher.await;
        }
    }

    /// Ends when it is reaped.
    pub(crate) fn watcher(&mut self) -> Option<JoinHandle<()>> {
        self.watcher.take()
    }
}
