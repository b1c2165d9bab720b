//! Rows of docs/compatibility.md that no other test shows: what a client of Go Nex meets at a node of ours, to the
//! letter where the text of a refusal is part of the interface.
//!
//! `requests` is about subjects and whole requests, `deploy` about what a deploy says and the order it is checked in,
//! `claims` about who may stop what, `life` about workloads that end, come back, or do not.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod claims;
mod deploy;
mod life;
mod requests;

use anyhow::Result;
use nex_client::Client;
use nex_e2e::{BUCKET, World, unix_now};
use nex_identity::Claims;
use nex_protocol::Code;
use nex_protocol::control::deploy::RunResponse;
use nex_protocol::envelope::{self, EnvelopeError, kind};
use serde_json::{Value, json};

/// The refusal that a request on this subject is answered with.
async fn refusal(world: &World, subject: &str, kind: &str, body: impl Into<Vec<u8>>) -> (Code, String) {
    let reply = world.call(subject, body).await.unwrap();
    match envelope::open::<Value>(kind, &reply.payload) {
        Err(EnvelopeError::Refused { code: Some(code), message, .. }) => (code, message),
        other => panic!("{subject}: expected a refusal, got {other:?}"),
    }
}

/// Where the node takes a command for the namespace `default`.
fn subject(world: &World, command: &str) -> String {
    format!("$NEX.{command}.default.{}", world.node.id())
}

/// The refusal of a deploy.
async fn not_deployed(world: &World, request: &Value) -> (Code, String) {
    refusal(world, &subject(world, "DEPLOY"), kind::RUN, request.to_string()).await
}

/// A deploy that is taken.
async fn deployed(world: &World, request: &Value) -> Result<RunResponse> {
    let reply = world.call(&subject(world, "DEPLOY"), request.to_string()).await?;
    Ok(envelope::open(kind::RUN, &reply.payload)?)
}

/// A request to deploy a function that answers its name on a subject of its name. The claim is as the clients of Go Nex
/// sign it: it binds name and hash alone, so that a test can change everything else.
async fn function(world: &World, name: &str) -> Result<Value> {
    let sha256 = world.put(name, format!("() => '{name}'").as_bytes()).await?;
    Ok(json!({
        "type": "v8",
        "location": format!("nats://{BUCKET}/{name}"),
        "trigger_subjects": [name],
        "workload_jwt": Claims::deploy(name, &sha256).sign(&world.issuer, unix_now())?,
    }))
}

/// How many nodes bid for this; a node that does not is silent, so that the wait for it is short.
async fn bids(world: &World, request: Value) -> usize {
    let short = std::time::Duration::from_millis(500);
    let client = Client::new(world.nats.clone(), Default::default(), short);
    client.auction(&serde_json::from_value(request).unwrap()).await.unwrap().len()
}
