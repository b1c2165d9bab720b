//! Firecracker's metrics: read, added to those of the node's other machines, and told when they say that something is wrong.
//!
//! A monitor writes a line of counters each minute and when it ends by itself; each counts from the line before. They come
//! through a pipe in its root folder. A guest can drive some of them up, so what is told is bounded: once per machine and
//! counter.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::jail::Root;
use crate::microvm::tally::{Counted, Tally};

/// The pipe in the root folder.
pub(super) const PIPE: &str = "metrics.fifo";

/// Longest line, bytes. Those of today have some 10 KiB.
const LONGEST: u64 = 256 << 10;

/// Time that the last line of a monitor has, which has written it when it is gone.
const LAST: Duration = Duration::from_millis(50);

/// What is summed over machines. All of it but the faults of seccomp is counted from the line before.
const SUMMED: [(&str, &str, Counted); 13] = [
    ("block", "read_bytes", Counted::Read),
    ("block", "write_bytes", Counted::Written),
    ("net", "rx_bytes_count", Counted::NetworkIn),
    ("net", "tx_bytes_count", Counted::NetworkOut),
    ("vsock", "rx_bytes_count", Counted::LinkIn),
    ("vsock", "tx_bytes_count", Counted::LinkOut),
    ("block", "rate_limiter_throttled_events", Counted::DriveThrottled),
    ("net", "rx_rate_limiter_throttled", Counted::NetworkThrottled),
    ("net", "tx_rate_limiter_throttled", Counted::NetworkThrottled),
    ("vcpu", "failures", Counted::VcpuFault),
    ("block", "event_fails", Counted::DriveFault),
    ("net", "event_fails", Counted::NetworkFault),
    ("vsock", "muxer_event_fails", Counted::LinkFault),
];

/// Counters that stay at zero while all is well, and what they tell.
const ALARMS: [(&str, &str, &str); 5] = [
    ("seccomp", "num_faults", "a system call was refused to the monitor: the guest may have broken into it"),
    ("vcpu", "failures", "a processor of the machine failed"),
    ("block", "event_fails", "a drive of the machine failed"),
    ("net", "event_fails", "the network of the machine failed"),
    ("vsock", "muxer_event_fails", "the link of the machine failed"),
];

/// Counters that tell of a guest that is held back, for the log of somebody who looks for it.
const THROTTLED: [(&str, &str); 3] = [
    ("block", "rate_limiter_throttled_events"),
    ("net", "rx_rate_limiter_throttled"),
    ("net", "tx_rate_limiter_throttled"),
];

/// Makes the pipe, before there is a monitor that could put something else in its place.
pub(super) fn make(root: &Root) -> io::Result<pipe::Receiver> {
    let path = root.path.join(PIPE);
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    root.own(PIPE)?;
    // For writing too: it would end whenever nobody else has it open.
    pipe::OpenOptions::new().read_write(true).open_receiver(path)
}

/// Reads it until the machine is gone.
pub(super) fn follow(receiver: pipe::Receiver, id: &str, tally: Arc<Tally>, lost: CancellationToken) {
    let mut heard = Heard { id: id.to_owned(), tally, told: BTreeSet::new(), faults: 0 };
    tokio::spawn(async move {
        let mut lines = BufReader::new(receiver);
        let mut line = Vec::new();
        loop {
            let mut limited = tokio::io::AsyncReadExt::take(&mut lines, LONGEST);
            // What was read of a line stays in it, whoever interrupts that.
            let read = tokio::select! {
                read = limited.read_until(b'\n', &mut line) => read,
                () = lost.cancelled() => match timeout(LAST, limited.read_until(b'\n', &mut line)).await {
                    Ok(read) => read,
                    Err(_) => return,
                },
            };
            if !read.is_ok_and(|bytes| bytes > 0) {
                return;
            }
            heard.line(&line);
            line.clear();
        }
    });
}

/// What was heard of one machine.
struct Heard {
    id: String,
    tally: Arc<Tally>,
    told: BTreeSet<&'static str>,
    /// System calls that were refused until now: each line says them all.
    faults: u64,
}

impl Heard {
    fn line(&mut self, line: &[u8]) {
        let Ok(groups) = serde_json::from_slice::<BTreeMap<String, Value>>(line) else { return };
        tell(&self.id, &groups, &mut self.told);
        for (group, counter, counted) in SUMMED {
            let many = count(&groups, group, counter);
            if many > 0 {
                self.tally.add(counted, many);
            }
        }
        let faults = count(&groups, "seccomp", "num_faults");
        if faults > self.faults {
            self.tally.add(Counted::SeccompFault, faults - self.faults);
            self.faults = faults;
        }
    }
}

fn count(groups: &BTreeMap<String, Value>, group: &str, counter: &str) -> u64 {
    groups.get(group).and_then(|group| group.get(counter)?.as_u64()).unwrap_or(0)
}

fn tell(id: &str, groups: &BTreeMap<String, Value>, told: &mut BTreeSet<&'static str>) {
    for (group, counter, meaning) in ALARMS {
        let counted = count(groups, group, counter);
        if counted > 0 && told.insert(meaning) {
            warn!(machine = id, counted, "{meaning}");
        }
    }
    for (group, counter) in THROTTLED {
        let counted = count(groups, group, counter);
        if counted > 0 {
            debug!(target: "nex_machine", machine = id, counted, "{group}.{counter}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard() -> Heard {
        Heard { id: "m".into(), tally: Arc::default(), told: BTreeSet::new(), faults: 0 }
    }

    #[test]
    fn what_is_wrong_is_told_once_and_nonsense_is_passed_over() {
        let mut heard = heard();
        heard.line(b"{\"seccomp\":{\"num_faults\":2},\"vcpu\":{\"failures\":0},\"utc_timestamp_ms\":1}");
        heard.line(b"{\"seccomp\":{\"num_faults\":1}}");
        heard.line(b"{\"seccomp\":[]}");
        heard.line(b"nonsense");
        assert_eq!(heard.told.len(), 1);
    }

    #[test]
    fn what_is_counted_from_the_line_before_is_added_and_what_each_line_says_anew_is_not() {
        let mut heard = heard();
        for _ in 0..2 {
            heard.line(
                b"{\"block\":{\"read_bytes\":10,\"rate_limiter_throttled_events\":1},\"block_root\":{\"read_bytes\":10},
                \"net\":{\"rx_rate_limiter_throttled\":2,\"tx_rate_limiter_throttled\":3},\"seccomp\":{\"num_faults\":4}}"
                    .as_slice(),
            );
        }
        let counted = heard.tally.counts().counted;
        let expected = [
            (Counted::Read, 20),
            (Counted::DriveThrottled, 2),
            (Counted::NetworkThrottled, 10),
            (Counted::SeccompFault, 4),
        ];
        assert_eq!(counted, expected.into());
    }

    #[tokio::test]
    async fn the_last_line_of_a_monitor_that_is_gone_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::make(folder.path().join("root"), None).unwrap();
        let receiver = make(&root).unwrap();
        let (tally, lost) = (Arc::new(Tally::default()), CancellationToken::new());
        std::fs::write(root.path.join(PIPE), b"{\"block\":{\"write_bytes\":7}}\n").unwrap();
        lost.cancel();
        follow(receiver, "m", Arc::clone(&tally), lost);
        while tally.counts().counted.get(&Counted::Written) != Some(&7) {
            tokio::task::yield_now().await;
        }
    }
}
