//! `messaging`: messages on the workload connection's subjects.
//!
//! [`Messaging`] is what a backend can do with subjects and headers that were checked; [`Outbox`] checks them, bounds
//! the answers and the waiting. Subjects of the system, of JetStream's interface and of the buckets are refused
//! whatever the node's configuration says, so no message goes past the other services.

mod memory;
mod nats;
mod replies;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nex_protocol::link::host::{HostReply, MessageHead, MessagingRequest};
use nex_protocol::link::message::Headers;
use nex_protocol::subject::{ALWAYS_DENIED, TriggerSubject};
use tokio::time::Instant;

pub use memory::{Inbound, MemoryBus};
pub use nats::NatsMessaging;

use crate::failure::quoted;
use crate::{Answer, Failure, MessagingSettings, Room};

/// Refused beside [`ALWAYS_DENIED`]: the keys of buckets, and the MQTT sessions of a server.
const DENIED_TOO: [&str; 2] = ["$KV.>", "$MQTT.>"];

/// Longest subject, bytes.
const LONGEST_SUBJECT: usize = 1024;

/// Bytes all names and values of a message's headers may have.
const LARGEST_HEADERS: usize = 64 << 10;

/// A message on its way out.
#[derive(Debug, Clone)]
pub struct Outbound<'a> {
    /// Subject.
    pub subject: &'a str,
    /// Headers.
    pub headers: &'a Headers,
    /// Payload.
    pub payload: Bytes,
}

/// A message that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Headers.
    pub headers: Headers,
    /// Payload.
    pub payload: Bytes,
}

/// When the answers to one request are enough.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// So many.
    pub messages: usize,
    /// None for so long after one.
    pub stall: Option<Duration>,
    /// Then.
    pub end: Instant,
}

/// A messaging system.
pub trait Messaging: Send + Sync {
    /// Sends a message.
    fn publish<'a>(&'a self, message: Outbound<'a>) -> Answer<'a, ()>;

    /// Sends a message and passes every answer to `take` until that says it is enough, or a bound is met. That nobody
    /// listens is a failure; that nobody answers is not.
    fn request<'a>(
        &'a self,
        message: Outbound<'a>,
        bounds: Bounds,
        take: &'a mut (dyn FnMut(Reply) -> Result<(), Failure> + Send),
    ) -> Answer<'a, ()>;
}

/// What stands between a request and the messaging system.
#[derive(Debug, Clone)]
pub struct Outbox {
    settings: MessagingSettings,
    denied: Vec<TriggerSubject>,
}

impl Outbox {
    /// Refuses `denied`, and what is always refused.
    pub fn new(settings: MessagingSettings, denied: Vec<TriggerSubject>) -> Self {
        let always = ALWAYS_DENIED.iter().chain(&DENIED_TOO).filter_map(|text| text.parse().ok());
        Self { settings, denied: denied.into_iter().chain(always).collect() }
    }

    /// Does what a request asks, before the deadline.
    pub(crate) async fn call(
        &self,
        system: &dyn Messaging,
        request: &MessagingRequest,
        payload: Bytes,
        room: &Room,
        deadline: Instant,
    ) -> Result<(HostReply, Bytes), Failure> {
        match request {
            MessagingRequest::Publish { subject, headers } => {
                self.check(subject, headers)?;
                system.publish(Outbound { subject, headers, payload }).await?;
                Ok((HostReply::Done, Bytes::new()))
            }
            MessagingRequest::Request { subject, headers, timeout_ms } => {
                self.check(subject, headers)?;
                let end = self.end(*timeout_ms, deadline);
                let bounds = Bounds { messages: 1, stall: None, end };
                let mut answers = Answers::new(&self.settings, room);
                let message = Outbound { subject, headers, payload };
                system.request(message, bounds, &mut |reply| answers.take(reply)).await?;
                if answers.heads.is_empty() {
                    return Err(Failure::timeout("nobody answered in time"));
                }
                Ok(answers.reply())
            }
            MessagingRequest::RequestMany { subject, headers, max_messages, stall_ms, timeout_ms } => {
                self.check(subject, headers)?;
                let messages = match max_messages {
                    Some(0) => return Err(Failure::invalid("maxMessages is at least one")),
                    Some(messages) => usize::try_from(*messages).unwrap_or(usize::MAX),
                    None => usize::MAX,
                };
                // No longer than the end itself, so that no sum of times overflows.
                let stall = stall_ms.map(|stall| Duration::from_millis(stall).min(Duration::from_secs(3600)));
                let bounds = Bounds { messages, stall, end: self.end(*timeout_ms, deadline) };
                let mut answers = Answers::new(&self.settings, room);
                let message = Outbound { subject, headers, payload };
                system.request(message, bounds, &mut |reply| answers.take(reply)).await?;
                Ok(answers.reply())
            }
        }
    }

    /// The request's own end, early enough before the call's that what was collected still arrives.
    fn end(&self, timeout_ms: Option<u64>, deadline: Instant) -> Instant {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let margin = (left / 20).min(Duration::from_millis(100));
        let timeout = timeout_ms.map_or(self.settings.request_timeout, Duration::from_millis);
        now + timeout.min(left.saturating_sub(margin))
    }

    fn check(&self, subject: &str, headers: &Headers) -> Result<(), Failure> {
        if subject.len() > LONGEST_SUBJECT {
            return Err(Failure::invalid(format!("a subject has at most {LONGEST_SUBJECT} bytes")));
        }
        let parsed = subject.parse::<TriggerSubject>().ok().filter(|_| !subject.contains(['*', '>']));
        let Some(parsed) = parsed else {
            let why = "no wildcards, no spaces, no empty part between dots";
            return Err(Failure::invalid(format!("{} is no subject: {why}", quoted(subject))));
        };
        if let Some(denied) = self.denied.iter().find(|denied| denied.overlaps(&parsed)) {
            return Err(Failure::denied(format!("the node denies subjects of {denied}")));
        }
        let size: usize = headers.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
        if size > LARGEST_HEADERS {
            return Err(Failure::too_large(format!("headers have at most {LARGEST_HEADERS} bytes")));
        }
        for (name, value) in headers {
            // What NATS takes for a name: printable ASCII but the colon.
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
                return Err(Failure::invalid(format!("{} is no header", quoted(name))));
            }
            if value.contains(['\r', '\n', '\0']) {
                return Err(Failure::invalid(format!("the value of header {name} has a line break")));
            }
        }
        Ok(())
    }
}

/// Answers as they come in.
struct Answers<'a> {
    settings: &'a MessagingSettings,
    room: &'a Room,
    heads: Vec<MessageHead>,
    bodies: BytesMut,
    single: Option<Bytes>,
    size: usize,
}

impl<'a> Answers<'a> {
    fn new(settings: &'a MessagingSettings, room: &'a Room) -> Self {
        Self { settings, room, heads: Vec::new(), bodies: BytesMut::new(), single: None, size: 0 }
    }

    fn take(&mut self, reply: Reply) -> Result<(), Failure> {
        let headers: usize = reply.headers.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
        self.size = self.size.saturating_add(headers).saturating_add(reply.payload.len());
        if self.size > self.settings.max_reply_bytes {
            return Err(Failure::too_large(format!(
                "the answers have more than {} bytes",
                self.settings.max_reply_bytes
            )));
        }
        self.room.take(headers.saturating_add(reply.payload.len()))?;
        if self.heads.len() >= self.settings.max_replies {
            return Err(Failure::too_large(format!("there are more than {} answers", self.settings.max_replies)));
        }
        self.heads.push(MessageHead { headers: reply.headers, length: reply.payload.len() });
        // The one answer of most requests is passed on, not copied.
        match self.single.take() {
            None if self.heads.len() == 1 => self.single = Some(reply.payload),
            first => {
                self.bodies.extend_from_slice(&first.unwrap_or_default());
                self.bodies.extend_from_slice(&reply.payload);
            }
        }
        Ok(())
    }

    fn reply(self) -> (HostReply, Bytes) {
        let bodies = self.single.unwrap_or_else(|| self.bodies.freeze());
        (HostReply::Messages { messages: self.heads }, bodies)
    }
}
