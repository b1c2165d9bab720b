//! What a node that was killed has left: monitors that still run, and their folders.
//!
//! A process is ended only when it is surely one of ours: the folder has its id and the moment of its start, which the kernel
//! keeps and no process can change. An id that has become somebody else's since is left alone. Where the node was killed
//! before it could note that, the process is the one that was started with the machine's name, which nobody else has.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tracing::{info, warn};

use crate::{cgroup, process};

/// File in the folder of a machine.
const FILE: &str = "monitor.pid";

/// Time that killed monitors have to be gone, all together.
const GONE: Duration = Duration::from_secs(5);

/// A monitor, as it is known later: process id and the moment of its start, in clock ticks since the boot of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    pid: u32,
    started: u64,
}

impl Note {
    /// A process of now.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name of the program may have anything in it, and ends with the last bracket.
        let after = stat.rsplit_once(')').map(|(_, after)| after);
        let started = after.and_then(|fields| fields.split_whitespace().nth(19)?.parse().ok());
        Ok(Self { pid, started: started.ok_or(io::ErrorKind::InvalidData)? })
    }

    pub(super) fn write(self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join(FILE), format!("{} {}", self.pid, self.started))
    }

    fn read(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join(FILE)).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }

    /// The one that was started for a machine of this name.
    fn find(folder: &Path) -> Option<Self> {
        let name = folder.file_name()?.as_encoded_bytes();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_meant = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            words.by_ref().any(|word| word == b"--id") && words.next() == Some(name)
        };
        pids.find(is_meant).and_then(|pid| Self::of(pid).ok())
    }

    /// Kills it, if it still is the same, and gives what tells of its end.
    fn kill(self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?).filter(|_| self.pid > 1)?;
        // Opened before it is looked at: from then on nobody else can be meant.
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        if Self::of(self.pid).ok()? != self {
            return None;
        }
        pidfd_send_signal(&process, Signal::KILL).ok()?;
        info!(pid = self.pid, "ended a machine that was left behind");
        Some(process)
    }
}

/// Kills all monitors in the folder of machines; with what tells of their ends, and their folders.
fn kill_all(machines: &Path) -> Vec<(Option<OwnedFd>, PathBuf)> {
    let folders = fs::read_dir(machines).into_iter().flatten().flatten().map(|entry| entry.path());
    let known = |folder: &Path| Note::read(folder).or_else(|| Note::find(folder));
    folders.map(|folder| (known(&folder).and_then(Note::kill), folder)).collect()
}

/// Kills all monitors in the folder of machines. Their folders stay; their control groups, which have their names in these
/// folders of a node, do not.
pub(super) fn kill(machines: &Path, groups: &[PathBuf]) {
    let killed = kill_all(machines);
    let until = Instant::now() + GONE;
    let ended = killed.into_iter().filter(|(process, _)| process.as_ref().is_some_and(|process| ends(process, until)));
    let names: Vec<_> = ended.filter_map(|(_, folder)| Some(folder.file_name()?.to_owned())).collect();
    cgroup::remove_of(groups, &names);
}

/// Ends and removes everything in the folder of machines. A machine that does not end keeps its folder.
pub(super) fn reclaim(machines: &Path) {
    // All are killed before the first is waited for.
    let killed = kill_all(machines);
    let until = Instant::now() + GONE;
    for (process, folder) in killed {
        if process.is_some_and(|process| !ends(&process, until)) {
            warn!(machine = %folder.display(), "a machine that was left behind does not end");
            continue;
        }
        process::remove_tree(&folder);
    }
}

fn ends(process: &OwnedFd, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    poll(&mut polled, Some(&left)).is_ok_and(|ended| ended > 0)
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
        let mut monitor = Command::new("/bin/sleep").arg("100").spawn().unwrap();
        let mut stranger = Command::new("/bin/sleep").arg("100").spawn().unwrap();
        Note::of(monitor.id()).unwrap().write(&ours).unwrap();
        let note = Note::of(stranger.id()).unwrap();
        Note { started: note.started - 1, ..note }.write(&theirs).unwrap();
        let waiting = std::thread::spawn(move || monitor.wait().unwrap());
        reclaim(machines.path());
        assert!(!waiting.join().unwrap().success(), "it was killed");
        assert!(stranger.try_wait().unwrap().is_none(), "nobody else was");
        assert_eq!(fs::read_dir(machines.path()).unwrap().count(), 0);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn a_monitor_that_was_not_noted_is_known_by_its_machines_name() {
        let machines = tempfile::tempdir().unwrap();
        let name = crate::agent::new_id();
        fs::create_dir(machines.path().join(&name)).unwrap();
        let start = |words: [&str; 2]| {
            let script = ["-c", "read line; exit", "monitor"];
            Command::new("/bin/sh").args(script).args(words).stdin(std::process::Stdio::piped()).spawn().unwrap()
        };
        let (mut ours, mut other) = (start(["--id", &name]), start(["--not", &name]));
        reclaim(machines.path());
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_note_that_is_none_ends_nobody() {
        let machines = tempfile::tempdir().unwrap();
        for (name, text) in [("a", ""), ("b", "1 0"), ("c", "x y"), ("d", "4294967295 5"), ("e", "0 0")] {
            fs::create_dir(machines.path().join(name)).unwrap();
            fs::write(machines.path().join(name).join(FILE), text).unwrap();
        }
        reclaim(machines.path());
        assert_eq!(fs::read_dir(machines.path()).unwrap().count(), 0);
    }
}
