//! A machine's console: the kernel's and the guest's last words.
//!
//! Read to its end, so that a guest cannot block on it; lines go to the node's log at debug level, and the last ones are
//! kept for the error of a machine that does not come up. A guest may write without end: what is kept is bounded, and a
//! line is cut where it is too long.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tracing::debug;

use crate::PrepareError;

/// Lines kept.
const KEPT: usize = 12;

/// Longest line, bytes.
const LONGEST: usize = 512;

/// Beginnings of what says why a guest ends; what comes after it may be long.
const CAUSES: [&str; 2] = ["Kernel panic", "nex-init: cannot"];

/// The last lines, and the last one that says why.
#[derive(Debug, Default)]
struct Last {
    lines: VecDeque<String>,
    cause: Option<String>,
}

/// What a machine has said.
#[derive(Debug, Default)]
pub(super) struct Console {
    last: Arc<Mutex<Last>>,
    readers: Vec<JoinHandle<()>>,
}

impl Console {
    /// Reads what a monitor writes: its standard output is the guest's console, its standard error its own.
    pub(super) fn follow(&mut self, id: &str, monitor: &mut Child) {
        if let Some(output) = monitor.stdout.take() {
            self.readers.push(tokio::spawn(read(id.to_owned(), output, Arc::clone(&self.last))));
        }
        if let Some(output) = monitor.stderr.take() {
            self.readers.push(tokio::spawn(read(id.to_owned(), output, Arc::clone(&self.last))));
        }
    }

    /// The error of a machine that did not come up, with its last words. To be called when the monitor is gone.
    pub(super) async fn explain(self, error: PrepareError) -> PrepareError {
        for reader in self.readers {
            let _ = reader.await;
        }
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.lines.is_empty() {
            return error;
        }
        let cause = last.cause.iter().filter(|cause| !last.lines.contains(cause));
        let words: Vec<&str> = cause.chain(&last.lines).map(String::as_str).collect();
        PrepareError::Machine { error: error.to_string(), console: words.join(" | ") }
    }
}

async fn read(id: String, mut output: impl AsyncRead + Unpin, last: Arc<Mutex<Last>>) {
    let mut buffer = vec![0; 4096];
    let mut line = Vec::new();
    while let Ok(read @ 1..) = output.read(&mut buffer).await {
        for byte in buffer.iter().take(read) {
            match byte {
                b'\n' => keep(&id, &mut line, &last),
                byte if line.len() < LONGEST => line.push(*byte),
                _ => {}
            }
        }
    }
    keep(&id, &mut line, &last);
}

fn keep(id: &str, line: &mut Vec<u8>, last: &Mutex<Last>) {
    // Shown in logs and errors: what controls a terminal has no place there.
    let text: String = String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).collect();
    line.clear();
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    debug!(target: "nex_machine", machine = id, "{text}");
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    if CAUSES.iter().any(|cause| text.contains(cause)) {
        last.cause = Some(text.to_owned());
    }
    if last.lines.len() == KEPT {
        last.lines.pop_front();
    }
    last.lines.push_back(text.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_lines_are_kept_cut_and_cleaned() {
        let last = Arc::<Mutex<Last>>::default();
        let mut text = "[    0.1] Kernel panic - not syncing: No working init found.\n".to_owned();
        text.push_str(&"x".repeat(10_000));
        for number in 0..20 {
            text.push_str(&format!("\nline \u{1b}[2J{number}\r"));
        }
        read("m".into(), text.as_bytes(), Arc::clone(&last)).await;
        let last = last.lock().unwrap();
        assert_eq!(last.lines.len(), KEPT);
        assert_eq!(last.lines.back().map(String::as_str), Some("line [2J19"));
        assert!(last.cause.as_ref().is_some_and(|cause| cause.contains("No working init")), "why is not lost");
    }
}
