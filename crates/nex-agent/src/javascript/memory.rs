//! How much memory a worker may have, and has.
//!
//! Three bounds, each for what the one before does not see: V8's heap flag (objects), the resident size as looked at
//! while calls run (ArrayBuffers, WebAssembly, other threads), and an rlimit on private memory (what grows faster than
//! one looks).

use nex_protocol::link::message::Limits;

/// Private memory Deno itself needs, most of it reserved and never touched; measured with Deno 2.9.
const DENO_DATA: u64 = 576 << 20;

/// Resident memory Deno itself needs, with room for what a heap near its limit needs while it is collected.
const DENO_RESIDENT: u64 = 192 << 20;

/// Smallest heap Deno starts with.
const SMALLEST_HEAP: u64 = 16;

/// V8's heap limit, MiB.
pub(crate) fn heap_mib(limits: &Limits) -> u64 {
    (limits.memory_bytes >> 20).max(SMALLEST_HEAP)
}

/// The rlimit on private memory.
pub(crate) fn data_bytes(limits: &Limits) -> u64 {
    DENO_DATA.saturating_add(limits.memory_bytes)
}

/// Resident memory beyond which a worker is ended.
pub(crate) fn most_resident(limits: &Limits) -> u64 {
    DENO_RESIDENT.saturating_add(limits.memory_bytes)
}

/// Resident memory of a process; none when it cannot be told, as for one that has ended.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_resident_size_of_this_process_is_known_and_that_of_none_is_not() {
        assert!(super::resident(std::process::id()).unwrap() > 1 << 16);
        assert_eq!(super::resident(u32::MAX), None);
    }
}
