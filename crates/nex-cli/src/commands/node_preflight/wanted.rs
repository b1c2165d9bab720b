//! What a configuration asks of the machine, in the words of preflight. The one place that knows both.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nex_node::config::{CNI_CONF, Config, NetworkKind, Scratch, Vmm};
use nex_node::state::StateDir;
use nex_preflight::{Cni, GuestPrograms, Machines, Monitor, Network, Program, Wanted};
use nex_protocol::WorkloadType;

use crate::commands::rootfs;

/// Where programs go that no configuration has a place for.
const PROGRAMS: &str = "/usr/local/bin";

/// Folder for kernel, root image and programs that a new configuration names.
pub(super) fn resources() -> PathBuf {
    let default = Config::default().kernel();
    let of_root = default.parent().unwrap_or(Path::new("/"));
    // Beside the state of the node, which is where this user may write.
    match StateDir::default_path() {
        state if of_root.starts_with(&state) => of_root.to_owned(),
        state => state.join("resources"),
    }
}

pub(super) fn of(config: &Config, nameservers: &[IpAddr]) -> Wanted {
    // A node that names no types runs all in its sandbox, and without one those whose engine is there.
    let javascript =
        config.workload_types.as_ref().map_or(!config.no_sandbox, |types| types.contains(&WorkloadType::V8));
    Wanted {
        machines: (!config.no_sandbox).then(|| machines(config, nameservers)),
        agent: program(config, "nex-agent", "agent_path", config.agent_path.clone()),
        pool_size: config.machine_pool_size,
        javascript,
        deno: program(config, "deno", "deno_path", named(config.deno_path.as_ref(), "NEX_DENO")),
        own_nats: config.public_nats_server.is_some(),
        nats_server: program(
            config,
            "nats-server",
            "nats_server_path",
            named(config.nats_server_path.as_ref(), "NEX_NATS_SERVER"),
        ),
        state_dir: config.state_dir.clone().unwrap_or_else(StateDir::default_path),
    }
}

fn machines(config: &Config, nameservers: &[IpAddr]) -> Machines {
    let guest = |name: &str| rootfs::given_or_beside(None, name, "--agent").ok();
    let monitor = match config.vmm {
        Vmm::Firecracker => Monitor::Firecracker {
            firecracker: program(
                config,
                "firecracker",
                "firecracker_path",
                named(config.firecracker_path.as_ref(), "NEX_FIRECRACKER"),
            ),
            jailer: program(config, "jailer", "jailer_path", named(config.jailer_path.as_ref(), "NEX_JAILER")),
            jailed: !config.no_jailer,
            shared_users: nex_node::weakened::foreign_users(config).iter().map(ToString::to_string).collect(),
        },
        Vmm::Qemu => {
            let name = if cfg!(target_arch = "aarch64") { "qemu-system-aarch64" } else { "qemu-system-x86_64" };
            Monitor::Qemu { qemu: program(config, name, "qemu_path", named(config.qemu_path.as_ref(), "NEX_QEMU")) }
        }
    };
    Machines {
        monitor,
        kernel: config.kernel(),
        initrd: config.initrd_filepath.clone(),
        root_image: config.root_image(),
        guest_programs: guest("nex-agent").zip(guest("nex-init")).map(|(agent, init)| GuestPrograms { agent, init }),
        memory_mib: config.machine_template.memsize_mib,
        scratch_mib: match config.scratch {
            Some(Scratch::Drive(mib)) => mib,
            _ => 0,
        },
        network: match config.network {
            NetworkKind::Auto => Network::Auto(cni(config, nameservers)),
            NetworkKind::Builtin => Network::Builtin,
            NetworkKind::Cni => Network::Cni(cni(config, nameservers)),
            NetworkKind::None => Network::None,
        },
    }
}

fn cni(config: &Config, nameservers: &[IpAddr]) -> Cni {
    let given = nameservers.iter().map(ToString::to_string);
    let configured = config.cni.nameservers.iter().map(ToString::to_string);
    Cni {
        search: config.cni.plugins(),
        install_dir: config.cni.plugins().into_iter().next().unwrap_or_default(),
        conf_dir: CNI_CONF.into(),
        network_name: config.cni.network_name.clone(),
        subnet: config.cni.subnet.to_string(),
        nameservers: if nameservers.is_empty() { configured.collect() } else { given.collect() },
    }
}

/// What is named by the configuration, else by the environment.
fn named(configured: Option<&PathBuf>, variable: &str) -> Option<PathBuf> {
    configured.cloned().or_else(|| std::env::var_os(variable).map(PathBuf::from))
}

fn path() -> Vec<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect()
}

/// A program where a node looks for it: beside `nex`, in `bin_path`, on the path.
fn program(config: &Config, name: &'static str, key: &'static str, configured: Option<PathBuf>) -> Program {
    let beside = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned));
    let path = path();
    let custom = Some(PathBuf::from(PROGRAMS)).filter(|folder| path.contains(folder));
    let install_dir = config.bin_path.first().cloned().or(custom).or_else(|| path.first().cloned());
    let search: Vec<PathBuf> = beside.into_iter().chain(config.bin_path.iter().cloned()).chain(path).collect();
    Program { name, key, configured, search, install_dir: install_dir.unwrap_or_else(|| PROGRAMS.into()) }
}
