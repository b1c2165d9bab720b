//! JavaScript functions, started with a node that answers their host calls.

use nex_protocol::link::host::{HostRequest, KvRequest};
use nex_protocol::link::message::Start;
use nex_protocol::name::WorkloadType;
use serde_json::Value;

use super::{Hosts, Node, deno, start};

pub(crate) async fn function_with(source: &str, hosts: Hosts, change: impl FnOnce(&mut Start)) -> Node {
    run(source, hosts, false, change).await
}

/// One with a direct way to its node.
pub(crate) async fn direct(source: &str, hosts: Hosts) -> Node {
    run(source, hosts, true, |_| {}).await
}

async fn run(source: &str, hosts: Hosts, direct: bool, change: impl FnOnce(&mut Start)) -> Node {
    let mut node = Node::with(|welcome| (welcome.deno, welcome.direct) = (Some(deno()), direct)).await;
    node.hosts = hosts;
    let mut start = start(WorkloadType::V8, node.artifact("function", source));
    change(&mut start);
    node.start(start).await.unwrap();
    if direct {
        node.open_direct().await;
    }
    node
}

pub(crate) async fn twin(source: &str) -> Node {
    function_with(source, Hosts::Twin(Box::default()), |_| {}).await
}

pub(crate) async fn by_hand(source: &str) -> Node {
    function_with(source, Hosts::Test, |_| {}).await
}

pub(crate) async fn once(source: &str) -> String {
    twin(source).await.call(1, "payload").await.unwrap()
}

pub(crate) async fn once_json(source: &str) -> Value {
    serde_json::from_str(&once(source).await).unwrap()
}

/// The key of a kv.get.
pub(crate) fn key(request: &HostRequest) -> String {
    match request {
        HostRequest::Kv(KvRequest::Get { key }) => key.clone(),
        other => panic!("{other:?}"),
    }
}
