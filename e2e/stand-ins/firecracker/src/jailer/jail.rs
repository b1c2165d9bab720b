//! The jail's folder, and the program in it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::setsid;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::os::fd::AsFd;

use super::{JailerError, Wanted};
use crate::guest;

/// Devices that a jail has: name, major and minor number.
const DEVICES: &[(&str, u32, u32)] = &[("dev/net/tun", 10, 200), ("dev/kvm", 10, 232), ("dev/urandom", 1, 9)];

/// Makes the jail and becomes the program in it. Returns only when it was started as another process.
pub(super) fn start(wanted: &Wanted) -> Result<(), JailerError> {
    let jail = &wanted.jail;
    fs::create_dir_all(jail).map_err(|error| JailerError::CreateDir(jail.clone(), error))?;
    copy_program(wanted)?;
    if let Some(netns) = &wanted.netns {
        let file = File::open(netns).map_err(|error| JailerError::Open(netns.clone(), error))?;
        let joined = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
        joined.map_err(|error| JailerError::SetNetNs(error.into()))?;
    }
    wanted.limits.install()?;
    wanted.cgroups.install()?;
    // SAFETY: this program has one thread, and no file descriptor table is taken apart.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(|error| JailerError::Mounts(error.into()))?;
    guest::make_place(wanted.uid, wanted.gid).map_err(JailerError::Mounts)?;
    for folder in ["", "dev", "dev/net", "run"] {
        let folder = if folder.is_empty() { jail.clone() } else { jail.join(folder) };
        fs::create_dir_all(&folder).map_err(|error| JailerError::CreateDir(folder.clone(), error))?;
        let closed = fs::set_permissions(&folder, Permissions::from_mode(0o700));
        closed.and_then(|()| chown(&folder, Some(wanted.uid), Some(wanted.gid))).map_err(owner(&folder))?;
    }
    DEVICES.iter().try_for_each(|(name, major, minor)| make_device(wanted, name, *major, *minor))?;
    run(wanted)
}

fn owner(path: &Path) -> impl Fn(io::Error) -> JailerError {
    move |error| JailerError::Owner(path.to_owned(), error)
}

/// The program's file goes into the jail, owned by its user. One that is there and has other names is not written to.
fn copy_program(wanted: &Wanted) -> Result<(), JailerError> {
    let (from, to) = (&wanted.program, wanted.jail.join(&wanted.program_name));
    let open = |path: &Path| {
        let path = path.to_owned();
        move |error| JailerError::Open(path.clone(), error)
    };
    let mut source = File::open(from).map_err(open(from))?;
    let mode = source.metadata().map_err(open(from))?.mode();
    const NO_FOLLOW: i32 = 0o400_000;
    let target =
        OpenOptions::new().write(true).create(true).truncate(false).custom_flags(NO_FOLLOW).mode(mode).open(&to);
    let mut target = target.map_err(open(&to))?;
    if target.metadata().map_err(open(&to))?.nlink() > 1 {
        return Err(JailerError::HardLink(to));
    }
    fchown(&target, Some(wanted.uid), Some(wanted.gid)).map_err(owner(&to))?;
    io::copy(&mut source, &mut target).map_err(|error| JailerError::Copy(from.clone(), to.clone(), error))?;
    Ok(())
}

/// One that is there already is an error: a jail is made once. Where devices cannot be made at all, as in a container,
/// the stand-in does without.
fn make_device(wanted: &Wanted, name: &str, major: u32, minor: u32) -> Result<(), JailerError> {
    let path = wanted.jail.join(name);
    let mode = Mode::RUSR | Mode::WUSR;
    match mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor)) {
        Ok(()) => chown(&path, Some(wanted.uid), Some(wanted.gid)).map_err(owner(&path)),
        Err(rustix::io::Errno::PERM) => {
            println!("Warning! Could not create /{name} device inside jailer, the stand-in goes on without.");
            Ok(())
        }
        // As in the jailer, a jail without this one only has no token for its metadata.
        Err(_) if name == "dev/urandom" => Ok(()),
        Err(error) => Err(JailerError::Device(error.into(), format!("/{name}"))),
    }
}

fn command(wanted: &Wanted) -> Command {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros().to_string();
    let mut command = Command::new(&wanted.program);
    command
        .args(["--id", &wanted.id, "--start-time-us", &now, "--start-time-cpu-us", "1", "--parent-cpu-time-us", "1"])
        .args(&wanted.rest)
        .env_clear()
        .uid(wanted.uid)
        .gid(wanted.gid);
    command
}

/// The program's process id is written into the jail before the program runs, or with it.
fn run(wanted: &Wanted) -> Result<(), JailerError> {
    // As the jailer's user, for only it may pass through the folders above.
    std::env::set_current_dir(&wanted.jail).map_err(JailerError::Exec)?;
    let mut command = command(wanted);
    if wanted.daemonize {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: only a system call is made between fork and exec.
        unsafe { command.pre_exec(|| setsid().map(|_| ()).map_err(io::Error::from)) };
    }
    if wanted.new_pid_ns {
        // SAFETY: this program has one thread, and no file descriptor table is taken apart.
        unsafe { unshare_unsafe(UnshareFlags::NEWPID) }.map_err(|error| JailerError::Clone(error.into()))?;
    }
    if wanted.daemonize || wanted.new_pid_ns {
        let child = command.spawn().map_err(JailerError::Exec)?;
        return note(wanted, child.id());
    }
    note(wanted, std::process::id())?;
    Err(JailerError::Exec(command.exec()))
}

fn note(wanted: &Wanted, pid: u32) -> Result<(), JailerError> {
    let path: PathBuf = wanted.jail.join(format!("{}.pid", wanted.program_name));
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    let written = file.and_then(|mut file| write!(file, "{pid}"));
    written.map_err(|error| JailerError::Open(path, error))
}
