//! The folder that a build works in, beside the image that it makes.
//!
//! It goes when the build ends, however it ends, unless the build is killed. So a build holds a lock on its folder, which
//! ends with the process, and removes folders of the same user that nobody holds a lock on. Where the file system has no
//! locks nothing is removed.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use rustix::process::geteuid;
use tempfile::TempDir;

use crate::RootfsError;
use crate::error::file;
use crate::tree::Tree;

const PREFIX: &str = ".nex-rootfs-";

/// Where the files of the image are put together.
const ROOT: &str = "root";

/// Times that a folder is made: another build may take one for left over before it is locked.
const TRIES: u32 = 16;

/// The folder. It is removed before its lock is let go.
pub(crate) struct Work {
    folder: TempDir,
    _lock: Option<OwnedFd>,
}

impl Work {
    /// Makes one, and removes those that builds left which were killed.
    pub(crate) fn create(beside: &Path) -> Result<Self, RootfsError> {
        remove_left(beside);
        for _ in 0..TRIES {
            // Nobody else gets into it: there may be programs in it that run as whoever builds.
            let mine = fs::Permissions::from_mode(0o700);
            let made = tempfile::Builder::new().prefix(PREFIX).permissions(mine).tempdir_in(beside);
            let folder = made.map_err(file("cannot make a folder in", beside))?;
            let lock = match lock(folder.path()) {
                Ok(lock) => Some(lock),
                Err(Errno::WOULDBLOCK | Errno::NOENT) => continue,
                // A file system without locks, on which nobody else takes it for left over.
                Err(_) => None,
            };
            // Somebody may have locked and removed it, and let it go, before it was locked here.
            if folder.path().is_dir() {
                return Ok(Self { folder, _lock: lock });
            }
        }
        Err(file("cannot keep a folder in", beside)(Errno::AGAIN.into()))
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where the files of the image are put together.
    pub(crate) fn root(&self) -> PathBuf {
        self.path().join(ROOT)
    }
}

/// Opens a folder and locks it; the lock is held as long as it is open.
fn lock(folder: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = open(folder, flags, Mode::empty())?;
    flock(&opened, FlockOperation::NonBlockingLockExclusive)?;
    Ok(opened)
}

/// Removes folders of builds that are no more. What cannot be removed stays: that is no reason not to build.
fn remove_left(beside: &Path) {
    for entry in fs::read_dir(beside).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            remove_if_left(&entry.path());
        }
    }
}

fn remove_if_left(path: &Path) {
    let Ok(lock) = lock(path) else { return };
    let lock = File::from(lock);
    // Others may call theirs the same, where everybody may write; into ours nobody else gets.
    let ours = lock.metadata().is_ok_and(|meta| meta.uid() == geteuid().as_raw() && meta.mode() & 0o077 == 0);
    if !ours || fs::remove_dir_all(path).is_ok() {
        return;
    }
    // There may be folders in it that their owner may not look into.
    let _ = Tree::at(&path.join(ROOT)).open_up();
    let _ = fs::remove_dir_all(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_build_left_is_removed_and_what_another_works_in_stays() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(".nex-rootfs-killed");
        fs::create_dir_all(left.join("root/shut/in")).unwrap();
        fs::set_permissions(left.join("root/shut"), fs::Permissions::from_mode(0o0)).unwrap();
        let theirs = folder.path().join(".nex-rootfs-open");
        fs::create_dir(&theirs).unwrap();
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o755)).unwrap();
        let named_alike = folder.path().join(".nex-rootfs-file");
        fs::write(&named_alike, "").unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join(".nex-rootfs-link")).unwrap();
        fs::set_permissions(&left, fs::Permissions::from_mode(0o700)).unwrap();

        let one = Work::create(folder.path()).unwrap();
        assert!(!left.exists(), "nobody holds it");
        assert!(theirs.exists() && named_alike.exists() && outside.path().exists());
        let other = Work::create(folder.path()).unwrap();
        assert!(one.path().exists() && other.path().exists() && one.path() != other.path());
        let gone = one.path().to_owned();
        drop(one);
        assert!(!gone.exists() && other.path().exists());
    }
}
