//! What this program is when it is started by itself: the other side of a measurement, in a process of its own.
//!
//! A responder or a crowd of nodes in the measuring process would share its thread, and its processor time could not be told
//! from the client's. Nothing here measures.

use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nex_testkit::Process;

use crate::{instructions, responder, simulated};

/// How long such a process may take to become ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// What it prints when it is.
const READY: &str = "ready";

/// One of them.
#[derive(Debug)]
pub(crate) enum Role {
    /// Answers every request with its payload.
    Responder { url: String, subject: String },
    /// Answers as so many nodes.
    Nodes { url: String, count: usize },
    /// Connects, makes one round trip, ends.
    RoundTrip { url: String, subject: String },
    /// Does one thing so many times: for valgrind, which counts the instructions.
    Pure { what: instructions::Pure, count: usize },
}

/// The first argument of all of them, which is no benchmark's name.
const MARK: &str = "--as";

impl Role {
    /// The role that the arguments name, if they name one.
    pub(crate) fn read(arguments: &[String]) -> Result<Option<Self>> {
        let mut words = arguments.iter().map(String::as_str);
        if words.next() != Some(MARK) {
            return Ok(None);
        }
        let mut word = || words.next().map(str::to_owned).context("a role lacks an argument");
        Ok(Some(match word()?.as_str() {
            "responder" => Self::Responder { url: word()?, subject: word()? },
            "nodes" => Self::Nodes { url: word()?, count: word()?.parse()? },
            "round-trip" => Self::RoundTrip { url: word()?, subject: word()? },
            "pure" => Self::Pure { what: word()?.parse()?, count: word()?.parse()? },
            other => bail!("there is no role '{other}'"),
        }))
    }

    fn arguments(&self) -> Vec<OsString> {
        let words = match self {
            Self::Responder { url, subject } => vec!["responder".to_owned(), url.clone(), subject.clone()],
            Self::Nodes { url, count } => vec!["nodes".to_owned(), url.clone(), count.to_string()],
            Self::RoundTrip { url, subject } => vec!["round-trip".to_owned(), url.clone(), subject.clone()],
            Self::Pure { what, count } => vec!["pure".to_owned(), what.name().to_owned(), count.to_string()],
        };
        std::iter::once(MARK.to_owned()).chain(words).map(OsString::from).collect()
    }

    /// Is it, until it is done or killed.
    pub(crate) fn play(self) -> Result<()> {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
        match self {
            Self::Responder { url, subject } => runtime()?.block_on(responder::respond(&url, subject, ready)),
            Self::Nodes { url, count } => runtime()?.block_on(simulated::answer(&url, count, ready)),
            Self::RoundTrip { url, subject } => runtime()?.block_on(responder::round_trip(&url, subject)),
            Self::Pure { what, count } => what.repeat(count),
        }
    }

    /// The command that starts it.
    pub(crate) fn command(&self) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(self.arguments());
        Ok(command)
    }

    /// Starts it, and waits until it is ready.
    pub(crate) async fn start(&self) -> Result<Process> {
        let process = Process::spawn("a role".to_owned(), self.command()?).await?;
        let ready = process.log().find(|line| (line == READY).then_some(()));
        match tokio::time::timeout(PATIENCE, ready).await {
            Ok(Some(())) => Ok(process),
            _ => bail!("{self:?} did not become ready:{}", process.log().tail(20)),
        }
    }
}

fn ready() {
    println!("{READY}");
}
