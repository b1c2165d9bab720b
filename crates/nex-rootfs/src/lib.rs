//! Builds the root image of microVMs: an ext4 file system in a file, without root and without mounting anything.
//!
//! ```text
//! base -> accounts -> script -> programs, Deno, libraries -> mke2fs -d -> image, whole or not at all
//!         all of it in a staging folder
//! ```
//! A base is a folder, a container image or Debian; there need not be one. The same inputs give the same image, byte for
//! byte: times, identifiers and the order of directories are fixed. (What a script does, and what Debian's mirrors have, is
//! theirs.) The image says what is in it ([`Contents`], `/etc/nex-image.json`).

mod base;
mod elf;
mod error;
mod ext4;
mod initramfs;
mod javascript;
mod namespaces;
mod oci;
mod openrc;
mod script;
mod stage;
mod tree;
mod work;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use base::{Base, BaseRecord, Debian};
pub use error::RootfsError;
use error::file;
pub use ext4::contents;
pub use initramfs::{Initramfs, initramfs};
pub use oci::{BadReference, Reference};
pub use script::Script;

/// Where the agent lies in an image.
pub const AGENT: &str = "usr/libexec/nex-agent";

/// Where the first process lies.
pub const INIT: &str = "sbin/nex-init";

/// Where Deno lies, for JavaScript functions.
pub const DENO: &str = "usr/libexec/deno";

/// Where an image says what is in it.
pub const CONTENTS: &str = "etc/nex-image.json";

/// A link to the first process of the base, which `nex-init` becomes once it has mounted everything. Where there is none,
/// `nex-init` starts the agent itself.
pub const NEXT_INIT: &str = "usr/libexec/nex-next-init";

/// Smallest image, MiB.
pub const SMALLEST: u64 = 16;

/// Most bytes of files that a base may unpack to, unless the image is to be larger.
const LARGEST_BASE: u64 = 8 << 30;

/// What runs the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitKind {
    /// `nex-init`, and nothing else runs in the guest.
    #[default]
    NexInit,
    /// A service of the base's OpenRC.
    Openrc,
}

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The files of a system; none for an image with nothing but what nex brings, which is enough for static services and
    /// for functions.
    pub base: Option<Base>,
    /// `nex-agent`, linked statically.
    pub agent: PathBuf,
    /// `nex-init`, linked statically.
    pub init: PathBuf,
    /// What runs the agent.
    pub init_kind: InitKind,
    /// Deno; none for an image without JavaScript.
    pub deno: Option<PathBuf>,
    /// What is run in the image before it is closed.
    pub script: Option<Script>,
    /// Credentials for registries, in the form of Docker's `config.json`.
    pub auth_file: Option<PathBuf>,
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
    /// The agent in it.
    pub agent: AgentRecord,
    /// Version of the link its agent speaks.
    pub link: u16,
    /// Architecture, in Go's spelling.
    pub arch: String,
    /// Version of Deno, for JavaScript functions; none where they do not run.
    pub javascript: Option<String>,
    /// What runs the agent.
    pub init: InitKind,
    /// What it is based on.
    pub base: Option<BaseRecord>,
    /// SHA-256 of the script that was run in it.
    pub script: Option<String>,
}

/// What an image says of its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Its version, where it could be asked.
    pub version: Option<String>,
    /// SHA-256 of its file.
    pub sha256: String,
}

/// Builds an image; gives what is in it. Blocks, also while it fetches, and tells `progress` what it does, a line each.
///
/// # Errors
/// [`RootfsError`]; there is no image then, or the one that was there before.
pub fn build(recipe: &Recipe, progress: &dyn Fn(&str)) -> Result<Contents, RootfsError> {
    let arch = stage::check_static(&recipe.agent)?;
    if stage::check_static(&recipe.init)? != arch {
        return Err(RootfsError::Program {
            path: recipe.init.clone(),
            reason: format!("it is not for {arch}, as the agent is"),
        });
    }
    let folder = recipe.output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Some(base) = recipe.base.as_ref().and_then(Base::folder) {
        let real = |path: &Path| path.canonicalize().map_err(file("cannot read", path));
        if real(folder)?.starts_with(real(base)?) {
            return Err(RootfsError::Inside { base: base.to_owned() });
        }
    }
    let script = recipe.script.as_ref().map(Script::read).transpose()?;
    let work = work::Work::create(folder)?;
    let mut tree = tree::Tree::create(&work.root())?;
    let filled = fill(&mut tree, recipe, script, &arch, work.path(), progress);
    if filled.is_err() {
        // A folder that its owner may not look into would stay behind.
        let _ = tree.open_up();
    }
    let contents = filled?;
    progress("Writing the image");
    let image = work.path().join("image");
    ext4::make(&tree, &image, recipe.size_mib)?;
    std::fs::rename(&image, &recipe.output).map_err(file("cannot write", &recipe.output))?;
    Ok(contents)
}

fn fill(
    tree: &mut tree::Tree,
    recipe: &Recipe,
    script: Option<script::Ready>,
    arch: &str,
    work: &Path,
    progress: &dyn Fn(&str),
) -> Result<Contents, RootfsError> {
    let limit = recipe.size_mib.map_or(LARGEST_BASE, |mib| (mib << 20).max(LARGEST_BASE));
    let job = base::Job { arch, work, limit, auth: recipe.auth_file.as_deref(), progress };
    let base = recipe.base.as_ref().map(|base| base.unpack(&job, tree)).transpose()?;
    stage::furnish(tree)?;
    let script = script
        .map(|script| {
            progress("Running the script");
            script.run(tree)
        })
        .transpose()?;
    // What the script has taken away is put back.
    stage::furnish(tree)?;
    let javascript = recipe.deno.as_ref().map(|deno| javascript::install(deno, arch, tree)).transpose()?;
    if recipe.init_kind == InitKind::Openrc {
        openrc::install(tree)?;
    }
    let contents = Contents {
        nex: env!("CARGO_PKG_VERSION").to_owned(),
        agent: stage::agent(&recipe.agent)?,
        link: nex_protocol::link::VERSION,
        arch: arch.to_owned(),
        javascript,
        init: recipe.init_kind,
        base,
        script,
    };
    stage::finish(tree, recipe, &contents)?;
    Ok(contents)
}

/// Bytes for people to read.
fn size(bytes: u64) -> String {
    if bytes >= 10 << 30 { format!("{} GiB", bytes >> 30) } else { format!("{} MiB", bytes >> 20) }
}
