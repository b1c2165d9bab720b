//! The command line: how long it takes to start, and to show the nodes.
//!
//! The baselines are processes as well: one that does nothing, and one that connects to NATS, makes one round trip and ends.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nex_e2e::World;
use nex_testkit::{Binaries, forget_user};

use crate::effort::Effort;
use crate::figures::nanos;
use crate::report::Report;
use crate::responder;
use crate::roles::Role;
use crate::stage;
use crate::turns::Turns;

const NAME: &str = "cli";

/// The command line on this server, with nothing of the person who measures.
pub(crate) fn nex(url: &str) -> Result<Command> {
    let mut command = Command::new(Binaries::nex()?);
    forget_user(&mut command);
    command.env("NATS_URL", url);
    Ok(command)
}

/// Runs a command to its end; what it printed.
pub(crate) async fn succeed(mut command: Command) -> Result<String> {
    let program = command.get_program().to_owned();
    command.stdin(Stdio::null());
    let output = tokio::process::Command::from(command).output().await.context("it does not start")?;
    if !output.status.success() {
        bail!("{} failed: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn timed(count: usize, command: impl Fn() -> Result<Command>) -> Result<Vec<u64>> {
    let mut samples = Vec::new();
    for _ in 0..count {
        let command = command()?;
        let begun = Instant::now();
        succeed(command).await?;
        samples.push(nanos(begun.elapsed()));
    }
    Ok(samples)
}

/// Measures all of it.
pub(crate) async fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let world = World::with(stage::config(&[])).await?;
    let url = world.server.url();
    let _responder = responder::start(url.clone()).await?;
    let (rounds, each) = effort.choose((5, 10), (1, 2));
    let with = |arguments: &[&str]| {
        let mut command = nex(&url)?;
        command.args(arguments);
        Ok(command)
    };

    let mut start = Turns::default();
    let mut list = Turns::default();
    for _ in 0..rounds {
        let nothing = timed(each, || Ok(Command::new("true"))).await?;
        start.add(timed(each, || with(&["--version"])).await?, nothing)?;
        let trip = Role::RoundTrip { url: url.clone(), subject: responder::SUBJECT.to_owned() };
        let trips = timed(each, || trip.command()).await?;
        list.add(timed(each, || with(&["node", "ls"])).await?, trips)?;
    }
    report.add(start.line(NAME, "nex --version", "a process that does nothing", None)?);
    report.add(list.line(NAME, "nex node ls, one node", "a process with one NATS round trip", None)?);
    world.node.terminate().await?;
    Ok(())
}
