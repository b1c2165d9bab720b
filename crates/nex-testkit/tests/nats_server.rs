//! The server guard: real servers that start, come back where they were, and leave nothing behind.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream;
use nex_testkit::{NatsServer, Process};

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_server_answers_and_has_jetstream() -> Result<()> {
    let server = NatsServer::start().await?;
    let client = server.client().await?;
    let streams = jetstream::new(client);
    streams.create_key_value(jetstream::kv::Config { bucket: "b".into(), ..Default::default() }).await?;
    Ok(())
}

#[tokio::test]
async fn two_servers_do_not_get_in_each_others_way() -> Result<()> {
    let (one, other) = tokio::try_join!(NatsServer::start(), NatsServer::start())?;
    assert_ne!(one.port(), other.port());
    Ok(())
}

#[tokio::test]
async fn a_restarted_server_has_its_port_and_its_data() -> Result<()> {
    let mut server = NatsServer::start().await?;
    let (url, pid) = (server.url(), server.pid().unwrap());
    let bucket = jetstream::kv::Config {
        bucket: "kept".into(),
        storage: jetstream::stream::StorageType::File,
        ..Default::default()
    };
    let store = jetstream::new(server.client().await?).create_key_value(bucket).await?;
    store.put("key", "value".into()).await?;

    server.stop().await?;
    assert!(!is_there(pid) && server.pid().is_none());
    assert!(async_nats::connect(&url).await.is_err());

    server.restart().await?;
    assert_eq!(server.url(), url);
    let store = jetstream::new(server.client().await?).get_key_value("kept").await?;
    assert_eq!(store.get("key").await?.as_deref(), Some(b"value".as_slice()));

    server.kill().await?;
    server.restart().await?;
    assert_eq!(server.url(), url);
    Ok(())
}

#[tokio::test]
async fn a_dropped_server_leaves_no_process() -> Result<()> {
    let server = NatsServer::start().await?;
    let pid = server.pid().unwrap();
    assert!(is_there(pid));
    drop(server);
    assert!(!is_there(pid));
    Ok(())
}

#[tokio::test]
async fn an_account_is_asked_for() -> Result<()> {
    let server = NatsServer::builder().account("me", "it's \"me\"").start().await?;
    assert!(async_nats::connect(server.url()).await.is_err());
    server.client().await?.flush().await?;
    Ok(())
}

#[tokio::test]
async fn a_bad_configuration_is_shown() {
    let error = NatsServer::builder().config("no_such_option: 1").start().await.unwrap_err();
    assert!(format!("{error:#}").contains("no_such_option"), "{error:#}");
}

#[tokio::test]
async fn a_process_ends_on_sigterm_or_else_is_killed() -> Result<()> {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "echo ready; exec sleep 60"]);
    let process = Process::spawn("polite", command).await?;
    process.log().find(|line| (line == "ready").then_some(())).await.unwrap();
    assert!(!process.terminate(Duration::from_secs(5)).await?.success());

    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"]);
    let process = Process::spawn("deaf", command).await?;
    process.log().find(|line| (line == "deaf").then_some(())).await.unwrap();
    let error = process.terminate(Duration::from_millis(200)).await.unwrap_err();
    assert!(format!("{error:#}").contains("deaf"), "{error:#}");
    assert!(!process.is_running());
    Ok(())
}

#[tokio::test]
async fn a_missing_program_is_an_error() {
    let error = Process::spawn("nobody", std::process::Command::new("/nonexistent")).await.unwrap_err();
    assert!(format!("{error:#}").contains("/nonexistent"), "{error:#}");
}
