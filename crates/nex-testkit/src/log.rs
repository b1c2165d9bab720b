//! What a process has printed so far, line by line, and a way to wait for a line.
//!
//! One thread of [`crate::Process`] appends; any number of tests read. Both output streams go into the same log, in the
//! order in which the process wrote them.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

/// The lines a process has printed. A cheap clone: all clones show the same log.
#[derive(Debug, Clone)]
pub struct Log {
    lines: Arc<RwLock<Vec<String>>>,
    /// How many lines there are, and whether there can be more.
    progress: watch::Receiver<Progress>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    count: usize,
    closed: bool,
}

impl Log {
    /// A log that is filled from `output`, by a thread that ends with it.
    pub(crate) fn follow(output: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(RwLock::new(Vec::new()));
        let (sender, progress) = watch::channel(Progress::default());
        let log = Self { lines: Arc::clone(&lines), progress };
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while matches!(output.read_until(b'\n', &mut line), Ok(length) if length > 0) {
                let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
                line.clear();
                lines.write().unwrap_or_else(PoisonError::into_inner).push(text);
                sender.send_modify(|progress| progress.count += 1);
            }
            sender.send_modify(|progress| progress.closed = true);
        });
        log
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All lines so far, as one text.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// The last `count` lines, indented: for the end of an error message.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lines();
        lines.iter().skip(lines.len().saturating_sub(count)).map(|line| format!("\n    {line}")).collect()
    }

    /// Waits until the output has ended.
    pub async fn closed(&self) {
        // An error means that the thread that fills the log is gone, and the output with it.
        let _ = self.progress.clone().wait_for(|progress| progress.closed).await;
    }

    /// The first line, past or future, that `wanted` finds something in; `None` when the output ended without one.
    ///
    /// Waits for as long as the process lives: put a timeout around it.
    pub async fn find<T>(&self, mut wanted: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let mut progress = self.progress.clone();
        let mut seen = 0;
        loop {
            let now = *progress.borrow_and_update();
            let fresh: Vec<String> = self
                .lines
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .take(now.count)
                .skip(seen)
                .cloned()
                .collect();
            seen = now.count;
            if let Some(found) = fresh.iter().find_map(|line| wanted(line)) {
                return Some(found);
            }
            if now.closed || progress.changed().await.is_err() {
                return None;
            }
        }
    }
}
