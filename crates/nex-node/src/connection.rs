//! Connections of workloads: the node's own, or one with credentials of their own.

use async_nats::Client;
use nex_client::connection::{Secret, Settings};
use nex_protocol::control::deploy::NatsConnection;

/// The connection a workload's triggers are subscribed on: as wanted, else the node's.
///
/// # Errors
/// Text for the one who deploys.
pub async fn for_workload(own: &Client, wanted: Option<&NatsConnection>, id: &str) -> Result<Client, String> {
    let Some(wanted) = wanted.filter(|wanted| **wanted != NatsConnection::default()) else {
        return Ok(own.clone());
    };
    if wanted.nats_user_jwt.is_empty() != wanted.nats_user_seed.is_empty() {
        return Err("the workload connection needs both a user JWT and its seed, or neither".to_owned());
    }
    let mut settings = Settings { name: format!("nex-workload-{id}"), ..Settings::default() };
    if !wanted.nats_url.is_empty() {
        settings.servers.clone_from(&wanted.nats_url);
    }
    if !wanted.nats_user_jwt.is_empty() {
        settings.jwt_seed = Some((wanted.nats_user_jwt.clone(), Secret::from(wanted.nats_user_seed.clone())));
    }
    settings.connect().await.map_err(|error| format!("the workload connection: {error}"))
}

/// Waits until the server has handled what this client sent before: a flush only writes. Nobody listens on the
/// subject, which the server says at once.
pub async fn round_trip(client: &Client) {
    let nobody = format!("_nex.round_trip.{}", nuid::next());
    let answer = client.request(nobody, bytes::Bytes::new());
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), answer).await;
}
