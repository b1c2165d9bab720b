//! The agent of the guest: a process that has the connection as its standard input, and the guest's view of files as
//! far as it needs one. It dies with the monitor, as everything in a guest does.

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command as StdCommand, ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::process::Command;
use tokio::sync::watch;

use super::console::Console;
use super::{AS_THE_GUEST, Run, place};
use crate::settings::Faults;

/// What the agent gets.
pub(super) struct Started {
    pub(super) link: OwnedFd,
    /// The same connection, to reset it.
    pub(super) kept: UnixStream,
    /// How often the device had been reset when it came.
    pub(super) resets: u32,
}

/// Runs the agent, and ends the monitor when it ends.
pub(super) async fn run(
    started: Started,
    agent: &Path,
    faults: &Faults,
    console: &Console,
    run: &mut watch::Receiver<Run>,
) {
    let Ok(itself) = std::env::current_exe() else { return };
    let mut command = Command::new(itself);
    command
        .args([AS_THE_GUEST.as_ref(), agent.as_os_str()])
        .env_clear()
        .env("NEX_AGENT_LOG", "warn")
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::from(started.link))
        .stdout(Stdio::null())
        .stderr(console.for_process());
    let child = command.spawn();
    drop(command);
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            console.line(&format!("nex-init: cannot start the agent: {error}"));
            std::process::exit(0);
        }
    };
    if let Some(after) = faults.die_after_ms {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            std::process::exit(1);
        });
    }
    if let Some(after) = faults.eat_memory_after_ms {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(after));
            let mut eaten = Vec::new();
            loop {
                // Written to: what is only asked for takes nothing.
                eaten.push(vec![1_u8; 1 << 20]);
            }
        });
    }
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let (mut watched, mut stopped) = (true, false);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            changed = run.changed(), if watched => watched = changed.is_ok(),
        }
        let now = *run.borrow_and_update();
        if let Some(pid) = pid
            && stopped == now.running
        {
            stopped = !now.running;
            let _ = kill_process(pid, if stopped { Signal::STOP } else { Signal::CONT });
        }
        if now.running && now.resets != started.resets {
            let _ = started.kept.shutdown(Shutdown::Both);
        }
    };
    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    console.line(&format!("nex-init: the agent ended with {status}"));
    std::process::exit(0);
}

/// In the process that becomes the agent: goes where an agent in a guest is, and becomes it.
pub(crate) fn become_the_agent(agent: &Path) -> ExitCode {
    if let Err(error) = place::enter() {
        eprintln!("stand-in: the agent has no {}: {error}; what it writes there fails", place::WORK);
    }
    // After the place: a change of user clears it.
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("stand-in: an agent that would outlive its guest is not started: {error}");
        return ExitCode::FAILURE;
    }
    let error = StdCommand::new(agent).exec();
    eprintln!("stand-in: cannot start the agent {}: {error}", agent.display());
    ExitCode::FAILURE
}
