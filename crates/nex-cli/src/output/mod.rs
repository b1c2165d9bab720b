//! What a command prints: tables and blocks for people, plain lines for pipes, JSON for programs.

mod block;
mod number;
mod table;

use std::io::{IsTerminal, Write};

use anyhow::Result;
use serde::Serialize;

pub(crate) use block::Block;
pub(crate) use number::grouped;
pub(crate) use table::Table;

/// Whether the user does not want colours: <https://no-color.org>.
pub(crate) fn colour_unwanted() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Whether standard output is read by a person.
pub(crate) fn to_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// `🚀 ` for people, nothing for pipes.
pub(crate) fn emoji(symbol: &str) -> String {
    if to_terminal() { format!("{symbol} ") } else { String::new() }
}

/// What somebody else sent, to be shown and not obeyed: no line ends, no control sequences for terminals.
pub(crate) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints a text and a line end.
pub(crate) fn line(text: impl AsRef<str>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.as_ref())?;
    Ok(out.flush()?)
}

/// Prints a value as JSON: indented for people, one line for pipes.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<()> {
    line(if to_terminal() { serde_json::to_string_pretty(value)? } else { serde_json::to_string(value)? })
}
