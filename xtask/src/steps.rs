//! A run of named steps: each announced, each timed, all listed at the end.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

#[derive(Debug, PartialEq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// What has been run so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(&'static str, Outcome, Duration)>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Runs one step. A failure is told at once and remembered: what follows still is of interest.
    pub(crate) fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) {
        self.run_if_possible(name, || step().map(|()| None));
    }

    /// Runs one step that says why when it could not be done here, which is told loudly and is no failure.
    pub(crate) fn run_if_possible(&mut self, name: &'static str, step: impl FnOnce() -> Result<Option<&'static str>>) {
        println!("\n=== {name}");
        let start = Instant::now();
        let outcome = match step() {
            Ok(None) => Outcome::Passed,
            Ok(Some(obstacle)) => {
                println!("\n!!! SKIPPED {name}: {obstacle}");
                Outcome::Skipped
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                Outcome::Failed
            }
        };
        self.done.push((name, outcome, start.elapsed()));
    }

    /// Prints the table of all steps; an error when one of them failed.
    pub(crate) fn close(&self) -> Result<()> {
        println!();
        let mut failed = Vec::new();
        for (name, outcome, duration) in &self.done {
            println!("{name:<12} {:<8} {:>7.1} s", format!("{outcome:?}"), duration.as_secs_f64());
            if *outcome == Outcome::Failed {
                failed.push(*name);
            }
        }
        if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
    }
}
