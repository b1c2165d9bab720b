//! How much memory a worker may have, and has; and how long it has computed.
//!
//! Three bounds, each for what the one before does not see: V8's heap flag (objects), the resident size as looked at
//! while calls run (ArrayBuffers, WebAssembly, other threads), and an rlimit on private memory (what grows faster than
//! one looks).

use std::time::Duration;

/// Private memory Deno itself needs, most of it reserved and never touched; measured with Deno 2.9.
const DENO_DATA: u64 = 576 << 20;

/// Resident memory Deno itself needs, with room for what a heap near its limit needs while it is collected.
const DENO_RESIDENT: u64 = 192 << 20;

/// Smallest heap Deno starts with.
const SMALLEST_HEAP: u64 = 16;

/// V8's heap limit, MiB.
pub(crate) fn heap_mib(memory_bytes: u64) -> u64 {
    (memory_bytes >> 20).max(SMALLEST_HEAP)
}

/// The rlimit on private memory.
pub(crate) fn data_bytes(memory_bytes: u64) -> u64 {
    DENO_DATA.saturating_add(memory_bytes)
}

/// Resident memory beyond which a worker is ended.
pub(crate) fn most_resident(memory_bytes: u64) -> u64 {
    DENO_RESIDENT.saturating_add(memory_bytes)
}

/// Resident memory of a process; none when it cannot be told, as for one that has ended.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(rustix::param::page_size() as u64))
}

/// Time a process has computed so far; none when it cannot be told. In steps of the system's clock, 10 ms.
pub(crate) fn computed(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have anything in it; user and system time are the 12th and 13th field behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_millis(user.saturating_add(system).saturating_mul(1000) / ticks))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_resident_size_of_this_process_is_known_and_that_of_none_is_not() {
        assert!(super::resident(std::process::id()).unwrap() > 1 << 16);
        assert_eq!(super::resident(u32::MAX), None);
    }

    #[test]
    fn the_time_this_process_computes_grows_and_that_of_none_is_not_known() {
        let before = super::computed(std::process::id()).unwrap();
        let begun = std::time::Instant::now();
        while super::computed(std::process::id()).unwrap() == before {
            assert!(begun.elapsed().as_secs() < 10);
        }
        assert_eq!(super::computed(u32::MAX), None);
    }
}
