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
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, open};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::configuration::{INITRD, KERNEL, ROOT_IMAGE};
use crate::microvm::scratch::DRIVE;
use crate::microvm::{MachineSettings, scratch};

/// State of the devices and processors, in the folder of a snapshot and in that of a machine.
pub(super) const STATE: &str = "machine.state";

/// The guest's memory, likewise.
pub(super) const MEMORY: &str = "machine.memory";

/// Names in a machine's root folder of what all machines share.
pub(super) const SHARED: [&str; 3] = [KERNEL, INITRD, ROOT_IMAGE];

/// Restores in a row that may fail before snapshots are given up: a busy host is no reason.
const FAILURES: u32 = 3;

/// What a snapshot was taken of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key(String);

impl Key {
    /// Of everything that a restored machine has in common with the one that was booted: the files in this root folder, and
    /// what both are told. The host's boot is part of it: another kernel or processor might not take the snapshot. So is
    /// nex's version, which stands for the layout of a machine.
    pub(super) fn of(root: &Path, settings: &MachineSettings, told: &str, tap: Option<&str>) -> io::Result<Self> {
        let mut digest = Sha256::new();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let machine = (settings.memory_mib, settings.vcpus, settings.scratch, settings.rate_limiter, tap);
        digest.update(format!("{} {boot} {machine:?} {told}", env!("CARGO_PKG_VERSION")));
        for name in SHARED {
            let Ok(meta) = fs::metadata(root.join(name)) else { continue };
            // Not the time of its last change of any kind: each link to it is one.
            let identity = (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
            digest.update(format!("{name} {identity:?}"));
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
    /// Restores that failed in a row.
    failures: AtomicU32,
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
        Arc::new(Self { folder, state: watch::Sender::new(State::None), failures: AtomicU32::new(0) })
    }

    /// Those of other machines, in a folder beside this one: neither is the other's rubbish.
    pub(super) fn beside(&self, vcpus: u64, memory_mib: u64) -> Arc<Self> {
        Self::open(sized(&self.folder, vcpus, memory_mib))
    }

    /// The files of these snapshots and of those in the folders beside this one that were made for other sizes.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let read = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_ours = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&name));
        let folders = self.folder.parent().into_iter().flat_map(read).filter(is_ours);
        let snapshots = folders.flat_map(|folder| read(&folder).collect::<Vec<_>>());
        snapshots.flat_map(|snapshot| [snapshot.join(STATE), snapshot.join(MEMORY)]).collect()
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

    /// A machine was restored.
    pub(super) fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// A machine could not be restored, or Firecracker has refused to; whether that was given up.
    pub(super) fn failed(&self, key: &Key, refused: bool) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let given_up = refused || failures >= FAILURES;
        if given_up {
            self.state.send_replace(State::GivenUp);
            let _ = fs::remove_dir_all(self.path(key));
        }
        given_up
    }
}

/// The folder of snapshots of machines of a further size, beside that of the usual ones.
pub fn sized(snapshots: &Path, vcpus: u64, memory_mib: u64) -> PathBuf {
    let mut folder = snapshots.as_os_str().to_owned();
    folder.push(format!("-{vcpus}x{memory_mib}"));
    folder.into()
}

impl Taking {
    /// Firecracker has refused to take it, and would again.
    pub(super) fn refused(&mut self) {
        self.outcome = State::GivenUp;
    }

    /// Moves what Firecracker has written into its place, for all to read and none to write.
    pub(super) fn keep(mut self, root: &Path, user: Option<u32>, scratch: bool) -> io::Result<()> {
        // What cannot be kept now could not be kept the next time.
        self.outcome = State::GivenUp;
        // Those of other kernels, images and boots are of no use any more.
        let _ = fs::remove_dir_all(&self.of.folder);
        let aside = self.of.folder.join("new");
        fs::create_dir_all(&aside)?;
        for name in [STATE, MEMORY] {
            let target = aside.join(name);
            fs::rename(root.join(name), &target)?;
            read_only(&target, user)?;
        }
        if scratch {
            scratch::copy(&root.join(DRIVE), &aside.join(DRIVE))?;
            read_only(&aside.join(DRIVE), None)?;
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

/// A machine must not be able to change what others are restored from: as their owner it could. Nor may it have put a link
/// there in place of what it was to write.
fn read_only(path: &Path, user: Option<u32>) -> io::Result<()> {
    let file = open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    let stat = fstat(&file)?;
    let plain = FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_nlink == 1;
    if !plain || user.is_some_and(|user| user != stat.st_uid) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is not what was to be written", path.display()),
        ));
    }
    if rustix::process::geteuid().is_root() {
        fchown(&file, Some(Uid::ROOT), Some(Gid::ROOT))?;
    }
    Ok(fchmod(&file, Mode::from_raw_mode(0o444))?)
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
        let Plan::BootAndTake(taking) = snapshots.plan(&key, soon()).await else { panic!("nobody takes it") };
        let waiting = tokio::spawn({
            let (snapshots, key) = (Arc::clone(&snapshots), key.clone());
            async move { snapshots.plan(&key, soon()).await }
        });
        for name in [STATE, MEMORY] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        taking.keep(folder.path(), None, false).unwrap();
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
        taking.refused();
        drop(taking);
        assert!(matches!(snapshots.plan(&key, soon()).await, Plan::Boot));
    }

    #[tokio::test]
    async fn a_link_in_its_place_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(folder.path().join("snapshots"));
        let Plan::BootAndTake(taking) = snapshots.plan(&Key("a".into()), soon()).await else {
            panic!("nobody takes it")
        };
        let other = folder.path().join("other");
        fs::write(&other, "somebody's").unwrap();
        std::os::unix::fs::symlink(&other, folder.path().join(STATE)).unwrap();
        fs::write(folder.path().join(MEMORY), "x").unwrap();
        let before = fs::metadata(&other).unwrap().mode();
        assert!(taking.keep(folder.path(), None, false).is_err());
        assert_eq!(fs::metadata(&other).unwrap().mode(), before);
    }

    #[test]
    fn a_busy_host_is_no_reason_to_give_up_and_a_refusal_is() {
        let folder = tempfile::tempdir().unwrap();
        let (snapshots, key) = (Snapshots::open(folder.path().to_owned()), Key("a".into()));
        assert!(!snapshots.failed(&key, false) && !snapshots.failed(&key, false));
        snapshots.succeeded();
        assert!(!snapshots.failed(&key, false) && snapshots.failed(&key, true));
    }
}
