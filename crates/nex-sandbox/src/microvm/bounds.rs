//! What a machine may take of its host at most, whatever its workload asks for: a control group around each monitor.
//!
//! ```text
//! memory     the guest's, 1/32 of it, and 128 MiB for the monitor; where machines lie in memory, what they write, too
//! processes  one for each processor, and 128
//! processor  as many as it has; less when its workload asks for less
//! ```
//! A guest cannot make its monitor take more: this holds one that was taken over, or has a fault. The monitor enters its
//! group between fork and exec, so that nothing of it was ever outside, jailed or not, Firecracker or QEMU; why not by the
//! jailer's own arguments: ARCHITECTURE.md.
//!
//! Memory of a snapshot's file, and of other files that machines share, is charged to the first who reads it. It makes nobody
//! die: the kernel drops such pages when a group is full, and reads them anew. What a guest writes is its own.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::statfs;
use tokio::process::Command;

use super::{MachineSettings, ScratchSpace};
use crate::cgroup::Resources;

/// Memory of a monitor itself, MiB: QEMU has up to 64 of translated code, the rest is its own, its stacks and buffers.
pub const MONITOR_MIB: u64 = 128;

/// One part in so many of the guest's memory: the tables that map it, of the process and of the machine, at most 1/512 each,
/// and what KVM keeps of pages in software (1/50 at most).
const TABLES: u64 = 32;

/// Threads of a monitor beside its processors: QEMU has up to 64 for its drives.
const THREADS: u64 = 128;

/// File systems that are memory.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// The bounds of a machine with these settings.
pub(super) fn of(settings: &MachineSettings) -> Resources {
    Resources {
        cpu_millis: None,
        memory_bytes: Some(memory_mib(settings) << 20),
        processes: Some(settings.vcpus + THREADS),
    }
}

/// Memory that it may take, MiB.
pub(super) fn memory_mib(settings: &MachineSettings) -> u64 {
    let machine = settings.memory_mib + settings.memory_mib.div_ceil(TABLES) + MONITOR_MIB;
    if !in_memory(&settings.machines_dir) {
        return machine;
    }
    let drive = match settings.scratch {
        ScratchSpace::Memory { .. } => 0,
        ScratchSpace::Drive { mib } => mib,
    };
    // A snapshot is as large as the guest's memory, and charged to the one that it is taken of.
    machine + settings.memory_mib + drive
}

/// Whether files there are memory that nobody can take back.
fn in_memory(folder: &Path) -> bool {
    statfs(folder).is_ok_and(|system| IN_MEMORY.iter().any(|kind| i128::from(system.f_type) == i128::from(*kind)))
}

/// Has a program start in the group with these entrances.
pub(super) fn enter(command: &mut Command, entrances: Vec<OwnedFd>) {
    if entrances.is_empty() {
        return;
    }
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes plain system calls on files
    // that were opened before, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            for entrance in &entrances {
                rustix::io::write(entrance, b"0")?;
            }
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(machines_dir: &Path) -> MachineSettings {
        MachineSettings { scratch: ScratchSpace::Drive { mib: 1000 }, ..MachineSettings::for_tests(machines_dir) }
    }

    #[test]
    fn a_machine_may_take_its_memory_its_tables_and_its_monitor() {
        // No file system of any kind is there.
        let bounds = of(&settings(Path::new("/nowhere")));
        assert_eq!(bounds.memory_bytes, Some((256 + 8 + 128) << 20));
        assert_eq!((bounds.processes, bounds.cpu_millis), (Some(130), None));
    }

    #[test]
    fn what_is_written_where_files_are_memory_counts() {
        let shm = Path::new("/dev/shm");
        if in_memory(shm) {
            assert_eq!(memory_mib(&settings(shm)), 256 + 8 + 128 + 256 + 1000);
        }
        assert!(!in_memory(Path::new("/proc")));
    }
}
