//! Worlds whose workloads live in microVMs, and what those are made of: QEMU or, with `NEX_TEST_FIRECRACKER` (a folder with
//! `firecracker` and `jailer`), the real Firecracker in its jail. `NEX_TEST_KERNEL` names another kernel, one with its drivers
//! built in, and `NEX_TEST_BOOT_ARGUMENTS` what it has to be told.

#![allow(clippy::indexing_slicing, reason = "of JSON values, which give null where there is nothing")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::Subscriber;
use futures_util::StreamExt;
use nex_client::Deployment;
use nex_protocol::WorkloadType;
use nex_protocol::control::deploy::RunResponse;
use nex_testkit::{Binaries, NatsServer, NexNode, program, workspace_root};
use serde_json::{Value, json};

use crate::{World, round_trip};

/// A guest that is translated takes its time on a busy machine; one on a KVM that is emulated takes much more.
pub fn boot() -> Duration {
    Duration::from_secs(if std::env::var_os("NEX_TEST_FIRECRACKER").is_some() { 900 } else { 240 })
}

/// What machines are made of.
#[derive(Debug)]
pub struct Pieces {
    /// Keys of the configuration that name the monitor.
    pub monitor: Value,
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: Option<PathBuf>,
    /// The root image.
    pub image: PathBuf,
    /// The service that tries to get out.
    pub intruder: PathBuf,
    _folder: tempfile::TempDir,
}

/// The pieces, made once; none, and the reason told, where one is missing.
pub fn pieces() -> Option<&'static Pieces> {
    static PIECES: OnceLock<Result<Pieces, String>> = OnceLock::new();
    match PIECES.get_or_init(find) {
        Ok(pieces) => Some(pieces),
        Err(reason) => {
            eprintln!("SKIPPED: nothing was run in a microVM: {reason}");
            None
        }
    }
}

fn find() -> Result<Pieces, String> {
    let monitor = match std::env::var_os("NEX_TEST_FIRECRACKER").map(PathBuf::from) {
        Some(folder) => json!({
            "vmm": "firecracker", "firecracker_path": folder.join("firecracker"), "jailer_path": folder.join("jailer"),
        }),
        None => {
            let qemu = program("NEX_QEMU", "qemu-system-x86_64").ok_or("there is no qemu-system-x86_64")?;
            json!({"vmm": "qemu", "qemu_path": qemu})
        }
    };
    let guest = Binaries::guest().map_err(|error| error.to_string())?;
    let intruder = guest.join("guest-intruder");
    if !intruder.is_file() {
        return Err(format!("there is no {}: `cargo xtask guest` makes it", intruder.display()));
    }
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (image, initramfs) = (folder.path().join("rootfs.ext4"), folder.path().join("initramfs.cpio"));
    // From here on all is there: what fails is a failure.
    nex(&["rootfs", "-o", &image.to_string_lossy()])?;
    let (kernel, initrd) = match std::env::var_os("NEX_TEST_KERNEL") {
        Some(kernel) => (PathBuf::from(kernel), None),
        None => {
            if monitor["vmm"] == "firecracker" {
                return Err("NEX_TEST_KERNEL must name a kernel for Firecracker".to_owned());
            }
            let tools = workspace_root().join(".tools/kernel");
            let kernel = first(&tools.join("boot"), "vmlinuz-").ok_or("there is no kernel in .tools/kernel")?;
            let modules = first(&tools.join("lib/modules"), "").ok_or("there are no modules in .tools/kernel")?;
            nex(&["rootfs", "initramfs", &modules.to_string_lossy(), "-o", &initramfs.to_string_lossy()])?;
            (kernel, Some(initramfs))
        }
    };
    Ok(Pieces { monitor, kernel, initrd, image, intruder, _folder: folder })
}

/// What fails here is a failure, and no reason to pass over a test.
#[allow(clippy::panic, reason = "a test cannot go on without them, and must not be passed over")]
fn nex(arguments: &[&str]) -> Result<(), String> {
    let nex = Binaries::nex().map_err(|error| error.to_string())?;
    let output = Command::new(nex).args(arguments).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        panic!("nex {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn first(folder: &Path, start: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(start)))
}

/// The configuration of a node with these machines.
pub fn config(pieces: &Pieces) -> Value {
    let mut config = json!({
        "kernel_filepath": pieces.kernel, "rootfs_filepath": pieces.image,
        "boot_arguments": std::env::var("NEX_TEST_BOOT_ARGUMENTS").unwrap_or_default(),
        "workload_types": ["native", "wasm"], "machine_template": {"vcpu_count": 1, "memsize_mib": 192},
        "boot_timeout_ms": boot().as_millis(), "agent_ping_timeout_ms": 20_000, "network": "none",
        "functions": {"timeout_ms": 60_000},
    });
    for (key, value) in pieces.monitor.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    if let Some(initrd) = &pieces.initrd {
        config["initrd_filepath"] = json!(initrd);
    }
    config
}

/// A world whose workloads live in machines, and what they print.
///
/// # Errors
/// When no machine comes up in time.
pub async fn machines(pieces: &Pieces, more: Value) -> Result<(World, Subscriber)> {
    let server = NatsServer::start().await?;
    let mut config = config(pieces);
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let nats = server.client().await?;
    let logs = nats.subscribe("$NEX.logs.>").await?;
    round_trip(&nats).await?;
    let mut node = NexNode::builder(&server).await?.config(config).sandboxed().spawn().await?;
    node.wait_ready_within(boot()).await?;
    let mut world = World::of(server, node, nats.clone());
    world.patience = boot();
    world.client = nex_client::Client::new(nats, nex_protocol::Namespace::default(), boot());
    Ok((world, logs))
}

/// Deploys the service that tries to get out.
///
/// # Errors
/// What the node says.
pub async fn intruder(world: &World, pieces: &Pieces, name: &str, tries: &[&str]) -> Result<RunResponse> {
    let sha256 = world.put(name, &std::fs::read(&pieces.intruder)?).await?;
    let mut deployment: Deployment = world.deployment(name, WorkloadType::Native, &sha256)?;
    deployment.argv = tries.iter().map(|word| (*word).to_owned()).collect();
    deployment.environment.set("SECRET", "hush");
    Ok(world.send(&deployment).await?)
}

/// The lines of output that begin with a word, as they come; each within the time of a slow guest.
///
/// # Errors
/// When there is none in time.
pub async fn line(logs: &mut Subscriber, start: &str) -> Result<String> {
    let wanted = async {
        loop {
            let message = logs.next().await.context("the subscription ended")?;
            let entry: Value = serde_json::from_slice(&message.payload)?;
            let text = entry["text"].as_str().unwrap_or_default();
            if text.starts_with(start) {
                return Ok(text.to_owned());
            }
        }
    };
    tokio::time::timeout(boot(), wanted).await.with_context(|| format!("no line that begins with {start}"))?
}
