//! Requests of the control interface. The first byte chooses which.

use nex_protocol::Location;
use nex_protocol::control::auction::AuctionRequest;
use nex_protocol::control::deploy::{DeployRequest, NatsConnection};
use nex_protocol::control::lame_duck::LameDuckRequest;
use nex_protocol::control::limits::WorkloadLimits;
use nex_protocol::control::ping::{PingResponse, tag};
use nex_protocol::control::stop::StopRequest;
use nex_protocol::control::workload_ping::WorkloadPingMachine;
use nex_protocol::subject;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What decodes is the same when it is encoded and decoded again, and can be asked everything that is asked of it.
pub fn check(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    match choice % 6 {
        0 => deploy(bytes),
        1 => drop(stays::<StopRequest>(bytes)),
        2 => auction(bytes),
        3 => drop(stays::<Option<LameDuckRequest>>(bytes)),
        4 => limits(bytes),
        _ => workload_ping(bytes),
    }
}

fn stays<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let again = serde_json::to_vec(&value).expect("a request can be written");
    assert_eq!(serde_json::from_slice::<T>(&again).expect("what was written reads"), value);
    Some(value)
}

fn deploy(bytes: &[u8]) {
    let Some(request) = stays::<DeployRequest>(bytes) else { return };
    if let Some(location) = &request.location {
        assert!(!location.bucket().is_empty() && !location.key().is_empty());
        assert_eq!(location.to_string().parse::<Location>().as_ref(), Ok(location));
    }
    // What is printed, and so logged, is the same without seed and JWT.
    for connection in [&request.trigger_connection, &request.host_services].into_iter().flatten() {
        let without = NatsConnection { nats_url: connection.nats_url.clone(), ..NatsConnection::default() };
        assert_eq!(format!("{connection:?}"), format!("{without:?}"));
    }
}

fn limits(bytes: &[u8]) {
    let Some(limits) = stays::<WorkloadLimits>(bytes) else { return };
    assert_eq!(limits.is_empty(), limits.named().iter().all(|(_, value)| value.is_none()));
}

fn auction(bytes: &[u8]) {
    let request = AuctionRequest::lenient(bytes);
    let again = serde_json::to_vec(&request).expect("a request can be written");
    assert_eq!(AuctionRequest::lenient(&again), request);
    // The node that has all that is asked for fits; with no type it does not, when one is asked for.
    let mut node = PingResponse { tags: request.tags.clone(), ..PingResponse::default() };
    for (name, value) in [(tag::ARCH, &request.arch), (tag::OS, &request.os)] {
        match value {
            Some(value) if node.tags.get(name).is_some_and(|tag| !tag.eq_ignore_ascii_case(value)) => return,
            Some(value) => drop(node.tags.insert(name.to_owned(), value.clone())),
            None => {}
        }
    }
    let unsafe_node = request.sandboxed == Some(false);
    if request.sandboxed.is_some() && node.tag_is(tag::UNSAFE, "true") != unsafe_node {
        if node.tags.contains_key(tag::UNSAFE) {
            return;
        }
        node.tags.insert(tag::UNSAFE.to_owned(), unsafe_node.to_string());
    }
    let types: Vec<&str> = request.workload_types.iter().map(String::as_str).collect();
    assert!(request.accepts(&node, &types));
    assert_eq!(request.accepts(&node, &[]), types.is_empty());
}

/// A WPING has no body: what is asked is the subject.
fn workload_ping(bytes: &[u8]) {
    let asked = String::from_utf8_lossy(bytes);
    let subject = format!("$NEX.WPING.{asked}");
    let Some((namespace, workload)) = subject::workloads_asked(&subject) else { return };
    assert_eq!(subject::workload_ping(&namespace, workload.as_deref()), subject);
    if let Some(workload) = workload {
        let machine = WorkloadPingMachine { id: workload.clone(), ..WorkloadPingMachine::default() };
        assert!(machine.is_meant_by(&workload));
    }
}
