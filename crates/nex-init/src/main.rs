//! `nex-init`: process 1 of a microVM. Started by the kernel, never by a person.
//!
//! ```text
//! file systems -> (modules) -> root that can be written to -> link -> agent as user nex -> reap until it ends -> power off
//! ```
//! It runs one program, the agent, and nothing of the workload's. Whatever fails is said on the console, which the node
//! reads, and ends the guest: a guest without an agent is of no use. It keeps no secret and asks the network nothing.

mod cmdline;
mod link;
mod modules;
mod mounts;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::{Gid, Mode, Uid, chown, sync};
use rustix::io::Errno;
use rustix::process::{WaitOptions, getpid, wait};
use rustix::system::{RebootCommand, reboot, sethostname};

use cmdline::Settings;

/// The agent in the image.
const AGENT: &str = "/usr/libexec/nex-agent";

/// The user that agent and workload run as; `nex` in the image.
const USER: u32 = 1000;

/// Folder of the agent's own.
const WORK: &str = "/var/lib/nex";

/// The guest cannot be brought up.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// A step failed.
    #[error("cannot {doing}: {source}")]
    Step {
        /// What was done.
        doing: String,
        /// What the system says.
        source: io::Error,
    },
    /// Host and image do not fit.
    #[error(transparent)]
    CommandLine(#[from] cmdline::BadWord),
}

fn doing(doing: String) -> impl FnOnce(io::Error) -> Failure {
    move |source| Failure::Step { doing, source }
}

fn main() {
    if getpid().as_raw_nonzero().get() != 1 {
        eprintln!("nex-init: this is the first process of a microVM and is started by its kernel, not by hand");
        std::process::exit(64);
    }
    match run() {
        Ok(status) => println!("nex-init: the agent ended with {status}"),
        // The node looks for this line.
        Err(failure) => println!("nex-init: {failure}"),
    }
    sync();
    // Not power off: the VMMs end at a reset, and not all of them at a power-off.
    let _ = reboot(RebootCommand::Restart);
}

fn run() -> Result<String, Failure> {
    mounts::kernel()?;
    let line = fs::read_to_string("/proc/cmdline").map_err(doing("read the kernel's command line".to_owned()))?;
    let settings = Settings::parse(&line)?;
    modules::load(&line)?;
    mounts::root(&settings)?;
    mounts::resolver(&settings.dns)?;
    sethostname(settings.name.as_bytes()).map_err(io::Error::from).map_err(doing("set the host's name".to_owned()))?;
    fs::create_dir_all(WORK).map_err(doing(format!("make {WORK}")))?;
    let user = (Uid::from_raw(USER), Gid::from_raw(USER));
    chown(WORK, Some(user.0), Some(user.1)).map_err(io::Error::from).map_err(doing(format!("give away {WORK}")))?;
    let _ = rustix::fs::chmod(WORK, Mode::from_raw_mode(0o700));
    println!("nex-init: ready");
    let (link, bridge) = link::open(settings.link)?;
    let agent = start(link, &settings)?;
    let status = reap(agent);
    if let Some(bridge) = bridge {
        bridge.drain();
    }
    Ok(status)
}

/// Starts the agent; gives its process id.
fn start(link: OwnedFd, settings: &Settings) -> Result<u32, Failure> {
    let mut command = Command::new(AGENT);
    command
        .env_clear()
        .env("NEX_AGENT_LOG", &settings.log)
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .current_dir(WORK)
        .stdin(Stdio::from(link))
        .stdout(Stdio::null())
        .uid(USER)
        .gid(USER);
    let child = command.spawn().map_err(doing(format!("start {AGENT}: is this image made by `nex rootfs`?")))?;
    Ok(child.id())
}

/// Reaps whatever ends, until the agent has; how it ended.
fn reap(agent: u32) -> String {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().cast_unsigned() == agent => {
                return match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => format!("status {code}"),
                    (None, Some(signal)) => format!("signal {signal}"),
                    (None, None) => "an unknown status".to_owned(),
                };
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return format!("no child to wait for ({error})"),
        }
    }
}
