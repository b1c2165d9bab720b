//! Events and logs, published on the control connection.
//!
//! Never in the way: bounded queues take them, one task publishes, and what does not fit (NATS is away, a workload
//! floods its log) is dropped and counted, the count told in the node's log. Events of the life of nodes and workloads
//! have a queue of their own, which goes first: no flood of lines or calls pushes them out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::Client;
use bytes::Bytes;
use nex_protocol::event::{CloudEvent, Event, SYSTEM};
use nex_protocol::log::{Entry, Level};
use nex_protocol::{Namespace, WorkloadName, subject};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use crate::LogLine;

/// Events that wait to be published.
const EVENTS: usize = 4096;

/// Log lines and events of calls that wait to be published.
const BULK: usize = 4096;

enum Item {
    Publish(String, Bytes),
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
        let told = Arc::clone(&dropped);
        tokio::spawn(async move {
            loop {
                let item = tokio::select! {
                    biased;
                    Some(item) = first.recv() => item,
                    Some(item) = second.recv() => item,
                    else => return,
                };
                let lost = told.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    warn!(lost, "events of calls or log lines were dropped: they came faster than NATS took them");
                }
                match item {
                    Item::Publish(subject, body) => {
                        if let Err(error) = client.publish(subject, body).await {
                            warn!(%error, "cannot publish");
                        }
                    }
                    Item::Flush(done) => {
                        let _ = client.flush().await;
                        let _ = done.send(());
                    }
                }
            }
        });
        Self { node_id: node_id.into(), events, bulk, dropped }
    }

    /// Publishes an event of the node itself.
    pub fn node_event(&self, event: &Event) {
        self.event(SYSTEM, None, event);
    }

    /// Publishes an event of a workload.
    pub fn workload_event(&self, namespace: &Namespace, event: &Event) {
        self.event(namespace.as_str(), Some(namespace.to_string()), event);
    }

    fn event(&self, token: &str, namespace: Option<String>, event: &Event) {
        let Ok(data) = serde_json::to_value(event) else { return };
        let cloud_event = CloudEvent {
            specversion: "1.0".to_owned(),
            id: nuid::next().to_string(),
            source: self.node_id.to_string(),
            r#type: event.kind().to_owned(),
            time: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            datacontenttype: "application/json".to_owned(),
            namespace,
            data,
        };
        let of_a_call = matches!(event, Event::FunctionExecSucceeded { .. } | Event::FunctionExecFailed { .. });
        let queue = if of_a_call { &self.bulk } else { &self.events };
        if let Ok(body) = serde_json::to_vec(&cloud_event) {
            self.publish(queue, subject::event(token, event.kind()), body.into());
        }
    }

    /// Publishes one line of a workload's output.
    pub fn log(&self, namespace: &Namespace, id: &str, name: &WorkloadName, level: Level, text: String) {
        let entry = Entry { text, level, id: id.to_owned() };
        if let Ok(body) = serde_json::to_vec(&entry) {
            self.publish(&self.bulk, subject::log(namespace, &self.node_id, id, name.as_str()), body.into());
        }
    }

    /// Publishes one line of the node's own log.
    pub fn own_log(&self, line: LogLine) {
        let output = if line.level >= Level::Warn { "stderr" } else { "stdout" };
        let entry = Entry { text: line.text, level: line.level, id: self.node_id.to_string() };
        if let Ok(body) = serde_json::to_vec(&entry) {
            self.publish(&self.bulk, subject::own_log(&self.node_id, output), body.into());
        }
    }

    fn publish(&self, queue: &mpsc::Sender<Item>, subject: String, body: Bytes) {
        if queue.try_send(Item::Publish(subject, body)).is_err() {
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
