//! `kv` on NATS: a bucket is a stream as every NATS client makes one for keys, with a history of one.
//!
//! Buckets are made with message times to live allowed; where the server or the bucket's maker knows nothing of them, a
//! ttl is refused. A removed key leaves a marker, for those who watch; where markers can go on their own they do,
//! after an hour, and a watch is then told once more that the key is not there.

use std::time::Duration;

use async_nats::header::{HeaderMap, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MARKER_REASON, NATS_MESSAGE_TTL};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Stream};
use bytes::Bytes;
use futures_util::StreamExt as _;
use nex_protocol::link::host::WatchEvent;

use super::{Entry, Expect, KeyValue, fits};
use crate::stream::{self, Fault, Streams, on_stream};
use crate::{Answer, Download, Failure, StoreSettings};

/// Says what a message does to its key when it does not set it.
const OPERATION: &str = "KV-Operation";

/// How long a removed key is remembered.
const MARKER: Duration = Duration::from_secs(3600);

/// Key-value buckets of a NATS system.
pub struct NatsKeyValue {
    client: async_nats::Client,
    streams: Streams,
}

impl NatsKeyValue {
    /// Buckets reached through a client.
    pub fn new(client: async_nats::Client, settings: StoreSettings) -> Self {
        Self { streams: Streams::new(client.clone(), settings, config), client }
    }

    async fn read(&self, stream: &Stream, bucket: &str, key: &str) -> Result<Option<Last>, Fault> {
        match stream.direct_get_last_for_subject(subject(bucket, key)).await {
            Ok(message) => Ok(Some(Last {
                removed: is_removal(&message.headers),
                entry: Entry { value: message.payload, revision: message.sequence },
            })),
            Err(error) => stream::read(&error).map_or(Ok(None), Err),
        }
    }

    async fn write(
        &self,
        stream: &Stream,
        bucket: &str,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<u64, Fault> {
        let mut headers = HeaderMap::new();
        if let Some(ttl) = ttl {
            if !stream.cached_info().config.allow_message_ttl {
                return Err(Failure::unsupported("a ttl needs nats-server 2.11 and a bucket that allows it").into());
            }
            headers.insert(NATS_MESSAGE_TTL, ttl.as_secs().to_string());
        }
        match expect {
            Expect::Any => {}
            Expect::Absent => headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0"),
            Expect::Revision(revision) => headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string()),
        }
        let stored = self.streams.store(subject(bucket, key), headers.clone(), value.clone()).await;
        // A key that was removed is not there, although the subject has a last message: its marker.
        match stored {
            Err(Fault::Sequence) if expect == Expect::Absent => match self.read(stream, bucket, key).await? {
                Some(last) if last.removed => {
                    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.entry.revision.to_string());
                    self.streams.store(subject(bucket, key), headers, value).await
                }
                _ => Err(Fault::Sequence),
            },
            stored => stored,
        }
    }

    async fn remove(&self, stream: &Stream, bucket: &str, key: &str) -> Result<(), Fault> {
        // No marker for what is not there: removing unknown keys must not fill the bucket.
        if self.read(stream, bucket, key).await?.is_none_or(|last| last.removed) {
            return Ok(());
        }
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "DEL");
        if stream.cached_info().config.allow_message_ttl {
            headers.insert(NATS_MESSAGE_TTL, MARKER.as_secs().to_string());
        }
        match self.streams.store(subject(bucket, key), headers, Bytes::new()).await {
            // Removing has to work in a full bucket too, so there the key goes without a marker.
            Err(Fault::Full) => match stream.purge().filter(subject(bucket, key)).await {
                Ok(_) => Ok(()),
                Err(error) => {
                    tracing::debug!(%error, "cannot purge a key");
                    Err(Failure::unavailable("NATS could not remove it").into())
                }
            },
            stored => stored.map(|_| ()),
        }
    }

    async fn list(&self, stream: &Stream, bucket: &str) -> Result<Vec<String>, Fault> {
        let prefix = subject(bucket, "");
        let filter = subject(bucket, ">");
        let mut keys = Vec::new();
        let mut bytes = 0_usize;
        let Some(mut reading) = stream::last_of_each(&self.client, stream, filter, true).await? else {
            return Ok(keys);
        };
        while let Some(message) = reading.messages.next().await {
            let message = message.map_err(broken)?;
            let pending = message.info().map(|info| info.pending).map_err(broken)?;
            let removed = message.headers.as_ref().is_some_and(is_removal);
            if let Some(key) = message.subject.strip_prefix(prefix.as_str()).filter(|_| !removed) {
                bytes = bytes.saturating_add(key.len());
                keys.push(key.to_owned());
                fits(keys.len(), bytes)?;
            }
            if pending == 0 {
                return Ok(keys);
            }
        }
        Err(Failure::unavailable("the connection to NATS ended").into())
    }

    async fn follow(&self, stream: &Stream, bucket: &str, pattern: &str, events: &Download) -> Result<(), Fault> {
        let prefix = subject(bucket, "");
        let filter = subject(bucket, pattern);
        let (_, mut reading) = stream::read_on(&self.client, stream, filter, DeliverPolicy::New, false).await?;
        loop {
            let message = tokio::select! {
                message = reading.messages.next() => message,
                () = events.closed() => return Ok(()),
            };
            let Some(message) = message else {
                return Err(Failure::unavailable("the connection to NATS ended").into());
            };
            let message = message.map_err(broken)?;
            let revision = message.info().map(|info| info.stream_sequence).map_err(broken)?;
            let deleted = message.headers.as_ref().is_some_and(is_removal);
            let Some(key) = message.subject.strip_prefix(prefix.as_str()) else { continue };
            let event = WatchEvent { key: key.to_owned(), revision, deleted };
            events.event(event, if deleted { Bytes::new() } else { message.payload.clone() }).await?;
        }
    }
}

impl KeyValue for NatsKeyValue {
    fn get<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Option<Entry>> {
        Box::pin(async move {
            let last = on_stream!(self.streams, bucket, stream => self.read(&stream, bucket, key))?;
            Ok(last.filter(|last| !last.removed).map(|last| last.entry))
        })
    }

    fn set<'a>(
        &'a self,
        bucket: &'a str,
        key: &'a str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Answer<'a, u64> {
        Box::pin(async move {
            let stored = on_stream!(
                self.streams, bucket, stream => self.write(&stream, bucket, key, value.clone(), expect, ttl)
            );
            stored.map_err(|failure| super::conflicting(failure, expect))
        })
    }

    fn delete<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { on_stream!(self.streams, bucket, stream => self.remove(&stream, bucket, key)) })
    }

    fn keys<'a>(&'a self, bucket: &'a str) -> Answer<'a, Vec<String>> {
        Box::pin(async move { on_stream!(self.streams, bucket, stream => self.list(&stream, bucket)) })
    }

    fn provision<'a>(&'a self, bucket: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { self.streams.reopen(bucket).await.map(drop) })
    }

    fn watch<'a>(&'a self, bucket: &'a str, pattern: &'a str, events: &'a Download) -> Answer<'a, ()> {
        Box::pin(
            async move { on_stream!(self.streams, bucket, stream => self.follow(&stream, bucket, pattern, events)) },
        )
    }
}

/// The last message of a key's subject.
struct Last {
    entry: Entry,
    removed: bool,
}

fn subject(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// Whether a message takes its key away: somebody removed it, or it outlived its time.
fn is_removal(headers: &HeaderMap) -> bool {
    headers.get(OPERATION).is_some_and(|operation| operation.as_str() != "PUT")
        || headers.get(NATS_MARKER_REASON).is_some()
}

fn broken(error: impl std::fmt::Display) -> Fault {
    tracing::debug!(%error, "cannot read a bucket");
    Failure::unavailable("NATS cannot be read from").into()
}

fn config(bucket: &str, max_bytes: i64) -> Config {
    Config {
        name: format!("KV_{bucket}"),
        description: Some("keys of a nex workload".to_owned()),
        subjects: vec![subject(bucket, ">")],
        max_messages_per_subject: 1,
        max_bytes,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        num_replicas: 1,
        allow_message_ttl: true,
        subject_delete_marker_ttl: Some(MARKER),
        ..Config::default()
    }
}
