//! A program that is run to its end: given its input, heard out, ended when it takes too long.
//!
//! Its input and output are files in memory, so that neither side ever waits for the other, whatever it leaves
//! running.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// Of what a program says, no more than this is read.
const MOST_OUTPUT: u64 = 4 << 20;

/// What a program said at its end.
pub(crate) struct Outcome {
    /// Whether its status was zero.
    pub(crate) success: bool,
    /// Its standard output.
    pub(crate) output: Vec<u8>,
    /// Its standard error, trimmed.
    pub(crate) complaint: String,
}

/// Runs it in the network namespace of the calling thread.
///
/// # Errors
/// When it cannot be started, or does not end in time: it is killed then, with what it started.
pub(crate) fn run(mut command: Command, input: &[u8], within: Duration) -> io::Result<Outcome> {
    let memory = |name: &str| memfd_create(name, MemfdFlags::CLOEXEC).map(File::from);
    let (mut stdin, mut stdout, mut stderr) = (memory("stdin")?, memory("stdout")?, memory("stderr")?);
    stdin.write_all(input)?;
    stdin.rewind()?;
    command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout.try_clone()?)).stderr(Stdio::from(stderr.try_clone()?));
    // A group of its own: what a terminal sends to the node's does not reach it, and it can be ended with its
    // children.
    let mut child = command.process_group(0).spawn()?;
    let pid = Pid::from_child(&child);
    let ended = pidfd_open(pid, PidfdFlags::empty()).and_then(|fd| {
        let until = Instant::now() + within;
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(rest).map_err(|_| rustix::io::Errno::INVAL)?;
            match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => {}
                other => return other.map(|ready| ready > 0),
            }
        }
    });
    if !matches!(ended, Ok(true)) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait()?;
    if !ended? {
        let text = format!("it did not end within {} seconds", within.as_secs());
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    }
    let complaint = String::from_utf8_lossy(&whole(&mut stderr)?).trim().to_owned();
    Ok(Outcome { success: status.success(), output: whole(&mut stdout)?, complaint })
}

fn whole(file: &mut File) -> io::Result<Vec<u8>> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MOST_OUTPUT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first of the folders that has a program of this name.
pub(crate) fn find<'a>(name: &str, folders: impl IntoIterator<Item = &'a Path>) -> Option<PathBuf> {
    let runs = |path: &PathBuf| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    folders.into_iter().map(|folder| folder.join(name)).find(runs)
}

/// The folders in which this process's programs are; those of administrators are always among them.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
    for folder in ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// Folders as they are told to a person.
pub(crate) fn told(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_is_given_its_input_and_heard_out() {
        let outcome = run(shell("cat; echo no >&2; exit 3"), b"hello", Duration::from_secs(10)).unwrap();
        assert!(!outcome.success);
        assert_eq!(outcome.output, b"hello");
        assert_eq!(outcome.complaint, "no");
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_with_its_children() {
        let started = Instant::now();
        let error = run(shell("sleep 60 & sleep 60"), b"", Duration::from_millis(50)).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
