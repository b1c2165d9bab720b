//! `messaging` on NATS.

use async_nats::connection::State;
use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use async_nats::{Client, Message, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use nex_protocol::link::host::HostErrorCode;
use nex_protocol::link::message::Headers;
use tokio::time::{Instant, timeout_at};

use super::replies::Replies;
use super::{Bounds, Messaging, Outbound, Reply};
use crate::{Answer, Failure};

/// Core NATS.
pub struct NatsMessaging {
    client: Client,
    replies: Replies,
}

impl NatsMessaging {
    /// Messages through a client.
    pub fn new(client: Client) -> Self {
        Self { replies: Replies::new(client.clone()), client }
    }

    async fn ask(&self, subject: &str, headers: &Headers, reply: String, payload: Bytes) -> Result<(), Failure> {
        let subject = subject.to_owned();
        match to_nats(headers)? {
            None => self.client.publish_with_reply(subject, reply, payload).await,
            Some(headers) => self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
        }
        .map_err(refused)
    }

    fn ready(&self, message: &Outbound<'_>) -> Result<(), Failure> {
        // While it is not connected the client keeps what it is given: better told at once.
        if self.client.connection_state() != State::Connected {
            return Err(Failure::unavailable("NATS is not connected"));
        }
        let largest = self.client.max_payload();
        let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        if message.payload.len().saturating_add(headers) > largest {
            return Err(Failure::too_large(format!("a message of NATS has at most {largest} bytes, headers included")));
        }
        Ok(())
    }
}

impl Messaging for NatsMessaging {
    fn publish<'a>(&'a self, message: Outbound<'a>) -> Answer<'a, ()> {
        Box::pin(async move {
            self.ready(&message)?;
            let Outbound { subject, headers, payload } = message;
            match to_nats(headers)? {
                None => self.client.publish(subject.to_owned(), payload).await,
                Some(headers) => self.client.publish_with_headers(subject.to_owned(), headers, payload).await,
            }
            .map_err(refused)
        })
    }

    fn request<'a>(
        &'a self,
        message: Outbound<'a>,
        bounds: Bounds,
        take: &'a mut (dyn FnMut(Reply) -> Result<(), Failure> + Send),
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            self.ready(&message)?;
            let Outbound { subject, headers, payload } = message;
            if bounds.messages == 1 {
                let pending = self.replies.expect().await.map_err(refused)?;
                self.ask(subject, headers, pending.subject(), payload).await?;
                let Ok(answer) = timeout_at(bounds.end, pending.answer()).await else { return Ok(()) };
                return take(reply(answer)?);
            }
            // Dropping the subscription ends it.
            let inbox = self.client.new_inbox();
            let mut answers = self.client.subscribe(inbox.clone()).await.map_err(refused)?;
            self.ask(subject, headers, inbox, payload).await?;
            let mut end = bounds.end;
            for _ in 0..bounds.messages {
                let Ok(answer) = timeout_at(end, answers.next()).await else { return Ok(()) };
                take(reply(answer)?)?;
                if let Some(stall) = bounds.stall {
                    end = (Instant::now() + stall).min(bounds.end);
                }
            }
            Ok(())
        })
    }
}

/// An answer, or what it means that there is none.
fn reply(answer: Option<Message>) -> Result<Reply, Failure> {
    let Some(answer) = answer else { return Err(Failure::unavailable("the connection to NATS ended")) };
    if answer.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(Failure::new(HostErrorCode::NoResponders, "nobody listens on the subject"));
    }
    Ok(Reply { headers: from_nats(answer.headers.as_ref()), payload: answer.payload })
}

fn refused(error: impl std::fmt::Display) -> Failure {
    tracing::debug!(%error, "cannot send a message");
    Failure::unavailable("NATS did not take the message")
}

fn to_nats(headers: &Headers) -> Result<Option<HeaderMap>, Failure> {
    if headers.is_empty() {
        return Ok(None);
    }
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let invalid = || Failure::invalid(format!("NATS does not take the header {name}"));
        let parsed: HeaderName = name.parse().map_err(|_| invalid())?;
        let value: HeaderValue = value.parse().map_err(|_| invalid())?;
        map.append(parsed, value);
    }
    Ok(Some(map))
}

fn from_nats(headers: Option<&HeaderMap>) -> Headers {
    let Some(headers) = headers else { return Headers::new() };
    let each = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    each.map(|(name, value)| (name.to_string(), value.as_str().to_owned())).collect()
}
