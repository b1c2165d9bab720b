//! Artifacts: files whose SHA-256 is what a deploy is signed for, in an object store.
//!
//! Uploads stream: a window of chunks is on its way at any time, never the whole file in memory. An upload that fails
//! takes its chunks back out of the bucket, so that failures do not fill it up. The format is that of NATS object
//! stores, readable by every NATS client.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::io;
use std::path::{Path, PathBuf};

use async_nats::HeaderMap;
use async_nats::jetstream::context::{AccountErrorKind, GetStreamErrorKind, PublishAckFuture};
use async_nats::jetstream::object_store::{Config, InfoErrorKind, ObjectStore};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, Context, ErrorCode};
use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

/// Bucket that `devrun` uploads to, as Go Nex does.
pub const DEVELOPMENT_BUCKET: &str = "NEXCLIFILES";

/// Size a bucket is made with when none is given.
pub const DEFAULT_BUCKET_BYTES: i64 = 100 << 20;

/// Size of the pieces that an object is stored in, the customary one.
const CHUNK: usize = 128 << 10;

/// Chunks on their way at a time.
const WINDOW: usize = 16;

/// An artifact cannot be stored or found.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// No JetStream, so no object stores.
    #[error("JetStream is not enabled on this NATS server{}: start it with -js (or a jetstream block in its configuration), or name the right domain with --jsdomain", reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default())]
    NoJetStream {
        /// What the server says, if anything.
        reason: Option<String>,
    },
    /// There is no such bucket.
    #[error("there is no object store bucket '{0}': make it with `nats object add {0}`")]
    NoBucket(String),
    /// There is no such object.
    #[error("there is no object '{key}' in bucket '{bucket}': `nats object ls {bucket}` lists them")]
    NoObject {
        /// The bucket.
        bucket: String,
        /// The object.
        key: String,
    },
    /// The object says nothing usable about its content.
    #[error("object '{key}' in bucket '{bucket}' has no SHA-256 digest: upload it again with a NATS client of today")]
    NoDigest {
        /// The bucket.
        bucket: String,
        /// The object.
        key: String,
    },
    /// The bucket is too full.
    #[error(
        "{size} bytes do not fit into bucket '{bucket}' ({used} of {limit} bytes are used): delete objects from it, or make it larger with `nats stream edit OBJ_{bucket} --max-bytes`"
    )]
    Full {
        /// The bucket.
        bucket: String,
        /// Size of the file.
        size: u64,
        /// Bytes in the bucket.
        used: u64,
        /// What it may hold.
        limit: u64,
    },
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is nothing in the file.
    #[error("{}: the file is empty", .0.display())]
    Empty(PathBuf),
    /// The file is not what it was when it was first read.
    #[error("{}: the file changed while it was uploaded; run the command again", .0.display())]
    Changed(PathBuf),
    /// JetStream failed under us.
    #[error("object store '{bucket}': cannot {doing}: {reason}")]
    Store {
        /// The bucket.
        bucket: String,
        /// What was being done.
        doing: &'static str,
        /// What the client library says.
        reason: String,
    },
}

/// An artifact as its digest knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

impl Artifact {
    /// Reads a file once, in pieces, for its size and digest.
    ///
    /// # Errors
    /// [`ArtifactError::File`] and [`ArtifactError::Empty`].
    pub fn of_file(path: &Path) -> Result<Self, ArtifactError> {
        let error = |source| ArtifactError::File { path: path.to_owned(), source };
        let mut file = std::fs::File::open(path).map_err(error)?;
        let mut digest = Sha256::new();
        let size = io::copy(&mut file, &mut digest).map_err(error)?;
        if size == 0 {
            return Err(ArtifactError::Empty(path.to_owned()));
        }
        Ok(Self { size, sha256: hex::encode(digest.finalize()) })
    }
}

/// An object store bucket with artifacts in it.
pub struct Bucket {
    nats: async_nats::Client,
    context: Context,
    stream: Stream,
    store: ObjectStore,
    name: String,
}

/// Description of an object as object stores keep it.
#[derive(Serialize)]
struct Meta<'a> {
    name: &'a str,
    bucket: &'a str,
    nuid: &'a str,
    size: u64,
    chunks: u64,
    /// Readers take the time of the message; writers put zero here.
    mtime: &'a str,
    digest: &'a str,
    options: MetaOptions,
}

#[derive(Serialize)]
struct MetaOptions {
    max_chunk_size: usize,
}

fn stream_name(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

fn context(nats: &async_nats::Client, domain: Option<&str>) -> Context {
    match domain.filter(|domain| !domain.is_empty()) {
        Some(domain) => jetstream::with_domain(nats.clone(), domain),
        None => jetstream::new(nats.clone()),
    }
}

/// Pieces that were sent and are not confirmed yet, with their sizes.
type InFlight = VecDeque<(u64, PublishAckFuture)>;

/// Longest wait for these when an upload has failed.
const LANDING: std::time::Duration = std::time::Duration::from_secs(5);

impl Bucket {
    /// A bucket that exists.
    ///
    /// # Errors
    /// [`ArtifactError::NoJetStream`], [`ArtifactError::NoBucket`], [`ArtifactError::Store`].
    pub async fn open(nats: &async_nats::Client, domain: Option<&str>, bucket: &str) -> Result<Self, ArtifactError> {
        let context = context(nats, domain);
        match context.get_stream(stream_name(bucket)).await {
            Ok(stream) => Self::on(nats, context, stream, bucket).await,
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    Err(ArtifactError::NoBucket(bucket.to_owned()))
                }
                _ => Err(explain(&context, bucket, "open it", &error).await),
            },
        }
    }

    /// A bucket, made with room for `max_bytes` if it does not exist.
    ///
    /// # Errors
    /// [`ArtifactError::NoJetStream`], [`ArtifactError::Store`].
    pub async fn open_or_create(
        nats: &async_nats::Client,
        domain: Option<&str>,
        bucket: &str,
        max_bytes: i64,
    ) -> Result<Self, ArtifactError> {
        match Self::open(nats, domain, bucket).await {
            Err(ArtifactError::NoBucket(_)) => {}
            other => return other,
        }
        let context = context(nats, domain);
        let config = Config { bucket: bucket.to_owned(), max_bytes, ..Config::default() };
        match context.create_object_store(config).await {
            // Opened anew: another client may have made it at the same time.
            Ok(_) => Self::open(nats, domain, bucket).await,
            Err(error) => match Self::open(nats, domain, bucket).await {
                Ok(bucket) => Ok(bucket),
                Err(_) => Err(explain(&context, bucket, "make it", &error).await),
            },
        }
    }

    async fn on(
        nats: &async_nats::Client,
        context: Context,
        stream: Stream,
        bucket: &str,
    ) -> Result<Self, ArtifactError> {
        let store = match context.get_object_store(bucket).await {
            Ok(store) => store,
            Err(error) => return Err(explain(&context, bucket, "open it", &error).await),
        };
        Ok(Self { nats: nats.clone(), context, stream, store, name: bucket.to_owned() })
    }

    /// Size and digest of an object, from its description; the content is not read.
    ///
    /// # Errors
    /// [`ArtifactError::NoObject`], [`ArtifactError::NoDigest`], [`ArtifactError::Store`].
    pub async fn info(&self, key: &str) -> Result<Artifact, ArtifactError> {
        let missing = || ArtifactError::NoObject { bucket: self.name.clone(), key: key.to_owned() };
        let info = self.store.info(key).await.map_err(|error| match error.kind() {
            InfoErrorKind::NotFound | InfoErrorKind::InvalidName => missing(),
            _ => self.failed("read an object's description", &error),
        })?;
        if info.deleted {
            return Err(missing());
        }
        let sha256 = info
            .digest
            .as_deref()
            .and_then(sha256_of_digest)
            .ok_or_else(|| ArtifactError::NoDigest { bucket: self.name.clone(), key: key.to_owned() })?;
        Ok(Artifact { size: info.size as u64, sha256 })
    }

    /// Stores a file under a key, replacing what was there. `progress` is told the bytes that are safely stored.
    ///
    /// `expected` is the file as it was when it was examined; a file that changed since is not stored.
    ///
    /// # Errors
    /// [`ArtifactError::Full`], [`ArtifactError::File`], [`ArtifactError::Changed`], [`ArtifactError::Store`].
    pub async fn upload(
        &self,
        key: &str,
        path: &Path,
        expected: &Artifact,
        mut progress: impl FnMut(u64),
    ) -> Result<(), ArtifactError> {
        let previous = self.store.info(key).await.ok().filter(|info| !info.deleted);
        self.make_room(key, expected.size, previous.as_ref().map_or(0, |info| info.size as u64)).await?;
        let nuid = nuid::next().to_string();
        let chunks = format!("$O.{}.C.{nuid}", self.name);
        let mut in_flight = VecDeque::with_capacity(WINDOW);
        let stored = match self.send_chunks(&chunks, path, expected, &mut in_flight, &mut progress).await {
            Ok(count) => self.publish_meta(key, &nuid, expected, count).await,
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            // What is still on its way would arrive after the purge. Best effort: the error that matters is the first.
            let landed = async {
                for (_, ack) in in_flight {
                    let _ = ack.into_future().await;
                }
            };
            let _ = tokio::time::timeout(LANDING, landed).await;
            if let Err(error) = self.stream.purge().filter(&chunks).await {
                tracing::debug!(%error, "chunks of a failed upload stay in the bucket");
            }
            return Err(error);
        }
        if let Some(previous) = previous {
            let old = format!("$O.{}.C.{}", self.name, previous.nuid);
            self.stream
                .purge()
                .filter(&old)
                .await
                .map_err(|error| self.failed("remove the replaced object", &error))?;
        }
        Ok(())
    }

    /// Checks that the file fits before anything is sent. When it only fits in place of the object it replaces, that
    /// one is removed first.
    async fn make_room(&self, key: &str, size: u64, replaced: u64) -> Result<(), ArtifactError> {
        let Ok(limit) = u64::try_from(self.stream.cached_info().config.max_bytes) else { return Ok(()) };
        let used = self.stream.cached_info().state.bytes;
        // Zero means unlimited, as does -1.
        if limit == 0 || used.saturating_add(size) <= limit {
            return Ok(());
        }
        if used.saturating_sub(replaced).saturating_add(size) > limit {
            return Err(ArtifactError::Full { bucket: self.name.clone(), size, used, limit });
        }
        self.store.delete(key).await.map_err(|error| self.failed("remove the replaced object", &error))
    }

    /// Sends the file's chunks, a window of them at a time; returns how many there are.
    async fn send_chunks(
        &self,
        subject: &str,
        path: &Path,
        expected: &Artifact,
        in_flight: &mut InFlight,
        progress: &mut impl FnMut(u64),
    ) -> Result<u64, ArtifactError> {
        let file_error = |source| ArtifactError::File { path: path.to_owned(), source };
        let mut file = tokio::fs::File::open(path).await.map_err(file_error)?;
        file.set_max_buf_size(CHUNK);
        let chunk = CHUNK.min(self.nats.max_payload()).max(1);
        let mut digest = Sha256::new();
        let (mut size, mut count) = (0u64, 0u64);
        loop {
            let mut buffer = Vec::with_capacity(chunk);
            (&mut file).take(chunk as u64).read_to_end(&mut buffer).await.map_err(file_error)?;
            if buffer.is_empty() {
                break;
            }
            digest.update(&buffer);
            size += buffer.len() as u64;
            count += 1;
            if size > expected.size {
                return Err(ArtifactError::Changed(path.to_owned()));
            }
            let length = buffer.len() as u64;
            let ack = self.context.publish(subject.to_owned(), buffer.into()).await;
            in_flight.push_back((length, ack.map_err(|error| self.failed("store a piece of the file", &error))?));
            if in_flight.len() >= WINDOW {
                self.confirm_first(in_flight, progress).await?;
            }
        }
        while !in_flight.is_empty() {
            self.confirm_first(in_flight, progress).await?;
        }
        if size != expected.size || hex::encode(digest.finalize()) != expected.sha256 {
            return Err(ArtifactError::Changed(path.to_owned()));
        }
        Ok(count)
    }

    async fn confirm_first(
        &self,
        in_flight: &mut InFlight,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), ArtifactError> {
        if let Some((length, ack)) = in_flight.pop_front() {
            ack.into_future().await.map_err(|error| self.failed("store a piece of the file", &error))?;
            progress(length);
        }
        Ok(())
    }

    async fn publish_meta(&self, key: &str, nuid: &str, artifact: &Artifact, chunks: u64) -> Result<(), ArtifactError> {
        let doing = "store the object's description";
        let digest = hex::decode(&artifact.sha256).map_err(|error| self.failed(doing, &error))?;
        let meta = Meta {
            name: key,
            bucket: &self.name,
            nuid,
            size: artifact.size,
            chunks,
            mtime: "0001-01-01T00:00:00Z",
            digest: &format!("SHA-256={}", URL_SAFE.encode(digest)),
            options: MetaOptions { max_chunk_size: CHUNK },
        };
        let body = serde_json::to_vec(&meta).map_err(|error| self.failed(doing, &error))?;
        let subject = format!("$O.{}.M.{}", self.name, URL_SAFE.encode(key));
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        let ack = self.context.publish_with_headers(subject, headers, body.into()).await;
        let ack = ack.map_err(|error| self.failed(doing, &error))?;
        ack.await.map(drop).map_err(|error| self.failed(doing, &error))
    }

    fn failed(&self, doing: &'static str, reason: &dyn std::fmt::Display) -> ArtifactError {
        ArtifactError::Store { bucket: self.name.clone(), doing, reason: reason.to_string() }
    }
}

/// Why JetStream failed: because there is none, or for the reason it gives.
async fn explain(
    context: &Context,
    bucket: &str,
    doing: &'static str,
    error: &(dyn std::error::Error + Sync),
) -> ArtifactError {
    match context.query_account().await {
        Err(account) => match account.kind() {
            AccountErrorKind::JetStreamUnavailable => ArtifactError::NoJetStream { reason: None },
            AccountErrorKind::JetStream(e)
                if [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT]
                    .contains(&e.error_code()) =>
            {
                ArtifactError::NoJetStream { reason: Some(e.to_string()) }
            }
            _ => ArtifactError::Store { bucket: bucket.to_owned(), doing, reason: deepest(error) },
        },
        Ok(_) => ArtifactError::Store { bucket: bucket.to_owned(), doing, reason: deepest(error) },
    }
}

/// The text of the cause; those of the wrappers around it say nothing more.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// `SHA-256=<base64url>` to hex.
fn sha256_of_digest(digest: &str) -> Option<String> {
    let (algorithm, value) = digest.split_once('=')?;
    if !algorithm.eq_ignore_ascii_case("SHA-256") {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(value.trim_end_matches('=')).ok()?;
    (bytes.len() == 32).then(|| hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_files_digest_is_its_sha256_and_an_empty_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(Artifact::of_file(&path).unwrap(), Artifact { size: 3, sha256: ABC.into() });
        std::fs::write(&path, "").unwrap();
        assert!(matches!(Artifact::of_file(&path), Err(ArtifactError::Empty(_))));
        assert!(matches!(Artifact::of_file(&dir.path().join("none")), Err(ArtifactError::File { .. })));
    }

    #[test]
    fn an_object_digest_becomes_hex_with_or_without_padding() {
        assert_eq!(sha256_of_digest("SHA-256=ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0=").as_deref(), Some(ABC));
        assert_eq!(sha256_of_digest("sha-256=ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0").as_deref(), Some(ABC));
        for bad in ["", "SHA-256=", "SHA-256=AAAA", "MD5=ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0=", "SHA-256=%%"] {
            assert_eq!(sha256_of_digest(bad), None, "{bad}");
        }
    }
}
