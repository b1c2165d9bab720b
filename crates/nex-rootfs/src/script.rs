//! A person's script, run inside the image before it is closed.
//!
//! It is root there, sees the image and nothing else, and has no network unless it is given the builder's. What it needs it
//! finds in the base. Where the builder is not root, root is the only user there is: nothing can be given to another one.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::geteuid;
use sha2::{Digest, Sha256};

use crate::RootfsError;
use crate::base::read_small;
use crate::namespaces::{self, NotRun};
use crate::tree::Tree;

/// Most bytes of a script.
const LARGEST: u64 = 16 << 20;

/// Where it lies while it runs.
const PLACE: &str = ".nex-script";

/// What runs scripts that do not say what does.
const SHELL: &str = "/bin/sh";

/// Longest first line that is looked at.
const FIRST_LINE: usize = 256;

/// A script, and what it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The file.
    pub path: PathBuf,
    /// Whether it has the builder's network.
    pub network: bool,
}

/// A script that was read.
pub(crate) struct Ready {
    script: Script,
    bytes: Vec<u8>,
}

impl Script {
    pub(crate) fn read(&self) -> Result<Ready, RootfsError> {
        Ok(Ready { script: self.clone(), bytes: read_small(&self.path, LARGEST)? })
    }
}

impl Ready {
    /// Runs it; gives its SHA-256.
    pub(crate) fn run(&self, tree: &mut Tree) -> Result<String, RootfsError> {
        let failed = |reason: String| RootfsError::Script { path: self.script.path.clone(), reason };
        let named = interpreter(&self.bytes);
        let program = named.clone().unwrap_or_else(|| SHELL.to_owned());
        if !tree.inside(Path::new(&program))?.is_file() {
            return Err(failed(format!(
                "there is no {program} in the base to run it: take a base that has it (--base)"
            )));
        }
        tree.write(PLACE, &self.bytes, 0o700)?;
        let root = geteuid().is_root();
        let known = if root {
            tree.set_attributes()?;
            None
        } else {
            Some(tree.marked())
        };
        let mut command = match named {
            Some(_) => Command::new(format!("/{PLACE}")),
            None => {
                let mut command = Command::new(SHELL);
                command.arg(format!("/{PLACE}"));
                command
            }
        };
        // What it prints is for whoever builds; the standard output is for what is built.
        let shown = io::stderr().as_fd().try_clone_to_owned().map_err(|error| failed(error.to_string()))?;
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .stdin(Stdio::null())
            .stdout(shown);
        let ended = namespaces::run(command, tree, self.script.network);
        let status = ended.map_err(|not_run| match not_run {
            NotRun::Image(error) => error,
            NotRun::Step(step, error) if error.kind() == io::ErrorKind::NotFound && step == "be run" => {
                failed(format!("{program} cannot be run in the base: what it needs is not there"))
            }
            NotRun::Step(step, error) => failed(format!("it cannot {step}: {error}")),
        })?;
        if !status.success() {
            return Err(failed(match status.code() {
                Some(code) => format!("it ended with status {code}; what it printed is above"),
                None => "it was killed".to_owned(),
            }));
        }
        match known {
            None => tree.take_attributes()?,
            Some(known) => tree.keep_attributes_of(&known),
        }
        let there = tree.root().join(PLACE);
        if there.symlink_metadata().is_ok() {
            tree.remove(&there)?;
        }
        Ok(hex::encode(Sha256::digest(&self.bytes)))
    }
}

/// The program that a script names in its first line.
fn interpreter(script: &[u8]) -> Option<String> {
    let line = script.strip_prefix(b"#!")?;
    let line = line.get(..FIRST_LINE.min(line.len()))?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    line.split_ascii_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_names_what_runs_it() {
        assert_eq!(interpreter(b"#! /bin/bash -e\nx").as_deref(), Some("/bin/bash"));
        for none in [&b"echo"[..], b"#!", b"#!\n/bin/sh", b""] {
            assert_eq!(interpreter(none), None);
        }
    }
}
