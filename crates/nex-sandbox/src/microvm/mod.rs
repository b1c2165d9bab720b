//! The microVM sandbox: each agent in a virtual machine of its own.
//!
//! ```text
//! prepare: folder -> monitor process -> link -> agent's Hello, Welcome -> ready
//! destroy: link closed (the guest ends its workload, then itself) -> grace -> monitor killed -> folder removed
//! ```
//! What a machine is stands here: kernel, the one read-only root image that all of them share, scratch space, size, link,
//! console. The monitor ([`qemu`]) is a detail behind it. Nothing of the node's is reachable from inside but the link;
//! nothing of the machine's is written outside its folder, which has the monitor's process id in it, so that a node that
//! was killed finds what it left.

mod console;
mod place;
pub mod qemu;
mod reclaim;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nex_link::over_socket;
use nex_protocol::link::VERSION;
use nex_protocol::link::frame::MAX_LINK_FRAME;
use nex_protocol::link::message::Welcome;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::{new_id, shake_hands};
use crate::{Agent, Cgroups, PrepareError, Sandbox};
use console::Console;
use place::MachinePlace;

/// The agent's own folder in the guest; see `nex-init`.
const GUEST_WORK: &str = "/var/lib/nex";

/// Deno in the guest, where the image has it.
const GUEST_DENO: &str = "/usr/libexec/deno";

/// Space for what a guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScratchSpace {
    /// MiB in the guest's memory.
    pub memory_mib: u64,
}

/// How machines are made.
#[derive(Debug, Clone)]
pub struct MachineSettings {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initramfs, for kernels that have drivers as modules.
    pub initrd: Option<PathBuf>,
    /// The root image, which is only read.
    pub root_image: PathBuf,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Processors.
    pub vcpus: u64,
    /// Space for what the guest writes.
    pub scratch: ScratchSpace,
    /// More words for the kernel.
    pub boot_arguments: String,
    /// Folder in which each machine gets one of its own.
    pub machines_dir: PathBuf,
    /// Time from the start of the monitor to the agent's handshake.
    pub boot_timeout: Duration,
    /// Filter of the agents' own log, as `NEX_AGENT_LOG` takes it.
    pub log_filter: String,
    /// Control groups, where they can be made.
    pub cgroups: Option<Arc<Cgroups>>,
}

/// Makes machines with QEMU.
#[derive(Debug)]
pub struct MachineSandbox {
    settings: MachineSettings,
    qemu: qemu::Qemu,
}

impl MachineSandbox {
    /// Makes the folder for machines, and ends and removes what a node that died has left there.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(settings: MachineSettings, qemu: qemu::Qemu) -> std::io::Result<Self> {
        reclaim::reclaim(&settings.machines_dir);
        crate::process::make_dir(&settings.machines_dir)?;
        Ok(Self { settings, qemu })
    }

    /// Waits until the monitor offers the link, and connects to it.
    async fn connect(&self, path: &Path, until: Instant, lost: &CancellationToken) -> Result<Stream, PrepareError> {
        loop {
            match std::os::unix::net::UnixStream::connect(path) {
                Ok(stream) => return Ok(stream),
                // The monitor makes the socket a moment after its start.
                Err(_) if lost.is_cancelled() => return Err(PrepareError::Ended("the machine monitor ended".into())),
                Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(2)).await,
                Err(source) => {
                    return Err(PrepareError::System { what: "cannot reach the machine monitor".into(), source });
                }
            }
        }
    }
}

type Stream = std::os::unix::net::UnixStream;

impl Sandbox for MachineSandbox {
    async fn prepare(&self) -> Result<Agent, PrepareError> {
        let system = |what: String| move |source| PrepareError::System { what, source };
        let settings = &self.settings;
        let until = Instant::now() + settings.boot_timeout;
        let id = new_id();
        let folder = settings.machines_dir.join(&id);
        crate::process::make_dir(&folder).map_err(system(format!("cannot make {}", folder.display())))?;
        let mut place = MachinePlace::new(id.clone(), folder.clone(), settings.cgroups.clone());

        let mut monitor = self.qemu.command(settings, &id, &folder);
        let mut child = monitor
            .spawn()
            .map_err(system(format!("cannot start the machine monitor {}", self.qemu.program.display())))?;
        let console = Console::follow(&id, &mut child);
        let lost = CancellationToken::new();
        place.watch(child, lost.clone()).map_err(system("cannot note the machine monitor".into()))?;

        let shaken = async {
            let stream = self.connect(&folder.join(qemu::LINK), until, &lost).await?;
            let (sender, mut receiver, _) =
                over_socket(stream, MAX_LINK_FRAME).map_err(system("cannot use the link".into()))?;
            let welcome = Welcome {
                version: VERSION,
                agent_id: id.clone(),
                work_dir: GUEST_WORK.into(),
                compiled_dir: None,
                deno: Some(GUEST_DENO.into()),
            };
            let within = until.saturating_duration_since(Instant::now());
            tokio::select! {
                shaken = shake_hands(&sender, &mut receiver, welcome, within) => shaken?,
                // A guest that ends itself closes no link: its monitor does, and some only after a while.
                () = lost.cancelled() => return Err(PrepareError::Ended("the machine ended".into())),
            }
            Ok((sender, receiver))
        };
        match shaken.await {
            Ok((sender, receiver)) => {
                Ok(Agent { id, sender, receiver, lost, place: Box::new(place), shares_files: false })
            }
            Err(error) => {
                crate::Place::destroy(Box::new(place)).await;
                Err(console.explain(error).await)
            }
        }
    }
}
