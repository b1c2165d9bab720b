//! `objectStore` on NATS: buckets in the form every NATS client knows, so that others can read what functions store.
//!
//! An upload runs in a task of its own: when the call is dropped, the task waits for the chunk that is on its way and
//! then purges what it stored. A download asks for one chunk after the other, so what is in memory is one chunk. The
//! names of objects and the ids of their chunks are encoded; a link to another bucket, which other clients can make, is
//! never followed.

use std::sync::Arc;

use async_nats::header::{HeaderMap, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_ROLLUP};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Stream};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use futures_util::StreamExt as _;
use nex_protocol::link::host::ObjectInfo;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::{ObjectStore, Source, digest_text, fits, now};
use crate::stream::{self, Fault, Streams, on_stream};
use crate::{Answer, Download, Failure, StoreSettings};

/// Bytes of one message. A link's chunk is never larger; a body can be.
const CHUNK: usize = 128 << 10;

/// How often an object's record is written anew when somebody else was faster.
const ATTEMPTS: usize = 16;

/// Object buckets of a NATS system.
pub struct NatsObjectStore {
    inner: Arc<Inner>,
}

struct Inner {
    client: async_nats::Client,
    streams: Streams,
}

/// What object stores keep of an object, as all NATS clients write it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Meta {
    name: String,
    bucket: String,
    #[serde(default)]
    nuid: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    chunks: u64,
    #[serde(default, rename = "mtime", skip_serializing_if = "Option::is_none")]
    modified: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    options: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Meta {
    fn info(self) -> ObjectInfo {
        ObjectInfo { name: self.name, size: self.size, digest: self.digest, modified: self.modified }
    }

    /// Whether it has chunks of its own: ids of chunks are one word, whoever wrote them.
    fn has_chunks(&self) -> bool {
        !self.nuid.is_empty() && self.nuid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    }

    fn is_link(&self) -> bool {
        self.options.as_ref().and_then(|options| options.get("link")).is_some_and(|link| !link.is_null())
    }
}

impl NatsObjectStore {
    /// Buckets reached through a client.
    pub fn new(client: async_nats::Client, settings: StoreSettings) -> Self {
        let streams = Streams::new(client.clone(), settings, config);
        Self { inner: Arc::new(Inner { client, streams }) }
    }
}

impl Inner {
    /// What is known of an object, and where that stands in the stream; also of one that was removed.
    async fn find(&self, stream: &Stream, bucket: &str, name: &str) -> Result<Option<(u64, Meta)>, Fault> {
        match stream.direct_get_last_for_subject(meta_subject(bucket, name)).await {
            Ok(message) => Ok(Some((message.sequence, decode(&message.payload)?))),
            Err(error) => stream::read(&error).map_or(Ok(None), Err),
        }
    }

    async fn present(&self, stream: &Stream, bucket: &str, name: &str) -> Result<Option<(u64, Meta)>, Fault> {
        Ok(self.find(stream, bucket, name).await?.filter(|(_, meta)| !meta.deleted))
    }

    /// Stores an object whole, or purges what it stored of it. Given up when nobody waits for the answer.
    async fn upload(
        &self,
        bucket: &str,
        name: &str,
        mut source: Source,
        answer: &mut oneshot::Sender<Result<ObjectInfo, Failure>>,
    ) -> Result<ObjectInfo, Failure> {
        let stream = self.streams.reopen(bucket).await?;
        let nuid = nuid::next().to_string();
        let stored = match self.chunks(bucket, name, nuid.clone(), &mut source, answer).await {
            Ok(meta) => self.publish(&stream, &meta).await.map(|()| meta.info()),
            Err(fault) => Err(fault),
        };
        match stored {
            Err(fault) => {
                self.purge(&stream, chunk_subject(bucket, &nuid)).await;
                Err(self.streams.failure(fault))
            }
            Ok(info) => Ok(info),
        }
    }

    async fn chunks(
        &self,
        bucket: &str,
        name: &str,
        nuid: String,
        source: &mut Source,
        answer: &mut oneshot::Sender<Result<ObjectInfo, Failure>>,
    ) -> Result<Meta, Fault> {
        let longest = CHUNK.min(self.client.max_payload().max(1));
        let (mut size, mut chunks, mut digest) = (0_u64, 0_u64, Sha256::new());
        loop {
            let next = tokio::select! {
                biased;
                () = answer.closed() => return Err(Failure::unavailable("the upload was given up").into()),
                next = source.next() => next?,
            };
            let Some(mut bytes) = next else { break };
            digest.update(&bytes);
            size = size.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            while !bytes.is_empty() {
                let chunk = bytes.split_to(bytes.len().min(longest));
                self.streams.store(chunk_subject(bucket, &nuid), HeaderMap::new(), chunk).await?;
                chunks = chunks.saturating_add(1);
            }
        }
        let options = serde_json::Map::from_iter([("max_chunk_size".to_owned(), CHUNK.into())]);
        Ok(Meta {
            name: name.to_owned(),
            bucket: bucket.to_owned(),
            nuid,
            size,
            chunks,
            modified: now(),
            digest: Some(digest_text(&digest.finalize())),
            deleted: false,
            options: Some(options),
        })
    }

    /// Makes the chunks an object, in the place of the one before, whose chunks go. Two at once take turns, so that
    /// the chunks of neither are forgotten.
    async fn publish(&self, stream: &Stream, meta: &Meta) -> Result<(), Fault> {
        let text = serde_json::to_vec(meta).map_err(|_| Failure::invalid("the name cannot be written"))?;
        let text = Bytes::from(text);
        for _ in 0..ATTEMPTS {
            let before = self.find(stream, &meta.bucket, &meta.name).await?;
            let mut headers = HeaderMap::new();
            headers.insert(NATS_ROLLUP, "sub");
            let sequence = before.as_ref().map_or(0, |(sequence, _)| *sequence);
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.to_string());
            match self.streams.store(meta_subject(&meta.bucket, &meta.name), headers, text.clone()).await {
                Ok(_) => {}
                Err(Fault::Sequence) => continue,
                // It may have been stored although nobody said so; the chunks of a stored object have to stay.
                Err(Fault::Failed(failure)) => match self.find(stream, &meta.bucket, &meta.name).await {
                    Ok(Some((_, stored))) if stored.nuid == meta.nuid => {}
                    _ => return Err(failure.into()),
                },
                Err(fault) => return Err(fault),
            }
            if let Some((_, before)) = before.filter(|(_, before)| before.has_chunks()) {
                self.purge(stream, chunk_subject(&meta.bucket, &before.nuid)).await;
            }
            return Ok(());
        }
        Err(Fault::Sequence)
    }

    async fn download(
        &self,
        stream: &Stream,
        bucket: &str,
        name: &str,
        sink: &Download,
    ) -> Result<Option<ObjectInfo>, Fault> {
        let Some((_, meta)) = self.present(stream, bucket, name).await? else { return Ok(None) };
        if meta.is_link() {
            return Err(Failure::unsupported("the object is a link, which functions do not follow").into());
        }
        let changed = || Failure::unavailable("the object was changed or damaged while it was read");
        if meta.chunks > 0 && !meta.has_chunks() {
            return Err(changed().into());
        }
        let subject = chunk_subject(bucket, &meta.nuid);
        let (mut from, mut digest, mut size) = (1_u64, Sha256::new(), 0_u64);
        for _ in 0..meta.chunks {
            let message = match stream.direct_get_next_for_subject(subject.clone(), Some(from)).await {
                Ok(message) => message,
                Err(error) => return Err(stream::read(&error).unwrap_or_else(|| changed().into())),
            };
            from = message.sequence.saturating_add(1);
            size = size.saturating_add(u64::try_from(message.payload.len()).unwrap_or(u64::MAX));
            digest.update(&message.payload);
            sink.bytes(message.payload).await?;
        }
        let digest = digest_text(&digest.finalize());
        // Go pads a digest, others do not.
        let same = |of: &String| of.trim_end_matches('=') == digest.trim_end_matches('=');
        if size != meta.size || !meta.digest.as_ref().is_none_or(same) {
            return Err(changed().into());
        }
        Ok(Some(meta.info()))
    }

    async fn remove(&self, stream: &Stream, bucket: &str, name: &str) -> Result<(), Fault> {
        let Some((sequence, meta)) = self.find(stream, bucket, name).await? else { return Ok(()) };
        // Purged and not marked as removed, so that removing frees what the bucket holds; an object stored in the
        // meantime is beyond the sequence and stays.
        let purged = stream.purge().filter(meta_subject(bucket, name)).sequence(sequence.saturating_add(1)).await;
        if let Err(error) = purged {
            tracing::debug!(%error, "cannot remove an object");
            return Err(Failure::unavailable("NATS could not remove it").into());
        }
        if meta.has_chunks() {
            self.purge(stream, chunk_subject(bucket, &meta.nuid)).await;
        }
        Ok(())
    }

    async fn all(&self, stream: &Stream, bucket: &str) -> Result<Vec<ObjectInfo>, Fault> {
        let filter = format!("$O.{bucket}.M.>");
        let mut objects = Vec::new();
        let Some(mut reading) = stream::last_of_each(&self.client, stream, filter, false).await? else {
            return Ok(objects);
        };
        while let Some(message) = reading.messages.next().await {
            let message = message.map_err(broken)?;
            let pending = message.info().map(|info| info.pending).map_err(broken)?;
            let meta = decode(&message.payload)?;
            if !meta.deleted {
                objects.push(meta.info());
                fits(objects.len())?;
            }
            if pending == 0 {
                return Ok(objects);
            }
        }
        Err(Failure::unavailable("the connection to NATS ended").into())
    }

    /// Removes messages that nothing refers to any more. What is left behind by a failure costs room, and nothing else.
    async fn purge(&self, stream: &Stream, subject: String) {
        if let Err(error) = stream.purge().filter(subject).await {
            tracing::warn!(%error, "cannot purge an object's chunks");
        }
    }
}

impl ObjectStore for NatsObjectStore {
    fn put<'a>(&'a self, bucket: &'a str, name: &'a str, source: Source) -> Answer<'a, ObjectInfo> {
        Box::pin(async move {
            let (mut sender, receiver) = oneshot::channel();
            let (inner, bucket, name) = (Arc::clone(&self.inner), bucket.to_owned(), name.to_owned());
            tokio::spawn(async move {
                let stored = inner.upload(&bucket, &name, source, &mut sender).await;
                // Nobody waits for it when the call was given up.
                let _ = sender.send(stored);
            });
            receiver.await.map_err(|_| Failure::unavailable("the upload was given up"))?
        })
    }

    fn get<'a>(&'a self, bucket: &'a str, name: &'a str, sink: &'a Download) -> Answer<'a, Option<ObjectInfo>> {
        let Inner { streams, .. } = &*self.inner;
        Box::pin(async move { on_stream!(streams, bucket, stream => self.inner.download(&stream, bucket, name, sink)) })
    }

    fn delete<'a>(&'a self, bucket: &'a str, name: &'a str) -> Answer<'a, ()> {
        let Inner { streams, .. } = &*self.inner;
        Box::pin(async move { on_stream!(streams, bucket, stream => self.inner.remove(&stream, bucket, name)) })
    }

    fn info<'a>(&'a self, bucket: &'a str, name: &'a str) -> Answer<'a, Option<ObjectInfo>> {
        let Inner { streams, .. } = &*self.inner;
        Box::pin(async move {
            let found = on_stream!(streams, bucket, stream => self.inner.present(&stream, bucket, name))?;
            Ok(found.map(|(_, meta)| meta.info()))
        })
    }

    fn provision<'a>(&'a self, bucket: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { self.inner.streams.reopen(bucket).await.map(drop) })
    }

    fn list<'a>(&'a self, bucket: &'a str) -> Answer<'a, Vec<ObjectInfo>> {
        let Inner { streams, .. } = &*self.inner;
        Box::pin(async move { on_stream!(streams, bucket, stream => self.inner.all(&stream, bucket)) })
    }
}

fn meta_subject(bucket: &str, name: &str) -> String {
    format!("$O.{bucket}.M.{}", URL_SAFE.encode(name))
}

fn chunk_subject(bucket: &str, nuid: &str) -> String {
    format!("$O.{bucket}.C.{nuid}")
}

fn decode(payload: &[u8]) -> Result<Meta, Fault> {
    serde_json::from_slice(payload).map_err(broken)
}

fn broken(error: impl std::fmt::Display) -> Fault {
    tracing::debug!(%error, "cannot read an object's record");
    Failure::unavailable("NATS cannot be read from").into()
}

fn config(bucket: &str, max_bytes: i64) -> Config {
    Config {
        name: format!("OBJ_{bucket}"),
        description: Some("objects of a nex workload".to_owned()),
        subjects: vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
        max_bytes,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        allow_direct: true,
        num_replicas: 1,
        ..Config::default()
    }
}
