//! The client: one method a command of the control interface.

use std::time::Duration;

use async_nats::RequestErrorKind;
use bytes::Bytes;
use nex_protocol::control::auction::AuctionRequest;
use nex_protocol::control::deploy::{DeployRequest, RunResponse};
use nex_protocol::control::info::InfoResponse;
use nex_protocol::control::lame_duck::{LameDuckRequest, LameDuckResponse};
use nex_protocol::control::ping::PingResponse;
use nex_protocol::control::stop::{StopRequest, StopResponse};
use nex_protocol::control::workload_ping::WorkloadPingResponse;
use nex_protocol::envelope::{self, kind};
use nex_protocol::{Namespace, subject};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connection::{ConnectError, Denied, Settings};
use crate::error::ClientError;
use crate::feed::{Feed, Reach};
use crate::scatter::scatter;

/// Least time a deploy is given: the node may have to fetch the artifact and compile it first, and gives up by itself a
/// little earlier.
pub const DEPLOY_TIMEOUT: Duration = Duration::from_secs(60);

/// Least time a stop is given: the workload has a grace period before it is killed.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Speaks to nodes on behalf of one namespace. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    nats: async_nats::Client,
    namespace: Namespace,
    timeout: Duration,
    server: String,
    denied: Denied,
}

impl Client {
    /// A client on an existing connection.
    pub fn new(nats: async_nats::Client, namespace: Namespace, timeout: Duration) -> Self {
        Self { nats, namespace, timeout, server: "this NATS server".to_owned(), denied: Denied::default() }
    }

    /// Connects, and is a client on that connection whose errors name the server.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(settings: &Settings, namespace: Namespace) -> Result<Self, ConnectError> {
        let (nats, denied) = settings.connect_noting().await?;
        Ok(Self { server: settings.shown_servers(), denied, ..Self::new(nats, namespace, settings.timeout) })
    }

    /// The connection.
    pub fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    /// The namespace this client works in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The servers for messages, without user and password.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Messages on these subjects, which may have wildcards and must not overlap; from a stream of this JetStream domain
    /// when the past is wanted. Returns when the server has the subscriptions.
    ///
    /// # Errors
    /// [`ClientError::NotStored`] when the past is wanted and no stream keeps it; [`ClientError::Transport`].
    pub async fn feed(&self, domain: Option<&str>, subjects: Vec<String>, reach: Reach) -> Result<Feed, ClientError> {
        Feed::open(&self.nats, &self.denied, domain, subjects, reach).await
    }

    /// Everybody who is there. Ends when answers stop coming, not at the timeout.
    ///
    /// # Errors
    /// [`ClientError::Transport`]; nobody there is no error but an empty list.
    pub async fn ping_nodes(&self) -> Result<Vec<PingResponse>, ClientError> {
        self.gather(subject::PING, Bytes::new(), kind::PING).await
    }

    /// The nodes that could take a workload with these needs.
    ///
    /// # Errors
    /// [`ClientError::Transport`]; nobody fitting is no error but an empty list.
    pub async fn auction(&self, request: &AuctionRequest) -> Result<Vec<PingResponse>, ClientError> {
        self.gather(subject::AUCTION, encoded(request)?, kind::AUCTION).await
    }

    /// The nodes that run workloads of the namespace, and which; only those of this id or name, when one is given.
    ///
    /// # Errors
    /// [`ClientError::Transport`]; nothing found is no error but an empty list.
    pub async fn workload_ping(&self, workload: Option<&str>) -> Result<Vec<WorkloadPingResponse>, ClientError> {
        let subject = subject::workload_ping(&self.namespace, workload);
        self.gather(&subject, Bytes::new(), kind::PING).await
    }

    /// Has a node take no new work and leave after a while.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the node does not take the order; the others when it did not get through.
    pub async fn lame_duck(&self, request: &LameDuckRequest, node: &str) -> Result<LameDuckResponse, ClientError> {
        let subject = subject::lame_duck(node);
        self.request(subject, encoded(request)?, "LAMEDUCK", kind::LAMEDUCK, node, self.timeout).await
    }

    /// One node, and the workloads of the namespace on it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn node_info(&self, node: &str) -> Result<InfoResponse, ClientError> {
        let subject = subject::info(self.namespace.as_str(), node);
        self.request(subject, Bytes::new(), "INFO", kind::INFO, node, self.timeout).await
    }

    /// Has a node run a workload. Waits at least [`DEPLOY_TIMEOUT`].
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the node does not want it; the others when the request did not get through.
    pub async fn deploy(&self, request: &DeployRequest, node: &str) -> Result<RunResponse, ClientError> {
        let subject = subject::deploy(self.namespace.as_str(), node);
        let timeout = self.timeout.max(DEPLOY_TIMEOUT);
        self.request(subject, encoded(request)?, "DEPLOY", kind::RUN, node, timeout).await
    }

    /// Has a node end a workload. Waits at least [`STOP_TIMEOUT`].
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the node does not want to; the others when the request did not get through.
    pub async fn stop(&self, request: &StopRequest, node: &str) -> Result<StopResponse, ClientError> {
        let subject = subject::stop(self.namespace.as_str(), node);
        let timeout = self.timeout.max(STOP_TIMEOUT);
        self.request(subject, encoded(request)?, "STOP", kind::STOP, node, timeout).await
    }

    async fn gather<T: DeserializeOwned>(
        &self,
        subject: &str,
        body: Bytes,
        kind: &'static str,
    ) -> Result<Vec<T>, ClientError> {
        let bodies = scatter(&self.nats, subject.to_owned(), body, self.timeout).await?;
        // One node that talks nonsense must not hide the others.
        Ok(bodies
            .iter()
            .filter_map(|body| {
                envelope::open(kind, body)
                    .inspect_err(|error| tracing::warn!(%error, subject, "an answer is left out"))
                    .ok()
            })
            .collect())
    }

    async fn request<T: DeserializeOwned>(
        &self,
        subject: String,
        body: Bytes,
        command: &'static str,
        kind: &'static str,
        node: &str,
        timeout: Duration,
    ) -> Result<T, ClientError> {
        let request = async_nats::Request::new().payload(body).timeout(Some(timeout));
        let reply = self.nats.send_request(subject, request).await.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => {
                ClientError::NoSuchNode { server: self.server.clone(), node: node.to_owned() }
            }
            RequestErrorKind::TimedOut => ClientError::TimedOut { node: node.to_owned(), command, timeout },
            RequestErrorKind::MaxPayloadExceeded => ClientError::TooLarge,
            // A node id that cannot be in a subject is a node that does not exist.
            RequestErrorKind::InvalidSubject => {
                ClientError::NoSuchNode { server: self.server.clone(), node: node.to_owned() }
            }
            RequestErrorKind::Other => ClientError::transport("send the request", &error),
        })?;
        envelope::open(kind, &reply.payload).map_err(|error| ClientError::reply(node, error))
    }
}

fn encoded<T: Serialize>(request: &T) -> Result<Bytes, ClientError> {
    serde_json::to_vec(request).map(Bytes::from).map_err(|error| ClientError::transport("encode the request", &error))
}
