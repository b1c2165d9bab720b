//! Triggers: queue-group subscriptions, and the reply to every message that asks for one.
//!
//! Each trigger subject of a function is a subscription in the queue group `nex.<namespace>.<name>`, so that copies
//! of a function on several nodes share the messages. Subscriptions outlive agents: they belong to the workload.
//!
//! ```text
//! subscribed --denied, or ended by the client--> failed (told once) --subscribed again--> subscribed
//!     +--draining--> (gone)                         +--draining--> (gone)
//! ```
//! The client subscribes again by itself after a lost connection; when the server then denies what it once allowed, that
//! is told, and tried again until it is allowed.
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
use nex_client::connection::in_queue;
use nex_protocol::event::Event;
use nex_protocol::link::message::{Failure, FailureKind, Headers, Outcome};
use nex_protocol::log::Level;
use nex_protocol::subject;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::gate::Gate;
use super::leave::{TRIP, leave};
use super::{Counters, Spec};
use crate::connection::Connection;
use crate::publisher::Publisher;

/// Header with the status of a failed call.
pub const ERROR_CODE: &str = "Nats-Service-Error-Code";

/// Header with the text of a failed call.
pub const ERROR: &str = "Nats-Service-Error";

/// Time between two attempts to subscribe to what was denied.
const AGAIN: Duration = Duration::from_secs(2);

/// Time that draining subscriptions may take: what leaving takes, and then the client's own drain.
const DRAIN: Duration = TRIP.saturating_add(Duration::from_millis(500));

/// What a call needs of its workload.
#[derive(Debug)]
pub struct Function {
    /// Id of the workload.
    pub id: String,
    /// What it is.
    pub spec: Arc<Spec>,
    /// The way in.
    pub gate: Arc<Gate>,
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
        let mut subscribed = Vec::new();
        let names: Vec<String> = subjects.iter().map(|subject| in_queue(subject, &queue)).collect();
        for name in &names {
            // Of an earlier workload of this name, which nobody asked for any more.
            while connection.denied.subscription(name).is_some() {}
        }
        for (subject, name) in subjects.iter().zip(&names) {
            let messages = connection
                .client
                .queue_subscribe(subject.clone(), queue.clone())
                .await
                .map_err(|error| format!("cannot subscribe to {subject}: {error}"))?;
            let trigger = Trigger {
                connection: connection.clone(),
                function: Arc::clone(function),
                subject: subject.clone(),
                queue: queue.clone(),
                name: name.clone(),
                draining: draining.clone(),
            };
            subscribed.push((trigger, messages));
        }
        connection.subscribed(&names).await.map_err(|denial| format!("cannot subscribe: {denial}"))?;
        let subscriptions = subscribed.into_iter().map(|(trigger, messages)| trigger.keep(messages)).collect();
        Ok(Self { draining, subscriptions, _connection: connection })
    }

    /// Takes no more messages, and answers those that the server has already sent here; see [`super::leave`].
    pub async fn drain(mut self) {
        self.draining.cancel();
        let ended = async { while self.subscriptions.join_next().await.is_some() {} };
        // A server that is away sends nothing more.
        let _ = timeout(DRAIN, ended).await;
    }
}

/// One subject of a function.
struct Trigger {
    connection: Connection,
    function: Arc<Function>,
    subject: String,
    queue: String,
    /// How the server names the subscription when it denies it.
    name: String,
    draining: CancellationToken,
}

/// Why messages do not come any more.
enum Over {
    /// It was asked for, and what was under way is answered.
    Drained,
    /// It was not.
    Failed(String),
}

impl Trigger {
    /// Answers messages until drained, and subscribes again when the subscription fails.
    async fn keep(self, mut messages: Subscriber) {
        loop {
            match self.listen(messages).await {
                Over::Drained => return,
                Over::Failed(reason) => self.tell(reason),
            }
            messages = tokio::select! {
                messages = self.subscribe_again() => messages,
                () = self.draining.cancelled() => return,
            };
            info!(workload = %self.function.spec.name, subject = self.subject, "the function is triggered again");
        }
    }

    async fn listen(&self, mut messages: Subscriber) -> Over {
        let name = std::slice::from_ref(&self.name);
        let mut denial = std::pin::pin!(self.connection.denied.one_of(name));
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                (_, reason) = &mut denial => return Over::Failed(reason),
                () = self.draining.cancelled() => break,
            };
            let Some(message) = message else { return Over::Failed("the subscription ended".to_owned()) };
            self.answer(message);
        }
        leave(messages, self.connection.round_trip(), |message| self.answer(message)).await;
        Over::Drained
    }

    fn answer(&self, message: Message) {
        tokio::spawn(answer(self.connection.client.clone(), Arc::clone(&self.function), message));
    }

    async fn subscribe_again(&self) -> Subscriber {
        loop {
            tokio::time::sleep(AGAIN).await;
            let subscribed = self.connection.client.queue_subscribe(self.subject.clone(), self.queue.clone()).await;
            let Ok(messages) = subscribed else { continue };
            if self.connection.subscribed(std::slice::from_ref(&self.name)).await.is_ok() {
                return messages;
            }
        }
    }

    /// Once for each time that it fails: the event, and a line for whoever follows the workload's log.
    fn tell(&self, message: String) {
        let Function { id, spec, publisher, .. } = &*self.function;
        warn!(workload = %spec.name, id, subject = self.subject, message, "a function is not triggered any more");
        let text = format!("not triggered on {} any more: {message}", self.subject);
        publisher.log(&spec.namespace, id, &spec.name, Level::Error, text);
        let event = Event::TriggerFailed {
            workload_name: spec.name.to_string(),
            workload_id: id.clone(),
            trigger_subject: self.subject.clone(),
            message,
        };
        publisher.workload_event(&spec.namespace, &event);
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
    publisher.call_event(spec, event);
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
