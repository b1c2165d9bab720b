//! The static checks: formatting, lints, documentation, dependencies.
//!
//! Lints and documentation share their work on the dependencies, and nothing here sets compiler flags for all crates:
//! that would have cargo build the whole graph once more.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::steps::Steps;
use crate::{cargo, layout, narrate, setup};

/// The version of cargo-deny that is installed when there is none.
const CARGO_DENY: &str = "0.20.2";

/// Runs all of them, also after one has failed.
pub(crate) fn run(steps: &mut Steps) -> Result<()> {
    setup::lint_components()?;
    steps.run("fmt", || cargo::succeed(&mut cargo::cargo(["fmt", "--all", "--check"])));
    steps.run("clippy", || {
        cargo::succeed(&mut cargo::cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    steps.run("doc", || {
        let mut doc = cargo::cargo(["doc", "--workspace", "--no-deps", "--document-private-items"]);
        // Written for those who work on the source: private items and links to them included.
        cargo::succeed(doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links"))
    });
    let tools = setup::run()?;
    steps.run("types", || types(tools.deno()));
    install_deny()?;
    steps.run("deny", || cargo::succeed(&mut deny(&["bans", "licenses", "sources"])));
    steps.run_if_possible("advisories", advisories);
    Ok(())
}

/// The examples in JavaScript and TypeScript against the types for authors.
fn types(deno: &Path) -> Result<()> {
    let mut command = Command::new(deno);
    command.args(["check", "--quiet", "--no-config", "--no-lock", "types/nex.d.ts"]).current_dir(layout::root());
    for folder in fs::read_dir(layout::root().join("examples"))? {
        for file in fs::read_dir(folder?.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "js" || extension == "ts") {
                command.arg(path.strip_prefix(layout::root()).unwrap_or(&path));
            }
        }
    }
    cargo::succeed(&mut command)
}

/// Known vulnerabilities. Their list is fetched, so this one cannot be done everywhere.
fn advisories() -> Result<Option<&'static str>> {
    let mut command = deny(&["advisories"]);
    // A connection that hangs ends as one that is refused does.
    command
        .env("GIT_HTTP_LOW_SPEED_LIMIT", "1000")
        .env("GIT_HTTP_LOW_SPEED_TIME", "30")
        .env("GIT_TERMINAL_PROMPT", "0");
    println!("$ {}", cargo::describe(&command));
    let (status, output) = narrate::run_indented(&mut command)?;
    if output.contains("failed to fetch advisory database") {
        return Ok(Some("the advisory database cannot be fetched from here; no vulnerability was looked for"));
    }
    if !status.success() {
        bail!("a dependency has a known vulnerability, or was withdrawn");
    }
    Ok(None)
}

fn deny(checks: &[&str]) -> Command {
    let mut command = Command::new(layout::tools_bin().join("cargo-deny"));
    command.args(["--color", "never", "check", "--hide-inclusion-graph"]).args(checks).current_dir(layout::root());
    command
}

/// Builds cargo-deny into the project's tools. Unoptimised: that takes a fifth of the time, and it runs for a second.
fn install_deny() -> Result<()> {
    let path = layout::tools_bin().join("cargo-deny");
    let installed = Command::new(&path).arg("--version").output();
    if installed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(CARGO_DENY)) {
        return Ok(());
    }
    narrate::headline(format!("Installing cargo-deny {CARGO_DENY} into .tools (a few minutes, once)"));
    let package = format!("cargo-deny@{CARGO_DENY}");
    let mut install = cargo::cargo(["install", "--locked", "--debug", "--force", "--root"]);
    // A target folder of its own: its dependencies are not ours, and cargo removes it after the installation.
    install.arg(layout::tools()).arg(package).env_remove("CARGO_TARGET_DIR").env("CARGO_PROFILE_DEV_DEBUG", "0");
    cargo::succeed(&mut install).context("cannot install cargo-deny: is the network there?")
}
