//! The documentation's echo service: a discoverable NATS service that answers `svc.echo` with its request.
//!
//! Nothing in it knows of nex. It is told where NATS is by its environment, which `nex devrun FILE NATS_URL=…` gives,
//! and it ends orderly on SIGTERM, which is how nex stops a service.

use std::time::Duration;

use anyhow::{Context, Error, Result};
use async_nats::ConnectOptions;
use async_nats::service::ServiceExt;
use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};

/// Time to connect. A server that is not there refuses at once; this is for machines that compute slowly.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // Before anything else, so that a stop during the start is orderly as well.
    let mut terminate = signal(SignalKind::terminate())?;

    let url = nats_url();
    println!("Echo service using NATS url '{url}'");
    let options = ConnectOptions::new().connection_timeout(PATIENCE);
    let client = options.connect(&url).await.with_context(|| format!("cannot connect to {url}"))?;

    println!("Starting echo service");
    let service = client.service_builder().start("EchoService", "1.0.0").await.map_err(Error::from_boxed)?;
    let mut requests = service.endpoint("svc.echo").await.map_err(Error::from_boxed)?;

    loop {
        tokio::select! {
            request = requests.next() => match request {
                Some(request) => {
                    let payload = request.message.payload.clone();
                    request.respond(Ok(payload)).await?;
                }
                None => anyhow::bail!("the subscription to svc.echo has ended"),
            },
            _ = terminate.recv() => break,
        }
    }

    println!("Stopping echo service");
    service.stop().await.map_err(Error::from_boxed)?;
    // Drain rather than drop: the replies already given leave before the connection does.
    client.drain().await?;
    Ok(())
}

/// `NATS_URL`, or `nats_url` as the documentation's `devrun` example spells it, or a server on this machine.
fn nats_url() -> String {
    ["NATS_URL", "nats_url"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .map(|url| url.trim().to_owned())
        .find(|url| !url.is_empty())
        .unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned())
}
