//! Typing `nex` commands: each is printed as a user would type it, run, and its output shown.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// No command of the walk-through has reason to take longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where commands are typed: a folder to be in, and an environment.
#[derive(Debug)]
pub(crate) struct Shell {
    nex: PathBuf,
    folder: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

impl Shell {
    /// A shell in the project's root that knows nothing of its user: no keys, no NATS context.
    pub(crate) fn new(nex: PathBuf, folder: PathBuf, home: &Path) -> Self {
        let environment = vec![("NEX_HOME", home.into()), ("XDG_CONFIG_HOME", home.into()), ("NO_COLOR", "1".into())];
        Self { nex, folder, environment }
    }

    /// A `nex` command that is yet to be given its arguments.
    pub(crate) fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.nex);
        nex_testkit::forget_user(&mut command);
        command.current_dir(&self.folder).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// What follows is run with this variable set.
    pub(crate) fn export(&mut self, name: &'static str, value: &str) {
        println!("$ export {name}={value}");
        self.environment.push((name, value.into()));
    }

    /// Runs `nex` with these arguments, shows what it prints, and returns its standard output.
    pub(crate) async fn nex(&self, arguments: &[&str]) -> Result<String> {
        println!("\n$ nex {}", arguments.join(" "));
        let output = self.quietly(arguments).await?;
        print!("{output}");
        if !output.ends_with('\n') {
            println!();
        }
        Ok(output)
    }

    /// As [`Shell::nex`], without a word as long as it succeeds.
    pub(crate) async fn quietly(&self, arguments: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::from(self.command());
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let line = format!("nex {}", arguments.join(" "));
        let output = tokio::time::timeout(PATIENCE, command.output())
            .await
            .with_context(|| format!("`{line}` did not end within {PATIENCE:?}"))?
            .with_context(|| format!("cannot start {}", self.nex.display()))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            print!("{stdout}");
            std::io::stdout().flush()?;
            bail!("`{line}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(stdout)
    }
}
