//! What a node that was killed has left: monitors that still run, and their folders.
//!
//! A process is ended only when it is surely one of ours: the folder names its id, and its command line names the folder, or
//! at least the machine, which is all that a jailed one knows.
//! An id that has become somebody else's since is left alone.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tracing::{info, warn};

use super::place::PID;
use crate::process;

/// Time a killed monitor has to be gone.
const GONE: Duration = Duration::from_secs(5);

/// Ends and removes everything in the folder of machines.
pub(super) fn reclaim(machines: &Path) {
    for folder in fs::read_dir(machines).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if let Some(monitor) = monitor_of(&folder) {
            info!(machine = %folder.display(), pid = %monitor.as_raw_nonzero(), "ending a machine that was left behind");
            let _ = kill_process(monitor, Signal::KILL);
            let until = Instant::now() + GONE;
            while test_kill_process(monitor).is_ok() && monitor_of(&folder).is_some() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            if monitor_of(&folder).is_some() {
                warn!(machine = %folder.display(), "a machine that was left behind does not end");
                continue;
            }
        }
        process::remove_tree(&folder);
    }
}

/// The monitor of a machine, if it runs.
fn monitor_of(folder: &Path) -> Option<Pid> {
    let pid: i32 = fs::read_to_string(folder.join(PID)).ok()?.trim().parse().ok()?;
    let monitor = Pid::from_raw(pid).filter(|_| pid > 1)?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    // The name of the folder is that of the machine, of 100 random bits.
    let name = folder.file_name()?.as_encoded_bytes();
    command.windows(name.len()).any(|part| part == name).then_some(monitor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_monitor_is_ended_and_a_stranger_with_its_number_is_not() {
        let machines = tempfile::tempdir().unwrap();
        let (ours, theirs) = (machines.path().join("ours"), machines.path().join("theirs"));
        for folder in [&ours, &theirs] {
            fs::create_dir(folder).unwrap();
        }
        let script = format!("sleep 100; : {}", ours.display());
        let mut monitor = Command::new("/bin/sh").arg("-c").arg(script).spawn().unwrap();
        let mut stranger = Command::new("/bin/sleep").arg("100").spawn().unwrap();
        fs::write(ours.join(PID), monitor.id().to_string()).unwrap();
        fs::write(theirs.join(PID), stranger.id().to_string()).unwrap();
        // A process has no command line for a moment after it was started.
        while monitor_of(&ours).is_none() {
            std::thread::yield_now();
        }
        let waiting = std::thread::spawn(move || monitor.wait().unwrap());
        reclaim(machines.path());
        assert!(!waiting.join().unwrap().success(), "it was killed");
        assert!(stranger.try_wait().unwrap().is_none(), "nobody else was");
        assert_eq!(fs::read_dir(machines.path()).unwrap().count(), 0);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
