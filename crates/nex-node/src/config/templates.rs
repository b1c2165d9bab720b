//! Sizes of microVMs, and which one a workload gets.

use nex_protocol::control::limits::WorkloadLimits;

use super::Config;

/// Memory that a guest needs besides its workload, MiB.
pub const GUEST_OVERHEAD: u64 = 64;

/// Size of a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineTemplate {
    /// Virtual processors.
    pub vcpu_count: u64,
    /// Memory, MiB.
    pub memsize_mib: u64,
}

/// A size beside that of `machine_template`, for workloads that ask for more (`machine_templates`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FurtherTemplate {
    /// The size.
    pub template: MachineTemplate,
    /// Machines of it to keep ready (`pool_size`, 0).
    pub pool_size: usize,
}

impl MachineTemplate {
    /// Memory that a workload in such a machine may have, MiB.
    pub fn for_workload_mib(self) -> u64 {
        self.memsize_mib.saturating_sub(GUEST_OVERHEAD).max(16)
    }

    /// Whether a workload with these limits fits.
    pub fn has_room_for(self, limits: &WorkloadLimits) -> bool {
        limits.memory_mib.is_none_or(|memory| memory <= self.for_workload_mib())
            && limits.cpu_millis.is_none_or(|cpu| cpu <= self.vcpu_count * 1000)
    }
}

impl Config {
    /// All sizes of microVMs, that of `machine_template` first.
    pub fn all_templates(&self) -> impl Iterator<Item = MachineTemplate> {
        let further = self.machine_templates.iter().map(|further| further.template);
        std::iter::once(self.machine_template).chain(further)
    }

    /// The microVM for a workload with these limits: that of `machine_template` where it is enough, else the smallest of the
    /// others that is, else the former. Without a sandbox there is that of `machine_template` only.
    pub fn template_for(&self, limits: &WorkloadLimits) -> MachineTemplate {
        if self.no_sandbox || self.machine_template.has_room_for(limits) {
            return self.machine_template;
        }
        let fitting = self.all_templates().filter(|template| template.has_room_for(limits));
        fitting.min_by_key(|template| (template.memsize_mib, template.vcpu_count)).unwrap_or(self.machine_template)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_gets_the_smallest_machine_that_is_enough_and_mostly_the_usual_one() {
        let size = |vcpu_count, memsize_mib| MachineTemplate { vcpu_count, memsize_mib };
        let further = |template| FurtherTemplate { template, pool_size: 0 };
        let config = Config {
            machine_template: size(2, 256),
            machine_templates: [size(8, 4096), size(1, 128), size(2, 1024)].map(further).to_vec(),
            ..Config::default()
        };
        let asked = |memory_mib, cpu_millis| WorkloadLimits { memory_mib, cpu_millis, ..WorkloadLimits::default() };
        for (limits, expected) in [
            (asked(None, None), size(2, 256)),
            (asked(Some(192), Some(2000)), size(2, 256)),
            (asked(Some(193), None), size(2, 1024)),
            (asked(Some(64), Some(2001)), size(8, 4096)),
            (asked(Some(9999), None), size(2, 256)),
        ] {
            assert_eq!(config.template_for(&limits), expected, "{limits:?}");
        }
        let bare = Config { no_sandbox: true, ..config };
        assert_eq!(bare.template_for(&asked(Some(512), None)), size(2, 256));
    }
}
