//! Where Firecracker is locked up: by its jailer in a root folder of its own, as a user of its own, or, where the node is
//! told so, just in a folder.
//!
//! Everything that a monitor opens lies in that folder under a plain name, so that the same requests do for both. Files that
//! all machines share are linked there, never copied per machine.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};
use tracing::warn;

/// How monitors are jailed.
#[derive(Debug, Clone)]
pub struct JailSettings {
    /// The `jailer` program, of the same release as Firecracker.
    pub program: PathBuf,
    /// The first of the user ids (and group ids) that machines get, one each.
    pub first_user: u32,
    /// How many there are.
    pub users: u32,
}

/// The users that machines have.
#[derive(Debug)]
pub(super) struct Users {
    first: u32,
    count: u32,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u32,
    now: BTreeSet<u32>,
}

/// The user of one machine; free again when dropped.
#[derive(Debug)]
pub(in crate::microvm) struct User {
    id: u32,
    of: Arc<Users>,
}

impl Users {
    pub(super) fn new(settings: &JailSettings) -> Arc<Self> {
        let (first, count) = (settings.first_user, settings.users.max(1));
        // Those are never given back: nobody knows when their processes end.
        let now = in_use(first, count);
        if !now.is_empty() {
            warn!(users = ?now, "processes run with user ids of jailer_users: machines do not get these");
        }
        Arc::new(Self { first, count, taken: Mutex::new(Taken { next: 0, now }) })
    }

    /// A user that no other machine has; none when all are taken. The one that was free longest comes first.
    pub(super) fn take(self: &Arc<Self>) -> Option<User> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..self.count {
            let id = self.first.saturating_add(taken.next);
            taken.next = (taken.next + 1) % self.count;
            if taken.now.insert(id) {
                return Some(User { id, of: Arc::clone(self) });
            }
        }
        None
    }
}

impl User {
    pub(in crate::microvm) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.of.taken.lock().unwrap_or_else(PoisonError::into_inner).now.remove(&self.id);
    }
}

/// The folder that a monitor sees as its own.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    user: Option<u32>,
}

impl Root {
    /// Makes it. Nobody but the machine's user gets in.
    pub(super) fn make(path: PathBuf, user: Option<u32>) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        let root = Self { path, user };
        fs::set_permissions(&root.path, fs::Permissions::from_mode(0o700))?;
        root.give(&root.path)?;
        Ok(root)
    }

    /// Makes something in it the machine's own.
    fn give(&self, path: &Path) -> io::Result<()> {
        match self.user {
            Some(user) => {
                let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
                Ok(chownat(CWD, path, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?)
            }
            None => Ok(()),
        }
    }

    /// Gives it a file of the node's to read, under this name.
    pub(super) fn share(&self, file: &Path, name: &str, shared: &Path) -> io::Result<()> {
        let target = self.path.join(name);
        // A link to a link would be of no use where only this folder is seen.
        let file = fs::canonicalize(file)?;
        let mode = fs::metadata(&file)?.mode();
        let refused =
            |text: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} {text}", file.display())));
        if self.user.is_some() && mode & 0o004 == 0 {
            return refused("must be readable by all: machines run as users of their own (chmod o+r)");
        }
        if mode & 0o002 != 0 {
            return refused("can be written by all: one machine could change it for the others (chmod o-w)");
        }
        match fs::hard_link(&file, &target) {
            // Nor may everybody link what is another's (`fs.protected_hardlinks`).
            Err(error) if matches!(error.kind(), io::ErrorKind::CrossesDevices | io::ErrorKind::PermissionDenied) => {
                fs::hard_link(brought_over(&file, shared)?, &target)
            }
            other => other,
        }
    }

    /// Gives it a file of its own to read and write.
    pub(super) fn own(&self, name: &str) -> io::Result<()> {
        self.give(&self.path.join(name))
    }
}

/// A copy of a file on the file system of the machines, made once and shared by all of them. Takes as long as copying takes;
/// two at a time would both copy.
fn brought_over(file: &Path, shared: &Path) -> io::Result<PathBuf> {
    let copy = shared.join(copy_name(&fs::metadata(file)?));
    if !copy.exists() {
        fs::create_dir_all(shared)?;
        // One name for all attempts: what a killed node has left of one is written over.
        let aside = copy.with_extension("new");
        fs::copy(file, &aside)?;
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o444))?;
        fs::rename(&aside, &copy)?;
    }
    Ok(copy)
}

/// What the copy of a file is called: what tells it from all others, and from what it was before it was changed.
pub(in crate::microvm) fn copy_name(meta: &fs::Metadata) -> String {
    format!("{:x}-{:x}-{:x}-{:x}", meta.dev(), meta.ino(), meta.size(), meta.mtime_nsec() ^ meta.mtime())
}

/// Whether a file was named by [`copy_name`], or is an attempt at such a copy.
pub(in crate::microvm) fn is_copy_name(name: &str) -> bool {
    let parts: Vec<&str> = name.strip_suffix(".new").unwrap_or(name).split('-').collect();
    parts.len() == 4 && parts.iter().all(|part| u64::from_str_radix(part, 16).is_ok())
}

/// User ids of this range that processes have now, whoever they are: no machine is to share one with a stranger.
fn in_use(first: u32, count: u32) -> BTreeSet<u32> {
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
    ids.filter_map(|entry| entry.metadata().ok())
        .map(|meta| meta.uid())
        .filter(|id| id.wrapping_sub(first) < count)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_machine_has_a_user_of_its_own_as_long_as_it_lives() {
        let users = Users::new(&JailSettings { program: "/j".into(), first_user: 100, users: 2 });
        let (first, second) = (users.take().unwrap(), users.take().unwrap());
        assert_eq!((first.id(), second.id()), (100, 101));
        assert!(users.take().is_none());
        drop(first);
        assert_eq!(users.take().unwrap().id(), 100);
    }

    #[test]
    fn ids_of_strangers_are_not_given_to_machines() {
        let own = rustix::process::geteuid().as_raw();
        assert!(in_use(own, 1).contains(&own));
        assert!(in_use(own.wrapping_add(1), 0).is_empty());
    }

    #[test]
    fn a_file_is_linked_and_not_copied_and_one_that_others_cannot_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("image");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let root = Root { path: folder.path().join("root"), user: Some(1) };
        fs::create_dir(&root.path).unwrap();
        root.share(&file, "root.ext4", &folder.path().join("shared")).unwrap();
        assert_eq!(fs::metadata(root.path.join("root.ext4")).unwrap().nlink(), 2);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let error = root.share(&file, "other", &folder.path().join("shared")).unwrap_err();
        assert!(error.to_string().contains("chmod o+r"), "{error}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        let error = root.share(&file, "other", &folder.path().join("shared")).unwrap_err();
        assert!(error.to_string().contains("chmod o-w"), "{error}");
    }
}
