//! What the node finds on its machine: programs, memory, processors. Reads only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nex_protocol::control::info::Memory;
use nex_protocol::control::ping::{go_arch, tag};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tracing::warn;

use crate::config::{Config, Vmm};

/// Memory in kB from `/proc/meminfo`; none where there is no such file.
pub fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(':')?;
            value.trim().trim_end_matches("kB").trim().parse().ok()
        })
    };
    Some(Memory { total: field("MemTotal")?, free: field("MemFree")?, available: field("MemAvailable")? })
}

/// The tags of the configuration and those a node sets by itself, which win.
pub fn tags(config: &Config, node_id: &str) -> BTreeMap<String, String> {
    let mut tags = config.tags.clone();
    tags.entry(tag::NODE_NAME.to_owned()).or_insert_with(|| made_up_name(node_id));
    tags.insert(tag::OS.to_owned(), std::env::consts::OS.to_owned());
    tags.insert(tag::ARCH.to_owned(), go_arch().to_owned());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    tags.insert(tag::CPU_COUNT.to_owned(), processors.to_string());
    if config.no_sandbox {
        tags.insert(tag::UNSAFE.to_owned(), "true".to_owned());
    }
    if !config.no_sandbox && config.vmm == Vmm::Firecracker && config.no_jailer {
        tags.insert(tag::UNJAILED.to_owned(), "true".to_owned());
    }
    if let Some((monitor, accelerator)) = crate::sandbox::monitor(config) {
        tags.insert(tag::VMM.to_owned(), monitor.to_owned());
        tags.insert(tag::ACCELERATOR.to_owned(), accelerator.to_owned());
    }
    tags
}

/// Two words that stay the same for a node.
fn made_up_name(node_id: &str) -> String {
    const HOW: [&str; 16] = [
        "amber", "brisk", "calm", "deft", "eager", "fond", "grand", "hardy", "ivory", "jolly", "keen", "lucid",
        "merry", "noble", "quick", "sunny",
    ];
    const WHO: [&str; 16] = [
        "badger", "crane", "dolphin", "egret", "falcon", "gecko", "heron", "ibex", "jackal", "kestrel", "lynx",
        "marten", "newt", "otter", "puffin", "raven",
    ];
    let sum = node_id.bytes().fold(7usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    let pick = |words: [&'static str; 16], n: usize| words.get(n % 16).copied().unwrap_or("node");
    format!("{}-{}", pick(HOW, sum), pick(WHO, sum / 16))
}

/// Keeps what is in this process' memory, keys and opened environments, from core dumps and from debuggers of the same
/// user; workloads without a sandbox are that user's.
pub fn keep_memory_private() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let kept = setrlimit(Resource::Core, none).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = kept {
        warn!(%error, "cannot keep the node's memory from core dumps and debuggers");
    }
}

/// A program that is started by a node could not be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{program} was not found {} (set {key} in the configuration)", places.join(" or "))]
pub struct NotFound {
    program: &'static str,
    key: &'static str,
    places: Vec<String>,
}

fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn beside_nex(program: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.parent()?.join(program);
    executable(&path).then_some(path)
}

fn on_path(config: &Config, program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = config.bin_path.iter().cloned().chain(std::env::split_paths(&path));
    dirs.find_map(|dir| Some(dir.join(program)).filter(|path| executable(path)))
}

/// The agent: beside `nex` first, so that both are of one release, then on the path, then as configured.
///
/// # Errors
/// [`NotFound`], naming where it was looked for.
pub fn agent(config: &Config) -> Result<PathBuf, NotFound> {
    let configured = || config.agent_path.clone().filter(|path| executable(path));
    beside_nex("nex-agent").or_else(|| on_path(config, "nex-agent")).or_else(configured).ok_or_else(|| {
        let mut places = vec!["beside nex".to_owned(), "on the path".to_owned()];
        places.extend(config.agent_path.iter().map(|path| format!("at {}", path.display())));
        NotFound { program: "nex-agent", key: "agent_path", places }
    })
}

fn tool(
    config: &Config,
    program: &'static str,
    key: &'static str,
    variable: &str,
    configured: Option<&PathBuf>,
) -> Result<PathBuf, NotFound> {
    // What somebody names is taken, or it is an error: looking further would hide a typing mistake.
    if let Some(path) = configured.cloned().or_else(|| std::env::var_os(variable).map(PathBuf::from)) {
        return if executable(&path) {
            Ok(path)
        } else {
            Err(NotFound { program, key, places: vec![format!("at {}", path.display())] })
        };
    }
    beside_nex(program).or_else(|| on_path(config, program)).ok_or_else(|| NotFound {
        program,
        key,
        places: vec!["beside nex".to_owned(), "on the path".to_owned()],
    })
}

/// Deno: as configured, else by `NEX_DENO`, else beside `nex` or on the path.
///
/// # Errors
/// [`NotFound`].
pub fn deno(config: &Config) -> Result<PathBuf, NotFound> {
    tool(config, "deno", "deno_path", "NEX_DENO", config.deno_path.as_ref())
}

/// QEMU for this architecture: as configured, else by `NEX_QEMU`, else beside `nex` or on the path.
///
/// # Errors
/// [`NotFound`].
pub fn qemu(config: &Config) -> Result<PathBuf, NotFound> {
    let program = if cfg!(target_arch = "aarch64") { "qemu-system-aarch64" } else { "qemu-system-x86_64" };
    tool(config, program, "qemu_path", "NEX_QEMU", config.qemu_path.as_ref())
}

/// Firecracker: as configured, else by `NEX_FIRECRACKER`, else beside `nex` or on the path.
///
/// # Errors
/// [`NotFound`].
pub fn firecracker(config: &Config) -> Result<PathBuf, NotFound> {
    tool(config, "firecracker", "firecracker_path", "NEX_FIRECRACKER", config.firecracker_path.as_ref())
}

/// Its jailer: as configured, else by `NEX_JAILER`, else beside `nex` or on the path.
///
/// # Errors
/// [`NotFound`].
pub fn jailer(config: &Config) -> Result<PathBuf, NotFound> {
    tool(config, "jailer", "jailer_path", "NEX_JAILER", config.jailer_path.as_ref())
}

/// nats-server: as configured, else by `NEX_NATS_SERVER`, else beside `nex` or on the path.
///
/// # Errors
/// [`NotFound`].
pub fn nats_server(config: &Config) -> Result<PathBuf, NotFound> {
    tool(config, "nats-server", "nats_server_path", "NEX_NATS_SERVER", config.nats_server_path.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_tags_win_over_configured_ones() {
        let config = Config {
            no_sandbox: true,
            tags: [("nex.os".to_owned(), "plan9".to_owned()), ("zone".to_owned(), "eu".to_owned())].into(),
            ..Config::default()
        };
        let tags = tags(&config, "NABC");
        assert_eq!(tags["nex.os"], std::env::consts::OS);
        assert_eq!((tags["zone"].as_str(), tags["nex.unsafe"].as_str()), ("eu", "true"));
        assert!(tags["node_name"].contains('-'));
    }

    #[test]
    fn a_missing_program_is_named_with_the_places_looked_at() {
        let config = Config { deno_path: Some("/nowhere/deno".into()), ..Config::default() };
        assert_eq!(
            deno(&config).unwrap_err().to_string(),
            "deno was not found at /nowhere/deno (set deno_path in the configuration)"
        );
    }

    #[test]
    fn memory_is_read() {
        let memory = memory().unwrap();
        assert!(memory.total >= memory.available);
    }
}
