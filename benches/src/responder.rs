//! The baseline of calls: a program that answers each request with its payload, on a connection of its own, and does
//! nothing else. A function cannot be faster; the question is by how much it is slower.

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt as _;
use nex_testkit::Process;

use crate::roles::Role;

/// Where it listens.
pub(crate) const SUBJECT: &str = "bench.echo";

/// Starts one in a process of its own.
pub(crate) async fn start(url: String) -> Result<Process> {
    Role::Responder { url, subject: SUBJECT.to_owned() }.start().await
}

/// Answers for ever.
pub(crate) async fn respond(url: &str, subject: String, ready: impl FnOnce()) -> Result<()> {
    let client = async_nats::connect(url).await?;
    let mut asked = client.subscribe(subject).await?;
    nex_e2e::round_trip(&client).await?;
    ready();
    while let Some(message) = asked.next().await {
        if let Some(reply) = message.reply {
            client.publish(reply, message.payload).await?;
        }
    }
    Ok(())
}

/// Connects and asks once.
pub(crate) async fn round_trip(url: &str, subject: String) -> Result<()> {
    let client = async_nats::connect(url).await?;
    let reply = client.request(subject, "x".into()).await.context("nobody answers")?;
    ensure!(&reply.payload[..] == b"x", "the answer is not what was asked");
    Ok(())
}
