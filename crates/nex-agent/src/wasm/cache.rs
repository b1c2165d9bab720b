//! Compiled code on disk: `<compiled_dir>/<engine>/<sha256>.cwasm`.
//!
//! `<engine>` stands for everything compiled code depends on: engine version, settings, processor. Files appear whole
//! (written aside, synced, renamed) and only ever in the node's own folder. Inside a sandbox no workload reaches it; without
//! one, a native service runs as the node's own user and can write there as it can read the node's keys: that border is
//! what `no_sandbox` gives up. A file that does not load is compiled anew and replaced; a folder that cannot be written
//! costs time, nothing else.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::Engine;

/// Where the compiled form of one artifact belongs.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    file: PathBuf,
}

impl Slot {
    /// The slot of an artifact; none when there is no folder, or the digest is none.
    pub(crate) fn new(engine: &Engine, folder: Option<&Path>, sha256: &str) -> Option<Self> {
        // The digest becomes a file name, so it is one or there is no slot.
        let digest = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        let name = format!("{}.cwasm", sha256.to_ascii_lowercase());
        folder.filter(|_| digest).map(|folder| Self { file: folder.join(fingerprint(engine)).join(name) })
    }

    /// The compiled code, when it is there and loads.
    pub(crate) fn load<T>(&self, deserialize: impl FnOnce(&Path) -> wasmtime::Result<T>) -> Option<T> {
        if !self.file.exists() {
            return None;
        }
        match deserialize(&self.file) {
            Ok(code) => Some(code),
            Err(error) => {
                tracing::warn!(file = %self.file.display(), error = format!("{error:#}"), "compiled code does not load");
                None
            }
        }
    }

    /// Keeps compiled code for the next time.
    pub(crate) fn store(&self, code: &[u8]) {
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

/// Everything compiled code depends on, as a folder name.
fn fingerprint(engine: &Engine) -> String {
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
    hasher.0.finalize().iter().take(16).fold(String::with_capacity(32), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
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
