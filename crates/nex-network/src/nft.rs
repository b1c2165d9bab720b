//! The program `nft`, which gives rules to the kernel: each call is one transaction.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::{NetworkError, program};

/// What a transaction takes is milliseconds; a host with a huge rule set takes seconds to be listed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the program is.
#[derive(Debug)]
pub(crate) struct Nft {
    program: PathBuf,
}

impl Nft {
    /// Finds it.
    ///
    /// # Errors
    /// When it is not installed.
    pub(crate) fn find() -> Result<Self, NetworkError> {
        let folders = program::search_path();
        let found = program::find("nft", folders.iter().map(PathBuf::as_path));
        let program = found.ok_or_else(|| NetworkError::NoProgram {
            program: "nft",
            searched: program::told(&folders),
            package: "nftables",
        })?;
        Ok(Self { program })
    }

    /// Gives rules to the network namespace of the calling thread: all of them, or none.
    ///
    /// # Errors
    /// When nft refuses them.
    pub(crate) fn apply(&self, what: &'static str, rules: &str) -> Result<(), NetworkError> {
        self.run(what, &["-f", "-"], rules).map(|_| ())
    }

    /// What there is, in the namespace of the calling thread: the objects of nft's JSON.
    ///
    /// # Errors
    /// When nft fails, or does not answer in JSON.
    pub(crate) fn list(&self, what: &'static str, kind: &str) -> Result<Vec<Value>, NetworkError> {
        let output = self.run(what, &["-j", "list", kind], "")?;
        let failed = |message: String| NetworkError::Firewall { what, message };
        let mut answer: Value = serde_json::from_slice(&output).map_err(|error| failed(error.to_string()))?;
        match answer.get_mut("nftables").map(Value::take) {
            Some(Value::Array(objects)) => Ok(objects),
            _ => Err(failed("its answer is not the JSON it documents".into())),
        }
    }

    fn run(&self, what: &'static str, arguments: &[&str], input: &str) -> Result<Vec<u8>, NetworkError> {
        let failed = |message: String| NetworkError::Firewall { what, message };
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(Path::new("/"));
        let outcome = program::run(command, input.as_bytes(), PATIENCE).map_err(|error| failed(error.to_string()))?;
        if outcome.success { Ok(outcome.output) } else { Err(failed(outcome.complaint)) }
    }
}
