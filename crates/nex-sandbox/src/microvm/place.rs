//! Where a machine lives: its monitor's process and its folder.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::cgroup::{Cgroup, Cgroups, Resources};
use crate::{Place, process};

/// File in the folder with the process id of the monitor; see [`super::reclaim`].
pub(super) const PID: &str = "monitor.pid";

/// Time a guest has to end its workload and itself after its link was closed, before its monitor is killed.
const END_GRACE: Duration = Duration::from_secs(3);

pub(super) struct MachinePlace {
    id: String,
    folder: PathBuf,
    cgroups: Option<Arc<Cgroups>>,
    /// Where the monitor is bounded.
    cgroup: Option<Cgroup>,
    monitor: Option<Pid>,
    gone: CancellationToken,
    reaper: Option<JoinHandle<()>>,
}

impl MachinePlace {
    pub(super) fn new(id: String, folder: PathBuf, cgroups: Option<Arc<Cgroups>>) -> Self {
        let gone = CancellationToken::new();
        Self { id, folder, cgroups, cgroup: None, monitor: None, gone, reaper: None }
    }

    /// Reaps the monitor and tells when it is gone; notes its id for a later life of the node.
    pub(super) fn watch(&mut self, mut monitor: Child, lost: CancellationToken) -> std::io::Result<()> {
        let pid = monitor.id();
        self.monitor = pid.and_then(|id| Pid::from_raw(id.cast_signed()));
        self.gone = lost.clone();
        self.reaper = Some(tokio::spawn(async move {
            let status = monitor.wait().await;
            debug!(?status, "machine monitor ended");
            lost.cancel();
        }));
        note(&self.folder, pid.unwrap_or_default())
    }

    /// Kills the monitor, and with it the machine. Its id is used only while it is not reaped.
    fn kill(&mut self) {
        if let Some(monitor) = self.monitor.take().filter(|_| !self.gone.is_cancelled()) {
            let _ = kill_process(monitor, Signal::KILL);
        }
    }
}

fn note(folder: &Path, pid: u32) -> std::io::Result<()> {
    std::fs::write(folder.join(PID), pid.to_string())
}

impl Place for MachinePlace {
    /// A process of the guest is nobody's here: it goes with its machine.
    fn note_process_group(&mut self, _leader: Option<u32>) {}

    fn bound(&mut self, resources: &Resources) -> std::io::Result<()> {
        let no_groups = || std::io::Error::new(std::io::ErrorKind::Unsupported, "there are no control groups here");
        let gone = || std::io::Error::new(std::io::ErrorKind::NotFound, "the machine is gone");
        let monitor = self.monitor.filter(|_| !self.gone.is_cancelled()).ok_or_else(gone)?;
        let groups = self.cgroups.as_ref().ok_or_else(no_groups)?;
        self.cgroup = Some(groups.bound(&self.id, monitor.as_raw_nonzero().get().cast_unsigned(), resources)?);
        Ok(())
    }

    fn ran_out_of_memory(&self) -> bool {
        self.cgroup.as_ref().is_some_and(Cgroup::ran_out_of_memory)
    }

    fn destroy(mut self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            // The link is closed by now or closes with this; a guest that behaves ends its workload in order.
            if tokio::time::timeout(END_GRACE, self.gone.cancelled()).await.is_ok() {
                self.monitor = None;
            }
            self.kill();
            if let Some(reaper) = self.reaper.take() {
                let _ = reaper.await;
            }
        })
    }
}

impl Drop for MachinePlace {
    fn drop(&mut self) {
        self.kill();
        process::remove_tree(&self.folder);
    }
}
