//! Processors that do not sleep: on each a process that only spins, and runs when nothing else wants to.
//!
//! To wake a processor costs more than most of what is measured here computes, and how much more is a property of the
//! machine: of its sleep states, and in a virtual one of its host. While these run nobody waits for that, neither a figure
//! nor its baseline; whatever wants the processor still has it at once.

use std::process::Command;

use anyhow::{Context, Result};
use nex_testkit::Process;
use rustix::thread::{CpuSet, sched_getaffinity};

/// Spins until it is killed.
const SPIN: &str = "while :; do :; done";

/// Keeps all processors awake until it is dropped.
pub(crate) struct Awake {
    _processes: Vec<Process>,
}

impl Awake {
    /// Starts a process for each processor that this one may run on, and what it starts.
    pub(crate) async fn keep() -> Result<Self> {
        let mut processes = Vec::new();
        let ours = sched_getaffinity(None).context("cannot tell which processors there are")?;
        for processor in (0..CpuSet::MAX_CPU).filter(|processor| ours.is_set(*processor)) {
            let mut command = Command::new("chrt");
            command.args(["--idle", "0", "taskset", "--cpu-list", &processor.to_string(), "sh", "-c", SPIN]);
            let process = Process::spawn(format!("what keeps processor {processor} awake"), command);
            processes.push(process.await.context("cannot start chrt, which util-linux has")?);
        }
        Ok(Self { _processes: processes })
    }
}
