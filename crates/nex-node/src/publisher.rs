//! Events and logs, published on the control connection.
//!
//! Never in the way: bounded queues take them, one task publishes, and what does not fit (NATS is away, a workload
//! floods its log) is dropped and counted, the count told in the node's log. Events of the life of nodes and workloads
//! have a queue of their own, which goes first: no flood of lines or calls pushes them out.
//!
//! Events of calls and lines wait for [`GATHER`] and then go together: one by one, each would be a write to the server
//! between the reply of a call and the next call. Nothing of a call's event is made before that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use nex_protocol::event::{Envelope, Event, SYSTEM};
use nex_protocol::log::{Entry, Level};
use nex_protocol::{Namespace, WorkloadName, subject};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::warn;

use crate::LogLine;
use crate::workload::Spec;

/// Events that wait to be published.
const EVENTS: usize = 4096;

/// Log lines and events of calls that wait to be published.
const BULK: usize = 4096;

/// Time that events of calls and lines wait for others to go with.
const GATHER: Duration = Duration::from_millis(5);

enum Item {
    Publish(String, Bytes),
    /// A call, and when it ended.
    Call(Box<Event>, Arc<Spec>, OffsetDateTime),
    /// Answered when all before it is with the server.
    Flush(oneshot::Sender<()>),
}

/// Publishes events and logs; clones share the queue.
#[derive(Debug, Clone)]
pub struct Publisher {
    node_id: Arc<str>,
    events: mpsc::Sender<Item>,
    bulk: mpsc::Sender<Item>,
    dropped: Arc<AtomicU64>,
}

impl Publisher {
    /// Starts publishing for a node.
    pub fn spawn(client: Client, node_id: &str) -> Self {
        let (events, mut first) = mpsc::channel(EVENTS);
        let (bulk, mut second) = mpsc::channel(BULK);
        let dropped = Arc::new(AtomicU64::new(0));
        let node_id: Arc<str> = node_id.into();
        let task = Task { client, node_id: Arc::clone(&node_id), dropped: Arc::clone(&dropped) };
        tokio::spawn(async move {
            let mut gathered = Gathered::default();
            loop {
                tokio::select! {
                    biased;
                    Some(item) = first.recv() => task.publish(item).await,
                    received = gathered.from(&mut second) => {
                        if !received {
                            return;
                        }
                        for item in gathered.items.drain(..) {
                            // What was put in before a flush is out when that is answered.
                            while matches!(item, Item::Flush(_))
                                && let Ok(earlier) = first.try_recv()
                            {
                                task.publish(earlier).await;
                            }
                            task.publish(item).await;
                        }
                    }
                }
            }
        });
        Self { node_id, events, bulk, dropped }
    }

    /// Publishes an event of the node itself.
    pub fn node_event(&self, event: &Event) {
        self.event(SYSTEM, None, event);
    }

    /// Publishes an event of a workload.
    pub fn workload_event(&self, namespace: &Namespace, event: &Event) {
        self.event(namespace.as_str(), Some(namespace.as_str()), event);
    }

    /// Publishes the event of a call.
    pub fn call_event(&self, spec: &Arc<Spec>, event: Event) {
        self.publish(&self.bulk, Item::Call(Box::new(event), Arc::clone(spec), OffsetDateTime::now_utc()));
    }

    fn event(&self, token: &str, namespace: Option<&str>, event: &Event) {
        let now = OffsetDateTime::now_utc();
        if let Some((subject, body)) = in_an_envelope(&self.node_id, token, namespace, event, now) {
            self.publish(&self.events, Item::Publish(subject, body));
        }
    }

    /// Publishes one line of a workload's output.
    pub fn log(&self, namespace: &Namespace, id: &str, name: &WorkloadName, level: Level, text: String) {
        let entry = Entry { text, level, id: id.to_owned() };
        if let Ok(body) = serde_json::to_vec(&entry) {
            let subject = subject::log(namespace, &self.node_id, id, name.as_str());
            self.publish(&self.bulk, Item::Publish(subject, body.into()));
        }
    }

    /// Publishes one line of the node's own log.
    pub fn own_log(&self, line: LogLine) {
        let output = if line.level >= Level::Warn { "stderr" } else { "stdout" };
        let entry = Entry { text: line.text, level: line.level, id: self.node_id.to_string() };
        if let Ok(body) = serde_json::to_vec(&entry) {
            self.publish(&self.bulk, Item::Publish(subject::own_log(&self.node_id, output), body.into()));
        }
    }

    fn publish(&self, queue: &mpsc::Sender<Item>, item: Item) {
        if queue.try_send(item).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was published so far is with the server.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        // Behind the lines: by the time they are out, so are the events, which go first.
        if self.bulk.send(Item::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

/// What goes together.
#[derive(Default)]
struct Gathered {
    items: Vec<Item>,
    /// When it goes.
    due: Option<Instant>,
}

impl Gathered {
    /// Waits for an item, and then for those that come soon after it; false when there will be none. Cancel-safe.
    async fn from(&mut self, queue: &mut mpsc::Receiver<Item>) -> bool {
        if self.items.is_empty() && queue.recv_many(&mut self.items, 1).await == 0 {
            return false;
        }
        // Who waits for a flush waits for nothing else.
        if !matches!(self.items.first(), Some(Item::Flush(_))) {
            let due = *self.due.get_or_insert_with(|| Instant::now() + GATHER);
            tokio::time::sleep_until(due).await;
        }
        self.due = None;
        while self.items.len() < BULK
            && let Ok(item) = queue.try_recv()
        {
            self.items.push(item);
        }
        true
    }
}

/// An event as it is published, and where.
fn in_an_envelope(
    node_id: &str,
    token: &str,
    namespace: Option<&str>,
    event: &Event,
    time: OffsetDateTime,
) -> Option<(String, Bytes)> {
    let envelope = Envelope {
        specversion: "1.0",
        id: nuid::next().to_string(),
        source: node_id,
        r#type: event.kind(),
        datacontenttype: "application/json",
        time: time.format(&Rfc3339).unwrap_or_default(),
        data: event,
        namespace,
    };
    let body = serde_json::to_vec(&envelope).ok()?;
    Some((subject::event(token, event.kind()), body.into()))
}

/// The task that publishes.
struct Task {
    client: Client,
    node_id: Arc<str>,
    dropped: Arc<AtomicU64>,
}

impl Task {
    async fn publish(&self, item: Item) {
        let lost = self.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            warn!(lost, "events of calls or log lines were dropped: they came faster than NATS took them");
        }
        match item {
            Item::Publish(subject, body) => self.send(subject, body).await,
            Item::Call(event, spec, time) => {
                let namespace = spec.namespace.as_str();
                if let Some((subject, body)) = in_an_envelope(&self.node_id, namespace, Some(namespace), &event, time) {
                    self.send(subject, body).await;
                }
            }
            Item::Flush(done) => {
                let _ = self.client.flush().await;
                let _ = done.send(());
            }
        }
    }

    async fn send(&self, subject: String, body: Bytes) {
        if let Err(error) = self.client.publish(subject, body).await {
            warn!(%error, "cannot publish");
        }
    }
}
