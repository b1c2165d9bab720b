//! The program in the place of `jailer`: its command line, its refusals, the jail's folder, cgroups, limits, network
//! namespace, user.
//!
//! One thing it does not do: change the root. The program that it starts is dynamically linked and needs the host's
//! files, so the jail is its current folder instead, and it is started by its own path, not the copy in the jail. A
//! driver that names files relative to the current folder does right with both. What follows for permissions: the
//! jail's user must be able to read and run the stand-in, `stand-in.json` beside it, and the agent.

mod cgroups;
mod jail;
mod limits;

use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use crate::arguments::{ArgumentError, Arguments, BadId, Known, Question, checked_instance_id};
use crate::settings::{Settings, SettingsError};
use crate::version::Version;
use cgroups::{CgroupError, Cgroups};
use limits::{LimitError, Limits};

const KNOWN: &[Known] = &[
    Known::required("id"),
    Known::required("exec-file"),
    Known::required("uid"),
    Known::required("gid"),
    Known::value("chroot-base-dir"),
    Known::value("netns"),
    Known::flag("daemonize"),
    Known::flag("new-pid-ns"),
    Known::values("cgroup"),
    Known::values("resource-limit"),
    Known::value("cgroup-version"),
    Known::value("parent-cgroup"),
];

/// Why nothing is started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JailerError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("Failed to parse arguments: {0}")]
    Arguments(#[from] ArgumentError),
    #[error("Invalid instance ID: {0}")]
    Id(#[from] BadId),
    #[error("Failed to canonicalize path {0}: {1}")]
    Canonicalize(PathBuf, io::Error),
    #[error("the exec file {0} is relative: give the whole path, for the jailer is started from anywhere")]
    Relative(PathBuf),
    #[error("{0} is not a file")]
    NotAFile(PathBuf),
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    #[error("Invalid filename. The filename of `--exec-file` option must contain \"firecracker\": {0}")]
    ExecFileName(String),
    #[error("Invalid uid: {0}")]
    Uid(String),
    #[error("Invalid gid: {0}")]
    Gid(String),
    #[error("Parent cgroup path is invalid. Path should not be absolute or contain '..' or '.'")]
    ParentCgroup,
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error("Failed to create directory {0}: {1}")]
    CreateDir(PathBuf, io::Error),
    #[error("Failed to copy {0} to {1}: {2}")]
    Copy(PathBuf, PathBuf, io::Error),
    #[error("Detected hard link at: {0}")]
    HardLink(PathBuf),
    #[error("Failed to open file {0}: {1}")]
    Open(PathBuf, io::Error),
    #[error("Failed to join network namespace: netns: {0}")]
    SetNetNs(io::Error),
    #[error("Failed to unshare into new mount namespace: {0}")]
    Mounts(io::Error),
    #[error("Failed to create {1} via mknod inside the jail: {0}")]
    Device(io::Error, String),
    #[error("Failed to change owner for {0}: {1}")]
    Owner(PathBuf, io::Error),
    #[error("Failed cloning into a new child process: {0}")]
    Clone(io::Error),
    #[error("Failed to exec into Firecracker: {0}")]
    Exec(io::Error),
}

/// What the command line asks for, checked.
#[derive(Debug)]
pub(crate) struct Wanted {
    id: String,
    program: PathBuf,
    program_name: String,
    jail: PathBuf,
    uid: u32,
    gid: u32,
    netns: Option<PathBuf>,
    daemonize: bool,
    new_pid_ns: bool,
    cgroups: Cgroups,
    limits: Limits,
    rest: Vec<String>,
}

/// Runs the stand-in for `jailer` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            eprintln!("Error: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: impl IntoIterator<Item = String>) -> Result<(), JailerError> {
    let settings = Settings::load()?;
    let version = settings.version;
    let arguments = Arguments::parse(KNOWN, words)?;
    match arguments.asks() {
        Some(Question::Version) => println!("Jailer v{version}\n"),
        Some(Question::Help) => {
            println!("Jailer v{version}\n");
            KNOWN.iter().for_each(|known| println!("  --{}", known.name));
        }
        None => jail::start(&Wanted::new(version, &arguments)?)?,
    }
    Ok(())
}

impl Wanted {
    fn new(version: Version, arguments: &Arguments) -> Result<Self, JailerError> {
        let value = |name: &str| arguments.value(name).unwrap_or_default();
        let id = value("id");
        checked_instance_id(id)?;
        let (program, program_name) = program(version, Path::new(value("exec-file")))?;
        let base = Path::new(arguments.value("chroot-base-dir").unwrap_or("/srv/jailer"));
        let base = base.canonicalize().map_err(|error| JailerError::Canonicalize(base.to_owned(), error))?;
        if !base.is_dir() {
            return Err(JailerError::NotADirectory(base));
        }
        let parent = PathBuf::from(arguments.value("parent-cgroup").unwrap_or(&program_name));
        if !is_plain(&parent) {
            return Err(JailerError::ParentCgroup);
        }
        let uid = value("uid").parse().map_err(|_| JailerError::Uid(value("uid").to_owned()))?;
        let gid = value("gid").parse().map_err(|_| JailerError::Gid(value("gid").to_owned()))?;
        let cgroup_version = arguments.value("cgroup-version").unwrap_or("1");
        Ok(Self {
            cgroups: Cgroups::new(cgroup_version, arguments.values("cgroup"), &parent, id)?,
            limits: Limits::new(arguments.values("resource-limit"))?,
            jail: base.join(&program_name).join(id).join("root"),
            id: id.to_owned(),
            program,
            program_name,
            uid,
            gid,
            netns: arguments.value("netns").map(PathBuf::from),
            daemonize: arguments.has("daemonize"),
            new_pid_ns: arguments.has("new-pid-ns"),
            rest: arguments.rest().to_vec(),
        })
    }
}

/// A path below another, without detours.
fn is_plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// The program to start, and the name that the jail's path has from it. Links are followed: the name is the target's.
fn program(version: Version, given: &Path) -> Result<(PathBuf, String), JailerError> {
    if given.is_relative() {
        return Err(JailerError::Relative(given.to_owned()));
    }
    let program = given.canonicalize().map_err(|error| JailerError::Canonicalize(given.to_owned(), error))?;
    if !program.is_file() {
        return Err(JailerError::NotAFile(program));
    }
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if version < Version::PCI && !name.contains("firecracker") {
        return Err(JailerError::ExecFileName(name));
    }
    Ok((program, name))
}
