//! What microVMs are made of, for tests and for who builds an image from the source: the agent, the first process and a
//! service that tries to get out, linked statically; and a kernel, from Debian's packages where those can be had.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::{build, cargo, elf, layout, narrate, setup};

/// The package that depends on the present kernel for machines without devices of their own.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Builds the programs, and fetches a kernel unless there is one.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    narrate::headline("Building what runs in microVMs");
    if Command::new("musl-gcc").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        println!(
            "!!! SKIPPED: there is no musl-gcc (Debian and Ubuntu: `apt-get install musl-tools`); nothing is tried in microVMs"
        );
        return Ok(());
    }
    programs()?;
    match kernel() {
        Ok(Some(kernel)) => println!("kernel: {}", kernel.display()),
        Ok(None) => println!(
            "!!! there is no kernel for microVMs, and no Debian to have one from: tests of them need NEX_TEST_KERNEL"
        ),
        Err(error) => println!("!!! no kernel for microVMs could be fetched: {error:#}"),
    }
    Ok(())
}

/// Builds them anew, if there are any: those of older sources speak another version of the link.
pub(crate) fn refresh() -> Result<()> {
    if !folder().is_dir() {
        return Ok(());
    }
    narrate::headline("Building what runs in microVMs");
    programs()
}

fn folder() -> PathBuf {
    layout::profile_folder().join("guest")
}

fn programs() -> Result<()> {
    let target = setup::musl_target();
    let mut command = cargo::cargo(["build", "--profile", "guest", "--target", target]);
    command.args(["--package", "nex-agent", "--package", "nex-init", "--package", "guest-intruder"]);
    cargo::succeed(&mut command)?;
    let out = folder();
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    for name in ["nex-agent", "nex-init", "guest-intruder"] {
        let built = layout::target().join(target).join("guest").join(name);
        elf::expect_static(&built)?;
        build::replace(&built, &out.join(name))?;
    }
    Ok(())
}

/// A kernel with its modules in `.tools/kernel`; none where there are no Debian packages.
fn kernel() -> Result<Option<PathBuf>> {
    let folder = layout::tools().join("kernel");
    if let Some(there) = find(&folder.join("boot")) {
        return Ok(Some(there));
    }
    let depends = Command::new("apt-cache").args(["depends", KERNEL]).stdin(Stdio::null()).output();
    let Ok(depends) = depends else { return Ok(None) };
    let text = String::from_utf8_lossy(&depends.stdout);
    let package = text.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let Some(package) = package.map(|version| format!("linux-image-{version}")) else { return Ok(None) };
    // Whole or not at all: what is half unpacked would be taken for a kernel the next time.
    let fresh = folder.with_extension("new");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
    cargo::succeed(Command::new("apt-get").args(["download", &package]).current_dir(&fresh))?;
    for entry in fs::read_dir(&fresh)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            cargo::succeed(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&fresh))?;
            fs::remove_file(&path)?;
        }
    }
    fs::rename(&fresh, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(find(&folder.join("boot")))
}

fn find(boot: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(boot).ok()?.flatten().map(|entry| entry.path());
    files.into_iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
}
