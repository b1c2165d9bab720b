//! Requests as `nats req` makes and shows them, so that the demo needs no NATS command line.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use async_nats::client::RequestErrorKind;

/// How long a workload that was accepted may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends a request, shows it and its reply, and checks the reply.
pub(crate) async fn request(client: &async_nats::Client, subject: &str, payload: &str, expected: &str) -> Result<()> {
    println!("\n$ nats req {subject} '{payload}'");
    println!("{} Sending request on \"{subject}\"", clock());
    let end = Instant::now() + PATIENCE;
    let (reply, duration) = loop {
        let start = Instant::now();
        match client.request(subject.to_owned(), payload.to_owned().into()).await {
            Ok(reply) => break (reply, start.elapsed()),
            // A service listens when it is ready, which is a moment after it was started.
            Err(error) if error.kind() == RequestErrorKind::NoResponders && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => bail!("no reply on {subject}: {}", error.kind()),
        }
    };
    if let Some(error) = reply.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error")) {
        bail!("{subject} answered with an error: {error}");
    }
    let text = String::from_utf8_lossy(&reply.payload);
    println!("{} Received with rtt {duration:.3?}\n{text}", clock());
    if text != expected {
        bail!("{subject} should have answered {expected:?}");
    }
    Ok(())
}

/// The time of day, UTC.
fn clock() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}
