//! `nex version`.

use anyhow::Result;
use nex_protocol::control::ping::go_arch;
use serde::Serialize;

use crate::output;

#[derive(Serialize)]
struct Version {
    version: &'static str,
    os: &'static str,
    arch: &'static str,
}

pub(super) fn run(json: bool) -> Result<()> {
    let version = Version { version: env!("CARGO_PKG_VERSION"), os: std::env::consts::OS, arch: go_arch() };
    if json { output::json(&version) } else { output::line(format!("nex {}", version.version)) }
}
