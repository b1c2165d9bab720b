//! Network namespaces that have a name: a file in `/run/netns`, as `ip netns` makes them and shows them.
//!
//! What is to happen in a namespace happens on a thread of its own, which ends afterwards: a thread that other work is
//! given to never changes its namespace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::{NetworkError, sysctl};

const FOLDER: &str = "/run/netns";

/// The path of a namespace.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Makes a namespace without IPv6 and does something in it.
///
/// # Errors
/// Those of making it and of the work. What was made until then is left to [`remove`].
pub(crate) fn make<T: Send>(
    name: &str,
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    let path = path(name);
    let failed = || NetworkError::system::<io::Error>(format!("make the network namespace {}", path.display()));
    share_folder().map_err(failed())?;
    fs::File::create_new(&path).map_err(failed())?;
    on_a_thread(|| {
        // SAFETY: the thread leaves its network namespace only; it shares its files and memory as before.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|error| failed()(error.into()))?;
        mount_bind("/proc/thread-self/ns/net", &path).map_err(|error| failed()(error.into()))?;
        sysctl::without_ipv6("default")?;
        sysctl::without_ipv6("all")?;
        work()
    })
}

/// Does something in a namespace that has a path.
///
/// # Errors
/// Those of entering it and of the work.
pub(crate) fn within<T: Send>(
    path: &Path,
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    let failed = || NetworkError::system::<io::Error>(format!("enter the network namespace {}", path.display()));
    let namespace = fs::File::open(path).map_err(failed())?;
    on_a_thread(|| {
        use std::os::fd::AsFd;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| failed()(error.into()))?;
        work()
    })
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T, NetworkError> + Send) -> Result<T, NetworkError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("nex-netns".into()).spawn_scoped(scope, work);
        let thread = thread.map_err(NetworkError::system("start a thread for a network namespace"))?;
        thread.join().unwrap_or_else(|_| {
            let source = io::Error::other("the thread panicked");
            Err(NetworkError::System { what: "work in a network namespace".into(), source })
        })
    })
}

/// Removes the name. The namespace itself, with all its links and rules, goes when nobody is in it any more.
///
/// # Errors
/// When something is in the way. A name that is not there is none.
pub(crate) fn remove(name: &str) -> Result<(), NetworkError> {
    let path = path(name);
    let failed = || NetworkError::system::<io::Error>(format!("remove the network namespace {}", path.display()));
    match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Nothing there, or nothing mounted: it was never finished, or the host was started anew.
        Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
        Err(error) => return Err(failed()(error.into())),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed()(error)),
        _ => Ok(()),
    }
}

/// Makes the folder, and makes it a shared mount, as `ip netns` does: else a later `ip netns add` would hide what is
/// mounted in it, and removing a namespace would leave it mounted in the mount namespaces of other processes.
fn share_folder() -> io::Result<()> {
    fs::create_dir_all(FOLDER)?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match mount_change(FOLDER, shared) {
        Err(Errno::INVAL) => {
            mount_bind_recursive(FOLDER, FOLDER)?;
            Ok(mount_change(FOLDER, shared)?)
        }
        other => Ok(other?),
    }
}
