//! The node as a NATS micro service: it is found, described and counted by the NATS tools (`nats micro ls`).
//!
//! Answers PING, INFO and STATS under `$SRV`, in the shapes of ADR-32
//! (<https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md>). The endpoints are those of the
//! control interface, which are served elsewhere; they have no queue group, for every node answers for itself. A node
//! that may not subscribe under `$SRV` does without.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::select_all;
use nex_protocol::{Fault, subject};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::{Command, Control};
use crate::metrics::Requests;

/// Name of the service.
const NAME: &str = "nex";

const DESCRIPTION: &str = "nex node: runs services and functions on NATS";

/// A subject the node answers on, and how often it did.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) command: Command,
    pub(super) name: &'static str,
    pub(super) subject: String,
    counts: Mutex<Counts>,
}

#[derive(Debug, Clone, Default)]
struct Counts {
    requests: u64,
    errors: u64,
    last_error: String,
    time: Duration,
}

impl Endpoint {
    pub(super) fn new(command: Command, name: &'static str, subject: String) -> Self {
        Self { command, name, subject, counts: Mutex::default() }
    }

    /// Counts a request, after it was answered.
    pub(super) fn count(&self, took: Duration, fault: Option<&Fault>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.requests += 1;
        counts.time += took;
        if let Some(fault) = fault {
            counts.errors += 1;
            counts.last_error = format!("{}:{}", fault.code.number(), fault.message);
        }
    }

    fn requests(&self) -> Requests {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        Requests { endpoint: self.name, all: counts.requests, refused: counts.errors, took: counts.time }
    }

    fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Serialize)]
struct Identity<'a> {
    name: &'static str,
    id: &'a str,
    version: &'static str,
    metadata: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Ping<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    identity: Identity<'a>,
}

#[derive(Serialize)]
struct Info<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    identity: Identity<'a>,
    description: &'static str,
    endpoints: Vec<EndpointInfo<'a>>,
}

#[derive(Serialize)]
struct EndpointInfo<'a> {
    name: &'static str,
    subject: &'a str,
    queue_group: &'static str,
    metadata: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Stats<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    identity: Identity<'a>,
    started: String,
    endpoints: Vec<EndpointStats<'a>>,
}

#[derive(Serialize)]
struct EndpointStats<'a> {
    name: &'static str,
    subject: &'a str,
    queue_group: &'static str,
    num_requests: u64,
    num_errors: u64,
    last_error: String,
    /// Nanoseconds, likewise below.
    processing_time: u64,
    average_processing_time: u64,
}

/// What is asked under `$SRV`.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Ping,
    Info,
    Stats,
}

impl Verb {
    const ALL: [(Verb, &'static str); 3] = [(Verb::Ping, "PING"), (Verb::Info, "INFO"), (Verb::Stats, "STATS")];

    fn of(subject: &str) -> Option<Self> {
        let word = subject.strip_prefix("$SRV.")?.split('.').next()?;
        Self::ALL.into_iter().find_map(|(verb, name)| (name == word).then_some(verb))
    }
}

/// Answers under `$SRV` from now on, where that is permitted.
pub(super) async fn serve(control: &Arc<Control>, serving: &mut JoinSet<()>) {
    let client = &control.shared.nats.client;
    let mut subjects = Vec::new();
    for (_, verb) in Verb::ALL {
        subjects.extend([
            format!("$SRV.{verb}"),
            format!("$SRV.{verb}.{NAME}"),
            format!("$SRV.{verb}.{NAME}.{}", control.node_id),
        ]);
    }
    let mut subscriptions: Vec<Subscriber> = Vec::new();
    for subject in &subjects {
        match client.subscribe(subject.clone()).await {
            Ok(subscription) => subscriptions.push(subscription),
            Err(error) => return warn!(%error, "the node is not shown as a NATS micro service"),
        }
    }
    if let Err(denial) = control.shared.nats.subscribed(&subjects).await {
        return warn!(denial, "the node is not shown as a NATS micro service: it may not subscribe under $SRV");
    }
    let control = Arc::clone(control);
    serving.spawn(async move {
        let mut requests = select_all(subscriptions);
        while let Some(request) = requests.next().await {
            control.describe(request).await;
        }
    });
}

impl Control {
    /// How many requests each endpoint had.
    pub(crate) fn requests(&self) -> Vec<Requests> {
        self.endpoints.iter().map(|endpoint| endpoint.requests()).collect()
    }

    async fn describe(&self, request: Message) {
        let reply = request.reply.filter(|reply| subject::may_be_answered_to(reply));
        let (Some(verb), Some(reply)) = (Verb::of(&request.subject), reply) else { return };
        let body = match verb {
            Verb::Ping => {
                serde_json::to_vec(&Ping { r#type: "io.nats.micro.v1.ping_response", identity: self.identity() })
            }
            Verb::Info => serde_json::to_vec(&self.service_info()),
            Verb::Stats => serde_json::to_vec(&self.service_stats()),
        };
        let Ok(body) = body else { return };
        if let Err(error) = self.shared.nats.client.publish(reply, body.into()).await {
            debug!(%error, "cannot answer under $SRV");
        }
    }

    fn identity(&self) -> Identity<'_> {
        let mut metadata = self.tags_now();
        metadata.insert("nexus".to_owned(), self.shared.config.nexus.clone());
        Identity { name: NAME, id: &self.node_id, version: env!("CARGO_PKG_VERSION"), metadata }
    }

    fn service_info(&self) -> Info<'_> {
        Info {
            r#type: "io.nats.micro.v1.info_response",
            identity: self.identity(),
            description: DESCRIPTION,
            endpoints: self
                .endpoints
                .iter()
                .map(|endpoint| EndpointInfo {
                    name: endpoint.name,
                    subject: &endpoint.subject,
                    queue_group: "",
                    metadata: BTreeMap::new(),
                })
                .collect(),
        }
    }

    fn service_stats(&self) -> Stats<'_> {
        let started = OffsetDateTime::now_utc() - self.started.elapsed();
        let endpoints = self.endpoints.iter().map(|endpoint| {
            let Counts { requests, errors, last_error, time } = endpoint.counts();
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            EndpointStats {
                name: endpoint.name,
                subject: &endpoint.subject,
                queue_group: "",
                num_requests: requests,
                num_errors: errors,
                last_error,
                processing_time: nanos,
                average_processing_time: nanos.checked_div(requests).unwrap_or_default(),
            }
        });
        Stats {
            r#type: "io.nats.micro.v1.stats_response",
            identity: self.identity(),
            started: started.format(&Rfc3339).unwrap_or_default(),
            endpoints: endpoints.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nex_protocol::Code;

    #[test]
    fn what_is_asked_is_the_second_token() {
        assert!(matches!(Verb::of("$SRV.STATS.nex.N1"), Some(Verb::Stats)));
        assert!(matches!(Verb::of("$SRV.PING"), Some(Verb::Ping)));
        assert!(Verb::of("$SRV.SCHEMA").is_none() && Verb::of("SRV.PING").is_none());
    }

    #[test]
    fn requests_errors_and_time_are_counted() {
        let endpoint = Endpoint::new(Command::Stop, "STOP", "$NEX.STOP.*.N1".into());
        endpoint.count(Duration::from_millis(2), None);
        endpoint.count(Duration::from_millis(4), Some(&Fault::new(Code::NoSuchWorkload, "No such workload")));
        let counts = endpoint.counts();
        assert_eq!((counts.requests, counts.errors, counts.time), (2, 1, Duration::from_millis(6)));
        assert_eq!(counts.last_error, "1023:No such workload");
    }
}
