//! The microVM sandbox: each agent in a virtual machine of its own.
//!
//! ```text
//! prepare: folder, network -> monitor -> guest waits -> birth -> agent's Hello, Welcome -> ready
//! destroy: link closed (the guest ends its workload, then itself) -> grace -> monitor killed -> network, folder removed
//! ```
//! What a machine is stands here: kernel, the one read-only root image that all of them share, scratch space, size, link,
//! console. The monitor ([`firecracker`], [`qemu`]) is a detail behind it. Nothing of the node's is reachable from inside but
//! the link; nothing of the machine's is written outside its folder, which has the monitor's process id in it, so that a node
//! that was killed finds what it left.

mod birth;
mod bounds;
mod console;
pub mod firecracker;
mod folder;
mod leftovers;
mod network;
mod place;
pub mod qemu;
pub mod reaper;
mod reclaim;
mod scratch;
mod tally;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nex_link::over_socket;
use nex_network::Network;
use nex_protocol::link::VERSION;
use nex_protocol::link::frame::MAX_LINK_FRAME;
use nex_protocol::link::message::{Prestart, Welcome};
use rustix::process::{Pid, Signal};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::agent::{millis, new_id, shake_hands};
use crate::{Agent, Cgroups, PrepareError, Sandbox};
pub use bounds::MONITOR_MIB;
use console::Console;
use firecracker::model::RateLimiter;
use firecracker::{Berth, Firecracker};
use folder::Folder;
use network::Attached;
use place::MachinePlace;
use qemu::Qemu;
use scratch::Blank;
use tally::Origin;
pub use tally::{Counted, Counts, Starts, Tally};

/// The agent's own folder in the guest; see `nex-init`.
const GUEST_WORK: &str = "/var/lib/nex";

/// Deno in the guest, where the image has it.
const GUEST_DENO: &str = "/usr/libexec/deno";

/// Space for what a guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScratchSpace {
    /// In the guest's memory.
    Memory {
        /// Most of it, MiB.
        mib: u64,
    },
    /// On a drive of its own, which takes room on the host for what is written to it.
    Drive {
        /// Size, MiB.
        mib: u64,
    },
}

impl ScratchSpace {
    /// What `nex-init` is told of it.
    fn argument(self) -> String {
        match self {
            ScratchSpace::Memory { mib } => format!("nex.scratch=memory:{mib}"),
            ScratchSpace::Drive { .. } => "nex.scratch=/dev/vdb".to_owned(),
        }
    }
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
    /// Networks for machines; without it they have none.
    pub network: Option<Arc<Network>>,
    /// Limit of each drive and of each direction of the network.
    pub rate_limiter: Option<RateLimiter>,
    /// More words for the kernel.
    pub boot_arguments: String,
    /// Folder in which each machine gets one of its own.
    pub machines_dir: PathBuf,
    /// Time that a machine has to come up, and as much again for its birth and its agent's handshake.
    pub boot_timeout: Duration,
    /// Time a workload has to start, as agents are told.
    pub start_timeout: Duration,
    /// Whether agents start Deno while they wait.
    pub prestart: Option<Prestart>,
    /// Filter of the agents' own log, as `NEX_AGENT_LOG` takes it.
    pub log_filter: String,
    /// Control groups, where they can be made.
    pub cgroups: Option<Arc<Cgroups>>,
}

impl MachineSettings {
    /// Some, for tests that need any.
    #[cfg(test)]
    fn for_tests(machines_dir: &Path) -> Self {
        Self {
            kernel: "/k".into(),
            initrd: None,
            root_image: "/r".into(),
            memory_mib: 256,
            vcpus: 2,
            scratch: ScratchSpace::Memory { mib: 64 },
            network: None,
            rate_limiter: None,
            boot_arguments: String::new(),
            machines_dir: machines_dir.to_owned(),
            boot_timeout: Duration::from_secs(1),
            start_timeout: Duration::from_secs(1),
            prestart: None,
            log_filter: "warn".to_owned(),
            cgroups: None,
        }
    }

    /// What the scratch drives of machines are copies of; none when they have none.
    fn blank_drive(&self) -> std::io::Result<Option<Blank>> {
        match self.scratch {
            ScratchSpace::Memory { .. } => Ok(None),
            ScratchSpace::Drive { mib } => Blank::make(&self.machines_dir.with_extension("blank"), mib).map(Some),
        }
    }

    /// The command line of the kernel: how it ends and what the monitor wants, where its root is when it mounts that itself,
    /// what `nex-init` is told, and the configured words.
    fn kernel_line(&self, ends: &str, root: &str, link: &str) -> String {
        // An initramfs mounts the root image itself.
        let init = if self.initrd.is_some() { "rdinit" } else { "init" };
        let root = if self.initrd.is_some() { "" } else { root };
        let scratch = self.scratch.argument();
        let log = self.log_filter.replace(char::is_whitespace, "");
        let line =
            format!("console=ttyS0 {ends} quiet {root} {init}=/sbin/nex-init nex.link={link} {scratch} nex.log={log}");
        let words = line.split_ascii_whitespace();
        // As they are: there may be quotes in them.
        let configured = Some(self.boot_arguments.as_str()).filter(|words| !words.is_empty());
        words.chain(configured).collect::<Vec<_>>().join(" ")
    }
}

/// What runs machines.
#[derive(Debug)]
pub enum Monitor {
    /// Firecracker.
    Firecracker(Firecracker),
    /// QEMU.
    Qemu(Qemu),
}

/// Makes machines.
#[derive(Debug)]
pub struct MachineSandbox {
    settings: MachineSettings,
    monitor: Monitor,
    /// Machines that are being given back.
    ending: TaskTracker,
    tally: Arc<Tally>,
}

impl MachineSandbox {
    /// Makes the folder for machines, and ends and removes what a node that died has left there.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(settings: MachineSettings, monitor: Monitor) -> std::io::Result<Self> {
        reclaim::reclaim(&settings.machines_dir);
        // Those of what was just ended.
        if let Some(cgroups) = &settings.cgroups {
            cgroups.sweep();
        }
        crate::process::make_dir(&settings.machines_dir)?;
        let snapshots = match &monitor {
            Monitor::Firecracker(firecracker) => firecracker.snapshot_files(),
            Monitor::Qemu(_) => Vec::new(),
        };
        leftovers::remove(&settings, &snapshots);
        // Told here when it cannot be made, not by every machine.
        settings.blank_drive()?;
        Ok(Self { settings, monitor, ending: TaskTracker::new(), tally: Arc::default() })
    }

    /// The sums of its machines, and of those of other sizes beside them.
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// A sandbox of machines of another size, which share with these what there is once: folders, networks, users.
    #[must_use]
    pub fn sized(&self, memory_mib: u64, vcpus: u64, scratch: ScratchSpace) -> Self {
        let monitor = match &self.monitor {
            Monitor::Firecracker(firecracker) => Monitor::Firecracker(firecracker.beside(vcpus, memory_mib)),
            Monitor::Qemu(qemu) => Monitor::Qemu(qemu.clone()),
        };
        let settings = MachineSettings { memory_mib, vcpus, scratch, ..self.settings.clone() };
        Self { settings, monitor, ending: self.ending.clone(), tally: Arc::clone(&self.tally) }
    }

    /// Starts a monitor and waits until its guest waits for its birth.
    async fn bring_up(
        &self,
        place: &mut MachinePlace,
        console: &mut Console,
        folder: &Path,
        network: Option<&Attached>,
    ) -> Result<(UnixStream, CancellationToken, Origin), PrepareError> {
        let system = |what: String| move |source| PrepareError::System { what, source };
        let in_time = || Instant::now() + self.settings.boot_timeout;
        let lost = CancellationToken::new();
        let id = place.id().to_owned();
        let noted = |result: std::io::Result<()>| result.map_err(system("cannot note the machine monitor".into()));
        let entrances = place
            .enclose(bounds::of(&self.settings))
            .map_err(system("cannot make a control group for the machine".into()))?;
        match &self.monitor {
            Monitor::Qemu(qemu) => {
                self.settings
                    .blank_drive()
                    .and_then(|blank| blank.map_or(Ok(()), |blank| blank.copy_to(&folder.join(scratch::DRIVE))))
                    .map_err(system("cannot make the machine's scratch drive".into()))?;
                let mut command = qemu.command(&self.settings, folder, network);
                bounds::enter(&mut command, entrances);
                let mut child = command
                    .spawn()
                    .map_err(system(format!("cannot start the machine monitor {}", qemu.program.display())))?;
                console.follow(&id, &mut child);
                noted(place.watch(child, lost.clone()))?;
                let folder = Folder::open(folder).map_err(system("cannot open the machine's folder".into()))?;
                Ok((folder.connect(qemu::LINK, in_time(), &lost).await?, lost, Origin::Kernel))
            }
            Monitor::Firecracker(firecracker) => {
                let berth = Berth { id: &id, folder, user: place.user(), network };
                let start = firecracker.start(&self.settings, &berth, entrances, in_time());
                let (mut child, machine) = start.await?;
                console.follow(&id, &mut child);
                noted(place.watch(child, lost.clone()))?;
                let (origin, tally) = (machine.origin(), self.tally());
                Ok((firecracker.bring_up(&self.settings, machine, tally, in_time(), &lost).await?, lost, origin))
            }
        }
    }

    /// One machine, from nothing to a ready agent.
    async fn machine(&self) -> Result<Agent, PrepareError> {
        let system = |what: String| move |source| PrepareError::System { what, source };
        let (begun, stay) = (Instant::now(), self.tally.begin());
        let id = new_id();
        let folder = self.settings.machines_dir.join(&id);
        crate::process::make_dir(&folder).map_err(system(format!("cannot make {}", folder.display())))?;
        let mut place =
            MachinePlace::new(id.clone(), folder.clone(), self.settings.cgroups.clone(), self.ending.clone(), stay);
        let user = match &self.monitor {
            Monitor::Firecracker(firecracker) => firecracker.user()?,
            Monitor::Qemu(_) => None,
        };
        let owner = user.as_ref().map(|user| (user.id(), user.id()));
        place.belongs_to(user);
        if let Some(network) = &self.settings.network {
            place.attach(network.slot(owner).await?);
        }
        let network = place.network();
        let mut console = Console::default();
        let ready = async {
            let (mut link, lost, origin) = self.bring_up(&mut place, &mut console, &folder, network.as_ref()).await?;
            let up = begun.elapsed();
            // A monitor offers the link before its guest is up.
            let until = Instant::now() + self.settings.boot_timeout;
            let guest = network.as_ref().map(|network| network.guest.clone());
            let (sender, mut receiver) = tokio::select! {
                born = birth::bear(&mut link, &id, guest, until) => {
                    born?;
                    let link = link.into_std().map_err(system("cannot use the link".into()))?;
                    let (sender, receiver, _) =
                        over_socket(link, MAX_LINK_FRAME).map_err(system("cannot use the link".into()))?;
                    (sender, receiver)
                }
                () = lost.cancelled() => return Err(PrepareError::Ended("the machine ended".into())),
            };
            let born = begun.elapsed();
            let welcome = Welcome {
                version: VERSION,
                agent_id: id.clone(),
                work_dir: GUEST_WORK.into(),
                compiled_dir: None,
                deno: Some(GUEST_DENO.into()),
                start_timeout_ms: millis(self.settings.start_timeout),
                prestart: self.settings.prestart,
                direct: false,
            };
            let within = until.saturating_duration_since(Instant::now());
            tokio::select! {
                shaken = shake_hands(&sender, &mut receiver, welcome, within) => shaken?,
                // A guest that ends itself closes no link: its monitor does, and some only after a while.
                () = lost.cancelled() => return Err(PrepareError::Ended("the machine ended".into())),
            }
            debug!(
                machine = id,
                up_ms = up.as_millis(),
                born_ms = born.as_millis(),
                ready_ms = begun.elapsed().as_millis(),
                "a machine is ready"
            );
            Ok((sender, receiver, lost, origin))
        };
        match ready.await {
            Ok((sender, receiver, lost, origin)) => {
                self.tally.came_up(origin, begun.elapsed());
                place.is_ready();
                Ok(Agent { id, sender, receiver, lost, place: Box::new(place), shares_files: false })
            }
            Err(error) => {
                let took_all = crate::Place::ran_out_of_memory(&place);
                crate::Place::destroy(Box::new(place)).await;
                let error = console.explain(error).await;
                if took_all {
                    let mib = bounds::memory_mib(&self.settings);
                    return Err(PrepareError::OutOfMemory { error: error.to_string(), mib });
                }
                Err(error)
            }
        }
    }
}

/// What all monitors have in common: a folder to work in, the console on standard output, nothing of the node's environment,
/// and an end with the node's.
fn prepare(command: &mut Command, folder: &Path) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env_clear()
        .current_dir(folder)
        .kill_on_drop(true)
        // A Ctrl-C at the node's terminal is the node's alone.
        .process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes two plain system calls,
    // allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(die_with(rustix::process::getpid()));
    }
}

/// Ties a process to its node: a guest that hangs would not notice that its link is closed. The kernel ties it to the
/// thread that started it; those are the node's own, which live as long as it does.
fn die_with(node: Pid) -> impl FnMut() -> std::io::Result<()> + Send + Sync + 'static {
    move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The node may have died before that call; then nobody would send the signal any more.
        if rustix::process::getppid() == Some(node) {
            Ok(())
        } else {
            Err(std::io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()))
        }
    }
}

impl Sandbox for MachineSandbox {
    async fn prepare(&self) -> Result<Agent, PrepareError> {
        self.machine().await
    }

    async fn close(&self) {
        self.ending.close();
        // What does not end by then is found by the next start.
        let _ = tokio::time::timeout(place::GONE, self.ending.wait()).await;
    }
}
