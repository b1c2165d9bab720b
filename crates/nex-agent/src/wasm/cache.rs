//! Compiled code from before: in a folder that the agents of a node share, or given over the link.
//!
//! The folder has `<compiled_dir>/<engine>/<sha256>.cwasm`. `<engine>` stands for everything compiled code depends on: engine version, settings, processor. Files appear whole
//! (written aside, synced, renamed) and only ever in the node's own folder. Inside a sandbox no workload reaches it; without
//! one, a native service runs as the node's own user and can write there as it can read the node's keys: that border is
//! what `no_sandbox` gives up. A file that does not load is compiled anew and replaced; a folder that cannot be written
//! costs time, nothing else.
//!
//! In a machine there is no such folder: the machine goes with its workload. What its agent compiles goes to the node
//! ([`super::fresh`]), which gives it to later machines with the same artifact ([`super::given`]). The node never loads it,
//! and nothing of it comes into the folder above. Whoever could put something else in its place already runs that very
//! artifact's code in a machine of the same tenant's, and reaches no more by it.

use std::fs::{self, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nex_protocol::link::compiled::EngineName;
use sha2::{Digest, Sha256};
use wasmtime::Engine;

use super::fresh::{Code, Fresh};
use super::given::Whole;

/// Where compiled code comes from, and what becomes of it.
#[derive(Debug)]
pub(crate) enum Kept {
    /// Nowhere.
    Not,
    /// A folder shared with other agents.
    Folder(Slot),
    /// Over the link, if the node had some.
    Link(Option<PathBuf>),
}

impl Kept {
    /// Where agent and node share no files.
    pub(crate) fn link(engine: &Engine, given: Option<Whole>) -> Self {
        Kept::Link(given.and_then(|Whole { engine: compiler, path }| {
            if compiler == engine_name(engine) {
                return Some(path);
            }
            // Of another release, or from another processor. It would only take room.
            let _ = fs::remove_file(path);
            None
        }))
    }

    /// In a folder, if there is one, and the digest is one.
    pub(crate) fn folder(engine: &Engine, folder: Option<&Path>, sha256: &str) -> Self {
        Slot::new(engine, folder, sha256).map_or(Kept::Not, Kept::Folder)
    }

    /// The compiled code, when it is there and loads.
    pub(crate) fn load<T>(&self, deserialize: impl FnOnce(&Path) -> wasmtime::Result<T>) -> Option<T> {
        let file = match self {
            Kept::Folder(slot) if slot.file.exists() => &slot.file,
            Kept::Link(Some(file)) => file,
            Kept::Not | Kept::Folder(_) | Kept::Link(None) => return None,
        };
        match deserialize(file) {
            Ok(code) => Some(code),
            Err(error) => {
                tracing::warn!(file = %file.display(), error = format!("{error:#}"), "compiled code does not load");
                if let Kept::Link(_) = self {
                    let _ = fs::remove_file(file);
                }
                None
            }
        }
    }

    /// Keeps what was compiled for the next time; gives it back where it is to be sent.
    pub(crate) fn keep(&self, engine: &Engine, artifact_bytes: u64, code: Code) -> Option<Fresh> {
        match self {
            Kept::Not => None,
            Kept::Folder(slot) => {
                if let Ok(code) = code.serialize() {
                    slot.store(&code);
                }
                None
            }
            Kept::Link(_) => Some(Fresh { code, engine: engine_name(engine), artifact_bytes }),
        }
    }
}

/// Where the compiled form of one artifact belongs in a folder.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    file: PathBuf,
}

impl Slot {
    /// The slot of an artifact; none when there is no folder, or the digest is none.
    fn new(engine: &Engine, folder: Option<&Path>, sha256: &str) -> Option<Self> {
        // The digest becomes a file name, so it is one or there is no slot.
        let digest = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        let name = format!("{}.cwasm", sha256.to_ascii_lowercase());
        folder.filter(|_| digest).map(|folder| Self { file: folder.join(engine_name(engine).to_string()).join(name) })
    }

    /// Keeps compiled code for the next time.
    fn store(&self, code: &[u8]) {
        if let Err(error) = self.write(code) {
            tracing::warn!(file = %self.file.display(), %error, "compiled code cannot be kept");
        }
    }

    fn write(&self, code: &[u8]) -> io::Result<()> {
        let folder = self.file.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Named for this process: agents compile the same artifact at the same time, and any of the results will do.
        let aside = self.file.with_extension(format!("{}.tmp", std::process::id()));
        let written = write_new(&aside, code).and_then(|()| fs::rename(&aside, &self.file));
        if written.is_err() {
            let _ = fs::remove_file(&aside);
        }
        written
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    // Before the rename: after a power cut the name must not stand for half a file.
    file.sync_all()
}

/// Everything compiled code depends on.
fn engine_name(engine: &Engine) -> EngineName {
    struct Digesting(Sha256);
    impl Hasher for Digesting {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0 // never asked for: the digest is taken whole
        }
    }
    let mut hasher = Digesting(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let mut name = [0; 16];
    name.iter_mut().zip(hasher.0.finalize()).for_each(|(to, byte)| *to = byte);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_that_is_none_never_becomes_a_file_name() {
        let (engine, folder) = (Engine::default(), Path::new("/nowhere"));
        assert!(Slot::new(&engine, Some(folder), "../../etc/passwd").is_none());
        assert!(Slot::new(&engine, Some(folder), &"a".repeat(64)).is_some());
        assert!(Slot::new(&engine, None, &"a".repeat(64)).is_none());
    }
}
