//! What a node has made on its host, written down before it is made.
//!
//! One file for each slot (`slot-3.json`) and one for what all slots share (`host.json`), in a folder that one process
//! at a time may use. A record names no links or paths: those follow from the tag of the folder and the slot's number,
//! so that a record that is damaged, or was copied from another state directory, can remove nobody else's.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::NetworkError;
use crate::cni::Attachment;
use crate::forwarding::TurnedOn;

const HOST: &str = "host.json";
const LOCK: &str = "lock";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A journal, locked for this process.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    tag: String,
    _lock: File,
}

/// What there is of one slot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SlotRecord {
    /// Whose it is.
    pub(crate) tag: String,
    /// What plugins are to remove.
    pub(crate) cni: Option<Attachment>,
}

/// What all slots share.
#[derive(Debug, Serialize, Deserialize)]
struct HostRecord {
    tag: String,
    /// The start of the host that it is about: the kernel forgets everything at the next.
    boot: String,
    /// What nodes have turned on of passing packets on.
    turned_on: TurnedOn,
}

/// What a slot's file says.
#[derive(Debug)]
pub(crate) enum Written {
    Ours(Box<SlotRecord>),
    /// A node with another state directory wrote it.
    Foreign,
    /// It was not written to its end, or something else wrote into it.
    Unreadable,
}

impl Journal {
    /// Makes the folder where it is missing, and locks it.
    ///
    /// # Errors
    /// When it cannot be used, or is in use.
    pub(crate) fn open(folder: &Path) -> Result<Self, NetworkError> {
        let failed = |source| NetworkError::Journal { path: folder.into(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let folder = folder.canonicalize().map_err(failed)?;
        let lock = File::create(folder.join(LOCK)).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(NetworkError::InUse(folder)),
            Err(error) => return Err(failed(error.into())),
        }
        let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
        let tag = hex::encode(digest.iter().take(3).copied().collect::<Vec<u8>>());
        Ok(Self { folder, tag, _lock: lock })
    }

    /// What tells this node's things on the host from those of others: six letters, which follow from the folder.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    /// The slots that are written down, with what is known of each.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn slots(&self) -> Result<Vec<(u32, Written)>, NetworkError> {
        let mut slots = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(|source| self.failed(&self.folder, source))?.flatten() {
            let name = entry.file_name();
            let Some(number) = name.to_str().and_then(number_of) else { continue };
            let written = match self.read::<SlotRecord>(&entry.path()) {
                Some(record) if self.is_ours(&record.tag, &entry.path()) => Written::Ours(Box::new(record)),
                Some(_) => Written::Foreign,
                None => Written::Unreadable,
            };
            slots.push((number, written));
        }
        Ok(slots)
    }

    /// What is written down of one slot.
    pub(crate) fn slot(&self, number: u32) -> Option<SlotRecord> {
        self.read(&self.slot_path(number))
    }

    /// Writes down a slot.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write_slot(&self, number: u32, cni: Option<Attachment>) -> Result<(), NetworkError> {
        // What plugins keep outlives the host's next start, and so must what is known of it. Else it need not reach
        // the disk: a host that starts anew has no namespace left.
        let lasting = cni.is_some();
        self.write(&self.slot_path(number), &SlotRecord { tag: self.tag.clone(), cni }, lasting)
    }

    /// Strikes out a slot.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub(crate) fn remove_slot(&self, number: u32) -> Result<(), NetworkError> {
        self.remove(&self.slot_path(number))
    }

    /// What the host's nodes had turned on when a node of this state directory wrote it down, since the host's start.
    pub(crate) fn turned_on(&self) -> TurnedOn {
        let record = self.read::<HostRecord>(&self.folder.join(HOST));
        let record = record.filter(|record| record.tag == self.tag && record.boot == boot());
        record.map(|record| record.turned_on).unwrap_or_default()
    }

    /// Writes down what all slots share.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write_host(&self, turned_on: &TurnedOn) -> Result<(), NetworkError> {
        let record = HostRecord { tag: self.tag.clone(), boot: boot(), turned_on: turned_on.clone() };
        self.write(&self.folder.join(HOST), &record, false)
    }

    /// Strikes it out.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub(crate) fn remove_host(&self) -> Result<(), NetworkError> {
        self.remove(&self.folder.join(HOST))
    }

    fn slot_path(&self, number: u32) -> PathBuf {
        self.folder.join(format!("slot-{number}.json"))
    }

    fn is_ours(&self, tag: &str, path: &Path) -> bool {
        if tag != self.tag {
            let namespace = format!("nex-{tag}-*");
            warn!(path = %path.display(), %namespace, "this record is of another state directory and is left alone");
        }
        tag == self.tag
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, path: &Path) -> Option<T> {
        let bytes = fs::read(path).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(|error| warn!(path = %path.display(), %error, "a record of networks cannot be read"))
            .ok()
    }

    fn write(&self, path: &Path, record: &impl Serialize, lasting: bool) -> Result<(), NetworkError> {
        let written = || {
            let aside = path.with_extension("tmp");
            let mut file = File::create(&aside)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            if lasting {
                file.sync_all()?;
            }
            fs::rename(&aside, path)
        };
        written().map_err(|source| self.failed(path, source))
    }

    fn remove(&self, path: &Path) -> Result<(), NetworkError> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(self.failed(path, source)),
            _ => Ok(()),
        }
    }

    fn failed(&self, path: &Path, source: io::Error) -> NetworkError {
        NetworkError::Journal { path: path.into(), source }
    }
}

fn number_of(name: &str) -> Option<u32> {
    name.strip_prefix("slot-")?.strip_suffix(".json")?.parse().ok()
}

fn boot() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal.write_slot(3, None).unwrap();
        journal.write_slot(70, None).unwrap();
        journal.remove_slot(70).unwrap();
        journal.remove_slot(71).unwrap();
        let turned_on: TurnedOn = serde_json::from_str(r#"{"links": ["eth0"], "everywhere": false}"#).unwrap();
        journal.write_host(&turned_on).unwrap();
        assert!(matches!(Journal::open(folder.path()), Err(NetworkError::InUse(_))), "one process at a time");
        let tag = journal.tag().to_owned();
        drop(journal);
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.tag(), tag);
        let slots = journal.slots().unwrap();
        assert_eq!(slots.len(), 1);
        assert!(matches!(slots[0], (3, Written::Ours(_))));
        assert_eq!(journal.turned_on(), turned_on);
    }

    #[test]
    fn records_of_other_state_directories_and_damaged_ones_are_told_apart() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Journal::open(one.path()).unwrap().write_slot(1, None).unwrap();
        fs::copy(one.path().join("slot-1.json"), other.path().join("slot-1.json")).unwrap();
        fs::write(other.path().join("slot-2.json"), "{").unwrap();
        fs::write(other.path().join("slot-x.json"), "{}").unwrap();
        let mut slots = Journal::open(other.path()).unwrap().slots().unwrap();
        slots.sort_by_key(|(number, _)| *number);
        assert!(matches!(slots.as_slice(), [(1, Written::Foreign), (2, Written::Unreadable)]), "{slots:?}");
    }
}
