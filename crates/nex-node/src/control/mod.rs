//! The control interface: `$NEX.PING`, `$NEX.INFO`, `$NEX.DEPLOY`, `$NEX.STOP`, `$NEX.AUCTION`.
//!
//! Every request that a node answers at all gets exactly one reply, whatever its body is. Each subject has a task of
//! its own that hands requests to tasks of theirs, so that a slow deploy delays no ping; how many run at a time is
//! bounded a subject, and what comes beyond that waits in the subscription.

mod deploy;
mod report;
mod stop;

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

pub use deploy::autostart;

/// Largest request body. An environment of a megabyte is larger than the systems it is for allow.
const MAX_REQUEST: usize = 1 << 20;

/// Requests of one subject in work at a time.
const AT_A_TIME: usize = 64;

/// Longest text of a refusal, bytes: what a request says is quoted in it.
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
    pub started: Instant,
}

/// A command, which decides the shape of its reply.
#[derive(Debug, Clone, Copy)]
enum Command {
    Ping,
    Auction,
    Info,
    Deploy,
    Stop,
}

impl Command {
    fn kind(self) -> &'static str {
        match self {
            Command::Ping => kind::PING,
            Command::Auction => kind::AUCTION,
            Command::Info => kind::INFO,
            Command::Deploy => kind::RUN,
            Command::Stop => kind::STOP,
        }
    }
}

impl Control {
    /// Serves the control interface until the set is dropped. Returns when the server has the subscriptions.
    ///
    /// # Errors
    /// When the node may not subscribe or the connection is gone.
    pub async fn serve(self: &Arc<Self>) -> Result<JoinSet<()>, async_nats::Error> {
        let subjects = [
            (Command::Ping, subject::PING.to_owned()),
            (Command::Ping, subject::ping(&self.node_id)),
            (Command::Auction, subject::AUCTION.to_owned()),
            (Command::Info, subject::info("*", &self.node_id)),
            (Command::Deploy, subject::deploy("*", &self.node_id)),
            (Command::Stop, subject::stop("*", &self.node_id)),
        ];
        let mut serving = JoinSet::new();
        let names: Vec<String> = subjects.iter().map(|(_, subject)| subject.clone()).collect();
        for (command, subject) in subjects {
            let mut requests = self.shared.nats.client.subscribe(subject.clone()).await?;
            let control = Arc::clone(self);
            let turns = Arc::new(Semaphore::new(AT_A_TIME));
            serving.spawn(async move {
                while let Some(request) = requests.next().await {
                    // Refused now rather than done when nobody waits for it any more.
                    let turn = Arc::clone(&turns).try_acquire_owned().ok();
                    let control = Arc::clone(&control);
                    tokio::spawn(async move {
                        match turn {
                            Some(_turn) => control.answer(command, request).await,
                            None => control.refuse(command, request, &busy()).await,
                        }
                    });
                }
            });
        }
        self.shared.nats.subscribed(&names).await?;
        Ok(serving)
    }

    async fn answer(&self, command: Command, request: Message) {
        let Some(reply) = request.reply.clone() else {
            debug!(subject = %request.subject, "a control request without a reply subject is ignored");
            return;
        };
        match self.handle(command, &request).await {
            Ok(None) => {}
            Ok(Some(body)) => {
                if let Err(error) = self.shared.nats.client.publish(reply, body.into()).await {
                    let text = format!("the reply cannot be sent: {error}");
                    self.refuse(command, request, &Fault::new(Code::Internal, text)).await;
                }
            }
            Err(fault) => self.refuse(command, request, &fault).await,
        }
    }

    async fn refuse(&self, command: Command, request: Message, fault: &Fault) {
        let fault = Fault::new(fault.code, shortened(&fault.message));
        warn!(subject = %request.subject, code = fault.code.number(), %fault, "request refused");
        let Some(reply) = request.reply else { return };
        let body = envelope::failure(command.kind(), &fault);
        if let Err(error) = self.shared.nats.client.publish(reply, body.into()).await {
            warn!(%error, subject = %request.subject, "cannot send a reply");
        }
    }

    /// The reply to a request; none when this node has nothing to say to it.
    async fn handle(&self, command: Command, request: &Message) -> Result<Option<Vec<u8>>, Fault> {
        if request.payload.len() > MAX_REQUEST {
            let text = format!("the request has {} bytes, at most {MAX_REQUEST} are accepted", request.payload.len());
            return Err(Fault::new(Code::RequestTooLarge, text));
        }
        let body = match command {
            Command::Ping => encode(command, &self.ping())?,
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
            tags: self.tags.clone(),
            running_machines: self.shared.table.len(),
        }
    }

    /// Names of the types this node runs.
    fn type_names(&self) -> Vec<&'static str> {
        self.types.iter().map(|kind| kind.as_str()).collect()
    }

    /// Whether the node takes no new work.
    fn is_lame_duck(&self) -> bool {
        self.tags.get(tag::LAME_DUCK).is_some_and(|value| value == "true")
    }
}

fn encode<T: serde::Serialize>(command: Command, data: &T) -> Result<Vec<u8>, Fault> {
    envelope::success(command.kind(), data).map_err(|error| Fault::new(Code::Internal, error.to_string()))
}

fn busy() -> Fault {
    Fault::new(Code::Busy, format!("the node has {AT_A_TIME} requests of this kind in work"))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn namespace(request: &Message, refusal: &str) -> Result<Namespace, Fault> {
    subject::namespace_of(&request.subject).ok_or_else(|| Fault::new(Code::InvalidSubject, refusal))
}
