//! Artifacts: from an object store into a cache addressed by SHA-256.
//!
//! ```text
//! info (size, digest) -> limits -> cached? -> stream to a temporary file, hashing -> compare -> rename to <sha256>
//! ```
//! Promises: nothing is fetched that is too large or has the wrong digest by the store's own word; nothing takes its
//! place in the cache whose bytes were not hashed here; an object that changes while it is read is an error, never a
//! mixture; the same bytes are fetched once; a fetch that is cancelled leaves nothing behind.

use std::collections::HashMap;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::object_store::{InfoErrorKind, ObjectInfo, ObjectStore};
use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use nex_protocol::{Code, Fault, Location};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tracing::{debug, info, warn};

/// Longest pause between two parts of an object before the fetch is given up.
const STALL: Duration = Duration::from_secs(10);

/// Bytes read at a time.
const CHUNK: usize = 128 << 10;

/// Verified bytes in the cache. They stay there as long as some clone of this exists.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// Read-only file.
    pub path: PathBuf,
    /// Hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// Whether its bytes came over the network for this one who asked.
    pub fetched: bool,
    _pin: Arc<Pin>,
}

/// Keeps an artifact from being evicted.
#[derive(Debug)]
struct Pin {
    pins: Pins,
    sha256: String,
}

/// How many pins each digest has.
type Pins = Arc<Mutex<HashMap<String, usize>>>;

impl Pin {
    fn new(pins: &Pins, sha256: &str) -> Arc<Self> {
        *pins.lock().unwrap_or_else(PoisonError::into_inner).entry(sha256.to_owned()).or_default() += 1;
        Arc::new(Self { pins: Arc::clone(pins), sha256: sha256.to_owned() })
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = pins.get_mut(&self.sha256) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.sha256);
            }
        }
    }
}

/// The cache folder.
#[derive(Debug)]
pub struct ArtifactCache {
    dir: PathBuf,
    keep_bytes: u64,
    pins: Pins,
    // One fetch a digest: the second waits for the first and finds the file.
    fetching: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// A SHA-256 in any of its spellings on the wire, as lower-case hex: hex, or `SHA-256=` and base64url. Anything else
/// (the placeholder that Go Nex 0.2.7 puts into claims, for one) is none.
pub fn parse_sha256(text: &str) -> Option<String> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(text.to_ascii_lowercase());
    }
    let encoded = text.strip_prefix("SHA-256=")?;
    let bytes = URL_SAFE.decode(encoded).or_else(|_| URL_SAFE_NO_PAD.decode(encoded)).ok()?;
    (bytes.len() == 32).then(|| hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unavailable(reason: impl std::fmt::Display) -> Fault {
    Fault::new(Code::ArtifactUnavailable, format!("Failed to cache workload bytes: {reason}"))
}

impl ArtifactCache {
    /// A cache in a folder that exists; what no workload uses is kept up to `keep_bytes`.
    pub fn new(dir: PathBuf, keep_bytes: u64) -> Self {
        // Temporary files are of fetches that a dead node did not finish.
        for path in std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "part") {
                let _ = std::fs::remove_file(path);
            }
        }
        Self { dir, keep_bytes, pins: Pins::default(), fetching: Mutex::default() }
    }

    /// The artifact at `location`, fetched if need be. `expected` is the digest of the signed claim (lower-case hex);
    /// `admit` sees the size before anything is fetched and may refuse.
    ///
    /// # Errors
    /// A [`Fault`] for the one who asked.
    pub async fn fetch(
        &self,
        jetstream: &jetstream::Context,
        location: &Location,
        expected: Option<&str>,
        admit: impl FnOnce(u64) -> Result<(), Fault>,
    ) -> Result<Artifact, Fault> {
        let (store, info) = timeout(STALL, look_up(jetstream, location))
            .await
            .map_err(|_| unavailable(format!("no answer from the object store about {location}")))??;
        let size = info.size as u64;
        admit(size)?;
        let stored = info.digest.as_deref().and_then(parse_sha256);
        if let (Some(expected), Some(stored)) = (expected, &stored) {
            compare(expected, stored, location)?;
        }
        let Some(digest) = stored.or_else(|| expected.map(str::to_owned)) else {
            return self.download(&store, location, &info, None).await;
        };
        let single = {
            let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(fetching.entry(digest.clone()).or_default())
        };
        let _turn = single.lock().await;
        let result = match self.cached(&digest, size) {
            Some(artifact) => Ok(artifact),
            None => self.download(&store, location, &info, Some(&digest)).await,
        };
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
        result
    }

    /// A cached artifact by its digest, for a workload that comes back. Its bytes are hashed again.
    pub async fn verified(&self, sha256: &str) -> Option<Artifact> {
        let path = self.dir.join(sha256);
        let pin = Pin::new(&self.pins, sha256);
        let (hashed, size) = tokio::task::spawn_blocking({
            let path = path.clone();
            move || hash_file(&path)
        })
        .await
        .ok()?
        .ok()?;
        if hashed == sha256 {
            return Some(Artifact { path, sha256: hashed, size, fetched: false, _pin: pin });
        }
        warn!(path = %path.display(), "a cached artifact is damaged; it is removed");
        let _ = std::fs::remove_file(&path);
        None
    }

    fn cached(&self, sha256: &str, size: u64) -> Option<Artifact> {
        let path = self.dir.join(sha256);
        let pin = Pin::new(&self.pins, sha256);
        let meta = path.metadata().ok()?;
        debug!(sha256, "artifact is cached");
        // Its time says when it was last wanted; what is oldest goes first.
        let _ = std::fs::File::open(&path).and_then(|file| file.set_modified(std::time::SystemTime::now()));
        (meta.len() == size).then(|| Artifact { path, sha256: sha256.to_owned(), size, fetched: false, _pin: pin })
    }

    async fn download(
        &self,
        store: &ObjectStore,
        location: &Location,
        info: &ObjectInfo,
        expected: Option<&str>,
    ) -> Result<Artifact, Fault> {
        let part = Part::create(&self.dir).map_err(unavailable)?;
        let (sha256, size) = copy(store, location, info.size as u64, &part).await?;
        if let Some(expected) = expected {
            compare(expected, &sha256, location)?;
        }
        let path = self.dir.join(&sha256);
        let pin = Pin::new(&self.pins, &sha256);
        part.persist(&path).map_err(unavailable)?;
        info!(%location, size, sha256, "artifact fetched");
        Ok(Artifact { path, sha256, size, fetched: true, _pin: pin })
    }

    /// Removes what nobody uses, oldest first, until the rest fits the limit.
    pub fn evict(&self) {
        let mut idle: Vec<(std::time::SystemTime, u64, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let (name, Ok(meta)) = (entry.file_name(), entry.metadata()) else { continue };
            let Some(name) = name.to_str().filter(|name| parse_sha256(name).is_some()) else { continue };
            if !self.pins.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name) {
                idle.push((meta.modified().unwrap_or(std::time::UNIX_EPOCH), meta.len(), entry.path()));
            }
        }
        idle.sort();
        let mut total: u64 = idle.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in idle {
            if total <= self.keep_bytes {
                break;
            }
            debug!(path = %path.display(), "evicting an artifact");
            let _ = std::fs::remove_file(path);
            total = total.saturating_sub(size);
        }
    }
}

/// What was signed and what is there must be the same.
fn compare(expected: &str, found: &str, location: &Location) -> Result<(), Fault> {
    if expected == found {
        return Ok(());
    }
    Err(Fault::new(
        Code::HashMismatch,
        format!("Invalid deploy request: {location} has SHA-256 {found}, the claim says {expected}"),
    ))
}

async fn look_up(jetstream: &jetstream::Context, location: &Location) -> Result<(ObjectStore, ObjectInfo), Fault> {
    let store = jetstream.get_object_store(location.bucket()).await.map_err(|error| {
        let text = format!("{error:?}");
        if text.contains("JetStream") && text.contains("not") && text.contains("enabled") {
            unavailable("JetStream is not enabled on this NATS server or for this account")
        } else {
            unavailable(format!("object store bucket '{}' cannot be opened: {error}", location.bucket()))
        }
    })?;
    let info = store.info(location.key()).await.map_err(|error| match error.kind() {
        InfoErrorKind::NotFound => {
            unavailable(format!("there is no object '{}' in bucket '{}'", location.key(), location.bucket()))
        }
        _ => unavailable(format!("{location}: {error}")),
    })?;
    if info.deleted {
        return Err(unavailable(format!("object '{}' was deleted", location.key())));
    }
    Ok((store, info))
}

/// Streams the object into a file; gives its digest and size.
async fn copy(store: &ObjectStore, location: &Location, size: u64, part: &Part) -> Result<(String, u64), Fault> {
    let changed = || unavailable(format!("{location} changed while it was read"));
    let failed = |error: &dyn std::fmt::Display| unavailable(format!("{location}: {error}"));
    let mut object = timeout(STALL, store.get(location.key()))
        .await
        .map_err(|_| failed(&"no answer from the object store"))?
        .map_err(|error| failed(&error))?;
    let mut file = tokio::fs::File::from_std(part.file.try_clone().map_err(|error| failed(&error))?);
    let (mut hash, mut read, mut chunk) = (Sha256::new(), 0u64, vec![0; CHUNK]);
    loop {
        let count = timeout(STALL, object.read(&mut chunk))
            .await
            .map_err(|_| failed(&format!("stalled after {read} of {size} bytes; was it changed or removed?")))?
            .map_err(|error| if read < size { failed(&error) } else { changed() })?;
        if count == 0 {
            break;
        }
        read += count as u64;
        // An object that grows under our hands must not fill the disk.
        if read > size {
            return Err(changed());
        }
        let bytes = chunk.get(..count).unwrap_or_default();
        hash.update(bytes);
        file.write_all(bytes).await.map_err(|error| failed(&error))?;
    }
    file.sync_all().await.map_err(|error| failed(&error))?;
    if read != size {
        return Err(changed());
    }
    Ok((hex(&hash.finalize()), read))
}

fn hash_file(path: &Path) -> std::io::Result<(String, u64)> {
    let (mut file, mut hash) = (std::fs::File::open(path)?, Sha256::new());
    let size = std::io::copy(&mut file, &mut hash)?;
    Ok((hex(&hash.finalize()), size))
}

/// A file on its way into the cache; removed when it does not arrive.
struct Part {
    path: Option<PathBuf>,
    file: std::fs::File,
}

impl Part {
    fn create(dir: &Path) -> std::io::Result<Self> {
        let path = dir.join(format!("{}.part", nuid::next()));
        let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path: Some(path), file })
    }

    fn persist(mut self, to: &Path) -> std::io::Result<()> {
        // Readable and executable, writable for nobody: a running program is not changed under itself.
        self.file.set_permissions(std::fs::Permissions::from_mode(0o500))?;
        if let Some(path) = &self.path {
            std::fs::rename(path, to)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_in_both_spellings_and_nothing_else_is() {
        let digest = hex(&Sha256::digest(b"x"));
        assert_eq!(parse_sha256(&digest.to_uppercase()), Some(digest.clone()));
        let stored = format!("SHA-256={}", URL_SAFE.encode(Sha256::digest(b"x")));
        assert_eq!(parse_sha256(&stored), Some(digest));
        for text in ["", "TBD", "SHA-256=", "SHA-256=aaaa", &"g".repeat(64)] {
            assert_eq!(parse_sha256(text), None, "{text}");
        }
    }

    #[test]
    fn eviction_spares_what_is_used_and_removes_the_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = ArtifactCache::new(dir.path().to_owned(), 150);
        let names: Vec<String> = (0..4u8).map(|n| hex(&Sha256::digest([n]))).collect();
        for (age, name) in (1..).zip(&names) {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.set_len(100).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(age)).unwrap();
        }
        let _pin = Pin::new(&cache.pins, &names[0]);
        cache.evict();
        let left: Vec<bool> = names.iter().map(|name| dir.path().join(name).exists()).collect();
        assert_eq!(left, [true, false, false, true]);
    }
}
