//! The node's own process, as the kernel tells of it in `/proc`. Reads only.

use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// What a process has and has taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Process {
    /// Processor time, in the kernel and outside.
    pub cpu: Duration,
    /// Memory that is resident.
    pub resident_bytes: u64,
    /// Files that are open.
    pub open_files: u64,
    /// How many may be; none when there is no limit.
    pub most_files: Option<u64>,
    /// When it started, since 1970.
    pub started: Duration,
}

impl Process {
    /// This one; none when the system does not tell.
    pub(super) fn this() -> Option<Self> {
        let stat = Stat::parse(&std::fs::read_to_string("/proc/self/stat").ok()?)?;
        let booted = booted(&std::fs::read_to_string("/proc/stat").ok()?)?;
        // The folder itself is open while it is read.
        let open_files = std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
        Some(Self {
            cpu: ticks(stat.cpu_ticks),
            resident_bytes: stat.resident_pages * page_size() as u64,
            open_files: open_files as u64,
            most_files: getrlimit(Resource::Nofile).current,
            started: booted + ticks(stat.started_ticks),
        })
    }
}

/// Fields of `/proc/<pid>/stat`, see proc(5).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    started_ticks: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(line: &str) -> Option<Self> {
        // The name before it may have anything in it, and no later field has a bracket.
        let (_, rest) = line.rsplit_once(") ")?;
        let field = |number: usize| rest.split(' ').nth(number - 3)?.trim().parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)?.checked_add(field(15)?)?,
            started_ticks: field(22)?,
            resident_pages: field(24)?,
        })
    }
}

/// When the machine started, since 1970, from `/proc/stat`.
fn booted(stat: &str) -> Option<Duration> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

fn ticks(count: u64) -> Duration {
    Duration::from_secs(count).checked_div(u32::try_from(clock_ticks_per_second()).unwrap_or(100)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_whatever_name() {
        let line =
            "77 (a) b) (c) S 1 77 77 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 3 0 1234 9999 512 18446744073709551615 1\n";
        assert_eq!(Stat::parse(line), Some(Stat { cpu_ticks: 300, started_ticks: 1234, resident_pages: 512 }));
        for broken in ["", "77", "77 (x) S 1", "77 (x) S 1 77 77 0 -1 4 9 0 0 0 x 50 0 0 20 0 3 0 1 9 5"] {
            assert_eq!(Stat::parse(broken), None, "{broken}");
        }
        assert_eq!(booted("cpu 1 2\nbtime 1700000000\n"), Some(Duration::from_secs(1_700_000_000)));
    }

    #[test]
    fn this_process_is_found_alive() {
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        let process = Process::this().unwrap();
        drop(file);
        assert!(process.resident_bytes > 1 << 20 && process.open_files >= 4, "{process:?}");
        let age = std::time::UNIX_EPOCH.elapsed().unwrap().checked_sub(process.started);
        assert!(age.is_none_or(|age| age < Duration::from_secs(86_400)), "{process:?}");
    }
}
