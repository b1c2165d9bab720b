//! The benchmarks: what is measured is built, then `nex-bench` runs on it.
//!
//! In release, unless told otherwise: `--profile dev` measures the programs that the tests run, which shows that everything
//! works without a second build of the engine.

use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::{build, cargo, layout, narrate, setup};

/// How what is measured was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Profile {
    Dev,
    Release,
}

/// Builds what is measured and runs `nex-bench` with the arguments.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let (profile, rest) = profile(arguments)?;
    let tools = setup::run()?;
    let folder = match profile {
        Profile::Dev => {
            build::run()?;
            layout::profile_folder()
        }
        Profile::Release => {
            build::examples()?;
            narrate::headline("Building everything in release");
            let packages = ["--package", "nex-cli", "--package", "nex-agent", "--package", "nex-benches"];
            cargo::succeed(cargo::cargo(["build", "--release"]).args(packages))?;
            layout::target().join("release")
        }
    };
    narrate::headline("Measuring");
    let mut command = std::process::Command::new(folder.join("nex-bench"));
    command.args(rest).current_dir(layout::root());
    tools.announce_to(&mut command);
    cargo::succeed(&mut command)
}

/// Takes `--profile NAME` out of the arguments.
fn profile(arguments: &[OsString]) -> Result<(Profile, Vec<OsString>)> {
    let (mut profile, mut rest) = (Profile::Release, Vec::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument != "--profile" {
            rest.push(argument.clone());
            continue;
        }
        profile = match arguments.next().and_then(|name| name.to_str()) {
            Some("dev") => Profile::Dev,
            Some("release") => Profile::Release,
            _ => bail!("--profile needs one of dev, release"),
        };
    }
    Ok((profile, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<(Profile, Vec<OsString>)> {
        profile(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_profile_is_taken_out_and_is_release_unless_named() {
        let rest = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(read(&["--quick", "cli"]).unwrap(), (Profile::Release, rest(&["--quick", "cli"])));
        assert_eq!(read(&["--quick", "--profile", "dev", "cli"]).unwrap(), (Profile::Dev, rest(&["--quick", "cli"])));
        assert!(read(&["--profile"]).is_err());
        assert!(read(&["--profile", "fast"]).is_err());
    }
}
