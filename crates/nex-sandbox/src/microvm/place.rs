//! Where a machine lives: its monitor's process and control group, its network, its user and its folder.
//!
//! ```text
//! made --a monitor is watched--> running --killed or ended--> ending --reaped--> network, folder, group, user given back
//! ```
//! Nothing of it is given back before the monitor is gone: somebody else would get what it still uses.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nex_network::Slot;
use rustix::process::{Signal, kill_process};
use tokio::process::Child;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::firecracker::User;
use super::network::Attached;
use super::reclaim::Note;
use super::tally::{Counted, State, Stay};
use crate::cgroup::{Cgroup, Cgroups, Resources};
use crate::child::WatchedChild;
use crate::{Place, process};

/// Time a guest has to end its workload and itself after its link was closed, before its monitor is killed.
const END_GRACE: Duration = Duration::from_secs(3);

/// Time after which a killed monitor that is not gone is no longer waited for, only watched.
pub(super) const GONE: Duration = Duration::from_secs(10);

pub(super) struct MachinePlace {
    id: String,
    monitor: WatchedChild,
    /// What it may take whatever its workload asks for.
    bounds: Resources,
    left: Option<Left>,
    /// Where what is given back is counted, so that a node can wait for it.
    ending: TaskTracker,
}

/// What is given back when the monitor is gone.
struct Left {
    id: String,
    folder: PathBuf,
    user: Option<User>,
    network: Option<Slot>,
    group: Option<Cgroup>,
    stay: Stay,
}

impl MachinePlace {
    pub(super) fn new(
        id: String,
        folder: PathBuf,
        cgroups: Option<Arc<Cgroups>>,
        ending: TaskTracker,
        stay: Stay,
    ) -> Self {
        let left = Some(Left { id: id.clone(), folder, user: None, network: None, group: None, stay });
        Self { id: id.clone(), monitor: WatchedChild::new(id, cgroups), bounds: Resources::default(), left, ending }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    fn folder(&self) -> &Path {
        self.left.as_ref().map_or(Path::new(""), |left| &left.folder)
    }

    /// The user that its monitor will run as.
    pub(super) fn belongs_to(&mut self, user: Option<User>) {
        if let Some(left) = &mut self.left {
            left.user = user;
        }
    }

    pub(super) fn user(&self) -> Option<u32> {
        self.left.as_ref()?.user.as_ref().map(User::id)
    }

    /// Gives it a network, which goes with it.
    pub(super) fn attach(&mut self, slot: Slot) {
        if let Some(left) = &mut self.left {
            left.network = Some(slot);
        }
    }

    pub(super) fn network(&self) -> Option<Attached> {
        self.left.as_ref()?.network.as_ref().map(Attached::of)
    }

    /// Its agent has shaken hands.
    pub(super) fn is_ready(&mut self) {
        if let Some(left) = &mut self.left {
            left.stay.turn(State::Running);
        }
    }

    /// Bounds the monitor that is to come; gives the files by which it enters its group.
    pub(super) fn enclose(&mut self, bounds: Resources) -> std::io::Result<Vec<OwnedFd>> {
        self.bounds = bounds;
        self.monitor.enclose(&bounds)
    }

    /// Reaps the monitor and tells when it is gone; notes it for a later life of the node.
    pub(super) fn watch(&mut self, monitor: Child, lost: CancellationToken) -> std::io::Result<()> {
        let pid = monitor.id().unwrap_or_default();
        self.monitor.watch(monitor, lost);
        Note::of(pid)?.write(self.folder())
    }

    /// Kills the monitor, and with it the machine. What is left of it is given back when it is gone.
    fn end(&mut self) -> Option<JoinHandle<()>> {
        if let Some(monitor) = self.monitor.take() {
            let _ = kill_process(monitor, Signal::KILL);
        }
        let mut left = self.left.take()?;
        left.stay.turn(State::Ending);
        if self.monitor.ran_out_of_memory() {
            left.stay.tally().add(Counted::OutOfMemory, 1);
        }
        left.group = self.monitor.take_group();
        let watcher = self.monitor.watcher();
        // Without a runtime the node is at its end: its next start finds what is left here.
        let runtime = Handle::try_current().ok()?;
        let ended = async move {
            if let Some(watcher) = watcher {
                let _ = watcher.await;
            }
            left.give_back().await;
        };
        Some(self.ending.spawn_on(ended, &runtime))
    }
}

impl Left {
    async fn give_back(self) {
        if let Some(slot) = self.network
            && let Err(error) = slot.release().await
        {
            warn!(machine = self.id, %error, "the network of a machine stays until the next start");
        }
        process::remove_tree(&self.folder);
        if let Some(group) = self.group {
            group.remove().await;
        }
        drop(self.user);
        drop(self.stay);
    }
}

impl Place for MachinePlace {
    /// A process of the guest is nobody's here: it goes with its machine.
    fn note_process_group(&mut self, _leader: Option<u32>) {}

    /// The agent's is in the guest.
    fn folder(&self) -> Option<&Path> {
        None
    }

    fn bound(&mut self, resources: &Resources) -> std::io::Result<()> {
        // What the workload asked for is what it takes from now on, beside what its machine took to get here; never more than
        // the machine has anyway.
        let asked = resources.memory_bytes;
        let from_now = asked.map(|asked| asked.saturating_add(self.monitor.memory_bytes().unwrap_or_default()));
        let memory_bytes = from_now.map(|from_now| from_now.min(self.bounds.memory_bytes.unwrap_or(u64::MAX)));
        self.monitor.bound(&Resources { memory_bytes, ..*resources })
    }

    fn ran_out_of_memory(&self) -> bool {
        self.monitor.ran_out_of_memory()
    }

    fn destroy(mut self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            // The link is closed by now or closes with this; a guest that behaves ends its workload in order.
            self.monitor.ends_within(END_GRACE).await;
            if let Some(ended) = self.end()
                && tokio::time::timeout(GONE, ended).await.is_err()
            {
                warn!(
                    machine = self.id,
                    "a machine was killed and does not end; what it has stays taken until it does"
                );
            }
        })
    }
}

impl Drop for MachinePlace {
    fn drop(&mut self) {
        self.end();
    }
}
