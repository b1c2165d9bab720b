//! Which sandbox a node's agents live in, as its configuration says, and whether this machine has what that takes.
//!
//! Nothing is weakened in silence: a node that is to have microVMs and cannot does not start, and says both ways out.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nex_network::{Mode, Network, NetworkSettings};
use nex_protocol::WorkloadType;
use nex_protocol::control::limits::WorkloadLimits;
use nex_protocol::link::message::Prestart;
use nex_sandbox::microvm::firecracker::jail::JailSettings;
use nex_sandbox::microvm::firecracker::model::{RateLimiter, TokenBucket};
use nex_sandbox::microvm::firecracker::{Firecracker, FirecrackerError, FirecrackerSettings, release, sized_snapshots};
use nex_sandbox::microvm::qemu::{Accelerator, Qemu};
use nex_sandbox::microvm::reaper::Reaper;
use nex_sandbox::microvm::{MONITOR_MIB, MachineSettings, Monitor, ScratchSpace};
use nex_sandbox::pool::PoolTask;
use nex_sandbox::{Backoff, Cgroups, MachineSandbox, Pool, PoolSettings, ProcessSandbox, ProcessSettings};
use tracing::warn;

use crate::config::{self, CNI_CONF, Config, GUEST_OVERHEAD, MachineTemplate, NetworkKind, Scratch, Vmm};
use crate::pools::Pools;
use crate::state::StateDir;
use crate::{NodeError, host, weakened};

/// Preparations of agents at a time.
const PARALLEL: usize = 4;

/// Memory of an agent itself, MiB: it lives in the same control group as its service.
const AGENT: u64 = 16;

/// What keeps the configured sandbox from working here; empty when nothing does.
pub fn problems(config: &Config) -> Vec<String> {
    if config.no_sandbox {
        return host::agent(config).err().map(|error| error.to_string()).into_iter().collect();
    }
    let mut problems = match config.vmm {
        Vmm::Qemu => host::qemu(config).err().map(|error| error.to_string()).into_iter().collect(),
        Vmm::Firecracker => firecracker_problems(config),
    };
    let files = [
        ("kernel_filepath", Some(config.kernel()), "a kernel for guests"),
        ("rootfs_filepath", Some(config.root_image()), "a root image, which `nex rootfs` makes"),
        ("initrd_filepath", config.initrd_filepath.clone(), "the kernel's initramfs"),
    ];
    for (key, path, what) in files {
        let Some(path) = path else { continue };
        if let Err(error) = std::fs::File::open(&path) {
            problems.push(format!("{key}: {} cannot be read ({error}): it must be {what}", path.display()));
        }
    }
    if !problems.is_empty() {
        problems.push(WAYS_OUT.to_owned());
    }
    problems
}

/// Processors that Firecracker gives a machine at most.
const MOST_VCPUS: u64 = 32;

/// What a person can do where microVMs cannot run.
const WAYS_OUT: &str = "`nex node preflight` looks for what microVMs take and says how to get it. Without KVM set vmm to \"qemu\" \
    for microVMs that are translated, or run workloads as processes of the node's user with --no-sandbox (no_sandbox)";

fn firecracker_problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    match host::firecracker(config) {
        Ok(program) => problems.extend(release(&program).err().map(|error| error.to_string())),
        Err(error) => problems.push(error.to_string()),
    }
    if !config.no_jailer {
        problems.extend(host::jailer(config).err().map(|error| error.to_string()));
        if !rustix::process::geteuid().is_root() {
            problems.push(FirecrackerError::NotRoot.to_string());
        }
    }
    if config.all_templates().any(|template| template.vcpu_count > MOST_VCPUS) {
        problems.push(format!(
            "vcpu_count of a machine template: Firecracker gives a machine {MOST_VCPUS} processors at most"
        ));
    }
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        let help = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "the node's user must be in the group that owns it (kvm), or be root"
            }
            std::io::ErrorKind::NotFound => {
                "this machine has no KVM, or its module is not loaded (modprobe kvm_intel or kvm_amd)"
            }
            _ => "KVM cannot be used here",
        };
        problems.push(format!("/dev/kvm cannot be opened ({error}): {help}"));
    }
    problems
}

/// The pool of agents, and what their places share.
pub(crate) struct Places {
    tasks: Vec<PoolTask>,
    network: Option<Arc<Network>>,
    reaper: Option<Reaper>,
}

impl Places {
    /// Ends all agents that nobody took, and removes what was made for them.
    pub(crate) async fn close(self) {
        for task in self.tasks {
            task.close().await;
        }
        // The sandbox had the other one.
        if let Some(network) = self.network.and_then(Arc::into_inner) {
            network.close().await;
        }
        // It finds nothing to do, which takes no time.
        drop(self.reaper);
    }
}

/// The kind of network that machines get: what the configuration says, with `auto` decided.
fn network_kind(config: &Config) -> NetworkKind {
    match config.network {
        NetworkKind::Auto => {
            let cni = nex_network::cni_is_ready(&config.cni.plugins(), CNI_CONF.as_ref(), &config.cni.network_name);
            if cni.is_ok() { NetworkKind::Cni } else { NetworkKind::Builtin }
        }
        kind => kind,
    }
}

fn network(config: &Config, state: &StateDir) -> Result<Option<Arc<Network>>, NodeError> {
    let mode = match network_kind(config) {
        NetworkKind::None => return Ok(None),
        NetworkKind::Cni => Mode::Cni {
            bin_paths: config.cni.plugins(),
            conf_dir: CNI_CONF.into(),
            network_name: config.cni.network_name.clone(),
            interface_name: config.cni.interface_name.clone(),
        },
        NetworkKind::Auto | NetworkKind::Builtin => Mode::Builtin { subnet: config.cni.subnet },
    };
    let network = Network::new(NetworkSettings {
        journal_dir: state.path("network"),
        mode,
        egress: config.egress.clone(),
        nameservers: config.cni.nameservers.clone(),
    });
    match network {
        Ok(network) => Ok(Some(Arc::new(network))),
        // Who asked for one gets one or an error. Functions need none.
        Err(error) if config.network == NetworkKind::Auto => {
            warn!(%error, "microVMs have no network: functions run, services reach nobody");
            Ok(None)
        }
        Err(error) => Err(NodeError::Agents(error.to_string())),
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, NodeError> {
    std::path::absolute(&path).map_err(|error| NodeError::Agents(format!("{}: {error}", path.display())))
}

fn scratch(config: &Config, template: MachineTemplate) -> ScratchSpace {
    match config.scratch {
        None => ScratchSpace::Memory { mib: (template.memsize_mib / 2).max(16) },
        Some(Scratch::Memory(mib)) => ScratchSpace::Memory { mib },
        Some(Scratch::Drive(mib)) => ScratchSpace::Drive { mib },
    }
}

/// Memory of a guest that its scratch space may take, MiB.
fn scratch_memory_mib(config: &Config, template: MachineTemplate) -> u64 {
    match scratch(config, template) {
        ScratchSpace::Memory { mib } => mib,
        ScratchSpace::Drive { .. } => 0,
    }
}

fn limiter(config: &Config) -> Option<RateLimiter> {
    let bucket = |bucket: config::TokenBucket| TokenBucket {
        size: bucket.size,
        one_time_burst: bucket.one_time_burst,
        refill_time: bucket.refill_time,
    };
    let limits = config.rate_limiters.filter(|limits| limits.bandwidth.is_some() || limits.iops.is_some())?;
    Some(RateLimiter { bandwidth: limits.bandwidth.map(bucket), ops: limits.iops.map(bucket) })
}

/// Memory that a service's control group has to allow beyond what the service asks for, MiB: the agent; in a microVM also the
/// guest's kernel, what it keeps in memory, and the monitor.
pub fn overhead_mib(config: &Config, limits: &WorkloadLimits) -> u64 {
    if config.no_sandbox {
        return AGENT;
    }
    AGENT + GUEST_OVERHEAD + scratch_memory_mib(config, config.template_for(limits)) + MONITOR_MIB
}

/// Time an agent has to start a workload, at least: a large Wasm module is compiled meanwhile.
const START_TIMEOUT: Duration = Duration::from_secs(40);

/// Time an agent has to start a workload. In a machine as long as that has to boot, which says how fast it is.
pub(crate) fn start_timeout(config: &Config) -> Duration {
    if config.no_sandbox { START_TIMEOUT } else { config.boot_timeout.max(START_TIMEOUT) }
}

/// What agents are to start while they wait. By default nothing in machines: processes share most of what a waiting Deno
/// takes, machines nothing of it.
fn prestart(config: &Config, types: &[WorkloadType]) -> Option<Prestart> {
    let wanted = config.prestart.unwrap_or(config.no_sandbox) && types.contains(&WorkloadType::V8);
    wanted.then(|| Prestart { memory_bytes: function_memory_mib(config) << 20 })
}

/// Starts filling the pools of agents, for workloads of these types, in the configured sandbox.
///
/// # Errors
/// [`NodeError`] when they could never start.
pub(crate) fn pools(
    config: &Config,
    state: &StateDir,
    deno: Option<PathBuf>,
    types: &[WorkloadType],
    cgroups: Option<Arc<Cgroups>>,
) -> Result<(Pools, Places), NodeError> {
    let backoff = Backoff { base: Duration::from_millis(250), cap: Duration::from_secs(30) };
    // As long as a busy agent has: three pings of those in use.
    let ping_timeout = config.agent_ping_timeout * 3;
    let settings = PoolSettings { size: config.machine_pool_size, parallel: PARALLEL, backoff, ping_timeout };
    let log_filter = std::env::var("NEX_AGENT_LOG").unwrap_or_else(|_| "warn".to_owned());
    let failed = |source: std::io::Error| NodeError::Agents(source.to_string());
    if config.no_sandbox {
        let sandbox = ProcessSandbox::new(ProcessSettings {
            agent: host::agent(config)?,
            agents_dir: state.path("agents"),
            compiled_dir: state.path("compiled"),
            deno,
            start_timeout: start_timeout(config),
            prestart: prestart(config, types),
            handshake_timeout: config.agent_handshake_timeout,
            cgroups,
            log_filter,
        })
        .map_err(failed)?;
        let (pool, task) = Pool::spawn(Arc::new(sandbox), settings);
        return Ok((Pools::new(pool, Vec::new(), None), Places { tasks: vec![task], network: None, reaper: None }));
    }
    let network = network(config, state)?;
    let reaper = reaper(config, state, cgroups.as_deref());
    let machines = MachineSettings {
        // The monitor runs in a folder of its own.
        kernel: absolute(config.kernel())?,
        initrd: config.initrd_filepath.clone().map(absolute).transpose()?,
        root_image: absolute(config.root_image())?,
        memory_mib: config.machine_template.memsize_mib,
        vcpus: config.machine_template.vcpu_count,
        scratch: scratch(config, config.machine_template),
        network: network.clone(),
        rate_limiter: limiter(config),
        boot_arguments: config.boot_arguments.clone(),
        machines_dir: state.path("machines"),
        boot_timeout: config.boot_timeout,
        start_timeout: start_timeout(config),
        prestart: prestart(config, types),
        log_filter,
        cgroups,
    };
    let sandbox = MachineSandbox::new(machines, machine_monitor(config, state)?).map_err(failed)?;
    let tally = sandbox.tally();
    remove_snapshots_of_other_sizes(config, state);
    let further: Vec<_> = config
        .machine_templates
        .iter()
        .map(|further| {
            let MachineTemplate { vcpu_count, memsize_mib } = further.template;
            let sized = sandbox.sized(memsize_mib, vcpu_count, scratch(config, further.template));
            (further.template, Pool::spawn(Arc::new(sized), PoolSettings { size: further.pool_size, ..settings }))
        })
        .collect();
    let (usual, task) = Pool::spawn(Arc::new(sandbox), settings);
    let mut tasks = vec![task];
    let further = further.into_iter().map(|(template, (pool, task))| {
        tasks.push(task);
        (template, pool)
    });
    let pools = Pools::new(usual, further.collect(), Some(tally));
    Ok((pools, Places { tasks, network, reaper }))
}

/// A snapshot is as large as its machine's memory; one of a size that the configuration does not name any more is of no use.
fn remove_snapshots_of_other_sizes(config: &Config, state: &StateDir) {
    let snapshots = state.path("snapshots");
    let sizes = config.machine_templates.iter().map(|further| further.template);
    let wanted: Vec<_> = sizes.map(|size| sized_snapshots(&snapshots, size.vcpu_count, size.memsize_mib)).collect();
    for entry in snapshots.parent().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("snapshots-")
            && !wanted.contains(&entry.path())
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            warn!(%error, folder = %entry.path().display(), "a snapshot that is of no use cannot be removed");
        }
    }
}

/// Who ends jailed machines when the node is killed. Others the kernel ends.
fn reaper(config: &Config, state: &StateDir, cgroups: Option<&Cgroups>) -> Option<Reaper> {
    if config.vmm != Vmm::Firecracker || config.no_jailer {
        return None;
    }
    // This very program, even when its file has been replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.args(["node", "reap"]).arg(state.path("machines")).args(cgroups.map(Cgroups::folders).unwrap_or_default());
    let started = Reaper::start(command);
    started
        .inspect_err(|error| warn!(%error, "should the node be killed, machines that hang stay until its next start"))
        .ok()
}

fn machine_monitor(config: &Config, state: &StateDir) -> Result<Monitor, NodeError> {
    if config.vmm == Vmm::Qemu {
        let accelerator = Accelerator::of_this_machine();
        if accelerator == Accelerator::Tcg {
            warn!(
                "microVMs run without KVM, by translation: this works anywhere and is many times slower (nex.accelerator)"
            );
        }
        return Ok(Monitor::Qemu(Qemu::new(absolute(host::qemu(config)?)?, accelerator)));
    }
    let jail = if config.no_jailer {
        warn!("microVMs run without Firecracker's jailer, as processes of the node's user (nex.unjailed)");
        None
    } else {
        weakened::say_shared_users(config);
        let users = config.jailer_users;
        Some(JailSettings { program: absolute(host::jailer(config)?)?, first_user: users.first, users: users.count })
    };
    let firecracker = Firecracker::new(FirecrackerSettings {
        program: absolute(host::firecracker(config)?)?,
        jail,
        snapshots: config.snapshots.then(|| state.path("snapshots")),
        free_page_reporting: config.free_page_reporting,
    });
    firecracker.map(Monitor::Firecracker).map_err(|error| NodeError::Agents(error.to_string()))
}

/// Memory that a function may have in this sandbox, MiB, when it asks for nothing.
pub fn function_memory_mib(config: &Config) -> u64 {
    let template = config.machine_template;
    if config.no_sandbox { template.memsize_mib } else { template.for_workload_mib() }
}

/// Names of the monitor and of how it runs guests, for the node's tags; none without microVMs.
pub fn monitor(config: &Config) -> Option<(&'static str, &'static str)> {
    let accelerator = match config.vmm {
        // It knows no other.
        Vmm::Firecracker => Accelerator::Kvm,
        Vmm::Qemu => Accelerator::of_this_machine(),
    };
    (!config.no_sandbox).then(|| (config.vmm.as_str(), accelerator.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_start_deno_where_functions_may_come_and_memory_is_shared_unless_they_are_told() {
        let started = |no_sandbox, prestart, types: &[WorkloadType]| {
            let config = Config { no_sandbox, prestart, ..Config::default() };
            super::prestart(&config, types).map(|prestart| prestart.memory_bytes >> 20)
        };
        let all = &WorkloadType::ALL;
        assert_eq!(started(true, None, all), Some(256));
        assert_eq!(started(false, None, all), None);
        assert_eq!(started(false, Some(true), all), Some(192));
        assert_eq!(started(true, Some(false), all), None);
        assert_eq!(started(true, Some(true), &[WorkloadType::Wasm]), None);
    }
}
