//! Where a machine lives: its monitor's process, its network and its folder.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nex_network::Slot;
use rustix::process::{Signal, kill_process};
use tokio::process::Child;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::firecracker::User;
use super::network::Attached;
use crate::cgroup::{Cgroups, Resources};
use crate::child::WatchedChild;
use crate::{Place, process};

/// File in the folder with the process id of the monitor; see [`super::reclaim`].
pub(super) const PID: &str = "monitor.pid";

/// Time a guest has to end its workload and itself after its link was closed, before its monitor is killed.
const END_GRACE: Duration = Duration::from_secs(3);

pub(super) struct MachinePlace {
    id: String,
    folder: PathBuf,
    monitor: WatchedChild,
    /// Free for others once the monitor is gone.
    user: Option<User>,
    network: Option<Slot>,
}

impl MachinePlace {
    pub(super) fn new(id: String, folder: PathBuf, cgroups: Option<Arc<Cgroups>>) -> Self {
        Self { id: id.clone(), folder, monitor: WatchedChild::new(id, cgroups), user: None, network: None }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The user that its monitor will run as.
    pub(super) fn belongs_to(&mut self, user: Option<User>) {
        self.user = user;
    }

    pub(super) fn user(&self) -> Option<u32> {
        self.user.as_ref().map(User::id)
    }

    /// Gives it a network, which goes with it.
    pub(super) fn attach(&mut self, slot: Slot) {
        self.network = Some(slot);
    }

    pub(super) fn network(&self) -> Option<Attached> {
        self.network.as_ref().map(Attached::of)
    }

    /// Reaps the monitor and tells when it is gone; notes its id for a later life of the node.
    pub(super) fn watch(&mut self, monitor: Child, lost: CancellationToken) -> std::io::Result<()> {
        let pid = monitor.id().unwrap_or_default();
        self.monitor.watch(monitor, lost);
        note(&self.folder, pid)
    }

    /// Kills the monitor, and with it the machine.
    fn kill(&mut self) {
        if let Some(monitor) = self.monitor.take() {
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
        self.monitor.bound(resources)
    }

    fn ran_out_of_memory(&self) -> bool {
        self.monitor.ran_out_of_memory()
    }

    fn destroy(mut self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            // The link is closed by now or closes with this; a guest that behaves ends its workload in order.
            self.monitor.ends_within(END_GRACE).await;
            self.kill();
            self.monitor.reaped().await;
            if let Some(slot) = self.network.take()
                && let Err(error) = slot.release().await
            {
                warn!(machine = self.id, %error, "the network of a machine stays until the next start");
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
