//! The folder that an agent in a guest works in, `/var/lib/nex`: a file system in memory, in a mount namespace of the
//! process, so that nothing of the host's is touched.
//!
//! The jailer, which is root, makes it ahead for its machine. Without the jailer the guest makes it itself, as root or
//! in a user namespace of its own.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{getgid, getuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Where the agent works.
pub(super) const WORK: &str = "/var/lib/nex";

/// The folder that is hidden when there is no such one to put a file system on.
const ABOVE: &str = "/var/lib";

const SOURCE: &str = "nex-stand-in";

/// Makes the place if nobody has, and goes there.
pub(super) fn enter() -> io::Result<()> {
    if !is_made() {
        let (user, group) = (getuid().as_raw(), getgid().as_raw());
        if user == 0 {
            leave_mounts()?;
        } else {
            leave_user(user, group)?;
        }
        make(user, group)?;
    }
    std::env::set_current_dir(WORK)
}

/// Makes it in the mount namespace that this process has to itself.
pub(crate) fn make(user: u32, group: u32) -> io::Result<()> {
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let at = if Path::new(WORK).is_dir() { WORK } else { ABOVE };
    let options = c"mode=0755,size=512m";
    mount(SOURCE, at, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options)?;
    if at == ABOVE {
        DirBuilder::new().mode(0o700).create(WORK)?;
    }
    chown(WORK, Some(user), Some(group))
}

fn is_made() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| {
        let made = line.split_once(" - ").is_some_and(|(_, source)| source.starts_with("tmpfs nex-stand-in "));
        made && line.split(' ').nth(4).is_some_and(|at| at == WORK || at == ABOVE)
    })
}

fn leave_mounts() -> io::Result<()> {
    // SAFETY: the process has one thread here, and no file descriptor table is taken apart.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    Ok(())
}

/// A user namespace in which this process is who it was, and may mount.
fn leave_user(user: u32, group: u32) -> io::Result<()> {
    // SAFETY: the process has one thread here, and no file descriptor table is taken apart.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }?;
    std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}
