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

/// What a machine has said.
#[derive(Debug, Default)]
pub(super) struct Console {
    last: Arc<Mutex<VecDeque<String>>>,
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
        if last.is_empty() {
            return error;
        }
        let words: Vec<&str> = last.iter().map(String::as_str).collect();
        PrepareError::Machine { error: error.to_string(), console: words.join(" | ") }
    }
}

async fn read(id: String, mut output: impl AsyncRead + Unpin, last: Arc<Mutex<VecDeque<String>>>) {
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

fn keep(id: &str, line: &mut Vec<u8>, last: &Mutex<VecDeque<String>>) {
    // Shown in logs and errors: what controls a terminal has no place there.
    let text: String = String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).collect();
    line.clear();
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    debug!(target: "nex_machine", machine = id, "{text}");
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    if last.len() == KEPT {
        last.pop_front();
    }
    last.push_back(text.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_lines_are_kept_cut_and_cleaned() {
        let last = Arc::default();
        let mut text = "x".repeat(10_000);
        for number in 0..20 {
            text.push_str(&format!("\nline \u{1b}[2J{number}\r"));
        }
        read("m".into(), text.as_bytes(), Arc::clone(&last)).await;
        let last = last.lock().unwrap();
        assert_eq!(last.len(), KEPT);
        assert_eq!(last.back().map(String::as_str), Some("line [2J19"));
    }
}
