//! The state directory: who a node is, and what it was running.
//!
//! ```text
//! <state dir>/  node.lock     held while a node runs; one node per directory
//!               node.nk       seed of the node key: the node's id stays the same across restarts
//!               node.xk       seed of the curve key: environments sealed earlier still open
//!               workloads/    one record per workload, sealed with the curve key: no secret lies here in clear
//!               used-claims   digests of claims that were used, which are not used again
//!               artifacts/    artifacts by SHA-256
//!               compiled/     compiled WebAssembly, trusted by the agents
//!               compiled-guest/   the same from machines and for machines; opaque to the node
//!               agents/       one folder per living agent
//!               nats/         data of a nats-server that the node runs itself
//! ```
//! Files are written whole (temporary file, then renamed) with mode 0600; the directory has mode 0700.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nex_identity::keys::KeyError;
use nex_identity::{NodeKey, XKeyPair};
use nex_protocol::Environment;
use nex_protocol::environment::clear_json;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refuses.
    #[error("state directory {}: {source} (set --state-dir, NEX_STATE_DIR or state_dir to a folder you can write)", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another node runs on it.
    #[error("state directory {} is in use by another node (process {pid}): give each node its own --state-dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// What the other node wrote of itself.
        pid: String,
    },
    /// A key file is unreadable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A record cannot be written.
    #[error("cannot seal the record of a workload: {0}")]
    Seal(String),
}

/// An opened, locked state directory.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    node_key: NodeKey,
    xkey: XKeyPair,
    // Held for as long as the directory is open; the system lets go of it however the process ends.
    _lock: File,
}

impl StateDir {
    /// Opens a directory, makes what is missing in it, and locks it.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(root: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Io { path: root.to_owned(), source };
        // Agents run in folders of their own and are given paths from here.
        let root = &std::path::absolute(root).map_err(failed)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed)?;
        let lock = lock(root)?;
        for dir in ["workloads", "artifacts", "compiled", "compiled-guest", "agents"] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(root.join(dir)).map_err(failed)?;
        }
        let (node_key, _) = NodeKey::load_or_create(&root.join("node.nk"))?;
        let (xkey, _) = XKeyPair::load_or_create(&root.join("node.xk"))?;
        Ok(Self { root: root.to_owned(), node_key, xkey, _lock: lock })
    }

    /// Where a node keeps its state when nothing is said: `/var/lib/nex` for root, else under the user's home.
    pub fn default_path() -> PathBuf {
        if rustix::process::geteuid().is_root() {
            return PathBuf::from("/var/lib/nex");
        }
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
        std::env::var_os("XDG_STATE_HOME")
            .map(PathBuf::from)
            .or_else(home)
            .unwrap_or_else(std::env::temp_dir)
            .join("nex")
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The node's public key, its id.
    pub fn node_id(&self) -> String {
        self.node_key.public_key()
    }

    /// The node's curve key.
    pub fn xkey(&self) -> &XKeyPair {
        &self.xkey
    }

    /// Keeps the record of a workload, sealed.
    ///
    /// # Errors
    /// [`StateError`] when it cannot be written.
    pub fn save_record<T: Serialize>(&self, id: &str, record: &T) -> Result<(), StateError> {
        let sealed = seal_record(record, &self.xkey)?;
        let path = self.record_path(id);
        write_whole(&path, sealed.as_bytes()).map_err(|source| StateError::Io { path, source })
    }

    /// Forgets a workload.
    pub fn remove_record(&self, id: &str) {
        let path = self.record_path(id);
        if let Err(error) = fs::remove_file(&path).and_then(|()| sync_parent(&path))
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(path = %path.display(), %error, "cannot remove the record of a workload");
        }
    }

    /// All records with their ids; those that cannot be read are told in the log and left where they are.
    pub fn records<T: DeserializeOwned>(&self) -> Vec<(String, T)> {
        let entries = fs::read_dir(self.root.join("workloads"));
        let mut records = Vec::new();
        for path in entries.into_iter().flatten().flatten().map(|entry| entry.path()) {
            let Some(id) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".record")) else { continue };
            match self.read_record(&path) {
                Ok(record) => records.push((id.to_owned(), record)),
                Err(reason) => warn!(path = %path.display(), reason, "unreadable record of a workload, left alone"),
            }
        }
        records.sort_by(|a, b| a.0.cmp(&b.0));
        records
    }

    fn read_record<T: DeserializeOwned>(&self, path: &Path) -> Result<T, String> {
        let sealed = fs::read_to_string(path).map_err(|error| error.to_string())?;
        open_record(&sealed, &self.xkey)
    }

    fn record_path(&self, id: &str) -> PathBuf {
        self.root.join("workloads").join(format!("{id}.record"))
    }
}

/// The content of a record's file: sealed with this key, for this key.
///
/// # Errors
/// [`StateError::Seal`].
pub fn seal_record<T: Serialize>(record: &T, key: &XKeyPair) -> Result<String, StateError> {
    let failed = |error: &dyn std::fmt::Display| StateError::Seal(error.to_string());
    let mut text = clear_json(record).map_err(|error| failed(&error))?;
    let text = String::from_utf8(std::mem::take(&mut *text)).map_err(|error| failed(&error.utf8_error()))?;
    let clear: Environment = [("record", text)].into_iter().collect();
    key.seal(&clear, &key.public_key()).map_err(|error| failed(&error))
}

/// Reads the content of a record's file, whatever it is.
///
/// # Errors
/// Why it is no record, without a word of what was inside.
pub fn open_record<T: DeserializeOwned>(sealed: &str, key: &XKeyPair) -> Result<T, String> {
    let clear = key.open(sealed.trim(), &key.public_key()).map_err(|error| error.to_string())?;
    serde_json::from_str(clear.get("record").unwrap_or_default()).map_err(|_| "not a record".to_owned())
}

fn lock(root: &Path) -> Result<File, StateError> {
    let path = root.join("node.lock");
    let failed = |source| StateError::Io { path: path.clone(), source };
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(StateError::InUse { path: root.to_owned(), pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(file)
}

/// Writes a file so that a reader sees all of it or nothing, whatever happens meanwhile.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// What was done to a name survives a power cut once its folder is written.
fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_stays_and_a_second_node_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        let (id, xkey) = (first.node_id(), first.xkey().public_key());
        let error = StateDir::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        let again = StateDir::open(dir.path()).unwrap();
        assert_eq!((again.node_id(), again.xkey().public_key()), (id, xkey));
    }

    #[test]
    fn records_come_back_and_are_not_readable_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.save_record("abc", &serde_json::json!({"password": "hunter2"})).unwrap();
        let on_disk = fs::read_to_string(dir.path().join("workloads/abc.record")).unwrap();
        assert!(!on_disk.contains("hunter2"));
        fs::write(dir.path().join("workloads/bad.record"), "garbage").unwrap();
        let records = state.records::<serde_json::Value>();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].1["password"], "hunter2");
        state.remove_record("abc");
        assert!(state.records::<serde_json::Value>().is_empty());
        assert!(dir.path().join("workloads/bad.record").exists(), "what cannot be read is not destroyed");
    }
}
