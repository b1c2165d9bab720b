//! The snapshot that machines are restored from: one at a time, of a booted guest that waits for its birth.
//!
//! ```text
//! none --one boots--> taking --written--> ready --(kernel, image, … changed)--> none
//!   ^                  |  |                 +--could not be restored--> given up
//!   +--it did not boot-+  +--could not be taken--> given up
//! ```
//! While it is being taken, other machines wait for it: restored, they are there sooner than booted beside the first one.
//! Given up is for the life of the node: machines boot then, which is slower and always works. A snapshot is good for what
//! it was taken of, which its [`Key`] says; another one is removed. Its memory is mapped by all machines that are restored
//! from it, and shared by them until they write to it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Gid, Uid, chown};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::microvm::MachineSettings;

/// State of the devices and processors, in the folder of a snapshot and in that of a machine.
pub(super) const STATE: &str = "machine.state";

/// The guest's memory, likewise.
pub(super) const MEMORY: &str = "machine.memory";

/// Its scratch drive as it was, likewise.
pub(super) const SCRATCH: &str = "scratch.ext4";

/// What a snapshot was taken of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key(String);

impl Key {
    /// Of everything that a restored machine has in common with the one that was booted. The host's boot is part of it:
    /// another kernel or processor might not take the snapshot.
    pub(super) fn of(settings: &MachineSettings, version: &str, tap: Option<&str>) -> io::Result<Self> {
        let mut digest = Sha256::new();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let machine = (settings.memory_mib, settings.vcpus, settings.scratch, settings.rate_limiter, tap);
        let words = (&settings.boot_arguments, &settings.log_filter);
        digest.update(format!("{version} {boot} {machine:?} {words:?}"));
        for file in [Some(&settings.kernel), settings.initrd.as_ref(), Some(&settings.root_image)].into_iter().flatten()
        {
            let meta = fs::metadata(file)?;
            // Not the time of its last change of any kind: each link to it is one.
            let identity = (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
            digest.update(format!("{identity:?}"));
        }
        let digest = digest.finalize();
        Ok(Self(digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    None,
    Taking,
    Ready(Key),
    GivenUp,
}

/// The folder of snapshots.
#[derive(Debug)]
pub(super) struct Snapshots {
    folder: PathBuf,
    state: watch::Sender<State>,
}

/// How a machine comes up.
#[derive(Debug)]
pub(super) enum Plan {
    /// From the snapshot in this folder.
    Restore(PathBuf),
    /// It boots, and the snapshot is taken of it.
    BootAndTake(Taking),
    /// It boots.
    Boot,
}

/// The right to take the snapshot.
#[derive(Debug)]
pub(super) struct Taking {
    of: Arc<Snapshots>,
    key: Key,
    /// What becomes of it when this is dropped.
    outcome: State,
}

impl Snapshots {
    /// The snapshots of an earlier life of the node are looked at when they are asked for.
    pub(super) fn open(folder: PathBuf) -> Arc<Self> {
        Arc::new(Self { folder, state: watch::Sender::new(State::None) })
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(&key.0)
    }

    /// How the next machine comes up; waits for a snapshot that is being taken, not longer than `until`.
    pub(super) async fn plan(self: &Arc<Self>, key: &Key, until: Instant) -> Plan {
        let mut changes = self.state.subscribe();
        loop {
            if let Some(plan) = self.decide(key) {
                return plan;
            }
            let changed = changes.wait_for(|state| *state != State::Taking);
            if !matches!(timeout_at(until, changed).await, Ok(Ok(_))) {
                return Plan::Boot;
            }
        }
    }

    /// None while it is being taken.
    fn decide(self: &Arc<Self>, key: &Key) -> Option<Plan> {
        let path = self.path(key);
        let mut plan = None;
        self.state.send_if_modified(|state| {
            plan = match state {
                State::Taking => None,
                State::GivenUp => Some(Plan::Boot),
                State::Ready(ready) if ready == key => Some(Plan::Restore(path.clone())),
                State::None | State::Ready(_) if path.join(STATE).is_file() && path.join(MEMORY).is_file() => {
                    *state = State::Ready(key.clone());
                    Some(Plan::Restore(path.clone()))
                }
                State::None | State::Ready(_) => {
                    *state = State::Taking;
                    let taking = Taking { of: Arc::clone(self), key: key.clone(), outcome: State::None };
                    Some(Plan::BootAndTake(taking))
                }
            };
            false
        });
        plan
    }

    /// It could not be restored.
    pub(super) fn give_up(&self, key: &Key) {
        self.state.send_replace(State::GivenUp);
        let _ = fs::remove_dir_all(self.path(key));
    }
}

impl Taking {
    /// The guest is up. If what follows fails, it would fail again.
    pub(super) fn begin(&mut self) {
        self.outcome = State::GivenUp;
    }

    /// Moves what Firecracker has written into its place, for all to read and none to write.
    pub(super) fn keep(mut self, root: &Path, scratch: bool) -> io::Result<()> {
        // Those of other kernels, images and boots are of no use any more.
        let _ = fs::remove_dir_all(&self.of.folder);
        let aside = self.of.folder.join("new");
        fs::create_dir_all(&aside)?;
        for name in [STATE, MEMORY] {
            let target = aside.join(name);
            fs::rename(root.join(name), &target)?;
            read_only(&target)?;
        }
        if scratch {
            crate::microvm::scratch::copy(&root.join(SCRATCH), &aside.join(SCRATCH))?;
            read_only(&aside.join(SCRATCH))?;
        }
        fs::rename(&aside, self.of.path(&self.key))?;
        self.outcome = State::Ready(self.key.clone());
        Ok(())
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.of.state.send_replace(self.outcome.clone());
    }
}

/// A machine must not be able to change what others are restored from: as their owner it could.
fn read_only(path: &Path) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(Uid::ROOT), Some(Gid::ROOT))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o444))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn one_boots_and_takes_it_and_the_others_wait_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(folder.path().join("snapshots"));
        let (key, other) = (Key("a".into()), Key("b".into()));
        let Plan::BootAndTake(mut taking) = snapshots.plan(&key, soon()).await else { panic!("nobody takes it") };
        let waiting = tokio::spawn({
            let (snapshots, key) = (Arc::clone(&snapshots), key.clone());
            async move { snapshots.plan(&key, soon()).await }
        });
        for name in [STATE, MEMORY] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        taking.begin();
        taking.keep(folder.path(), false).unwrap();
        let Plan::Restore(path) = waiting.await.unwrap() else { panic!("it is not restored") };
        assert_eq!(fs::metadata(path.join(MEMORY)).unwrap().mode() & 0o777, 0o444);
        let later = Snapshots::open(folder.path().join("snapshots"));
        assert!(matches!(later.plan(&key, soon()).await, Plan::Restore(_)), "a later life of the node finds it");
        assert!(matches!(snapshots.plan(&other, soon()).await, Plan::BootAndTake(_)), "another image takes its own");
    }

    #[tokio::test]
    async fn one_that_cannot_be_taken_is_given_up_and_one_whose_machine_did_not_boot_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(folder.path().to_owned());
        let key = Key("a".into());
        let Plan::BootAndTake(taking) = snapshots.plan(&key, soon()).await else { panic!("nobody takes it") };
        assert!(matches!(snapshots.plan(&key, Instant::now()).await, Plan::Boot), "nobody waits for ever");
        drop(taking);
        let Plan::BootAndTake(mut taking) = snapshots.plan(&key, soon()).await else { panic!("nobody takes it") };
        taking.begin();
        drop(taking);
        assert!(matches!(snapshots.plan(&key, soon()).await, Plan::Boot));
    }
}
