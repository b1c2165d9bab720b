//! The benchmarks: everything in release, then `nex-bench` on it.

use std::ffi::OsString;

use anyhow::Result;

use crate::{build, cargo, layout, narrate, setup};

/// Builds what is measured and runs `nex-bench` with the arguments.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let tools = setup::run()?;
    build::examples()?;
    narrate::headline("Building everything in release");
    let packages = ["--package", "nex-cli", "--package", "nex-agent", "--package", "nex-benches"];
    cargo::succeed(cargo::cargo(["build", "--release"]).args(packages))?;
    narrate::headline("Measuring");
    let mut command = std::process::Command::new(layout::target().join("release/nex-bench"));
    command.args(arguments).current_dir(layout::root());
    tools.announce_to(&mut command);
    cargo::succeed(&mut command)
}
