//! Events and logs as they come, and as they were where somebody keeps them.
//!
//! Nodes publish both without keeping any. A JetStream stream on `$NEX.events.>` or `$NEX.logs.>` keeps them; then a feed
//! may begin in the past. States of a feed: the past (from the stream, in order), then, when it reaches on, whatever
//! comes. The past and the present are read from one consumer, so that nothing is lost or comes twice between them.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::{self, consumer};
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::SelectAll;
use time::OffsetDateTime;

use crate::denied::Denied;
use crate::error::ClientError;

/// From when, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// What comes from now on.
    Live,
    /// What is kept of so long until now.
    Past(Duration),
    /// What is kept of so long, and what comes.
    PastAndLive(Duration),
}

/// A message of a feed.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its subject.
    pub subject: String,
    /// When it was stored, or came.
    pub time: OffsetDateTime,
    /// Its body.
    pub body: Bytes,
}

/// Messages of some subjects.
pub struct Feed(Source);

enum Source {
    Live {
        messages: SelectAll<Subscriber>,
        subjects: Vec<String>,
        denied: Denied,
    },
    Stored {
        messages: Box<Ordered>,
        follow: bool,
        /// Whether the past is over.
        ended: bool,
        /// Sequence of the last message of the past.
        last: u64,
    },
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

impl Feed {
    pub(crate) async fn open(
        nats: &Client,
        denied: &Denied,
        domain: Option<&str>,
        subjects: Vec<String>,
        reach: Reach,
    ) -> Result<Self, ClientError> {
        match reach {
            Reach::Live => Self::live(nats, denied, subjects).await,
            Reach::Past(since) => Self::stored(nats, domain, subjects, since, false).await,
            Reach::PastAndLive(since) => Self::stored(nats, domain, subjects, since, true).await,
        }
    }

    async fn live(nats: &Client, denied: &Denied, subjects: Vec<String>) -> Result<Self, ClientError> {
        let failed = |error: &dyn std::fmt::Display| ClientError::transport("subscribe", error);
        let mut messages = SelectAll::new();
        for subject in &subjects {
            messages.push(nats.subscribe(subject.clone()).await.map_err(|error| failed(&error))?);
        }
        nats.flush().await.map_err(|error| failed(&error))?;
        Ok(Self(Source::Live { messages, subjects, denied: denied.clone() }))
    }

    async fn stored(
        nats: &Client,
        domain: Option<&str>,
        subjects: Vec<String>,
        since: Duration,
        follow: bool,
    ) -> Result<Self, ClientError> {
        let context = match domain {
            Some(domain) => jetstream::with_domain(nats.clone(), domain),
            None => jetstream::new(nats.clone()),
        };
        let named = subjects.first().cloned().unwrap_or_default();
        let not_stored = |error: &dyn std::fmt::Display| ClientError::NotStored {
            subject: named.clone(),
            reason: error.to_string(),
        };
        let stream = context.stream_by_subject(named.as_str()).await.map_err(|error| not_stored(&error))?;
        let stream = context.get_stream(&stream).await.map_err(|error| not_stored(&error))?;
        let earliest = SystemTime::UNIX_EPOCH;
        let start_time = OffsetDateTime::from(SystemTime::now().checked_sub(since).unwrap_or(earliest).max(earliest));
        // Where the present begins: a stream that others go on writing to would never be read to its end.
        let last = stream.cached_info().state.last_sequence;
        let config = OrderedConfig {
            filter_subjects: subjects,
            deliver_policy: DeliverPolicy::ByStartTime { start_time },
            ..OrderedConfig::default()
        };
        let failed = |error: &dyn std::fmt::Display| ClientError::transport("read the stream", error);
        let consumer: consumer::Consumer<OrderedConfig> =
            stream.create_consumer(config).await.map_err(|error| failed(&error))?;
        let ended = consumer.cached_info().num_pending == 0;
        let messages = Box::new(consumer.messages().await.map_err(|error| failed(&error))?);
        Ok(Self(Source::Stored { messages, follow, ended, last }))
    }

    /// The next message; none when the past is over and no more is wanted, or the connection is closed.
    ///
    /// # Errors
    /// [`ClientError::Denied`] for each subject that this user may not read: the others go on. [`ClientError::Transport`].
    pub async fn next(&mut self) -> Result<Option<Item>, ClientError> {
        match &mut self.0 {
            Source::Live { messages, subjects, denied } => tokio::select! {
                biased;
                (subject, reason) = denied.one_of(subjects) => Err(ClientError::Denied { subject, reason }),
                message = messages.next() => Ok(message.map(|message| Item {
                    subject: message.subject.to_string(),
                    time: OffsetDateTime::now_utc(),
                    body: message.payload,
                })),
            },
            Source::Stored { follow: false, ended: true, .. } => Ok(None),
            Source::Stored { messages, ended, last, .. } => {
                let failed = |error: &dyn std::fmt::Display| ClientError::transport("read the stream", error);
                let Some(message) = messages.next().await else { return Ok(None) };
                let message = message.map_err(|error| failed(&error))?;
                let info = message.info().map_err(|error| failed(&error))?;
                *ended |= info.pending == 0 || info.stream_sequence >= *last;
                let time = info.published;
                Ok(Some(Item { subject: message.subject.to_string(), time, body: message.payload.clone() }))
            }
        }
    }
}
