//! The series of microVMs: all of a node together, never one of them, of which there are thousands in a day. See
//! docs/operations.md.

use nex_sandbox::microvm::{Counted, Counts};

use super::exposition::Exposition;
use super::exposition::Kind::{Counter, Gauge};

/// Series of what monitors count: name, help, name of the label, and its values.
type Family = (&'static str, &'static str, &'static str, &'static [(&'static str, Counted)]);

const OF_MONITORS: [Family; 4] = [
    (
        "nex_machine_drive_bytes_total",
        "Bytes that guests have read from and written to their drives",
        "direction",
        &[("read", Counted::Read), ("written", Counted::Written)],
    ),
    (
        "nex_machine_network_bytes_total",
        "Bytes that guests have received from and sent to their networks",
        "direction",
        &[("received", Counted::NetworkIn), ("sent", Counted::NetworkOut)],
    ),
    (
        "nex_machine_link_bytes_total",
        "Bytes that guests have received from and sent to the node",
        "direction",
        &[("received", Counted::LinkIn), ("sent", Counted::LinkOut)],
    ),
    (
        "nex_machine_throttled_total",
        "Times that a rate limiter held a guest back",
        "device",
        &[("drive", Counted::DriveThrottled), ("network", Counted::NetworkThrottled)],
    ),
];

/// Faults that a monitor counts itself.
const FAULTS: [(&str, Counted); 5] = [
    ("seccomp", Counted::SeccompFault),
    ("processor", Counted::VcpuFault),
    ("drive", Counted::DriveFault),
    ("network", Counted::NetworkFault),
    ("link", Counted::LinkFault),
];

/// Tells of them; of what monitors count only where they do.
pub(super) fn tell(machines: &Counts, counts_in_monitors: bool, exposition: &mut Exposition) {
    let sum = |counted| machines.counted.get(&counted).copied().unwrap_or_default();
    let mut family = exposition.family("nex_machines", Gauge, "MicroVMs, by where they are in their lives");
    let states = [("starting", machines.starting), ("running", machines.running), ("ending", machines.ending)];
    for (state, count) in states {
        family.sample(&[("state", state)], count);
    }
    let origins = [("kernel", machines.booted), ("snapshot", machines.restored)];
    let help = "MicroVMs that came up, by what they came from";
    let mut family = exposition.family("nex_machine_starts_total", Counter, help);
    for (origin, starts) in origins {
        family.sample(&[("from", origin)], starts.count);
    }
    let help = "Time from when these were begun until their agents were ready";
    let mut family = exposition.family("nex_machine_start_seconds_total", Counter, help);
    for (origin, starts) in origins {
        family.sample(&[("from", origin)], starts.took.as_secs_f64());
    }
    let help = "What went wrong in monitors; memory: killed, for they took more than they may";
    let mut family = exposition.family("nex_machine_faults_total", Counter, help);
    family.sample(&[("kind", "memory")], sum(Counted::OutOfMemory));
    if !counts_in_monitors {
        return;
    }
    for (kind, counted) in FAULTS {
        family.sample(&[("kind", kind)], sum(counted));
    }
    for (name, help, label, values) in OF_MONITORS {
        let mut family = exposition.family(name, Counter, help);
        for (value, counted) in values {
            family.sample(&[(label, value)], sum(*counted));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nex_sandbox::microvm::Starts;
    use std::time::Duration;

    fn text(counts_in_monitors: bool) -> String {
        let counts = Counts {
            starting: 1,
            running: 2,
            restored: Starts { count: 3, took: Duration::from_millis(1500) },
            counted: [(Counted::Read, 4096), (Counted::SeccompFault, 1), (Counted::OutOfMemory, 2)].into(),
            ..Counts::default()
        };
        let mut exposition = Exposition::default();
        tell(&counts, counts_in_monitors, &mut exposition);
        exposition.into_text()
    }

    #[test]
    fn machines_are_told_by_state_and_origin_and_what_their_monitors_count() {
        let text = text(true);
        for line in [
            r#"nex_machines{state="starting"} 1"#,
            r#"nex_machines{state="running"} 2"#,
            r#"nex_machines{state="ending"} 0"#,
            r#"nex_machine_starts_total{from="kernel"} 0"#,
            r#"nex_machine_starts_total{from="snapshot"} 3"#,
            r#"nex_machine_start_seconds_total{from="snapshot"} 1.5"#,
            r#"nex_machine_drive_bytes_total{direction="read"} 4096"#,
            r#"nex_machine_link_bytes_total{direction="sent"} 0"#,
            r#"nex_machine_throttled_total{device="network"} 0"#,
            r#"nex_machine_faults_total{kind="seccomp"} 1"#,
            r#"nex_machine_faults_total{kind="memory"} 2"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn monitors_that_count_nothing_are_not_said_to_have_counted_zero() {
        let text = text(false);
        assert!(text.contains("nex_machine_faults_total{kind=\"memory\"} 2") && !text.contains("seccomp"), "{text}");
        assert!(!text.contains("bytes"), "{text}");
    }
}
