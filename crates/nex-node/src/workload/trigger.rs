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

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use async_nats::{Client, Message, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use nex_protocol::event::Event;
use nex_protocol::link::message::{Failure, FailureKind, Headers, Outcome};
use nex_protocol::log::Level;
use tokio::task::JoinSet;
use tracing::debug;

use super::call::Gate;
use super::{Counters, Spec};
use crate::connection::round_trip;
use crate::publisher::Publisher;

/// Header with the status of a failed call.
pub const ERROR_CODE: &str = "Nats-Service-Error-Code";

/// Header with the text of a failed call.
pub const ERROR: &str = "Nats-Service-Error";

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

/// Subscriptions of a function; ends them when dropped.
#[derive(Debug)]
pub struct Triggers {
    _subscriptions: JoinSet<()>,
}

impl Triggers {
    /// Subscribes to all trigger subjects. Returns when the server has them.
    ///
    /// # Errors
    /// The text of what the client says.
    pub async fn subscribe(client: &Client, function: &Arc<Function>) -> Result<Self, String> {
        let spec = &function.spec;
        let queue = format!("nex.{}.{}", spec.namespace, spec.name);
        let mut subscriptions = JoinSet::new();
        for subject in &spec.trigger_subjects {
            let mut messages = client
                .queue_subscribe(subject.to_string(), queue.clone())
                .await
                .map_err(|error| format!("cannot subscribe to {subject}: {error}"))?;
            let (client, function) = (client.clone(), Arc::clone(function));
            subscriptions.spawn(async move {
                while let Some(message) = messages.next().await {
                    tokio::spawn(answer(client.clone(), Arc::clone(&function), message));
                }
            });
        }
        round_trip(client).await;
        Ok(Self { _subscriptions: subscriptions })
    }
}

async fn answer(client: Client, function: Arc<Function>, message: Message) {
    let subject = message.subject.to_string();
    let headers = message.headers.as_ref().map(flatten).unwrap_or_default();
    let (elapsed_ns, outcome) = function.gate.call(subject.clone(), headers, message.payload).await;
    let outcome = match message.reply {
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
