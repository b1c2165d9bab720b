//! Builds what demo and tests run: the workspace's programs, and the examples for their own targets.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::{cargo, elf, layout, narrate, setup};

/// Builds everything; the built examples end up side by side in one folder.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    narrate::headline("Building nex and its agent");
    cargo::succeed(&mut cargo::cargo(["build"]))?;
    examples()
}

/// Builds the examples, and the guests of tests, for their own targets.
pub(crate) fn examples() -> Result<()> {
    narrate::headline("Building the examples");
    let musl = setup::musl_target();
    let components = ["echofunction", "counter", "fetcher", "guest-probe", "guest-command"];
    for (packages, target) in
        [(&["echo-service"][..], musl), (&["echofunction"], "wasm32-wasip1"), (&components, "wasm32-wasip2")]
    {
        let mut command = cargo::cargo(["build", "--release", "--target", target]);
        for package in packages {
            command.args(["--package", package]);
        }
        cargo::succeed(&mut command)?;
    }

    let (built, sources) = (layout::target(), layout::root().join("examples"));
    let service = built.join(musl).join("release/echo-service");
    elf::expect_static(&service)?;
    let out = layout::examples();
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    for (from, name) in [
        (service, "echo-service"),
        (built.join("wasm32-wasip1/release/echofunction.wasm"), "echofunction.wasm"),
        (built.join("wasm32-wasip2/release/echofunction.wasm"), "echofunction-p2.wasm"),
        (built.join("wasm32-wasip2/release/counter.wasm"), "counter.wasm"),
        (built.join("wasm32-wasip2/release/fetcher.wasm"), "fetcher.wasm"),
        (built.join("wasm32-wasip2/release/guest_probe.wasm"), "guest-probe.wasm"),
        (built.join("wasm32-wasip2/release/guest-command.wasm"), "guest-command.wasm"),
        (sources.join("echo-function-js/echofunction.js"), "echofunction.js"),
        (sources.join("echo-function-ts/echofunction.ts"), "echofunction.ts"),
    ] {
        replace(&from, &out.join(name))?;
    }
    Ok(())
}

/// Copies a file over another by way of a rename: the old one may be running.
pub(crate) fn replace(from: &Path, to: &Path) -> Result<()> {
    let fresh = to.with_extension("new");
    let copied = fs::copy(from, &fresh).and_then(|_| fs::rename(&fresh, to));
    copied.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}
