//! The control interface: everything a node answers under `$NEX`, and under `$SRV` what it is ([`micro`]).
//!
//! Every request that a node answers at all gets exactly one reply, whatever its body is. Each subject has a task of
//! its own that hands requests to tasks of theirs, so that a slow deploy delays no ping; how many run at a time is
//! bounded a subject, and what comes beyond that is refused at once.

mod authority;
mod deploy;
mod lame_duck;
mod micro;
mod report;
mod stop;
mod used_claims;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use async_nats::Message;
use futures_util::StreamExt;
use nex_protocol::control::ping::{PingResponse, tag};
use nex_protocol::envelope::{self, kind};
use nex_protocol::{Code, Fault, Namespace, WorkloadType, subject, uptime};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::workload::actor::Shared;
use crate::workload::{Spec, unix_now};
use authority::Authority;
use micro::Endpoint;
use used_claims::UsedClaims;

pub use deploy::autostart;

/// Largest request body. An environment of a megabyte is larger than the systems it is for allow.
const MAX_REQUEST: usize = 1 << 20;

/// Requests of one subject in work at a time.
const AT_A_TIME: usize = 64;

/// Longest text of a refusal, characters: what a request says is quoted in it.
const MAX_TEXT: usize = 1024;

/// What the handlers know of their node.
#[derive(Debug)]
pub struct Control {
    /// What the node runs on.
    pub shared: Arc<Shared>,
    /// Public key of the node.
    pub node_id: String,
    /// Tags of the node.
    pub tags: BTreeMap<String, String>,
    /// Types it runs.
    pub types: Vec<WorkloadType>,
    /// When it started.
    started: Instant,
    /// Whose claims count.
    authority: Authority,
    /// What it answers.
    endpoints: Vec<Arc<Endpoint>>,
}

/// A command, which decides the shape of its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Ping,
    WorkloadPing,
    Auction,
    Info,
    Deploy,
    Stop,
    LameDuck,
}

impl Command {
    fn kind(self) -> &'static str {
        match self {
            Command::Ping | Command::WorkloadPing => kind::PING,
            Command::Auction => kind::AUCTION,
            Command::Info => kind::INFO,
            Command::Deploy => kind::RUN,
            Command::Stop => kind::STOP,
            Command::LameDuck => kind::LAMEDUCK,
        }
    }
}

/// What a node answers: the command, its name among the endpoints of the service, and the subject.
fn endpoints(node: &str) -> Vec<Arc<Endpoint>> {
    let endpoint = |command, name, subject| Arc::new(Endpoint::new(command, name, subject));
    vec![
        endpoint(Command::Ping, "PING", subject::PING.to_owned()),
        endpoint(Command::Ping, "PING-node", subject::ping(node)),
        endpoint(Command::WorkloadPing, "WPING", subject::WPING_ALL.to_owned()),
        endpoint(Command::Auction, "AUCTION", subject::AUCTION.to_owned()),
        endpoint(Command::Info, "INFO", subject::info("*", node)),
        endpoint(Command::Deploy, "DEPLOY", subject::deploy("*", node)),
        endpoint(Command::Stop, "STOP", subject::stop("*", node)),
        endpoint(Command::LameDuck, "LAMEDUCK", subject::lame_duck(node)),
    ]
}

impl Control {
    /// The control interface of a node; nothing is served yet.
    pub fn new(shared: Arc<Shared>, node_id: String, tags: BTreeMap<String, String>, types: Vec<WorkloadType>) -> Self {
        let config = &shared.config;
        let now = unix_now().cast_signed();
        let used = UsedClaims::kept_in(shared.state.path("used-claims"), now);
        let authority = Authority::new(config.valid_issuers.clone(), config.strict_claims, used, now);
        let endpoints = endpoints(&node_id);
        Self { shared, node_id, tags, types, started: Instant::now(), authority, endpoints }
    }

    /// Remembers which claims the workloads of an earlier life were deployed with: nobody deploys them again by
    /// repeating one.
    pub fn remember_claims<'a>(&self, workloads: impl Iterator<Item = &'a Spec>) {
        for claim in workloads.filter_map(|spec| spec.claim.as_ref()) {
            self.authority.remember(claim);
        }
    }

    /// Serves the control interface until the set is dropped. Returns when the server has the subscriptions.
    ///
    /// # Errors
    /// When the node may not subscribe or the connection is gone.
    pub async fn serve(self: &Arc<Self>) -> Result<JoinSet<()>, async_nats::Error> {
        let mut serving = JoinSet::new();
        let names: Vec<String> = self.endpoints.iter().map(|endpoint| endpoint.subject.clone()).collect();
        for endpoint in &self.endpoints {
            let mut requests = self.shared.nats.client.subscribe(endpoint.subject.clone()).await?;
            let (control, endpoint) = (Arc::clone(self), Arc::clone(endpoint));
            let turns = Arc::new(Semaphore::new(AT_A_TIME));
            serving.spawn(async move {
                while let Some(request) = requests.next().await {
                    // Refused now rather than done when nobody waits for it any more.
                    let turn = Arc::clone(&turns).try_acquire_owned().ok();
                    let (control, endpoint) = (Arc::clone(&control), Arc::clone(&endpoint));
                    tokio::spawn(async move {
                        let began = Instant::now();
                        let fault = match turn {
                            Some(_turn) => control.answer(endpoint.command, request).await,
                            None => Some(control.refuse(endpoint.command, request, &busy()).await),
                        };
                        endpoint.count(began.elapsed(), fault.as_ref());
                    });
                }
            });
        }
        self.shared.nats.subscribed(&names).await?;
        micro::serve(self, &mut serving).await;
        Ok(serving)
    }

    /// Answers a request; gives the refusal, when it was one.
    async fn answer(&self, command: Command, request: Message) -> Option<Fault> {
        let Some(reply) = request.reply.clone() else {
            debug!(subject = %request.subject, "a control request without a reply subject is ignored");
            return None;
        };
        if !subject::may_be_answered_to(&reply) {
            warn!(subject = %request.subject, %reply, "a control request is ignored: nothing is answered there");
            return None;
        }
        match self.handle(command, &request).await {
            Ok(None) => None,
            Ok(Some(body)) => {
                let error = self.shared.nats.client.publish(reply, body.into()).await.err()?;
                let text = format!("the reply cannot be sent: {error}");
                Some(self.refuse(command, request, &Fault::new(Code::Internal, text)).await)
            }
            Err(fault) => Some(self.refuse(command, request, &fault).await),
        }
    }

    async fn refuse(&self, command: Command, request: Message, fault: &Fault) -> Fault {
        let fault = Fault::new(fault.code, shortened(&fault.message));
        warn!(subject = %request.subject, code = fault.code.number(), %fault, "request refused");
        let Some(reply) = request.reply.filter(|reply| subject::may_be_answered_to(reply)) else { return fault };
        let body = envelope::failure(command.kind(), &fault);
        if let Err(error) = self.shared.nats.client.publish(reply, body.into()).await {
            warn!(%error, subject = %request.subject, "cannot send a reply");
        }
        fault
    }

    /// The reply to a request; none when this node has nothing to say to it.
    async fn handle(&self, command: Command, request: &Message) -> Result<Option<Vec<u8>>, Fault> {
        if request.payload.len() > MAX_REQUEST {
            let text = format!("the request has {} bytes, at most {MAX_REQUEST} are accepted", request.payload.len());
            return Err(Fault::new(Code::RequestTooLarge, text));
        }
        let body = match command {
            Command::Ping => encode(command, &self.ping())?,
            Command::WorkloadPing => {
                let text = "Invalid subject for workload ping: send to $NEX.WPING.<namespace>[.<workload>]";
                let (namespace, workload) =
                    subject::workloads_asked(&request.subject).ok_or_else(|| Fault::new(Code::InvalidSubject, text))?;
                match self.workload_ping(&namespace, workload.as_deref()) {
                    Some(found) => encode(command, &found)?,
                    None => return Ok(None),
                }
            }
            Command::LameDuck => encode(command, &self.enter_lame_duck(&request.payload)?)?,
            Command::Auction => match self.bid(&request.payload) {
                Some(bid) => encode(command, &bid)?,
                None => return Ok(None),
            },
            Command::Info => {
                let namespace = namespace(request, "Failed to extract namespace for info request")?;
                encode(command, &self.info(&namespace))?
            }
            Command::Deploy => {
                let namespace = namespace(request, "Invalid subject for workload deployment")?;
                encode(command, &self.deploy(namespace, &request.payload).await?)?
            }
            Command::Stop => {
                let namespace = namespace(request, "Invalid subject for workload stop")?;
                encode(command, &self.stop(&namespace, &request.payload).await?)?
            }
        };
        Ok(Some(body))
    }

    /// What the node says of itself.
    pub fn ping(&self) -> PingResponse {
        PingResponse {
            node_id: self.node_id.clone(),
            nexus: self.shared.config.nexus.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: uptime::format(self.started.elapsed()),
            target_xkey: self.shared.state.xkey().public_key(),
            tags: self.tags_now(),
            running_machines: self.shared.table.len(),
        }
    }

    /// Names of the types this node runs.
    fn type_names(&self) -> Vec<&'static str> {
        self.types.iter().map(|kind| kind.as_str()).collect()
    }

    /// The tags, with what has changed since the start.
    fn tags_now(&self) -> BTreeMap<String, String> {
        let mut tags = self.tags.clone();
        if self.shared.lame_duck.is_on() {
            tags.insert(tag::LAME_DUCK.to_owned(), "true".to_owned());
        }
        tags
    }

    /// Whether the node takes no new work.
    fn is_lame_duck(&self) -> bool {
        self.shared.lame_duck.is_on() || self.tags.get(tag::LAME_DUCK).is_some_and(|value| value == "true")
    }
}

fn encode<T: serde::Serialize>(command: Command, data: &T) -> Result<Vec<u8>, Fault> {
    envelope::success(command.kind(), data).map_err(|error| Fault::new(Code::Internal, error.to_string()))
}

fn busy() -> Fault {
    Fault::new(Code::Busy, format!("the node has {AT_A_TIME} requests of this kind in work"))
}

fn shortened(text: &str) -> String {
    if text.chars().nth(MAX_TEXT).is_none() {
        return text.to_owned();
    }
    text.chars().take(MAX_TEXT - 1).chain(['…']).collect()
}

fn namespace(request: &Message, refusal: &str) -> Result<Namespace, Fault> {
    subject::namespace_of(&request.subject).ok_or_else(|| Fault::new(Code::InvalidSubject, refusal))
}
