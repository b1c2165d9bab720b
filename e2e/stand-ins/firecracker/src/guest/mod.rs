//! The guest: a kernel's lines on the console, a first process that waits for its birth message on vsock port 1024, and
//! an agent that is a process of this machine.
//!
//! ```text
//! boots --> listens --CONNECT, birth--> linked (agent runs) --agent ends--> reboot: the monitor ends with 0
//!   |  panic
//!   +-----> reboot when the kernel's command line says `panic=`, else it hangs
//! ```

mod agent;
mod birth;
mod console;
mod place;
mod vsock;

use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::settings::Faults;
use console::Console;

pub(crate) use agent::become_the_agent;
pub(crate) use place::make as make_place;

/// First argument of the process that becomes the agent.
pub(crate) const AS_THE_GUEST: &str = "--stand-in-as-the-guest";

/// What a kernel gets when nothing is said; it has no console.
pub(crate) const DEFAULT_ARGUMENTS: &str = "reboot=k panic=1 nomodule 8250.nr_uarts=0";

/// Time for an answer of the API to go out before the process ends.
const ANSWER_GOES_OUT: Duration = Duration::from_millis(20);

/// How the guest came to be.
#[derive(Debug)]
pub(crate) enum Boot {
    /// From a kernel.
    Cold { arguments: String, panic: Option<String> },
    /// From a snapshot.
    Restored { arguments: String, births: PathBuf, linked: bool },
}

impl Boot {
    fn arguments(&self) -> &str {
        match self {
            Self::Cold { arguments, .. } | Self::Restored { arguments, .. } => arguments,
        }
    }
}

/// What a guest is made of.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) boot: Boot,
    pub(crate) listener: Option<UnixListener>,
    pub(crate) agent: PathBuf,
    pub(crate) faults: Faults,
    pub(crate) boot_ms: u64,
    pub(crate) serial: Option<File>,
}

/// What the monitor does with it.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    running: bool,
    /// How often the vsock device was reset.
    resets: u32,
}

/// A guest that was started.
#[derive(Debug)]
pub(crate) struct Guest {
    run: watch::Sender<Run>,
    arguments: String,
    linked: Arc<AtomicBool>,
}

impl Guest {
    pub(crate) fn state(&self) -> &'static str {
        if self.is_paused() { "Paused" } else { "Running" }
    }

    pub(crate) fn is_paused(&self) -> bool {
        !self.run.borrow().running
    }

    /// An agent has the link.
    pub(crate) fn is_linked(&self) -> bool {
        self.linked.load(Ordering::SeqCst)
    }

    /// The kernel's command line.
    pub(crate) fn arguments(&self) -> &str {
        &self.arguments
    }

    pub(crate) fn pause(&self) {
        self.run.send_modify(|run| run.running = false);
    }

    pub(crate) fn resume(&self) {
        self.run.send_modify(|run| run.running = true);
    }

    /// A snapshot was made: whoever is connected finds out when the guest goes on.
    pub(crate) fn reset_connections(&self) {
        self.run.send_modify(|run| run.resets += 1);
    }

    /// The kernel reboots at once.
    pub(crate) fn ctrl_alt_del(&self) {
        let mut run = self.run.subscribe();
        tokio::spawn(async move {
            tokio::time::sleep(ANSWER_GOES_OUT).await;
            let _ = run.wait_for(|run| run.running).await;
            std::process::exit(0);
        });
    }
}

/// Starts the guest.
pub(crate) fn begin(mut plan: Plan, running: bool) -> io::Result<Guest> {
    let (run, watched) = watch::channel(Run { running, resets: 0 });
    let arguments = plan.boot.arguments().to_owned();
    let linked = Arc::new(AtomicBool::new(false));
    let console = Console::new(plan.serial.take(), &arguments);
    tokio::spawn(live(plan, console, watched, Arc::clone(&linked)));
    Ok(Guest { run, arguments, linked })
}

async fn live(plan: Plan, console: Console, mut run: watch::Receiver<Run>, linked: Arc<AtomicBool>) {
    let _ = run.wait_for(|run| run.running).await;
    let boot_time = Duration::from_millis(plan.boot_ms).max(ANSWER_GOES_OUT);
    let births = match plan.boot {
        Boot::Cold { arguments, panic } => {
            console.line("[    0.000000] Linux version 6.1.0 (the stand-in has no kernel)");
            console.line(&format!("[    0.000000] Command line: {arguments}"));
            tokio::time::sleep(boot_time).await;
            if plan.faults.die_during_boot {
                std::process::exit(1);
            }
            if let Some(why) = panic {
                console.line(&format!("[    0.100000] Kernel panic - not syncing: {why}"));
                if arguments.split(' ').any(|word| word.starts_with("panic=") && word != "panic=0") {
                    std::process::exit(0);
                }
                return std::future::pending().await;
            }
            // Who connected while nobody listened in the guest is turned away, and has to come again.
            if let Some(listener) = &plan.listener {
                while listener.accept().is_ok() {}
            }
            console.line("nex-init: ready");
            None
        }
        Boot::Restored { linked: true, .. } => {
            tokio::time::sleep(ANSWER_GOES_OUT).await;
            console.line("nex-init: the agent ended with status 0");
            std::process::exit(0);
        }
        Boot::Restored { births, .. } => Some(births),
    };
    if plan.faults.flood_console {
        console.flood();
    }
    let Some(listener) = plan.listener else { return std::future::pending().await };
    let port = vsock::Port { agent: plan.agent, faults: plan.faults, births, console, run, linked };
    port.listen(listener).await;
}
