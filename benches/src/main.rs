//! `nex-bench [--quick] [--json FILE] [NAME…]`: benchmarks against a real server, a real node and real engines.
//!
//! Every figure that can have one stands beside a baseline that was measured in the same run, in turns with it: machines
//! differ and are never quiet, ratios within one run hold. Nothing here fails because something is slow.

mod figures;
mod host_calls;
mod machines;
mod report;

use std::path::PathBuf;

use anyhow::{Result, bail};

use report::Report;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Turns between a figure and its baseline.
    pub(crate) rounds: usize,
    /// Operations in one turn.
    pub(crate) operations: usize,
}

/// All benchmarks, by name.
const NAMES: [&str; 2] = ["host-calls", "machines"];

// One thread: a baseline that first has to wake another would flatter everything beside it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut effort = Effort { rounds: 9, operations: 2000 };
    let mut json: Option<PathBuf> = None;
    let mut wanted = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => effort = Effort { rounds: 3, operations: 200 },
            "--json" => match arguments.next() {
                Some(file) => json = Some(file.into()),
                None => bail!("--json needs a file"),
            },
            name if NAMES.contains(&name) => wanted.push(name.to_owned()),
            other => bail!("there is no benchmark '{other}': known are {}", NAMES.join(", ")),
        }
    }
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|other| other == name);
    let mut report = Report::new();
    if is_wanted("host-calls") {
        host_calls::run(effort, &mut report).await?;
    }
    if is_wanted("machines") {
        machines::run(effort, &mut report).await?;
    }
    report.print();
    if let Some(file) = json {
        report.write(&file)?;
    }
    Ok(())
}
