//! What the kernel tells of processes: processor time, memory, threads. A process that is gone has none of it.

use std::time::Duration;

use nex_e2e::descendants;

/// The fields of `/proc/<pid>/stat` behind the name, of which the first is the state.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn field(pid: u32, number: usize) -> Option<u64> {
    // Numbers are those of the manual page, where the state is the third.
    stat(pid)?.get(number.checked_sub(3)?)?.parse().ok()
}

/// Processor time that a process has used, that of its ended threads included.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let ticks = field(pid, 14).unwrap_or_default() + field(pid, 15).unwrap_or_default();
    Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)))
}

/// Threads of a process.
pub(crate) fn threads(pid: u32) -> u64 {
    field(pid, 20).unwrap_or_default()
}

/// When a process was started, in ticks since the machine was.
pub(crate) fn started(pid: u32) -> u64 {
    field(pid, 22).unwrap_or_default()
}

/// The name of a process' program.
pub(crate) fn name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// What a process takes of the machine's memory, shared pages by their share, KiB.
pub(crate) fn proportional_kib(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pss:"))?.trim().trim_end_matches("kB").trim().parse().ok()
}

/// The agents of a node, the oldest first: the one that got the first workload.
pub(crate) fn agents(node: u32) -> Vec<u32> {
    let mut agents: Vec<u32> = descendants(node).into_iter().filter(|pid| name(*pid) == "nex-agent").collect();
    agents.sort_unstable_by_key(|pid| (started(*pid), *pid));
    agents
}

/// Processor time of a node and what belongs to it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NodeTime {
    pub(crate) node: Duration,
    pub(crate) agents: Duration,
    /// Workloads with a process of their own: Deno, services.
    pub(crate) engines: Duration,
}

impl NodeTime {
    /// Up to now.
    pub(crate) fn of(node: u32) -> Self {
        let mut time = Self { node: processor_time(node), ..Self::default() };
        for pid in descendants(node) {
            if name(pid) == "nex-agent" {
                time.agents += processor_time(pid);
            } else {
                time.engines += processor_time(pid);
            }
        }
        time
    }
}

/// Memory and threads of a process and all below it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weight {
    pub(crate) kib: u64,
    pub(crate) threads: u64,
    pub(crate) processes: u64,
}

impl Weight {
    /// Now.
    pub(crate) fn of(root: u32) -> Self {
        std::iter::once(root).chain(descendants(root)).fold(Self::default(), |sum, pid| Self {
            kib: sum.kib + proportional_kib(pid).unwrap_or_default(),
            threads: sum.threads + threads(pid),
            processes: sum.processes + 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_name_memory_and_a_thread() {
        let own = std::process::id();
        assert!(!name(own).is_empty() && threads(own) >= 1 && started(own) > 0);
        assert!(proportional_kib(own).is_some_and(|kib| kib > 0));
        assert!(Weight::of(own).kib >= proportional_kib(own).unwrap_or_default() / 2);
    }

    #[test]
    fn a_process_that_is_not_there_has_nothing() {
        // Above the largest id that the kernel gives.
        let nobody = u32::MAX >> 1;
        assert_eq!((processor_time(nobody), threads(nobody), started(nobody)), (Duration::ZERO, 0, 0));
        assert!(name(nobody).is_empty() && proportional_kib(nobody).is_none());
    }
}
