//! What is to be done about what is missing, and the doing of it. Each step is done wholly or not at all.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::install::Ready;
use crate::unpack::{Sink, unpack};
use crate::wanted::GuestPrograms;
use crate::{
    Cni, Digest, FetchError, Fetcher, Finding, InstallError, Manifest, Monitor, Network, Piece, Remedy, Source, State,
    Wanted, conflist,
};

/// Mode of a program.
const PROGRAM: u32 = 0o755;

/// Mode of a file.
const FILE: u32 = 0o644;

/// A file of a piece and its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// File of the piece.
    pub name: &'static str,
    /// Where it goes.
    pub target: PathBuf,
    #[serde(skip)]
    mode: u32,
}

/// Something to be done.
#[derive(Debug, Clone)]
pub enum Step {
    /// Download, verify and install.
    Download {
        /// What.
        piece: Piece,
        /// Its version.
        version: String,
        /// From where.
        source: Box<Source>,
        /// What it has to be.
        sha256: Digest,
        /// Its files.
        files: Vec<Placement>,
    },
    /// Build the root image.
    BuildImage {
        /// Of what.
        programs: GuestPrograms,
        /// Deno, for an image with JavaScript. Where it is missing, an earlier step installs it.
        deno: Option<PathBuf>,
        /// The image.
        target: PathBuf,
    },
    /// Write the description of the network.
    WriteConflist {
        /// Its place.
        target: PathBuf,
        /// What it says.
        text: String,
    },
}

impl Step {
    /// The files that come into being.
    pub fn targets(&self) -> Vec<&Path> {
        match self {
            Step::Download { files, .. } => files.iter().map(|file| file.target.as_path()).collect(),
            Step::BuildImage { target, .. } | Step::WriteConflist { target, .. } => vec![target],
        }
    }
}

/// Everything that is to be done.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
}

/// A step failed. Those before it were done, it was not, those after it were not tried.
#[derive(Debug, thiserror::Error)]
pub enum CarryOutError {
    /// A file could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A download is not what the manifest says it is.
    #[error("{name} cannot be unpacked: {source}")]
    Unpack {
        /// The download.
        name: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A file could not be put at its place.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The root image could not be built.
    #[error("the root image cannot be built: {0}")]
    Image(#[from] nex_rootfs::RootfsError),
    /// Its builder did not end as it should.
    #[error("the root image cannot be built: {0}")]
    Builder(tokio::task::JoinError),
}

impl Plan {
    /// What is to be done about these findings: what is needed and missing, and the pieces in `also`, needed or not.
    /// What is there and wrong is somebody's, and replaced only when `replace` is said.
    pub fn new(wanted: &Wanted, manifest: &Manifest, findings: &[Finding], also: &[Piece], replace: bool) -> Self {
        let mut remedies: Vec<Remedy> = Vec::new();
        for finding in findings {
            let Some(remedy) = finding.remedy else { continue };
            let asked = finding.needed || matches!(remedy, Remedy::Download(piece) if also.contains(&piece));
            let touches = finding.state == State::Missing || replace;
            if asked && touches && !remedies.contains(&remedy) {
                remedies.push(remedy);
            }
        }
        Self { steps: remedies.into_iter().filter_map(|remedy| step(wanted, manifest, remedy)).collect() }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Does it, step by step; gives the files that came into being.
    ///
    /// # Errors
    /// [`CarryOutError`] of the first step that fails.
    pub async fn carry_out(&self, fetcher: &Fetcher<'_>) -> Result<Vec<PathBuf>, CarryOutError> {
        let mut made = Vec::new();
        for step in &self.steps {
            match step {
                Step::Download { source, sha256, files, .. } => download(fetcher, source, *sha256, files).await?,
                Step::BuildImage { programs, deno, target } => {
                    let (programs, deno, target) = (programs.clone(), deno.clone(), target.clone());
                    // It waits for other programs.
                    let built = tokio::task::spawn_blocking(move || build(&programs, deno, &target)).await;
                    built.map_err(CarryOutError::Builder)??;
                }
                Step::WriteConflist { target, text } => {
                    let mut ready = Ready::default();
                    ready.add(target, FILE, &mut text.as_bytes())?;
                    ready.commit()?;
                }
            }
            made.extend(step.targets().into_iter().map(Path::to_owned));
        }
        Ok(made)
    }
}

fn step(wanted: &Wanted, manifest: &Manifest, remedy: Remedy) -> Option<Step> {
    let machines = wanted.machines.as_ref();
    let cni = machines.and_then(|machines| match &machines.network {
        Network::Cni(cni) | Network::Auto(cni) => Some(cni),
        Network::None | Network::Builtin => None,
    });
    match remedy {
        Remedy::Download(piece) => {
            let (release, source) = manifest.find(piece)?;
            Some(Step::Download {
                piece,
                version: release.version.clone(),
                source: Box::new(source.clone()),
                sha256: source.sha256?,
                files: placements(wanted, cni, piece)?,
            })
        }
        Remedy::BuildImage => {
            let machines = machines?;
            let deno = wanted.javascript.then(|| wanted.deno.find().unwrap_or_else(|| wanted.deno.target()));
            Some(Step::BuildImage {
                programs: machines.guest_programs.clone()?,
                deno,
                target: machines.root_image.clone(),
            })
        }
        Remedy::WriteConflist => Some(Step::WriteConflist { target: cni?.conflist_path(), text: conflist(cni?) }),
    }
}

fn placements(wanted: &Wanted, cni: Option<&Cni>, piece: Piece) -> Option<Vec<Placement>> {
    let machines = wanted.machines.as_ref();
    let target = |name: &str| match piece {
        Piece::Firecracker => match &machines?.monitor {
            Monitor::Firecracker { firecracker, .. } if name == firecracker.name => Some(firecracker.target()),
            Monitor::Firecracker { jailer, .. } => Some(jailer.target()),
            Monitor::Qemu { .. } => None,
        },
        Piece::Kernel => Some(machines?.kernel.clone()),
        Piece::CniPlugins => Some(cni?.install_dir.join(name)),
        Piece::NatsServer => Some(wanted.nats_server.target()),
        Piece::Deno => Some(wanted.deno.target()),
    };
    let mode = if piece == Piece::Kernel { FILE } else { PROGRAM };
    piece.files().iter().map(|name| Some(Placement { name, target: target(name)?, mode })).collect()
}

async fn download(
    fetcher: &Fetcher<'_>,
    source: &Source,
    sha256: Digest,
    files: &[Placement],
) -> Result<(), CarryOutError> {
    // Beside its place, so that both are on one file system and what is there is found again by the next run.
    let folder = files.first().and_then(|file| file.target.parent()).unwrap_or(Path::new("."));
    let mut verified = fetcher.obtain(source, sha256, folder).await?;
    let names: Vec<&str> = files.iter().map(|file| file.name).collect();
    let mut places =
        Places { by_name: files.iter().map(|file| (file.name, file)).collect(), ready: Ready::default(), failed: None };
    let unpacked = unpack(verified.reader()?, &source.holds, &names, &mut places);
    if let Some(error) = places.failed {
        return Err(error.into());
    }
    unpacked.map_err(|error| CarryOutError::Unpack { name: source.file_name().to_owned(), source: error })?;
    Ok(places.ready.commit()?)
}

/// Writes what comes out of a download beside its place.
struct Places<'a> {
    by_name: BTreeMap<&'a str, &'a Placement>,
    ready: Ready,
    failed: Option<InstallError>,
}

impl Sink for Places<'_> {
    fn put(&mut self, name: &str, content: &mut dyn Read) -> io::Result<()> {
        let Some(file) = self.by_name.get(name) else { return Ok(()) };
        // What cannot be read is the download's fault, what cannot be written is not.
        let mut source = Watched { content, failed: false };
        match self.ready.add(&file.target, file.mode, &mut source) {
            Ok(()) => Ok(()),
            Err(error) if source.failed => Err(io::Error::other(error.to_string())),
            Err(error) => {
                let text = error.to_string();
                self.failed = Some(error);
                Err(io::Error::other(text))
            }
        }
    }
}

struct Watched<'a> {
    content: &'a mut dyn Read,
    failed: bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.content.read(buffer).inspect_err(|error| self.failed = error.kind() != io::ErrorKind::Interrupted)
    }
}

fn build(programs: &GuestPrograms, deno: Option<PathBuf>, target: &Path) -> Result<(), CarryOutError> {
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder).map_err(crate::fetch::file("make the folder", folder))?;
    }
    let recipe = nex_rootfs::Recipe {
        base: None,
        agent: programs.agent.clone(),
        init: programs.init.clone(),
        init_kind: nex_rootfs::InitKind::NexInit,
        deno,
        script: None,
        auth_file: None,
        size_mib: None,
        output: target.to_owned(),
    };
    nex_rootfs::build(&recipe, &|_| {})?;
    Ok(())
}
