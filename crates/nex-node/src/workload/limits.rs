//! What one workload may take: what its deploy asks for, bounded by the node's policy, else the node's defaults.
//!
//! A deploy that asks for more than the policy gives is refused, never cut down in silence; so is a limit that cannot be
//! enforced on this machine.

use std::time::Duration;

use nex_protocol::control::limits::WorkloadLimits;
use nex_protocol::{Code, Fault, WorkloadType};

use super::actor::Shared;
use super::{Spec, millis};
use crate::config::{Config, FunctionLimits, MachineTemplate};
use crate::sandbox;

/// Checks what a deploy asks for.
///
/// # Errors
/// The refusal.
pub fn check(asked: &WorkloadLimits, kind: WorkloadType, shared: &Shared) -> Result<(), Fault> {
    within_policy(asked, kind, &shared.config)?;
    // Functions are bounded by their engines; everything else takes control groups.
    let by_cgroup = asked.cpu_millis.is_some() || (asked.memory_mib.is_some() && !kind.is_function());
    match &shared.no_cgroups {
        Some(reason) if by_cgroup => {
            let what = if asked.cpu_millis.is_some() { "cpu_millis" } else { "memory_mib of a service" };
            let text = format!("Invalid deploy request: limits.{what} cannot be enforced here: {reason}");
            Err(Fault::new(Code::LimitUnavailable, text))
        }
        _ => Ok(()),
    }
}

fn within_policy(asked: &WorkloadLimits, kind: WorkloadType, config: &Config) -> Result<(), Fault> {
    let caps = [
        ("cpu_millis", cpu_cap(config)),
        ("memory_mib", memory_cap(config)),
        ("max_instances", config.workload_limits.instances.unwrap_or(config.functions.max_instances.into())),
        ("timeout_ms", config.workload_limits.timeout_ms.unwrap_or_else(|| millis(config.functions.timeout))),
        ("concurrency", config.functions.concurrency.into()),
    ];
    for ((name, asked), (_, cap)) in asked.named().into_iter().zip(caps) {
        let Some(asked) = asked else { continue };
        if asked == 0 {
            let text = format!("Invalid deploy request: limits.{name} is 0, which nothing can run with");
            return Err(Fault::new(Code::BadRequest, text));
        }
        if asked > cap {
            let text = format!("Invalid deploy request: limits.{name} is {asked}, this node gives at most {cap}");
            return Err(Fault::new(Code::LimitExceeded, text));
        }
    }
    if !config.no_sandbox && !config.all_templates().any(|template| template.has_room_for(asked)) {
        let text = "Invalid deploy request: limits.memory_mib and limits.cpu_millis together are more than any microVM of this \
                    node has";
        return Err(Fault::new(Code::LimitExceeded, text));
    }
    let of_functions = asked.max_instances.or(asked.timeout_ms).or(asked.concurrency).or(asked.idle_timeout_ms);
    if of_functions.is_some() && !kind.is_function() {
        let text = "Invalid deploy request: limits.max_instances, limits.concurrency, limits.timeout_ms and \
                    limits.idle_timeout_ms are for functions";
        return Err(Fault::new(Code::BadRequest, text));
    }
    Ok(())
}

/// What a machine does not have it cannot give, whatever the policy says.
fn memory_cap(config: &Config) -> u64 {
    if config.no_sandbox {
        return config.workload_limits.memory_mib.unwrap_or(config.machine_template.memsize_mib);
    }
    let most = config.all_templates().map(MachineTemplate::for_workload_mib).max().unwrap_or_default();
    config.workload_limits.memory_mib.unwrap_or(most).min(most)
}

fn cpu_cap(config: &Config) -> u64 {
    let usual = config.machine_template.vcpu_count;
    let most =
        if config.no_sandbox { usual } else { config.all_templates().map(|t| t.vcpu_count).max().unwrap_or(usual) };
    config.workload_limits.cpu_millis.unwrap_or(most * 1000)
}

impl Spec {
    /// The limits of this function's calls.
    pub fn function_limits(&self, config: &Config) -> FunctionLimits {
        let timeout = self.limits.timeout_ms.map_or(config.functions.timeout, Duration::from_millis);
        let idle_timeout = self.limits.idle_timeout_ms.map_or(config.functions.idle_timeout, Duration::from_millis);
        let number = |asked: Option<u64>, default| asked.map_or(default, |n| u32::try_from(n).unwrap_or(u32::MAX));
        FunctionLimits {
            timeout,
            idle_timeout,
            concurrency: number(self.limits.concurrency, config.functions.concurrency),
            max_instances: number(self.limits.max_instances, config.functions.max_instances),
            ..config.functions
        }
    }

    /// Time without a call after which this function has no agents; none when it keeps them.
    pub fn idle_timeout(&self, config: &Config) -> Option<Duration> {
        Some(self.function_limits(config).idle_timeout).filter(|idle| !idle.is_zero())
    }

    /// Memory of one instance of this function, bytes.
    pub fn function_memory(&self, config: &Config) -> u64 {
        self.limits.memory_mib.unwrap_or_else(|| sandbox::function_memory_mib(config)) << 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WorkloadCaps;

    fn refusal(asked: WorkloadLimits, kind: WorkloadType, caps: WorkloadCaps) -> Option<Code> {
        let config = Config { workload_limits: caps, no_sandbox: true, ..Config::default() };
        within_policy(&asked, kind, &config).err().map(|fault| fault.code)
    }

    #[test]
    fn nobody_gets_more_than_the_policy_gives_which_is_the_default_unless_it_says_more() {
        let asked = |memory_mib| WorkloadLimits { memory_mib: Some(memory_mib), ..WorkloadLimits::default() };
        let more = WorkloadCaps { memory_mib: Some(1024), ..WorkloadCaps::default() };
        assert_eq!(refusal(asked(256), WorkloadType::Wasm, WorkloadCaps::default()), None);
        assert_eq!(refusal(asked(257), WorkloadType::Wasm, WorkloadCaps::default()), Some(Code::LimitExceeded));
        assert_eq!(refusal(asked(257), WorkloadType::Wasm, more), None);
        assert_eq!(refusal(asked(0), WorkloadType::Wasm, more), Some(Code::BadRequest));
    }

    #[test]
    fn no_policy_gives_more_memory_than_a_machine_has() {
        let caps = WorkloadCaps { memory_mib: Some(4096), ..WorkloadCaps::default() };
        let machines = Config { workload_limits: caps, ..Config::default() };
        assert_eq!(memory_cap(&machines), machines.machine_template.memsize_mib - 64);
        assert_eq!(memory_cap(&Config { no_sandbox: true, ..machines }), 4096);
    }

    #[test]
    fn what_makes_no_sense_for_a_service_is_refused() {
        let asked = WorkloadLimits { timeout_ms: Some(1), ..WorkloadLimits::default() };
        assert_eq!(refusal(asked, WorkloadType::Native, WorkloadCaps::default()), Some(Code::BadRequest));
        assert_eq!(refusal(asked, WorkloadType::V8, WorkloadCaps::default()), None);
    }
}
