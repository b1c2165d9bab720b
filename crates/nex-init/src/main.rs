//! `nex-init`: process 1 of a microVM. Started by the kernel, never by a person.
//!
//! ```text
//! file systems -> (modules) -> root that can be written to -> agent as user nex, waiting -> host is waited for
//!   (a snapshot of the machine is taken here) -> birth -> link given to the agent -> reap until it ends -> reset
//! ```
//! In an image with OpenRC it hands over to that after the file systems, as process 1, and is started once more by its service
//! (`nex-init --agent`), which does the rest:
//! ```text
//! file systems -> (modules) -> root that can be written to -> OpenRC -> … -> its service: agent, waiting -> …
//! ```
//! It runs one program, the agent, and nothing of the workload's. Whatever fails is said on the console, which the node
//! reads, and ends the guest: a guest without an agent is of no use. It keeps no secret, and asks the network nothing.

mod agent;
mod birth;
mod cmdline;
mod link;
mod modules;
mod mounts;
mod network;

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Gid, Mode, Uid, chown, sync};
use rustix::process::getpid;
use rustix::system::{RebootCommand, reboot};

use agent::Agent;
use cmdline::Settings;

/// The user that agent and workload run as; `nex` in the image.
const USER: u32 = 1000;

/// Folder of the agent's own.
const WORK: &str = "/var/lib/nex";

/// What is process 1 after the file systems are there, in an image with OpenRC: a link; see `nex rootfs --init`.
const NEXT_INIT: &str = "/usr/libexec/nex-next-init";

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
    let service = std::env::args_os().nth(1).is_some_and(|argument| argument == "--agent");
    let done = match getpid().as_raw_nonzero().get() {
        1 => guest(),
        _ if service => agent(),
        _ => {
            eprintln!("nex-init: this is the first process of a microVM and is started by its kernel, not by hand");
            std::process::exit(64);
        }
    };
    match done {
        Ok(status) => println!("nex-init: the agent ended with {status}"),
        // The node looks for this line.
        Err(failure) => println!("nex-init: {failure}"),
    }
    sync();
    // Not power off: the VMMs end at a reset, and not all of them at a power-off.
    let _ = reboot(RebootCommand::Restart);
}

fn command_line() -> Result<String, Failure> {
    fs::read_to_string("/proc/cmdline").map_err(doing("read the kernel's command line".to_owned()))
}

/// Makes a guest of a kernel that has just booted.
fn guest() -> Result<String, Failure> {
    mounts::kernel()?;
    let line = command_line()?;
    let settings = Settings::parse(&line)?;
    modules::load(&line)?;
    mounts::root(&settings)?;
    fs::create_dir_all(WORK).map_err(doing(format!("make {WORK}")))?;
    let user = (Uid::from_raw(USER), Gid::from_raw(USER));
    chown(WORK, Some(user.0), Some(user.1)).map_err(io::Error::from).map_err(doing(format!("give away {WORK}")))?;
    let _ = rustix::fs::chmod(WORK, Mode::from_raw_mode(0o700));
    match fs::read_link(NEXT_INIT) {
        Ok(next) => {
            // By the name it is known by: there are programs that are several, and look at theirs.
            let error = Command::new(&next).exec();
            Err(doing(format!("start {}", next.display()))(error))
        }
        Err(_) => agent(),
    }
}

/// Runs the agent in a guest that is there.
fn agent() -> Result<String, Failure> {
    let settings = Settings::parse(&command_line()?)?;
    let agent = Agent::start(&settings)?;
    let waiting = link::wait(settings.link)?;
    println!("nex-init: ready");
    let link = waiting.born()?;
    agent.hand(&link.agent)?;
    drop(link.agent);
    let status = agent.reap();
    link.kept.drain();
    Ok(status)
}
