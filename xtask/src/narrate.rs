//! Saying what is done: headlines, and another program's output indented under them.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

/// One line about what happens next.
pub(crate) fn headline(text: impl AsRef<str>) {
    println!("==> {}", text.as_ref());
}

/// A line under the headline.
pub(crate) fn detail(text: impl AsRef<str>) {
    println!("    {}", text.as_ref());
}

/// Runs a program with its output indented, line by line as it comes; returns the output as well.
pub(crate) fn run_indented(command: &mut Command) -> Result<(ExitStatus, String)> {
    let (output, input) = std::io::pipe()?;
    let name = command.get_program().display().to_string();
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    // The command holds this side's copies of the pipe: replaced, so that the pipe ends with the program.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let text = copy_indented(output)?;
    Ok((child.wait()?, text))
}

fn copy_indented(output: impl Read) -> Result<String> {
    let mut text = String::new();
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        let shown = String::from_utf8_lossy(&line);
        detail(shown.trim_end());
        text.push_str(&shown);
        line.clear();
    }
    Ok(text)
}
