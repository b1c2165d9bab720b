//! Triggers: queue-group subscriptions, and the reply to every message that asks for one.
//!
//! Each trigger subject of a function is a subscription in the queue group `nex.<namespace>.<name>`, so that copies
//! of a function on several nodes share the messages. Subscriptions outlive agents: they belong to the workload. The
//! client subscribes again by itself after a lost connection.
//!
//! A failed call is answered at once: empty body, headers `Nats-Service-Error-Code` and `Nats-Service-Error`, as NATS
//! services do (<https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md>). The reply leaves
//! before anything is counted, logged or published about the call.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use async_nats::{Client, Message, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use nex_protocol::event::Event;
use nex_protocol::link::message::{Failure, FailureKind, Headers, Outcome};
use nex_protocol::log::Level;
use nex_protocol::subject;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::call::Gate;
use super::{Counters, Spec};
use crate::connection::Connection;
use crate::publisher::Publisher;

/// Header with the status of a failed call.
pub const ERROR_CODE: &str = "Nats-Service-Error-Code";

/// Header with the text of a failed call.
pub const ERROR: &str = "Nats-Service-Error";

/// Time the server has to send what is under way when subscriptions are drained.
const DRAIN: Duration = Duration::from_secs(1);

/// What a call needs of its workload.
#[derive(Debug)]
pub struct Function {
    /// Id of the workload.
    pub id: String,
    /// What it is.
    pub spec: Arc<Spec>,
    /// The way in.
    pub gate: Gate,
    /// Its counters.
    pub counters: Arc<Counters>,
    /// For events and logs.
    pub publisher: Publisher,
}

/// Subscriptions of a function. Dropping them ends them at once; [`Triggers::drain`] loses no message.
#[derive(Debug)]
pub struct Triggers {
    draining: CancellationToken,
    subscriptions: JoinSet<()>,
    // A connection of the function's own lives as long as its subscriptions.
    _connection: Connection,
}

impl Triggers {
    /// Subscribes to all trigger subjects. Returns when the server has them.
    ///
    /// # Errors
    /// What the client or the server says against it.
    pub async fn subscribe(connection: Connection, function: &Arc<Function>) -> Result<Self, String> {
        let spec = &function.spec;
        let queue = format!("nex.{}.{}", spec.namespace, spec.name);
        let subjects: Vec<String> = spec.trigger_subjects.iter().map(ToString::to_string).collect();
        let draining = CancellationToken::new();
        let mut subscriptions = JoinSet::new();
        for subject in &subjects {
            let messages = connection
                .client
                .queue_subscribe(subject.clone(), queue.clone())
                .await
                .map_err(|error| format!("cannot subscribe to {subject}: {error}"))?;
            let client = connection.client.clone();
            subscriptions.spawn(listen(client, Arc::clone(function), messages, draining.clone()));
        }
        connection.subscribed(&subjects).await.map_err(|denial| format!("cannot subscribe: {denial}"))?;
        Ok(Self { draining, subscriptions, _connection: connection })
    }

    /// Takes no more messages, and answers those that the server has already sent here.
    pub async fn drain(mut self) {
        self.draining.cancel();
        let ended = async { while self.subscriptions.join_next().await.is_some() {} };
        // A server that is away sends nothing more.
        let _ = timeout(DRAIN, ended).await;
    }
}

async fn listen(client: Client, function: Arc<Function>, mut messages: Subscriber, draining: CancellationToken) {
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = draining.cancelled() => {
                if messages.drain().await.is_err() {
                    return;
                }
                break;
            }
        };
        let Some(message) = message else { return };
        tokio::spawn(answer(client.clone(), Arc::clone(&function), message));
    }
    while let Some(message) = messages.next().await {
        tokio::spawn(answer(client.clone(), Arc::clone(&function), message));
    }
}

async fn answer(client: Client, function: Arc<Function>, message: Message) {
    let subject = message.subject.to_string();
    let headers = message.headers.as_ref().map(flatten).unwrap_or_default();
    let (elapsed_ns, outcome) = function.gate.call(subject.clone(), headers, message.payload).await;
    let outcome = match message.reply {
        Some(reply) if !subject::may_be_answered_to(&reply) => {
            let text = format!("the reply subject {reply} is not one that a function may publish to");
            Err(Failure::new(FailureKind::Function, text))
        }
        Some(reply) => send(&client, reply, outcome).await,
        None => outcome.map(drop),
    };
    account(&function, subject, elapsed_ns, outcome);
}

/// Sends the reply of a call. A result that cannot be sent turns into a failure that can.
async fn send(client: &Client, reply: Subject, outcome: Outcome) -> Result<(), Failure> {
    let failure = match outcome {
        Ok((headers, body)) => {
            let sent = if headers.is_empty() {
                client.publish(reply.clone(), body).await
            } else {
                client.publish_with_headers(reply.clone(), unflatten(&headers), body).await
            };
            match sent {
                Ok(()) => return Ok(()),
                Err(error) => Failure::new(FailureKind::ReplyTooLarge, format!("the reply cannot be sent: {error}")),
            }
        }
        Err(failure) => failure,
    };
    let mut headers = HeaderMap::new();
    headers.insert(ERROR_CODE, failure.kind.status().to_string().as_str());
    headers.insert(ERROR, header_value(&failure.message));
    if let Err(error) = client.publish_with_headers(reply, headers, Bytes::new()).await {
        debug!(%error, "cannot send an error reply");
    }
    Err(failure)
}

/// Everything that happens after the reply.
fn account(function: &Function, trigger_subject: String, elapsed_ns: u64, outcome: Result<(), Failure>) {
    let Function { id, spec, counters, publisher, .. } = function;
    counters.runtime_ns.fetch_add(elapsed_ns, Ordering::Relaxed);
    let (workload_name, namespace) = (spec.name.to_string(), spec.namespace.to_string());
    let event = match outcome {
        Ok(()) => {
            counters.succeeded.fetch_add(1, Ordering::Relaxed);
            Event::FunctionExecSucceeded {
                workload_name,
                workload_id: id.clone(),
                trigger_subject,
                elapsed_nanos: elapsed_ns,
                namespace,
            }
        }
        Err(failure) => {
            counters.failed.fetch_add(1, Ordering::Relaxed);
            let text = format!("call on {trigger_subject} failed: {failure}");
            publisher.log(&spec.namespace, id, &spec.name, Level::Error, text);
            Event::FunctionExecFailed {
                workload_name,
                workload_id: id.clone(),
                trigger_subject,
                namespace,
                error: failure.message,
            }
        }
    };
    publisher.workload_event(&spec.namespace, &event);
}

fn flatten(headers: &HeaderMap) -> Headers {
    headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string())))
        .collect()
}

/// Headers a function set; those that are not valid in NATS are left out.
fn unflatten(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            map.append(name, value);
        }
    }
    map
}

/// One line, and not longer than a header should be.
fn header_value(text: &str) -> HeaderValue {
    let line: String = text.chars().filter(|c| !c.is_control()).take(1024).collect();
    HeaderValue::from(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_their_values_and_bad_ones_are_left_out() {
        let headers = vec![
            ("A".to_owned(), "1".to_owned()),
            ("A".to_owned(), "2".to_owned()),
            ("b c:".to_owned(), "x".to_owned()),
        ];
        let map = unflatten(&headers);
        assert_eq!(flatten(&map), headers[..2].to_vec());
    }
}
