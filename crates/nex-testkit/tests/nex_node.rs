//! The node guard, with the real `nex`: `cargo build` must have built it, as `cargo xtask test` does.

use std::path::Path;

use anyhow::Result;
use nex_testkit::{NatsServer, NexNode};
use serde_json::json;

#[tokio::test]
async fn two_nodes_are_told_apart_and_end_orderly() -> Result<()> {
    let server = NatsServer::start().await?;
    let (one, other) = tokio::try_join!(NexNode::start(&server), NexNode::start(&server))?;
    assert_ne!(one.id(), other.id());
    assert!(one.id().starts_with('N'), "{}", one.id());
    assert!(one.terminate().await?.success(), "{}", one.log().text());
    assert!(other.process().is_running());
    Ok(())
}

#[tokio::test]
async fn a_dropped_node_leaves_no_process() -> Result<()> {
    let server = NatsServer::builder().account("user", "password").start().await?;
    let node = NexNode::start(&server).await?;
    let proc = format!("/proc/{}", node.process().pid());
    assert!(Path::new(&proc).exists());
    drop(node);
    assert!(!Path::new(&proc).exists());
    Ok(())
}

#[tokio::test]
async fn a_node_that_does_not_start_says_why() -> Result<()> {
    let server = NatsServer::start().await?;
    let config = json!({"machine_pool_size": "many"});
    let error = NexNode::builder(&server).await?.config(config).start().await.unwrap_err();
    assert!(format!("{error:#}").contains("machine_pool_size"), "{error:#}");
    Ok(())
}
