//! The set-up: makes sure that the machine has what build, demo and tests need.
//!
//! When all is there, it is silent and takes a blink; whatever is missing, it says so, why it is needed, and installs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tool::{DENO, NATS_SERVER, Tool};
use crate::{cargo, install, layout, narrate};

/// Where the programs are that the set-up made sure of.
#[derive(Debug)]
pub(crate) struct Tools {
    nats_server: PathBuf,
    deno: PathBuf,
}

impl Tools {
    /// Deno.
    pub(crate) fn deno(&self) -> &Path {
        &self.deno
    }

    /// Tells a program that we start where things are.
    pub(crate) fn announce_to(&self, command: &mut Command) {
        command
            .env(NATS_SERVER.variable, &self.nats_server)
            .env(DENO.variable, &self.deno)
            .env("NEX_EXAMPLES", layout::examples());
    }
}

/// Makes sure of everything.
pub(crate) fn run() -> Result<Tools> {
    rust_parts("target", &targets(), |sysroot, name| sysroot.join("lib/rustlib").join(name).join("lib").is_dir())?;
    let mut missing = Vec::new();
    let nats_server = find(&NATS_SERVER, &mut missing)?;
    let deno = find(&DENO, &mut missing)?;
    if !missing.is_empty() {
        install::install(&missing)?;
    }
    let installed = |tool: &Tool| layout::tools_bin().join(tool.name);
    Ok(Tools {
        nats_server: nats_server.unwrap_or_else(|| installed(&NATS_SERVER)),
        deno: deno.unwrap_or_else(|| installed(&DENO)),
    })
}

fn find(tool: &'static Tool, missing: &mut Vec<&'static Tool>) -> Result<Option<PathBuf>> {
    let found = tool.find()?;
    if found.is_none() {
        missing.push(tool);
    }
    Ok(found)
}

/// The Rust target that services are built for: statically linked, for this machine's processor.
pub(crate) fn musl_target() -> &'static str {
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-musl" } else { "x86_64-unknown-linux-musl" }
}

fn targets() -> [&'static str; 3] {
    ["wasm32-wasip1", "wasm32-wasip2", musl_target()]
}

/// Makes sure of the components that the checks need.
pub(crate) fn lint_components() -> Result<()> {
    let programs = |name: &str| if name == "clippy" { "cargo-clippy" } else { "rustfmt" };
    rust_parts("component", &["rustfmt", "clippy"], |sysroot, name| sysroot.join("bin").join(programs(name)).is_file())
}

/// Has rustup add the named targets or components that `is_there` does not find in the toolchain.
fn rust_parts(kind: &str, names: &[&str], is_there: impl Fn(&Path, &str) -> bool) -> Result<()> {
    let sysroot = cargo::sysroot()?;
    let missing: Vec<&str> = names.iter().copied().filter(|name| !is_there(&sysroot, name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    narrate::headline(format!("Adding to the Rust toolchain: {list} (rustup {kind} add)"));
    let (status, _) =
        narrate::run_indented(Command::new("rustup").args([kind, "add"]).args(&missing)).with_context(|| {
            format!("this Rust was not installed by rustup: install its {kind}s {list} the way it was installed")
        })?;
    if !status.success() {
        bail!("`rustup {kind} add {list}` failed: is the network there?");
    }
    Ok(())
}
