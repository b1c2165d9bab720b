//! Firecracker: its processes, jailed, and what they are told over their API. Releases 1.7 and later.
//!
//! ```text
//! boot:    root folder -> jailer -> firecracker -> configuration -> InstanceStart -> guest waits (vsock)
//!            -> (the first one: paused, snapshot, resumed)
//! restore: root folder with the snapshot -> jailer -> firecracker -> snapshot/load, resumed -> guest waits
//! ```
//! Everything is told in paths relative to the root folder, which is the monitor's working folder whether it is jailed or not;
//! so a snapshot fits every machine. Firecracker's own seccomp filters are never turned off.

mod api;
mod configuration;
mod fault;
mod foreign;
pub mod jail;
mod metrics;
pub mod model;
mod release;
mod snapshot;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nex_protocol::machine::LINK_PORT;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::folder::Folder;
use super::network::Attached;
use super::tally::{Origin, Tally};
use super::{MachineSettings, ScratchSpace, birth, bounds, prepare};
use crate::PrepareError;
use api::Api;
use configuration::{boot_arguments, configure, create, fill, load, share};
pub use foreign::{Given, given_ids};
pub(super) use jail::User;
use jail::{JailSettings, Root, Users};
pub use release::release;
pub use snapshot::sized as sized_snapshots;
use snapshot::{Key, Plan, Snapshots};

/// Socket of the API in the root folder.
const API: &str = "api.sock";

/// Socket of the guest's vsock in the root folder.
const VSOCK: &str = "vsock.sock";

/// Time between two attempts to reach a guest that boots.
const LOOK: Duration = Duration::from_millis(4);

/// How Firecracker is used.
#[derive(Debug, Clone)]
pub struct FirecrackerSettings {
    /// The `firecracker` program.
    pub program: PathBuf,
    /// Its jail; without one it is a process of the node's user.
    pub jail: Option<JailSettings>,
    /// Folder for snapshots; without one every machine boots.
    pub snapshots: Option<PathBuf>,
    /// Whether guests report the memory they have freed, which goes back to the host then. Takes release 1.14.
    pub free_page_reporting: bool,
}

/// Firecracker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FirecrackerError {
    /// It does not run.
    #[error("{program} does not run ({reason}): install Firecracker 1.7 or later (`nex node preflight`)")]
    Program {
        /// The program.
        program: PathBuf,
        /// What was seen.
        reason: String,
    },
    /// It is too old.
    #[error("{program} is Firecracker {version}: at least 1.7 is needed (`nex node preflight`)")]
    TooOld {
        /// The program.
        program: PathBuf,
        /// Its release.
        version: String,
    },
    /// Its jailer needs root.
    #[error("only root can run Firecracker's jailer: run the node as root, or set no_jailer to true")]
    NotRoot,
}

/// Makes machines with Firecracker.
#[derive(Debug)]
pub struct Firecracker {
    program: PathBuf,
    release: String,
    jail: Option<(PathBuf, Arc<Users>)>,
    snapshots: Option<Arc<Snapshots>>,
    reports_free_pages: bool,
    /// One machine after the other is given what they share: who is the first may have to copy it.
    sharing: Arc<Mutex<()>>,
}

/// What a monitor is started in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Berth<'b> {
    /// Name of the machine.
    pub(super) id: &'b str,
    /// Its folder.
    pub(super) folder: &'b Path,
    /// The user it runs as; none without a jail.
    pub(super) user: Option<u32>,
    /// Its network, when it has one.
    pub(super) network: Option<&'b Attached>,
}

/// A machine whose monitor was started and told nothing yet.
#[derive(Debug)]
pub(super) struct Machine {
    id: String,
    root: Root,
    user: Option<u32>,
    pipe: pipe::Receiver,
    key: Key,
    plan: Plan,
    tap: Option<String>,
}

impl Machine {
    /// How it is to come up.
    pub(super) fn origin(&self) -> Origin {
        if matches!(self.plan, Plan::Restore(_)) { Origin::Snapshot } else { Origin::Kernel }
    }
}

impl Firecracker {
    /// Looks at the program.
    ///
    /// # Errors
    /// [`FirecrackerError`] when it could never make a machine.
    pub fn new(settings: FirecrackerSettings) -> Result<Self, FirecrackerError> {
        let program = settings.program.canonicalize().map_err(|error| FirecrackerError::Program {
            program: settings.program.clone(),
            reason: error.to_string(),
        })?;
        let release = release(&program)?;
        if settings.jail.is_some() && !rustix::process::geteuid().is_root() {
            return Err(FirecrackerError::NotRoot);
        }
        let jail = settings.jail.map(|jail| (jail.program.clone(), Users::new(&jail)));
        let reports_free_pages = settings.free_page_reporting && release::reports_free_pages(&release);
        if settings.free_page_reporting && !reports_free_pages {
            warn!(release, "free_page_reporting takes Firecracker 1.14: memory that guests free stays theirs");
        }
        Ok(Self {
            program,
            release,
            reports_free_pages,
            jail,
            snapshots: settings.snapshots.map(Snapshots::open),
            sharing: Arc::default(),
        })
    }

    /// The same for machines that differ, with snapshots of their own.
    pub(super) fn beside(&self, vcpus: u64, memory_mib: u64) -> Self {
        Self {
            program: self.program.clone(),
            release: self.release.clone(),
            jail: self.jail.clone(),
            snapshots: self.snapshots.as_ref().map(|snapshots| snapshots.beside(vcpus, memory_mib)),
            reports_free_pages: self.reports_free_pages,
            sharing: Arc::clone(&self.sharing),
        }
    }

    /// Files of all snapshots, of other sizes, too.
    pub(super) fn snapshot_files(&self) -> Vec<PathBuf> {
        self.snapshots.as_ref().map(|snapshots| snapshots.files()).unwrap_or_default()
    }

    /// A user for another machine; none without a jail.
    pub(super) fn user(&self) -> Result<Option<User>, PrepareError> {
        let none_left = || PrepareError::System {
            what: "cannot jail another machine".into(),
            source: io::Error::other("all user ids for machines are taken: raise jailer_users.count"),
        };
        self.jail.as_ref().map(|(_, users)| users.take().ok_or_else(none_left)).transpose()
    }

    /// Starts a monitor for a machine with this folder.
    pub(super) async fn start(
        &self,
        settings: &MachineSettings,
        berth: &Berth<'_>,
        entrances: Vec<OwnedFd>,
        until: Instant,
    ) -> Result<(Child, Machine), PrepareError> {
        let Berth { id, folder, user, network } = *berth;
        let system = |what: &str| {
            let what = what.to_owned();
            move |source| PrepareError::System { what, source }
        };
        // Where the jailer makes the root of this machine.
        let name = self.program.file_name().unwrap_or_default();
        let root = folder.join(name).join(id).join("root");
        let root = Root::make(root, user).map_err(system("cannot make the machine's root"))?;
        let tap = network.map(|network| network.tap.clone());
        // First, so that the snapshot is looked for by what this machine has: a file may be replaced at any time.
        let shared = {
            let (settings, tap, sharing) = (settings.clone(), tap.clone(), Arc::clone(&self.sharing));
            let reports = if self.reports_free_pages { "free pages reported" } else { "" };
            let told = format!("{} {} {reports}", self.release, boot_arguments(&settings));
            // A file of another file system is copied.
            spawn_blocking(move || {
                let _one = sharing.lock().unwrap_or_else(PoisonError::into_inner);
                share(&root, &settings)?;
                Key::of(&root.path, &settings, &told, tap.as_deref()).map(|key| (root, key))
            })
        };
        let (root, key) =
            shared.await.map_err(io::Error::from).flatten().map_err(system("cannot use kernel and root image"))?;
        let plan = match &self.snapshots {
            Some(snapshots) => snapshots.plan(&key, until).await,
            None => Plan::Boot,
        };
        let snapshot = if let Plan::Restore(folder) = &plan { Some(folder.as_path()) } else { None };
        fill(&root, settings, snapshot).map_err(system("cannot fill the machine's root"))?;
        let pipe = metrics::make(&root).map_err(system("cannot make a pipe for metrics"))?;
        let mut command = self.command(id, folder, &root, user, network);
        bounds::enter(&mut command, entrances);
        let child = command.spawn().map_err(|source| {
            let program = self.jail.as_ref().map_or(&self.program, |(jailer, _)| jailer);
            PrepareError::System { what: format!("cannot start {}", program.display()), source }
        })?;
        Ok((child, Machine { id: id.to_owned(), root, user, pipe, key, plan, tap }))
    }

    fn command(&self, id: &str, folder: &Path, root: &Root, user: Option<u32>, network: Option<&Attached>) -> Command {
        let namespace = network.map(|network| network.namespace.clone());
        let mut command = match (&self.jail, user) {
            (Some((jailer, _)), Some(user)) => {
                let mut command = Command::new(jailer);
                command.args(["--id", id]).arg("--exec-file").arg(&self.program);
                command.args(["--uid", &user.to_string(), "--gid", &user.to_string()]);
                command.arg("--chroot-base-dir").arg(folder);
                if let Some(namespace) = &namespace {
                    command.arg("--netns").arg(namespace);
                }
                command.arg("--");
                command
            }
            _ => {
                let mut command = Command::new(&self.program);
                command.args(["--id", id]);
                if let Some(namespace) = namespace {
                    super::network::enter(&mut command, namespace);
                }
                command
            }
        };
        if network.is_none() {
            super::network::without(&mut command);
        }
        // What it tells of itself comes between the guest's lines.
        command.args(["--api-sock", API, "--level", "Warning"]);
        prepare(&mut command, &root.path);
        command
    }

    /// Tells a monitor what its machine is and waits until the guest waits; gives the connection to it.
    pub(super) async fn bring_up(
        &self,
        settings: &MachineSettings,
        machine: Machine,
        tally: Arc<Tally>,
        until: Instant,
        lost: &CancellationToken,
    ) -> Result<UnixStream, PrepareError> {
        let Machine { id, root, user, pipe, key, plan, tap } = machine;
        let folder = Folder::open(&root.path)
            .map_err(|source| PrepareError::System { what: "cannot open the machine's root".into(), source })?;
        let mut api = Api::over(folder.connect(API, until, lost).await?, until).await?;
        metrics::follow(pipe, &id, tally, lost.clone());
        api.put("/metrics", &model::Metrics { metrics_path: metrics::PIPE }).await?;
        if matches!(plan, Plan::Restore(_)) {
            let begun = Instant::now();
            let restored = async {
                api.put("/snapshot/load", &load()).await?;
                guest(&folder, until, lost).await
            };
            return match restored.await {
                Ok(link) => {
                    debug!(took = ?begun.elapsed(), "machine restored");
                    if let Some(snapshots) = &self.snapshots {
                        snapshots.succeeded();
                    }
                    Ok(link)
                }
                Err(error) => {
                    let refused = matches!(error, PrepareError::Refused { .. });
                    if self.snapshots.as_ref().is_some_and(|snapshots| snapshots.failed(&key, refused)) {
                        warn!(%error, "the snapshot cannot be restored: from now on machines boot");
                    }
                    Err(error)
                }
            };
        }
        configure(&mut api, settings, tap.as_deref(), self.reports_free_pages).await?;
        api.start().await?;
        let link = guest(&folder, until, lost).await?;
        let Plan::BootAndTake(mut taking) = plan else { return Ok(link) };
        // The snapshot has no connection in it: the guest waits for another one.
        drop(link);
        // The boot may have taken most of its time.
        let until = Instant::now() + settings.boot_timeout;
        api.waits_until(until);
        let begun = Instant::now();
        api.pause().await?;
        let written = api.put("/snapshot/create", &create()).await;
        if matches!(written, Err(PrepareError::Refused { .. })) {
            taking.refused();
        }
        let drive = matches!(settings.scratch, ScratchSpace::Drive { .. });
        let kept = written
            .map_err(|error| error.to_string())
            .and_then(|()| taking.keep(&root.path, user, drive).map_err(|error| error.to_string()));
        match kept {
            Ok(()) => info!(took = ?begun.elapsed(), "a snapshot of a booted machine was taken"),
            Err(error) => warn!(error, "no snapshot of a booted machine: machines boot, which is slower"),
        }
        api.resume().await?;
        guest(&folder, until, lost).await
    }
}

/// Connects to the guest, as soon as it waits. A connection that nobody in the guest waits for is closed by Firecracker.
async fn guest(folder: &Folder, until: Instant, lost: &CancellationToken) -> Result<UnixStream, PrepareError> {
    loop {
        let mut link = folder.connect(VSOCK, until, lost).await?;
        let asked = async {
            link.write_all(format!("CONNECT {LINK_PORT}\n").as_bytes()).await?;
            birth::read_line(&mut link).await
        };
        tokio::select! {
            answer = timeout_at(until, asked) => match answer {
                Ok(Ok(answer)) if answer.starts_with(b"OK ") => return Ok(link),
                Ok(_) => {}
                Err(_) => return Err(PrepareError::Ended("the guest did not come up in time".into())),
            },
            () = lost.cancelled() => return Err(PrepareError::Ended("the machine ended".into())),
        }
        if Instant::now() >= until {
            return Err(PrepareError::Ended("the guest did not come up in time".into()));
        }
        sleep(LOOK).await;
    }
}
