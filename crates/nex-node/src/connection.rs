//! Connections of workloads: the node's own, or one with credentials of their own.

use std::time::Duration;

use async_nats::Client;
use nex_client::connection::{Denied, Secret, Settings};
use nex_protocol::Namespace;
use nex_protocol::control::deploy::NatsConnection;

/// Time a denial that has arrived needs to be heard of.
const DENIAL: Duration = Duration::from_millis(10);

/// A connection, and what its server denied.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// Denials.
    pub denied: Denied,
    /// Where it goes to, with commas between.
    pub servers: String,
}

impl Connection {
    /// Connects for as long as the node lives.
    ///
    /// # Errors
    /// When the first attempt fails.
    pub async fn open(settings: &Settings) -> Result<Self, nex_client::connection::ConnectError> {
        let (client, denied) = settings.connect_retrying().await?;
        Ok(Self { client, denied, servers: settings.servers.clone() })
    }

    /// The connection a workload's triggers are subscribed on: as wanted, else this, the node's own. Answers to what it
    /// asks come under `_INBOX.<namespace>`, so that its user need not be let into the inboxes of others.
    ///
    /// # Errors
    /// Text for the one who deploys.
    pub async fn for_workload(
        &self,
        wanted: Option<&NatsConnection>,
        namespace: &Namespace,
        id: &str,
    ) -> Result<Self, String> {
        let Some(wanted) = wanted else { return Ok(self.clone()) };
        if wanted.nats_user_jwt.is_empty() != wanted.nats_user_seed.is_empty() {
            return Err("the workload connection needs both a user JWT and its seed, or neither".to_owned());
        }
        // Credentials without a server are for the server the node is on.
        let servers = if wanted.nats_url.is_empty() { &self.servers } else { &wanted.nats_url };
        let mut settings = Settings {
            name: format!("nex-workload-{id}"),
            servers: servers.clone(),
            inbox_prefix: Some(format!("_INBOX.{namespace}")),
            ..Settings::default()
        };
        if !wanted.nats_user_jwt.is_empty() {
            settings.jwt_seed = Some((wanted.nats_user_jwt.clone(), Secret::from(wanted.nats_user_seed.clone())));
        }
        Self::open(&settings).await.map_err(|error| format!("the workload connection: {error}"))
    }

    /// Waits until the server has handled what was sent before; longer where it must not be asked, or is not there.
    pub async fn round_trip(&self) {
        // Nobody listens there, which the server says at once.
        let nobody = format!("_nex.round_trip.{}", nuid::next());
        let _ = self.client.request(nobody, bytes::Bytes::new()).await;
    }

    /// Waits until the server has handled what was sent before, and says whether it denied these subscriptions. A
    /// flush would not do: it only writes.
    ///
    /// # Errors
    /// The server's words about the first subject that it denied.
    pub async fn subscribed(&self, subjects: &[String]) -> Result<(), String> {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.round_trip()).await;
        // The client library tells of denials by a task of its own, which has been woken by now but may not have run.
        tokio::time::sleep(DENIAL).await;
        // All of them: what is left would be taken for the denial of somebody else's later.
        let denials: Vec<String> = subjects.iter().filter_map(|subject| self.denied.subscription(subject)).collect();
        denials.into_iter().next().map_or(Ok(()), Err)
    }
}

/// A connection that says something; an empty object in a request is none.
pub fn meaningful(connection: Option<NatsConnection>) -> Option<NatsConnection> {
    connection.filter(|connection| *connection != NatsConnection::default())
}
