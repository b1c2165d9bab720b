//! What is weaker around microVMs than it could be because of their host: no control groups, user ids that somebody else has.
//! Said once at the node's start, and, where clients can choose by it, in a tag. Looks and tells; changes nothing.

use nex_sandbox::Cgroups;
use nex_sandbox::microvm::firecracker::{Given, given_ids};
use tracing::warn;

use crate::config::{Config, Vmm};

/// What of a machine nothing bounds from outside, because this host has no control groups for it: the value of a tag. Said
/// here, once.
pub(crate) fn unbounded(config: &Config, cgroups: Result<&Cgroups, &str>) -> Option<&'static str> {
    if config.no_sandbox {
        return None;
    }
    match cgroups {
        Err(reason) => {
            warn!(
                reason,
                "microVMs are in no control groups: nothing bounds the memory and the processes of a monitor that its guest \
                 has taken over (nex.unbounded)"
            );
            Some("memory,processes")
        }
        Ok(cgroups) if !cgroups.count_processes() => {
            warn!(
                "control groups do not count processes here: nothing bounds those of a monitor that its guest has taken over \
                 (nex.unbounded)"
            );
            Some("processes")
        }
        Ok(_) => None,
    }
}

/// User ids of jailed machines that the host has given to somebody else.
pub fn foreign_users(config: &Config) -> Vec<Given> {
    if config.no_sandbox || config.no_jailer || config.vmm != Vmm::Firecracker {
        return Vec::new();
    }
    given_ids(config.jailer_users.first, config.jailer_users.count)
}

/// Says which they are.
pub(crate) fn say_shared_users(config: &Config) {
    for given in foreign_users(config) {
        warn!(
            %given,
            "machines and somebody's containers share user ids: give jailer_users.first another value, one that leaves out what \
             is given there"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_bounds_is_named_where_there_are_machines() {
        let machines = Config::default();
        assert_eq!(unbounded(&machines, Err("no groups")), Some("memory,processes"));
        assert_eq!(unbounded(&Config { no_sandbox: true, ..machines }, Err("no groups")), None);
    }
}
