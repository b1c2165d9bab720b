//! Firecracker's metrics: read, and told when they say that something is wrong.
//!
//! A monitor writes a line of counters each minute and at its end; each counts from the line before. They come through a
//! pipe in its root folder. A guest can drive some of them up, so what is told is bounded: once per machine and counter.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::jail::Root;

/// The pipe in the root folder.
pub(super) const PIPE: &str = "metrics.fifo";

/// Longest line, bytes. Those of today have some 10 KiB.
const LONGEST: u64 = 256 << 10;

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
pub(super) fn follow(receiver: pipe::Receiver, id: &str, lost: CancellationToken) {
    let id = id.to_owned();
    tokio::spawn(async move {
        let mut told = BTreeSet::new();
        let mut lines = BufReader::new(receiver);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = tokio::io::AsyncReadExt::take(&mut lines, LONGEST);
            tokio::select! {
                read = limited.read_until(b'\n', &mut line) => match read {
                    Ok(1..) => tell(&id, &line, &mut told),
                    _ => return,
                },
                () = lost.cancelled() => return,
            }
        }
    });
}

fn tell(id: &str, line: &[u8], told: &mut BTreeSet<&'static str>) {
    let Ok(groups) = serde_json::from_slice::<BTreeMap<String, Value>>(line) else { return };
    let count =
        |group: &str, counter: &str| groups.get(group).and_then(|group| group.get(counter)?.as_u64()).unwrap_or(0);
    for (group, counter, meaning) in ALARMS {
        let counted = count(group, counter);
        if counted > 0 && told.insert(meaning) {
            warn!(machine = id, counted, "{meaning}");
        }
    }
    for (group, counter) in THROTTLED {
        let counted = count(group, counter);
        if counted > 0 {
            debug!(target: "nex_machine", machine = id, counted, "{group}.{counter}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_once_and_nonsense_is_passed_over() {
        let mut told = BTreeSet::new();
        tell("m", b"{\"seccomp\":{\"num_faults\":2},\"vcpu\":{\"failures\":0},\"utc_timestamp_ms\":1}", &mut told);
        tell("m", b"{\"seccomp\":{\"num_faults\":1}}", &mut told);
        tell("m", b"{\"seccomp\":[]}", &mut told);
        tell("m", b"nonsense", &mut told);
        assert_eq!(told.len(), 1);
    }
}
