//! Where and of what the figures are: machine, versions, commit, date.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What has to be known about a run to make something of its figures.
#[derive(Debug, Serialize)]
pub(crate) struct Setting {
    processor: String,
    processors: usize,
    kernel: String,
    nats_server: String,
    deno: String,
    wasmtime: String,
    commit: String,
    profile: &'static str,
    date: String,
}

const UNKNOWN: &str = "unknown";

impl Setting {
    /// Looks around. What cannot be found out is unknown, which is no reason to measure nothing.
    pub(crate) fn look() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let now = OffsetDateTime::now_utc();
        let now = now.replace_nanosecond(0).unwrap_or(now);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: processor.map_or(UNKNOWN, |(_, name)| name).to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
            nats_server: version(tool("NEX_NATS_SERVER", "nats-server")),
            deno: version(tool("NEX_DENO", "deno")),
            wasmtime: locked("wasmtime").unwrap_or_else(|| UNKNOWN.to_owned()),
            commit: commit().unwrap_or_else(|| UNKNOWN.to_owned()),
            profile: if cfg!(debug_assertions) { "dev" } else { "release" },
            date: now.format(&Rfc3339).unwrap_or_else(|_| UNKNOWN.to_owned()),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}, Linux {}; ", self.processors, self.processor, self.kernel)?;
        write!(f, "nats-server {}, Deno {}, wasmtime {}; ", self.nats_server, self.deno, self.wasmtime)?;
        write!(f, "commit {}, {} build, {}", self.commit, self.profile, self.date)
    }
}

fn tool(variable: &str, name: &str) -> Option<PathBuf> {
    nex_testkit::program(variable, name)
}

/// The first word with a digit and a dot of what a program says of itself.
fn version(program: Option<PathBuf>) -> String {
    let text = program.and_then(|program| output(Command::new(program).arg("--version"))).unwrap_or_default();
    let word = text.split_whitespace().find(|word| word.contains('.') && word.contains(|c: char| c.is_ascii_digit()));
    word.map_or(UNKNOWN, |word| word.trim_start_matches('v')).to_owned()
}

/// The version of a dependency, which is linked in and says nothing of itself.
fn locked(package: &str) -> Option<String> {
    let lock = std::fs::read_to_string(nex_testkit::workspace_root().join("Cargo.lock")).ok()?;
    let (_, entry) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    entry.split_once('"').map(|(version, _)| version.to_owned())
}

/// The commit of the source that this was built from, and whether it was changed since.
fn commit() -> Option<String> {
    let root: &Path = &nex_testkit::workspace_root();
    let git = |arguments: &[&str]| output(Command::new("git").args(arguments).current_dir(root));
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    Some(format!("{}{}", commit.trim(), if changed { ", changed" } else { "" }))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}
