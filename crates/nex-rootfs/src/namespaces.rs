//! A program run inside the staging folder as if it were a machine's root: namespaces of its own for mounts, processes and,
//! unless it is let out, the network; for users too where the builder is not root.
//!
//! ```text
//! command -> namespaces -> mounts -> fork -> process 1 of the new ones: /proc, the root changed, few capabilities -> program
//!            (waits for it, ends as it does)
//! ```
//! Nothing of it outlives the program: when the builder is killed the first process is, and all others with it. What is
//! mounted is seen by nobody else.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::io::{Errno, write};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Signal, WaitOptions, chdir, getegid, geteuid, pivot_root, set_parent_process_death_signal, umask, waitpid,
};
use rustix::thread::{
    CapabilitySet, UnshareFlags, remove_capability_from_bounding_set, set_no_new_privs, unshare_unsafe,
};

use crate::RootfsError;
use crate::tree::Tree;

/// Devices that every system has, and none that reaches the machine's hardware.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// What of `/proc` would change the machine.
const PROTECTED: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "fs"];

/// What installing software takes, and no more: no devices, no mounts, no modules.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// What is done before the program runs, for the error of what fails.
const STEPS: [&str; 7] = [
    "have namespaces of its own (this machine may not allow them to users: build as root)",
    "be root in its namespace",
    "have mounts of its own",
    "have devices",
    "have a /proc",
    "have the image as its root",
    "be run",
];

/// Everything that is needed between fork and exec, where nothing may be allocated.
struct Plan {
    user_map: Option<(CString, CString)>,
    flags: UnshareFlags,
    root: CString,
    dev: CString,
    proc: CString,
    devices: Vec<(CString, CString)>,
    links: Vec<(CString, CString)>,
    folders: Vec<CString>,
    protected: Vec<CString>,
    resolver: Option<(CString, CString)>,
    /// Whether it shares a network with other programs, and so the names of their sockets.
    network: bool,
    told: OwnedFd,
}

/// Why a program was not run.
pub(crate) enum NotRun {
    /// The image is not as it must be.
    Image(RootfsError),
    /// A step was refused.
    Step(&'static str, io::Error),
}

/// Runs a program in the folder, and waits for it.
pub(crate) fn run(mut command: Command, tree: &Tree, network: bool) -> Result<ExitStatus, NotRun> {
    let failed = |error: Errno| NotRun::Step("be watched", error.into());
    let (steps, told) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    let plan = Plan::new(tree, network, told)?;
    // SAFETY: between fork and exec only system calls are made; all that they need is in the plan.
    unsafe {
        command.pre_exec(move || plan.enter());
    }
    // What is told of the steps cannot fill the pipe, so nobody waits for it to be read.
    let status = command.status();
    drop(command);
    status.map_err(|error| {
        let mut made = Vec::new();
        let _ = File::from(steps).read_to_end(&mut made);
        NotRun::Step(made.len().checked_sub(1).and_then(|last| STEPS.get(last)).copied().unwrap_or("be run"), error)
    })
}

impl Plan {
    fn new(tree: &Tree, network: bool, told: OwnedFd) -> Result<Self, NotRun> {
        let inside = |name: &str| tree.inside(Path::new(name)).map_err(NotRun::Image);
        let (dev, proc) = (inside("dev")?, inside("proc")?);
        let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC;
        let user_map = if geteuid().is_root() {
            None
        } else {
            flags |= UnshareFlags::NEWUSER;
            let map = |id: u32| text(Path::new(&format!("0 {id} 1\n")));
            Some((map(geteuid().as_raw())?, map(getegid().as_raw())?))
        };
        let mut resolver = None;
        if network {
            let ours = Path::new("/etc/resolv.conf");
            if ours.is_file() {
                resolver = Some((text(ours)?, text(&inside("etc/resolv.conf")?)?));
            }
        } else {
            flags |= UnshareFlags::NEWNET;
        }
        let device = |name: &&str| Ok((text(&Path::new("/dev").join(name))?, text(&dev.join(name))?));
        let link = |(to, name): (&str, &str)| Ok((text(Path::new(to))?, text(&dev.join(name))?));
        Ok(Self {
            user_map,
            flags,
            root: text(tree.root())?,
            devices: DEVICES
                .iter()
                .filter(|name| Path::new("/dev").join(name).exists())
                .map(device)
                .collect::<Result<_, _>>()?,
            links: [
                ("/proc/self/fd", "fd"),
                ("/proc/self/fd/0", "stdin"),
                ("/proc/self/fd/1", "stdout"),
                ("/proc/self/fd/2", "stderr"),
            ]
            .into_iter()
            .map(link)
            .collect::<Result<_, _>>()?,
            folders: vec![text(&dev.join("shm"))?],
            protected: PROTECTED.iter().map(|name| text(&proc.join(name))).collect::<Result<_, _>>()?,
            dev: text(&dev)?,
            proc: text(&proc)?,
            resolver,
            network,
            told,
        })
    }

    /// Goes in. Between fork and exec.
    fn enter(&self) -> io::Result<()> {
        self.step();
        // SAFETY: the descriptors stay shared as they are.
        unsafe { unshare_unsafe(self.flags) }?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        self.step();
        if let Some((user, group)) = &self.user_map {
            put(c"/proc/self/setgroups", b"deny")?;
            put(c"/proc/self/uid_map", user.as_bytes())?;
            put(c"/proc/self/gid_map", group.as_bytes())?;
        }
        self.step();
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount_bind_recursive(&self.root, &self.root)?;
        self.step();
        self.devices()?;
        if let Some((ours, theirs)) = &self.resolver {
            mount_bind(ours, theirs)?;
        }
        // The namespace of processes begins with the next one.
        wait_for_child()?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        self.step();
        self.proc()?;
        self.step();
        chdir(&self.root)?;
        pivot_root(c".", c".")?;
        unmount(c".", UnmountFlags::DETACH)?;
        chdir(c"/")?;
        self.step();
        for bit in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            if CAPABILITIES.contains(capability) {
                continue;
            }
            match remove_capability_from_bounding_set(capability) {
                // Those that the kernel does not know come last.
                Err(Errno::INVAL) => break,
                other => other?,
            }
        }
        set_no_new_privs(true)?;
        if self.network {
            keep_from_abstract_sockets();
        }
        umask(Mode::from_raw_mode(0o022));
        Ok(())
    }

    fn step(&self) {
        let _ = write(self.told.as_fd(), b".");
    }

    fn devices(&self) -> io::Result<()> {
        let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
        mount(c"dev", &self.dev, c"tmpfs", quiet, c"mode=0755,size=64m")?;
        for (ours, theirs) in &self.devices {
            openat(CWD, theirs, OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC, Mode::from_raw_mode(0o666))?;
            mount_bind(ours, theirs)?;
        }
        for (to, name) in &self.links {
            symlinkat(to, CWD, name)?;
        }
        for folder in &self.folders {
            mkdirat(CWD, folder, Mode::from_raw_mode(0o1777))?;
        }
        Ok(())
    }

    fn proc(&self) -> io::Result<()> {
        let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(c"proc", &self.proc, c"proc", quiet, c"")?;
        for path in &self.protected {
            match mount_bind_recursive(path, path) {
                // Not every kernel has each of them.
                Err(Errno::NOENT) => continue,
                other => other?,
            }
            mount_remount(path, quiet | MountFlags::BIND | MountFlags::RDONLY, c"")?;
        }
        Ok(())
    }
}

/// Keeps this process and its children from the abstract sockets of all others. Those belong to a network and not to a
/// folder, and services behind them may trust whom they take for the machine's root. Kernels before Linux 6.12, and those
/// without Landlock, cannot; what that means is said where the network is asked for.
fn keep_from_abstract_sockets() {
    /// `struct landlock_ruleset_attr`.
    #[repr(C)]
    struct Rules {
        handled_access_fs: u64,
        handled_access_net: u64,
        scoped: u64,
    }
    /// `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET`.
    const ABSTRACT_SOCKETS: u64 = 1;
    let rules = Rules { handled_access_fs: 0, handled_access_net: 0, scoped: ABSTRACT_SOCKETS };
    // SAFETY: the kernel reads as many bytes as the structure has, and fails on what it does not know. What it gives is a
    // descriptor that is closed when the program begins.
    unsafe {
        let set = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const rules, size_of::<Rules>(), 0);
        if set >= 0 {
            libc::syscall(libc::SYS_landlock_restrict_self, set, 0);
        }
    }
}

fn text(path: &Path) -> Result<CString, NotRun> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| NotRun::Step("be run", error.into()))
}

fn put(path: &std::ffi::CStr, bytes: &[u8]) -> io::Result<()> {
    let file = openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write(&file, bytes)?;
    Ok(())
}

/// Forks. The child goes on; the parent waits for it and ends as it does.
fn wait_for_child() -> io::Result<()> {
    // SAFETY: the plain system call, which copies this process; its only thread goes on in both. What the C library would do
    // besides is for programs with threads, and neither side uses what it would look after.
    let child = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(libc::SIGCHLD), 0, 0, 0, 0) };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(()),
        _ => {
            // The builder learns from the end of a pipe that the program runs; it is not to be kept open here.
            // SAFETY: this process uses none of them any more.
            unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
            let status = loop {
                match waitpid(None, WaitOptions::empty()) {
                    Ok(Some((_, status))) => break status,
                    Ok(None) | Err(Errno::INTR) => {}
                    // SAFETY: ends this process and nothing else.
                    Err(_) => unsafe { libc::_exit(127) },
                }
            };
            let code = status.exit_status().or_else(|| Some(128 + status.terminating_signal()?)).unwrap_or(127);
            // SAFETY: ends this process and nothing else; what the builder registered for its own end is not run.
            unsafe { libc::_exit(code) }
        }
    }
}
