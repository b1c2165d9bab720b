//! The link's life: greeting, one Start, the ways it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

mod node;

use std::process::Stdio;

use nex_protocol::link::VERSION;
use nex_protocol::link::message::{FailureKind, ToAgent, ToNode, Welcome};
use nex_protocol::name::WorkloadType;
use node::{Node, start};
use tokio::process::Command;

const SLEEPER: &str = "#!/bin/sh\nsleep 1000\n";

#[tokio::test]
async fn greets_answers_pings_and_leaves_when_the_node_does() {
    let mut node = Node::new().await;
    node.ping(7).await;
    node.to = None;
    assert!(node.rest().await.is_empty());
    assert_eq!(node.end().await.code(), Some(0));
}

#[tokio::test]
async fn leaves_a_node_of_another_version() {
    let mut node = Node::silent();
    let ToNode::Hello(_) = node.next().await else { panic!("no Hello") };
    let welcome = Welcome {
        version: VERSION + 1,
        agent_id: "a".into(),
        work_dir: node.folder.path().to_owned(),
        compiled_dir: None,
        deno: None,
        start_timeout_ms: 40_000,
        prestart: None,
        direct: false,
    };
    node.send(ToAgent::Welcome(welcome)).await;
    assert_eq!(node.end().await.code(), Some(1));
}

#[tokio::test]
async fn says_what_is_wrong_when_started_by_hand() {
    let output = Command::new(env!("CARGO_BIN_EXE_nex-agent")).stdin(Stdio::null()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("no socket"), "{said}");
    let output = Command::new(env!("CARGO_BIN_EXE_nex-agent")).arg("--version").output().await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("nex-agent {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn garbage_on_the_link_ends_the_agent() {
    use tokio::io::AsyncWriteExt;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_nex-agent"))
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut ours = tokio::net::UnixStream::from_std(ours).unwrap();
    ours.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let status = tokio::time::timeout(node::PATIENCE, agent.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn an_agent_without_a_workload_refuses_calls_and_stops_at_once() {
    let mut node = Node::new().await;
    assert_eq!(node.call(1, "x").await.unwrap_err().0, FailureKind::Killed);
    node.send(ToAgent::Stop { grace_ms: 1000 }).await;
    assert!(node.rest().await.is_empty());
    assert_eq!(node.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_start_is_rejected_and_the_first_goes_on() {
    let mut node = Node::new().await;
    let sleep = start(WorkloadType::Native, "/bin/sleep".into());
    node.start(nex_protocol::link::message::Start { argv: vec!["1000".into()], ..sleep.clone() }).await.unwrap();
    assert!(node.start(sleep).await.unwrap_err().contains("has its workload already"));
    node.ping(1).await;
    assert_eq!(node.stop(1000).await.signal, Some(15));
    assert_eq!(node.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_rejected_start_ends_the_agent() {
    let mut node = Node::new().await;
    let script = node.artifact("script", SLEEPER);
    assert_eq!(node.start(start(WorkloadType::Native, script)).await.unwrap_err(), "not an ELF program");
    assert!(node.rest().await.is_empty());
    assert_eq!(node.end().await.code(), Some(0));
}
