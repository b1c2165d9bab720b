//! The tests: `cargo test`, with everything built that they run. Examples have none of their own: the whole-system tests run
//! them.
//!
//! The workspace's test programs each print a summary of their own. The closing line here is the sum of them.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::{build, cargo, guest, narrate, setup};

/// Runs the tests; `arguments` (a leading `--` aside) go to `cargo test`.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let tools = setup::run()?;
    build::run()?;
    guest::refresh()?;
    narrate::headline("Running the tests");
    let arguments = match arguments.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => arguments,
    };
    let mut command = cargo::cargo(["test", "--no-fail-fast"]);
    command.args(arguments).stdout(Stdio::piped());
    tools.announce_to(&mut command);
    println!("$ {}", cargo::describe(&command));

    let mut child = command.spawn().context("cannot start cargo")?;
    let mut sum = Summary::default();
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        std::io::stdout().write_all(&line)?;
        sum.add(&String::from_utf8_lossy(&line));
        line.clear();
    }
    let status = child.wait()?;
    println!("\n{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.ignored);
    if !status.success() {
        bail!("`cargo test` failed ({status})");
    }
    Ok(())
}

#[derive(Debug, Default, PartialEq)]
struct Summary {
    passed: u32,
    failed: u32,
    ignored: u32,
}

impl Summary {
    /// Adds a line like `test result: ok. 8 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let counts = counts.split_once(". ").map_or(counts, |(_, counts)| counts);
        for count in counts.split("; ") {
            let Some((number, what)) = count.trim().split_once(' ') else { continue };
            let number: u32 = number.parse().unwrap_or_default();
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_add_up() {
        let mut sum = Summary::default();
        sum.add("test result: ok. 8 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.23s\n");
        sum.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\n");
        sum.add("a test printed 9 passed");
        assert_eq!(sum, Summary { passed: 9, failed: 2, ignored: 1 });
    }
}
