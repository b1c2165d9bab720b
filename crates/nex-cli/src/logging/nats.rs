//! The node's log on its way to NATS: each record a line in a bounded queue, which the node publishes once it is connected.
//!
//! Logging never waits. What does not fit (NATS is away, or slow) is dropped; how much is told in the next line that
//! fits. Only what nex itself logs goes this way: the NATS library logs what publishing does, and would never end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nex_node::LogLine;
use nex_protocol::log::Level;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait.
const WAITING: usize = 1024;

/// Where the log layer writes to.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    queue: Sender<LogLine>,
    dropped: Arc<AtomicU64>,
}

/// A queue of lines: the end to write to, and the end that the node reads.
pub(super) fn lines() -> (Lines, Receiver<LogLine>) {
    let (queue, waiting) = channel(WAITING);
    (Lines { queue, dropped: Arc::default() }, waiting)
}

impl Lines {
    fn send(&self, line: LogLine) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            let text = format!("{dropped} lines of the log were dropped: they came faster than NATS took them");
            if self.queue.try_send(LogLine { level: Level::Warn, text }).is_ok() {
                self.dropped.fetch_sub(dropped, Ordering::Relaxed);
            }
        }
        if self.queue.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One record, sent when it is whole.
pub(super) struct Record<'a> {
    lines: &'a Lines,
    level: Level,
    text: Vec<u8>,
}

impl io::Write for Record<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.text).trim_end().to_owned();
        if !text.is_empty() {
            self.lines.send(LogLine { level: self.level, text });
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Record<'a>;

    fn make_writer(&'a self) -> Record<'a> {
        Record { lines: self, level: Level::Info, text: Vec::new() }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Record<'a> {
        let level = match *meta.level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        };
        Record { lines: self, level, text: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_does_not_fit_is_dropped_and_told_of_later() {
        let (lines, mut waiting) = lines();
        for number in 0..WAITING + 3 {
            writeln!(lines.make_writer(), "line {number}").unwrap();
        }
        assert_eq!(waiting.try_recv().unwrap().text, "line 0");
        assert_eq!(waiting.try_recv().unwrap().text, "line 1");
        writeln!(lines.make_writer(), "later").unwrap();
        let mut rest = Vec::new();
        while let Ok(line) = waiting.try_recv() {
            rest.push(line.text);
        }
        assert!(rest[rest.len() - 2].starts_with("3 lines of the log were dropped"), "{rest:?}");
        assert_eq!(rest.last().map(String::as_str), Some("later"));
    }
}
