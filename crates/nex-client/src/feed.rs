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
use time::OffsetDateTime;

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

/// Messages of one subject.
pub struct Feed(Source);

enum Source {
    Live(Subscriber),
    Stored {
        messages: Box<Ordered>,
        follow: bool,
        /// Whether the past is over.
        ended: bool,
    },
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

impl Feed {
    /// Opens a feed on a subject, which may have wildcards. Returns when the server has the subscription.
    ///
    /// # Errors
    /// [`ClientError::NotStored`] when the past is wanted and no stream keeps it; [`ClientError::Transport`].
    pub async fn open(nats: &Client, domain: Option<&str>, subject: &str, reach: Reach) -> Result<Self, ClientError> {
        let (since, follow) = match reach {
            Reach::Live => {
                let failed = |error: &dyn std::fmt::Display| ClientError::transport("subscribe", error);
                let live = nats.subscribe(subject.to_owned()).await.map_err(|error| failed(&error))?;
                nats.flush().await.map_err(|error| failed(&error))?;
                return Ok(Self(Source::Live(live)));
            }
            Reach::Past(since) => (since, false),
            Reach::PastAndLive(since) => (since, true),
        };
        let context = match domain {
            Some(domain) => jetstream::with_domain(nats.clone(), domain),
            None => jetstream::new(nats.clone()),
        };
        let not_stored = |error: &dyn std::fmt::Display| ClientError::NotStored {
            subject: subject.to_owned(),
            reason: error.to_string(),
        };
        let stream = context.stream_by_subject(subject).await.map_err(|error| not_stored(&error))?;
        let stream = context.get_stream(&stream).await.map_err(|error| not_stored(&error))?;
        let start_time = OffsetDateTime::from(SystemTime::now().checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH));
        let config = OrderedConfig {
            filter_subject: subject.to_owned(),
            deliver_policy: DeliverPolicy::ByStartTime { start_time },
            ..OrderedConfig::default()
        };
        let failed = |error: &dyn std::fmt::Display| ClientError::transport("read the stream", error);
        let consumer: consumer::Consumer<OrderedConfig> =
            stream.create_consumer(config).await.map_err(|error| failed(&error))?;
        let ended = consumer.cached_info().num_pending == 0;
        let messages = Box::new(consumer.messages().await.map_err(|error| failed(&error))?);
        Ok(Self(Source::Stored { messages, follow, ended }))
    }

    /// The next message; none when the past is over and no more is wanted, or the connection is closed.
    ///
    /// # Errors
    /// [`ClientError::Transport`].
    pub async fn next(&mut self) -> Result<Option<Item>, ClientError> {
        match &mut self.0 {
            Source::Live(live) => Ok(live.next().await.map(|message| Item {
                subject: message.subject.to_string(),
                time: OffsetDateTime::now_utc(),
                body: message.payload,
            })),
            Source::Stored { follow: false, ended: true, .. } => Ok(None),
            Source::Stored { messages, ended, .. } => {
                let failed = |error: &dyn std::fmt::Display| ClientError::transport("read the stream", error);
                let Some(message) = messages.next().await else { return Ok(None) };
                let message = message.map_err(|error| failed(&error))?;
                let info = message.info().map_err(|error| failed(&error))?;
                *ended |= info.pending == 0;
                let time = info.published;
                Ok(Some(Item { subject: message.subject.to_string(), time, body: message.payload.clone() }))
            }
        }
    }
}
