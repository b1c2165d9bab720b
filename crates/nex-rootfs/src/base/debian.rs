//! Debian as a base, installed by debootstrap. It unpacks packages and runs what is in them: it needs root.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::geteuid;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{BaseRecord, Job};
use crate::RootfsError;
use crate::error::file;
use crate::tree::Tree;

/// What is installed when no suite is named: the release that is called stable.
const SUITE: &str = "stable";

/// What installing leaves and no guest needs, or what would be the same in all guests and must not be.
const LEFT: [&str; 5] =
    ["var/cache/apt/archives", "var/lib/apt/lists", "var/log", "etc/machine-id", "var/lib/dbus/machine-id"];

/// A release of Debian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debian {
    suite: String,
    mirror: Option<String>,
}

impl Debian {
    /// A suite by its name; none for the stable release.
    ///
    /// # Errors
    /// [`RootfsError::Base`]: that is no name of a suite.
    pub fn new(suite: Option<&str>) -> Result<Self, RootfsError> {
        let suite = suite.unwrap_or(SUITE);
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if suite.is_empty() || suite.starts_with('-') || !suite.chars().all(plain) {
            return Err(RootfsError::Base {
                text: format!("debian:{suite}"),
                reason: "a suite is a name such as bookworm or stable; Debian's container image is docker:debian:TAG"
                    .to_owned(),
            });
        }
        Ok(Self { suite: suite.to_owned(), mirror: None })
    }

    /// From this mirror instead of debootstrap's own.
    ///
    /// # Errors
    /// [`RootfsError::Base`]: that is no address that debootstrap takes.
    pub fn from_mirror(self, mirror: &str) -> Result<Self, RootfsError> {
        let known = url::Url::parse(mirror).is_ok_and(|url| matches!(url.scheme(), "http" | "https" | "file"));
        if !known {
            return Err(RootfsError::Base {
                text: format!("debian:{}", self.suite),
                reason: format!("--mirror {mirror} is no URL that begins with http:, https: or file:"),
            });
        }
        Ok(Self { mirror: Some(mirror.to_owned()), ..self })
    }

    pub(super) fn install(&self, job: &Job<'_>, tree: &mut Tree) -> Result<BaseRecord, RootfsError> {
        if !geteuid().is_root() {
            return Err(RootfsError::Debian(
                "it installs packages, which takes root: build as root, or take Debian's container image \
                 (--base docker:debian:stable-slim)"
                    .to_owned(),
            ));
        }
        (job.progress)(&format!("Installing Debian {}", self.suite));
        let mut command = self.command("debootstrap", job, tree.root());
        let mut output = command.output();
        // Where root's programs are not on the path.
        if output.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            output = self.command("/usr/sbin/debootstrap", job, tree.root()).output();
        }
        let output = output.map_err(|error| {
            RootfsError::Debian(match error.kind() {
                io::ErrorKind::NotFound => {
                    "it was not found: install it (Debian and Ubuntu: `apt-get install debootstrap`)".to_owned()
                }
                io::ErrorKind::PermissionDenied => {
                    "this machine does not let it have a mount namespace of its own: build where root may mount"
                        .to_owned()
                }
                _ => error.to_string(),
            })
        })?;
        if !output.status.success() {
            // It writes what is wrong among what it does, on both.
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            let told = text.lines().rfind(|line| line.starts_with("E: ")).or(text.lines().next_back());
            return Err(RootfsError::Debian(format!("it failed: {}", told.unwrap_or("it does not say why"))));
        }
        for name in LEFT {
            empty(&tree.inside(Path::new(name))?)?;
        }
        empty(&tree.root().join("dev"))?;
        tree.take_attributes()?;
        Ok(BaseRecord { reference: format!("debian:{}", self.suite), digest: tree.digest()? })
    }

    fn command(&self, program: &str, job: &Job<'_>, root: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg("--variant=minbase").arg(format!("--arch={}", job.arch)).arg(&self.suite).arg(root);
        command.args(&self.mirror);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        // How the builder gets out, where it does not directly.
        for name in ["http_proxy", "https_proxy", "no_proxy"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        // SAFETY: two system calls, which allocate nothing and take no lock. What debootstrap mounts is gone with it,
        // also when it is killed.
        unsafe {
            command.pre_exec(|| {
                unshare_unsafe(UnshareFlags::NEWNS)?;
                mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
                Ok(())
            });
        }
        command
    }
}

/// Removes what is in a folder, or empties a file.
fn empty(path: &Path) -> Result<(), RootfsError> {
    if path.is_file() {
        return fs::write(path, "").map_err(file("cannot write", path));
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        let removed =
            if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(file("cannot remove", &path))?;
    }
    Ok(())
}
