//! An artifact that comes over the link, for agents that share no files with their node.
//!
//! ```text
//! nothing --piece--> growing --Start--> whole (hash compared) | refused
//! ```
//! It lies in the agent's own folder. A piece that cannot be written is not an error of the link: what is wrong is said
//! when the workload is to start.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Why there is nothing to start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SentError {
    /// Nothing came.
    #[error("no artifact was sent")]
    Nothing,
    /// There was no place for it.
    #[error("the artifact could not be written in the sandbox: {0} (a larger scratch space may help)")]
    Written(io::Error),
    /// It is another.
    #[error("the artifact that arrived in the sandbox has SHA-256 {found}, not {expected}")]
    Hash {
        /// What came.
        found: String,
        /// What was to come.
        expected: String,
    },
}

/// What has come so far.
#[derive(Debug)]
pub(crate) struct Sent {
    path: PathBuf,
    file: Option<io::Result<File>>,
    hash: Sha256,
}

impl Sent {
    /// Nothing yet; it will be kept in this folder.
    pub(crate) fn into(folder: &Path) -> Self {
        Self { path: folder.join("artifact"), file: None, hash: Sha256::new() }
    }

    /// Takes the next piece.
    pub(crate) fn add(&mut self, piece: &[u8]) {
        let path = &self.path;
        let make = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let Ok(file) = self.file.get_or_insert_with(make) else { return };
        self.hash.update(piece);
        if let Err(error) = file.write_all(piece) {
            self.file = Some(Err(error));
        }
    }

    /// All of it has come; where it is.
    ///
    /// # Errors
    /// [`SentError`].
    pub(crate) fn finish(self, expected: &str) -> Result<PathBuf, SentError> {
        let file = self.file.ok_or(SentError::Nothing)?.map_err(SentError::Written)?;
        let found: String = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if found != expected {
            return Err(SentError::Hash { found, expected: expected.to_owned() });
        }
        // A program that is still open for writing cannot be run.
        file.set_permissions(Permissions::from_mode(0o500)).map_err(SentError::Written)?;
        drop(file);
        Ok(self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "abc".
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn pieces_become_a_file_that_can_be_run() {
        let folder = tempfile::tempdir().unwrap();
        let mut sent = Sent::into(folder.path());
        sent.add(b"a");
        sent.add(b"bc");
        let path = sent.finish(ABC).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o500);
    }

    #[test]
    fn what_is_missing_other_or_has_no_place_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Sent::into(folder.path()).finish(ABC), Err(SentError::Nothing)));
        let mut other = Sent::into(folder.path());
        other.add(b"abd");
        assert!(matches!(other.finish(ABC), Err(SentError::Hash { .. })));
        let mut nowhere = Sent::into(&folder.path().join("missing"));
        nowhere.add(b"abc");
        assert!(matches!(nowhere.finish(ABC), Err(SentError::Written(_))));
    }
}
