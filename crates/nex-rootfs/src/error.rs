//! What can go wrong when an image is built or read. Each text says what to do.

use std::path::{Path, PathBuf};

use crate::tree::{DEEPEST, LONGEST};

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
    /// A file has a name that cannot be written down.
    #[error("{path:?}: its name has a control character: rename it")]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// A file lies too deep, or its name is too long.
    #[error(
        "{path:?}: with all links in it followed, a name in an image has at most {LONGEST} bytes and {DEEPEST} parts: \
         put the file elsewhere"
    )]
    Deep {
        /// The file.
        path: PathBuf,
    },
    /// The image would be part of itself.
    #[error("the base {} has the image's folder in it: write the image somewhere else", base.display())]
    Inside {
        /// The base.
        base: PathBuf,
    },
    /// What was named as a base is none.
    #[error("--base {text}: {reason}")]
    Base {
        /// As it was written.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A container image is broken, hostile or not for this machine.
    #[error("{what}: {reason}")]
    Image {
        /// Which image, or what of it.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// Bytes are not those that were named.
    #[error("{what} has the digest {found}, but {wanted} was wanted: it is damaged, or somebody changed it")]
    Digest {
        /// What was read.
        what: String,
        /// What it should have been.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// A registry does not give what it was asked for.
    #[error("{url}: {reason}")]
    Registry {
        /// What was asked for.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The base is too large.
    #[error("the base unpacks to more than {limit}: take a smaller one, or allow for more with --size")]
    TooLarge {
        /// What is allowed.
        limit: String,
    },
    /// Debian could not be installed.
    #[error("debootstrap: {0}")]
    Debian(String),
    /// The script could not be run, or failed.
    #[error("the script {}: {reason}", path.display())]
    Script {
        /// The script.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// JavaScript cannot work in the image.
    #[error("JavaScript cannot work in this image: {0}, or leave it out: --without js")]
    JavaScript(String),
    /// The base has no OpenRC.
    #[error("the base has no OpenRC, which --init openrc is for: there is no {missing} (Alpine: `apk add openrc`)")]
    NoOpenRc {
        /// What was looked for.
        missing: &'static str,
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
    #[error("the files take {needed} MiB with what the file system needs, --size gives {given}: give {needed} or more")]
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

pub(crate) fn image(what: impl Into<String>, reason: impl Into<String>) -> RootfsError {
    RootfsError::Image { what: what.into(), reason: reason.into() }
}
