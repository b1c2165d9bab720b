//! Builds the root image of microVMs: an ext4 file system in a file, without root and without mounting anything.
//!
//! ```text
//! base (a folder, or nothing) + agent + nex-init + Deno + users -> staging folder -> mke2fs -d -> image, whole or not at all
//! ```
//! The same inputs give the same image, byte for byte: times, identifiers and the order of directories are fixed. The
//! image says what is in it ([`Contents`], `/etc/nex-image.json`).

mod ext4;
mod initramfs;
mod stage;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use ext4::contents;
pub use initramfs::{Initramfs, initramfs};

/// Where the agent lies in an image.
pub const AGENT: &str = "usr/libexec/nex-agent";

/// Where the first process lies.
pub const INIT: &str = "sbin/nex-init";

/// Where Deno lies, for JavaScript functions.
pub const DENO: &str = "usr/libexec/deno";

/// Where an image says what is in it.
pub const CONTENTS: &str = "etc/nex-image.json";

/// Smallest image, MiB.
pub const SMALLEST: u64 = 16;

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Folder with the files of a system, copied as they are; none for an image with nothing but the agent, which is
    /// enough for static services and WebAssembly functions.
    pub base: Option<PathBuf>,
    /// `nex-agent`, linked statically.
    pub agent: PathBuf,
    /// `nex-init`, linked statically.
    pub init: PathBuf,
    /// Deno; it needs a base with the C library it is linked with.
    pub deno: Option<PathBuf>,
    /// Size, MiB; none for what is needed and some room.
    pub size_mib: Option<u64>,
    /// The image to write.
    pub output: PathBuf,
}

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Version of nex that made it.
    pub nex: String,
    /// Version of the link its agent speaks.
    pub link: u16,
    /// Architecture, in Go's spelling.
    pub arch: String,
    /// Whether JavaScript functions run in it.
    pub javascript: bool,
}

/// An image cannot be built or read.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// A file cannot be read, copied or written.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A program that goes into the image cannot run in it.
    #[error("{}: {reason}", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file of the base has a name that cannot be written down.
    #[error("{}: its name has a quote, a backslash or a control character, or is not UTF-8: rename it", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// The image would be part of itself.
    #[error("the base {} has the image's folder in it: write the image somewhere else", base.display())]
    Inside {
        /// The base.
        base: PathBuf,
    },
    /// The kernel's modules are not what a guest needs.
    #[error("{}: {reason}", path.display())]
    Modules {
        /// The list of modules.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tool is missing.
    #[error("{0} was not found: it comes with e2fsprogs (Debian and Ubuntu: `apt-get install e2fsprogs`)")]
    Tool(&'static str),
    /// A tool failed.
    #[error("{tool} failed: {reason}")]
    ToolFailed {
        /// The tool.
        tool: &'static str,
        /// What it says.
        reason: String,
    },
    /// The files do not fit.
    #[error("the files take {needed} MiB with what the file system needs, --size gives {given}")]
    TooSmall {
        /// MiB needed.
        needed: u64,
        /// MiB given.
        given: u64,
    },
    /// The image is none of ours.
    #[error("{} is no image that `nex rootfs` made: {reason}", path.display())]
    NotOurs {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RootfsError {
    let path = path.to_owned();
    move |source| RootfsError::File { what, path, source }
}

/// Builds an image; gives what is in it.
///
/// # Errors
/// [`RootfsError`]; there is no image then, or the one that was there before.
pub fn build(recipe: &Recipe) -> Result<Contents, RootfsError> {
    let arch = stage::check_static(&recipe.agent)?;
    stage::check_static(&recipe.init)?;
    let contents = Contents {
        nex: env!("CARGO_PKG_VERSION").to_owned(),
        link: nex_protocol::link::VERSION,
        arch,
        javascript: recipe.deno.is_some(),
    };
    let folder = recipe.output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Some(base) = &recipe.base {
        let real = |path: &Path| path.canonicalize().map_err(file("cannot read", path));
        if real(folder)?.starts_with(real(base)?) {
            return Err(RootfsError::Inside { base: base.clone() });
        }
    }
    let work = tempfile::Builder::new()
        .prefix(".nex-rootfs-")
        .tempdir_in(folder)
        .map_err(file("cannot make a folder in", folder))?;
    let root = work.path().join("root");
    stage::fill(&root, recipe, &contents)?;
    let image = work.path().join("image");
    ext4::make(&root, &image, recipe.size_mib)?;
    std::fs::rename(&image, &recipe.output).map_err(file("cannot write", &recipe.output))?;
    Ok(contents)
}
