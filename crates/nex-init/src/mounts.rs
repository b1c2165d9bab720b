//! The guest's file systems: the kernel's own, and a root that can be written to although its image cannot.
//!
//! The image is one read-only drive that all guests of a node share. What a guest writes goes into a layer of its own, in
//! memory or on a scratch drive, and is gone with it.

use std::ffi::CString;
use std::io;
use std::path::Path;

use rustix::fs::{CWD, Mode, mkdirat};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{chdir, chroot};

use crate::cmdline::{Scratch, Settings};
use crate::{Failure, doing};

const LOWER: &str = "/run/nex-lower";
const LAYER: &str = "/run/nex-layer";
const ROOT: &str = "/run/nex-root";

/// Mounts the kernel's file systems; those that the kernel has mounted already are left.
pub(crate) fn kernel() -> Result<(), Failure> {
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    for (kind, place, flags, data) in [
        ("proc", "/proc", quiet, ""),
        ("sysfs", "/sys", quiet, ""),
        ("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755"),
        ("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, "mode=0755"),
    ] {
        make(place);
        match mount_at(kind, place, kind, flags, data) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            other => other.map_err(doing(format!("mount {place}")))?,
        }
    }
    Ok(())
}

/// Makes the root that can be written to, and moves there.
pub(crate) fn root(settings: &Settings) -> Result<(), Failure> {
    for folder in [LOWER, LAYER, ROOT] {
        make(folder);
    }
    let device = settings.root.as_str();
    mount_at(device, LOWER, &settings.file_system, MountFlags::RDONLY | MountFlags::NODEV, "")
        .map_err(doing(format!("mount the root image {device}")))?;
    let (kind, source, data) = match &settings.scratch {
        Scratch::Memory(mib) => ("tmpfs", "scratch", format!("mode=0755,size={mib}m")),
        Scratch::Drive(drive) => ("ext4", drive.as_str(), String::new()),
    };
    mount_at(source, LAYER, kind, MountFlags::NOSUID | MountFlags::NODEV, &data)
        .map_err(doing(format!("mount the scratch space {source}")))?;
    let (upper, work) = (format!("{LAYER}/upper"), format!("{LAYER}/work"));
    make(&upper);
    make(&work);
    let layers = format!("lowerdir={LOWER},upperdir={upper},workdir={work}");
    mount_at("root", ROOT, "overlay", MountFlags::NOSUID | MountFlags::NODEV, &layers)
        .map_err(doing("put the scratch space over the root image".to_owned()))?;
    for place in ["/proc", "/sys", "/dev"] {
        let there = format!("{ROOT}{place}");
        make(&there);
        mount_move(place, there.as_str()).map_err(io::Error::from).map_err(doing(format!("move {place}")))?;
    }
    chdir(ROOT).map_err(io::Error::from).map_err(doing("enter the root".to_owned()))?;
    mount_move(".", "/").map_err(io::Error::from).map_err(doing("move the root".to_owned()))?;
    chroot(".").map_err(io::Error::from).map_err(doing("enter the root".to_owned()))?;
    chdir("/").map_err(io::Error::from).map_err(doing("enter the root".to_owned()))?;
    for (place, data) in
        [("/run", "mode=0755,size=4m"), ("/tmp", "mode=1777,size=12%"), ("/dev/shm", "mode=1777,size=12%")]
    {
        make(place);
        mount_at("tmpfs", place, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, data)
            .map_err(doing(format!("mount {place}")))?;
    }
    Ok(())
}

/// Makes a folder, if it can be made and is not there. What needs it says so when it is missing.
fn make(path: &str) {
    if !Path::new(path).exists() {
        let _ = mkdirat(CWD, path, Mode::from_raw_mode(0o755));
    }
}

fn mount_at(source: &str, target: &str, kind: &str, flags: MountFlags, data: &str) -> io::Result<()> {
    let data = CString::new(data).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(mount(source, target, kind, flags, data.as_c_str())?)
}
