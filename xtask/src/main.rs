//! `cargo xtask`: what a newcomer and the CI do with the workspace.
//!
//! Everything that it installs goes into the project's own `.tools` folder (Rust targets and components are rustup's
//! matter), nothing needs root, and every command may be run again at any time.

mod bench;
mod build;
mod cargo;
mod check;
mod conformance;
mod elf;
mod fuzz;
mod generate;
mod guest;
mod install;
mod layout;
mod narrate;
mod setup;
mod steps;
mod test;
mod tool;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use steps::Steps;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  demo             run the whole walk-through for real: server, node, three workloads, requests, replies
  test [-- ARGS]   run all tests; ARGS go to `cargo test`
  check            run the static checks: formatting, lints, documentation, licences
  ci               run check, conformance, fuzz, demo, bench (quickly) and test
  bench [ARGS]     measure, in release; --help and --list say what, --quick shows that it works
  fuzz [--seconds N] [TARGET...]
                   fuzz the decoders, each for so long (20 s)
  conformance [-- ARGS]
                   drive the node with the client library of Go Nex, where Go is installed; ARGS go to `go test`
  generate         write schemas/ and docs/errors.md anew, after a change of the types they are made from
  build            build nex, its agent and the examples
  guest            build what runs in microVMs, and fetch a kernel for tests of them
  setup            install what the others need and this machine lacks (they do it by themselves)";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[OsString]) -> Result<()> {
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.to_str().unwrap_or_default(), rest),
        None => ("help", arguments),
    };
    if !rest.is_empty() && !["test", "bench", "fuzz", "conformance"].contains(&command) {
        bail!("`cargo xtask {command}` takes no arguments\n\n{USAGE}");
    }
    match command {
        "setup" => setup::run().map(drop),
        "build" => build::run(),
        "guest" => guest::run(),
        "demo" => demo(),
        "test" => test::run(rest),
        "bench" => bench::run(rest),
        "fuzz" => fuzz(rest),
        "conformance" => conformance(rest),
        "generate" => generate::run(),
        "check" => check(),
        "ci" => ci(),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => bail!("there is no `cargo xtask {other}`\n\n{USAGE}"),
    }
}

/// Builds everything, then becomes the demo: so a Ctrl-C is the demo's to handle, not ours.
fn demo() -> Result<()> {
    let error = prepare_demo()?.exec();
    Err(error).context("cannot start the demo")
}

fn prepare_demo() -> Result<Command> {
    let tools = setup::run()?;
    build::run()?;
    let mut command = Command::new(layout::profile_folder().join("nex-demo"));
    command.current_dir(layout::root());
    tools.announce_to(&mut command);
    Ok(command)
}

fn check() -> Result<()> {
    let mut steps = Steps::new();
    check::run(&mut steps)?;
    steps.close()
}

fn fuzz(arguments: &[OsString]) -> Result<()> {
    let mut steps = Steps::new();
    fuzz::run(&mut steps, arguments)?;
    steps.close()
}

fn conformance(arguments: &[OsString]) -> Result<()> {
    let mut steps = Steps::new();
    let arguments = match arguments.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => arguments,
    };
    conformance::run(&mut steps, arguments)?;
    steps.close()
}

/// What `.ci/run` does, with the durations in one table.
fn ci() -> Result<()> {
    let mut steps = Steps::new();
    check::run(&mut steps)?;
    conformance::run(&mut steps, &[])?;
    fuzz::run(&mut steps, &[])?;
    steps.run("demo", || cargo::succeed(&mut prepare_demo()?));
    steps.run("bench", || bench::run(&["--quick", "--profile", "dev"].map(OsString::from)));
    steps.run("test", || test::run(&[]));
    steps.close()
}
