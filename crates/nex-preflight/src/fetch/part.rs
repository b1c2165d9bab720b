//! What has arrived of a file, with its running SHA-256: one process at a time, never more than allowed.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use sha2::{Digest as _, Sha256};

use super::http::Resume;
use super::{Ended, FetchError, file};
use crate::Digest;

/// Longest validator that is kept, bytes.
const VALIDATOR: usize = 512;

/// An unfinished download.
pub(super) struct Part {
    file: File,
    path: PathBuf,
    /// Which version of the file this is a part of, as its server calls it.
    validator: Option<String>,
    hash: Sha256,
    have: u64,
    limit: u64,
}

impl Part {
    /// What an earlier run left of the file, or nothing yet.
    pub(super) fn open(folder: &Path, name: &str, limit: u64) -> Result<Self, FetchError> {
        let path = folder.join(format!(".{name}.part"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // In a folder that others may write to, a link could lead anywhere.
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(super::file("write", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(FetchError::Busy(path)),
            Err(error) => return Err(super::file("lock", &path)(error.into())),
        }
        let mut part = Self { file, path, validator: None, hash: Sha256::new(), have: 0, limit };
        part.take_up()?;
        Ok(part)
    }

    fn take_up(&mut self) -> Result<(), FetchError> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = self.file.read(&mut buffer).map_err(file("read", &self.path))?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            self.hash.update(bytes);
            self.have += bytes.len() as u64;
            if self.have > self.limit {
                return self.clear();
            }
        }
        self.validator = read_validator(&self.validator_path());
        Ok(())
    }

    fn validator_path(&self) -> PathBuf {
        self.path.with_extension("part-version")
    }

    /// Bytes that are here.
    pub(super) fn have(&self) -> u64 {
        self.have
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// The SHA-256 of what is here.
    pub(super) fn digest(&self) -> Digest {
        Digest::from(<[u8; 32]>::from(self.hash.clone().finalize()))
    }

    /// From where the file is to be continued, when something is here.
    pub(super) fn resume(&self) -> Option<Resume<'_>> {
        (self.have > 0).then_some(Resume { at: self.have, validator: self.validator.as_deref() })
    }

    /// Keeps what the server calls the version of the file, for the next run. Without it, that run has only the digest.
    pub(super) fn remember(&mut self, validator: Option<String>) {
        self.validator = validator.filter(|text| text.len() <= VALIDATOR);
        let path = self.validator_path();
        let _ = std::fs::remove_file(&path);
        let Some(text) = &self.validator else { return };
        // A new file, and never one that lies at the end of a link: see `open`.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        if file.and_then(|mut file| file.write_all(text.as_bytes())).is_err() {
            let _ = std::fs::remove_file(&path);
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        if self.have.saturating_add(bytes.len() as u64) > self.limit {
            return Err(Ended::TooLarge);
        }
        self.file.write_all(bytes).map_err(file("write", &self.path))?;
        self.hash.update(bytes);
        self.have += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what is here.
    pub(super) fn restart(&mut self) -> Result<(), Ended> {
        Ok(self.clear()?)
    }

    fn clear(&mut self) -> Result<(), FetchError> {
        let cleared = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        cleared.map_err(file("write", &self.path))?;
        self.hash = Sha256::new();
        self.have = 0;
        self.remember(None);
        Ok(())
    }

    /// The file, from its beginning.
    pub(super) fn reader(&mut self) -> Result<&mut File, FetchError> {
        self.file.seek(SeekFrom::Start(0)).map_err(file("read", &self.path))?;
        Ok(&mut self.file)
    }

    /// Removes it.
    pub(super) fn discard(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(self.validator_path());
    }
}

fn read_validator(path: &Path) -> Option<String> {
    // Without waiting, in case it is a pipe: what is read here is told to a server, and is to be a file of ours.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().ok().filter(|metadata| metadata.is_file())?;
    let mut text = String::new();
    file.take(VALIDATOR as u64 + 1).read_to_string(&mut text).ok()?;
    (text.len() <= VALIDATOR).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_place_of_the_version_is_neither_written_through_nor_read() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        std::fs::write(&precious, "secret").unwrap();
        let version = folder.path().join(".piece.part-version");
        std::os::unix::fs::symlink(&precious, &version).unwrap();
        std::fs::write(folder.path().join(".piece.part"), "begun").unwrap();

        let mut part = Part::open(folder.path(), "piece", 100).unwrap();
        assert!(part.resume().unwrap().validator.is_none(), "what the link leads to would be told to a server");
        part.remember(Some("\"v1\"".into()));
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "secret");
        drop(part);
        let mut part = Part::open(folder.path(), "piece", 100).unwrap();
        assert_eq!(part.resume().unwrap().validator, Some("\"v1\""));
        part.remember(None);
        assert!(!version.exists() && precious.exists());
    }

    #[test]
    fn a_second_name_of_a_file_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        std::fs::write(&precious, "secret").unwrap();
        std::fs::hard_link(&precious, folder.path().join(".piece.part-version")).unwrap();
        let mut part = Part::open(folder.path(), "piece", 100).unwrap();
        part.remember(Some("\"v1\"".into()));
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "secret");
    }
}
