//! Streams under buckets: opened once, made on first use, opened again when somebody removed one; and what their
//! errors mean.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::header::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::{Ordered, OrderedConfig};
use async_nats::jetstream::context::{Context, CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DirectGetError, DirectGetErrorKind, Stream};
use async_nats::{StatusCode, jetstream};
use bytes::Bytes;
use serde::Deserialize;

use crate::{Answer, Failure, StoreSettings};

/// Open streams remembered before all are forgotten.
const MANY: usize = 4096;

/// How long the server may take to say that a message is stored.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why something with a stream failed; what callers can do something about, apart.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The stream is gone: open it again.
    Gone,
    /// The subject is at another sequence.
    Sequence,
    /// The stream has no room.
    Full,
    /// There is nothing to be done.
    Failed(Failure),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Fault::Failed(failure)
    }
}

/// Does something with a bucket's stream, once more when the stream turned out to be gone.
macro_rules! on_stream {
    ($streams:expr, $bucket:expr, $stream:ident => $work:expr) => {{
        let $stream = $streams.open($bucket).await?;
        let done = match $work.await {
            Err($crate::stream::Fault::Gone) => {
                let $stream = $streams.reopen($bucket).await?;
                $work.await
            }
            done => done,
        };
        done.map_err(|fault| $streams.failure(fault))
    }};
}
pub(crate) use on_stream;

/// The streams of one service.
pub(crate) struct Streams {
    client: async_nats::Client,
    context: Context,
    settings: StoreSettings,
    config: fn(&str, i64) -> Config,
    open: Mutex<HashMap<String, Arc<Stream>>>,
}

impl Streams {
    /// Streams configured by `config`, a function of the bucket's name and its largest size.
    pub(crate) fn new(client: async_nats::Client, settings: StoreSettings, config: fn(&str, i64) -> Config) -> Self {
        Self { context: jetstream::new(client.clone()), client, settings, config, open: Mutex::default() }
    }

    /// The bucket's stream.
    pub(crate) async fn open(&self, bucket: &str) -> Result<Arc<Stream>, Failure> {
        let known = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(bucket).cloned();
        match known {
            Some(stream) => Ok(stream),
            None => self.reopen(bucket).await,
        }
    }

    /// The bucket's stream as it is now, made when it is not there.
    ///
    /// Apart, for asking JetStream for a stream takes a larger future than anything else, and every call would have room
    /// for it.
    pub(crate) fn reopen<'a>(&'a self, bucket: &'a str) -> Answer<'a, Arc<Stream>> {
        Box::pin(self.find_or_make(bucket))
    }

    async fn find_or_make(&self, bucket: &str) -> Result<Arc<Stream>, Failure> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(bucket);
        let mut config = (self.config)(bucket, self.settings.max_bytes);
        config.max_bytes = if self.settings.max_bytes > 0 { self.settings.max_bytes } else { -1 };
        let mut found = self.look_up(&config.name).await?;
        if found.is_none() && self.settings.jit_provision {
            found = match self.context.create_stream(config.clone()).await {
                Ok(stream) => Some(stream),
                // Somebody else made it in the meantime, as another release would.
                Err(error) if create_code(&error) == Some(ErrorCode::STREAM_NAME_EXIST) => {
                    self.look_up(&config.name).await?
                }
                Err(error) => {
                    tracing::debug!(bucket, %error, "cannot make a bucket");
                    return Err(match error.kind() {
                        CreateStreamErrorKind::TimedOut => Failure::timeout("NATS did not make the bucket in time"),
                        CreateStreamErrorKind::JetStreamUnavailable => {
                            Failure::unavailable("JetStream is not available on the workload connection")
                        }
                        _ => Failure::unavailable("NATS refused to make the bucket"),
                    });
                }
            };
        }
        let stream = Arc::new(found.ok_or_else(Failure::no_bucket)?);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MANY {
            open.clear();
        }
        open.insert(bucket.to_owned(), Arc::clone(&stream));
        Ok(stream)
    }

    async fn look_up(&self, name: &str) -> Result<Option<Stream>, Failure> {
        match self.context.get_stream(name).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(cause) if cause.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
                _ => {
                    tracing::debug!(name, %error, "cannot open a bucket");
                    Err(Failure::unavailable("JetStream is not available on the workload connection"))
                }
            },
        }
    }

    /// Stores a message and waits until it is; its sequence.
    pub(crate) async fn store(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<u64, Fault> {
        // Asked as a request and not through the client's own publishing, which hides the reason of a refusal.
        let request = async_nats::Request::new().headers(headers).payload(payload).timeout(Some(PATIENCE));
        let answer = self.client.send_request(subject, request).await.map_err(|error| not_sent(&error))?;
        match serde_json::from_slice::<Ack>(&answer.payload) {
            Ok(Ack { error: Some(error), .. }) => Err(not_stored(&error)),
            Ok(Ack { seq, error: None }) if seq > 0 => Ok(seq),
            // Somebody else than JetStream answers on the bucket's subjects.
            Ok(_) | Err(_) => Err(Failure::unavailable("NATS could not store it").into()),
        }
    }

    /// What a fault means to the caller once nothing more is tried.
    pub(crate) fn failure(&self, fault: Fault) -> Failure {
        match fault {
            Fault::Gone => Failure::unavailable("the workload's bucket was removed while it was used"),
            Fault::Sequence => Failure::conflict("it was changed in the meantime"),
            Fault::Full => Failure::full(self.settings.max_bytes),
            Fault::Failed(failure) => failure,
        }
    }
}

/// Messages of a stream, and the consumer at the server that brings them; it goes when this is dropped. Left alone the
/// server would keep it for half a minute more, and a function that lists in a loop would fill the server with them.
pub(crate) struct Reading {
    /// The messages.
    pub(crate) messages: Ordered,
    _consumer: AtServer,
}

/// A consumer at the server.
struct AtServer {
    client: async_nats::Client,
    delete: String,
}

impl Drop for AtServer {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (client, delete) = (self.client.clone(), std::mem::take(&mut self.delete));
        runtime.spawn(async move {
            // Nobody waits for the answer; the server wants somewhere to send it. What is not deleted now, it will
            // delete by itself.
            let _ = client.publish_with_reply(delete, client.new_inbox(), Bytes::new()).await;
        });
    }
}

/// Messages under a filter, from an ordered consumer, and how many there are already.
pub(crate) async fn read_on(
    client: &async_nats::Client,
    stream: &Stream,
    filter: String,
    deliver_policy: DeliverPolicy,
    headers_only: bool,
) -> Result<(u64, Reading), Fault> {
    let config = OrderedConfig {
        deliver_subject: client.new_inbox(),
        filter_subject: filter,
        headers_only,
        deliver_policy,
        ..OrderedConfig::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(consumed)?;
    let info = consumer.cached_info();
    let delete = format!("$JS.API.CONSUMER.DELETE.{}.{}", info.stream_name, info.name);
    let (pending, at_server) = (info.num_pending, AtServer { client: client.clone(), delete });
    match consumer.messages().await {
        Ok(messages) => Ok((pending, Reading { messages, _consumer: at_server })),
        Err(error) => {
            tracing::debug!(%error, "cannot read a bucket");
            Err(Failure::unavailable("NATS cannot be read from").into())
        }
    }
}

/// The last message of every subject under a filter; `None` when there is none.
pub(crate) async fn last_of_each(
    client: &async_nats::Client,
    stream: &Stream,
    filter: String,
    headers_only: bool,
) -> Result<Option<Reading>, Fault> {
    let (pending, reading) = read_on(client, stream, filter, DeliverPolicy::LastPerSubject, headers_only).await?;
    Ok((pending > 0).then_some(reading))
}

/// What an error of a consumer's making means.
fn consumed(error: jetstream::stream::ConsumerError) -> Fault {
    use jetstream::stream::ConsumerErrorKind;
    tracing::debug!(%error, "cannot read a bucket");
    match error.kind() {
        ConsumerErrorKind::JetStream(cause) if cause.error_code() == ErrorCode::STREAM_NOT_FOUND => Fault::Gone,
        ConsumerErrorKind::TimedOut => Failure::timeout("NATS did not answer in time").into(),
        _ => Failure::unavailable("NATS cannot be read from").into(),
    }
}

/// What an error of a read means; `None` when there is no such message.
pub(crate) fn read(error: &DirectGetError) -> Option<Fault> {
    match error.kind() {
        DirectGetErrorKind::NotFound => None,
        DirectGetErrorKind::ErrorResponse(status, _) if status == StatusCode::NO_RESPONDERS => Some(Fault::Gone),
        DirectGetErrorKind::TimedOut => Some(Failure::timeout("NATS did not answer in time").into()),
        _ => {
            tracing::debug!(%error, "cannot read from a bucket");
            Some(Failure::unavailable("NATS cannot be read from").into())
        }
    }
}

fn create_code(error: &CreateStreamError) -> Option<ErrorCode> {
    match error.kind() {
        CreateStreamErrorKind::JetStream(cause) => Some(cause.error_code()),
        _ => None,
    }
}

/// What the server says about a message that was to be stored.
#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    seq: u64,
    error: Option<AckError>,
}

#[derive(Deserialize)]
struct AckError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Codes of JetStream's catalogue.
mod code {
    pub(super) const RESOURCES: u64 = 10_023;
    pub(super) const STORAGE: u64 = 10_047;
    pub(super) const TOO_LARGE: u64 = 10_054;
    pub(super) const WRONG_LAST_SEQUENCE: u64 = 10_071;
    pub(super) const STORE_FAILED: u64 = 10_077;
    pub(super) const WRONG_LAST_SEQUENCE_CONSTANT: u64 = 10_164;
    pub(super) const TTL_INVALID: u64 = 10_165;
    pub(super) const TTL_DISABLED: u64 = 10_166;
}

fn not_stored(error: &AckError) -> Fault {
    match error.err_code {
        code::WRONG_LAST_SEQUENCE | code::WRONG_LAST_SEQUENCE_CONSTANT => Fault::Sequence,
        // The server has one code for a store that failed, and a text for the reason.
        code::STORE_FAILED if error.description.contains("maximum bytes") => Fault::Full,
        code::TOO_LARGE => Failure::too_large("larger than the bucket takes").into(),
        code::RESOURCES | code::STORAGE => {
            Failure::too_large("the workload connection's account has no storage left").into()
        }
        code::TTL_DISABLED => Failure::unsupported("this bucket does not support a ttl").into(),
        code::TTL_INVALID => Failure::invalid("the server does not take this ttl").into(),
        code => {
            tracing::debug!(code, error = error.description, "a message was not stored");
            Failure::unavailable("NATS could not store it").into()
        }
    }
}

fn not_sent(error: &async_nats::client::RequestError) -> Fault {
    match error.kind() {
        RequestErrorKind::NoResponders => Fault::Gone,
        RequestErrorKind::MaxPayloadExceeded => Failure::too_large("larger than a message of NATS may be").into(),
        RequestErrorKind::TimedOut => Failure::timeout("NATS did not answer in time").into(),
        _ => {
            tracing::debug!(%error, "cannot store a message");
            Failure::unavailable("NATS could not store it").into()
        }
    }
}
