//! Which sandbox a node's agents live in, as its configuration says, and whether this machine has what that takes.
//!
//! Nothing is weakened in silence: a node that is to have microVMs and cannot does not start, and says both ways out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nex_sandbox::microvm::qemu::{Accelerator, Qemu};
use nex_sandbox::microvm::{MachineSettings, ScratchSpace};
use nex_sandbox::pool::PoolTask;
use nex_sandbox::{Backoff, Cgroups, MachineSandbox, Pool, PoolSettings, ProcessSandbox, ProcessSettings};
use tracing::warn;

use crate::config::{Config, Vmm};
use crate::state::StateDir;
use crate::{NodeError, host};

/// Preparations of agents at a time.
const PARALLEL: usize = 4;

/// Memory of an agent itself, MiB: it lives in the same control group as its service.
const AGENT: u64 = 16;

/// Memory of a monitor itself, with the code it has translated, MiB.
const MONITOR: u64 = 128;

/// Longest state directory, bytes: the path of a socket has at most 107, and `/machines/`, an id and `/link.sock` are part of
/// it.
const LONGEST_FOLDER: usize = 107 - 10 - 20 - 10;

/// Memory that a guest needs besides its workload, MiB.
const GUEST_OVERHEAD: u64 = 64;

/// What keeps the configured sandbox from working here; empty when nothing does.
pub fn problems(config: &Config) -> Vec<String> {
    if config.no_sandbox {
        return host::agent(config).err().map(|error| error.to_string()).into_iter().collect();
    }
    if config.vmm == Vmm::Firecracker {
        return vec![
            "no_sandbox: this release has no Firecracker sandbox yet. Set vmm to \"qemu\" for microVMs with QEMU, or \
             no_sandbox to true (or give --no-sandbox) to run workloads as processes of the node's user"
                .to_owned(),
        ];
    }
    let mut problems = Vec::new();
    if let Err(error) = host::qemu(config) {
        problems.push(error.to_string());
    }
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
    let state = config.state_dir.clone().unwrap_or_else(StateDir::default_path);
    let folder = std::path::absolute(&state).unwrap_or(state);
    if folder.as_os_str().len() > LONGEST_FOLDER {
        let text = "is too long for the sockets of microVMs: choose one of at most";
        problems.push(format!("state_dir: {} {text} {LONGEST_FOLDER} bytes", folder.display()));
    }
    problems
}

fn absolute(path: PathBuf) -> Result<PathBuf, NodeError> {
    std::path::absolute(&path).map_err(|error| NodeError::Agents(format!("{}: {error}", path.display())))
}

fn scratch_mib(config: &Config) -> u64 {
    (config.machine_template.memsize_mib / 2).max(16)
}

/// Memory that a service's control group has to allow beyond what the service asks for, MiB: the agent; in a microVM also the
/// guest's kernel, what it keeps in memory, and the monitor.
pub fn overhead_mib(config: &Config) -> u64 {
    if config.no_sandbox { AGENT } else { AGENT + GUEST_OVERHEAD + scratch_mib(config) + MONITOR }
}

/// Starts filling a pool of agents in the configured sandbox.
///
/// # Errors
/// [`NodeError`] when they could never start.
pub(crate) fn pool(
    config: &Config,
    state: &StateDir,
    deno: Option<PathBuf>,
    cgroups: Option<Arc<Cgroups>>,
) -> Result<(Pool, PoolTask), NodeError> {
    let backoff = Backoff { base: Duration::from_millis(250), cap: Duration::from_secs(30) };
    let settings = PoolSettings { size: config.machine_pool_size, parallel: PARALLEL, backoff };
    let log_filter = std::env::var("NEX_AGENT_LOG").unwrap_or_else(|_| "warn".to_owned());
    let failed = |source: std::io::Error| NodeError::Agents(source.to_string());
    if config.no_sandbox {
        let sandbox = ProcessSandbox::new(ProcessSettings {
            agent: host::agent(config)?,
            agents_dir: state.path("agents"),
            compiled_dir: state.path("compiled"),
            deno,
            handshake_timeout: config.agent_handshake_timeout,
            cgroups,
            log_filter,
        })
        .map_err(failed)?;
        return Ok(Pool::spawn(Arc::new(sandbox), settings));
    }
    let accelerator = Accelerator::of_this_machine();
    if accelerator == Accelerator::Tcg {
        warn!(
            "microVMs run without KVM, by translation: this works anywhere and is many times slower (nex.accelerator)"
        );
    }
    let machines = MachineSettings {
        // The monitor runs in a folder of its own.
        kernel: absolute(config.kernel())?,
        initrd: config.initrd_filepath.clone().map(absolute).transpose()?,
        root_image: absolute(config.root_image())?,
        memory_mib: config.machine_template.memsize_mib,
        vcpus: config.machine_template.vcpu_count,
        scratch: ScratchSpace { memory_mib: scratch_mib(config) },
        boot_arguments: config.boot_arguments.clone(),
        machines_dir: state.path("machines"),
        boot_timeout: config.boot_timeout,
        log_filter,
        cgroups,
    };
    let qemu = Qemu::new(absolute(host::qemu(config)?)?, accelerator);
    Ok(Pool::spawn(Arc::new(MachineSandbox::new(machines, qemu).map_err(failed)?), settings))
}

/// Memory that a function may have in this sandbox, MiB, when it asks for nothing.
pub fn function_memory_mib(config: &Config) -> u64 {
    let memory = config.machine_template.memsize_mib;
    if config.no_sandbox { memory } else { memory.saturating_sub(GUEST_OVERHEAD).max(16) }
}

/// Names of the monitor and of how it runs guests, for the node's tags; none without microVMs.
pub fn monitor(config: &Config) -> Option<(&'static str, &'static str)> {
    (!config.no_sandbox).then(|| (config.vmm.as_str(), Accelerator::of_this_machine().as_str()))
}
