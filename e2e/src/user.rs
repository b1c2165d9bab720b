//! Somebody at a terminal: runs `nex` as a user does, in a home of his own.
//!
//! A command that does not end as it should is a failed test, so these do not return errors but panic.

#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc, reason = "what fails here is a failed test")]

use std::process::{Command, Output};

use anyhow::Result;
use nex_testkit::{Binaries, Process, forget_user};
use serde_json::Value;

/// A user with a home, and a server he works with.
#[derive(Debug)]
pub struct User {
    /// His home, which is also where he is.
    pub home: tempfile::TempDir,
    /// The server.
    pub url: String,
}

impl User {
    /// A user with an empty home.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn at(url: String) -> Result<Self> {
        Ok(Self { home: tempfile::tempdir()?, url })
    }

    /// A command, ready to be run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Binaries::nex().unwrap());
        forget_user(&mut command);
        command.args(arguments).current_dir(self.home.path());
        command.env("HOME", self.home.path()).env("NATS_URL", &self.url);
        command
    }

    /// Runs a command to its end, however it ends.
    pub async fn nex(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
    }

    /// What a command that succeeds prints.
    pub async fn prints(&self, arguments: &[&str]) -> String {
        let output = self.nex(arguments).await;
        let (out, err) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(output.status.success(), "nex {arguments:?}: {err}");
        out
    }

    /// The JSON that a command prints.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.prints(arguments).await).unwrap()
    }

    /// The one line that a command which fails says.
    pub async fn complains(&self, arguments: &[&str]) -> String {
        let output = self.nex(arguments).await;
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "nex {arguments:?}");
        assert_eq!(err.lines().count(), 1, "{err}");
        err
    }

    /// Starts a command that goes on.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn starts(&self, arguments: &[&str]) -> Result<Process> {
        Process::spawn(format!("nex {}", arguments.join(" ")), self.command(arguments)).await
    }

    /// Starts a node.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn node_up(&self, arguments: &[&str]) -> Result<Process> {
        self.starts(&[&["node", "up", "--no-sandbox"], arguments].concat()).await
    }
}
