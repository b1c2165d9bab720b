//! A node's metrics, read as Prometheus does it.

use anyhow::{Context, Result};
use nex_testkit::NexNode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::PATIENCE;

/// Where a node serves its metrics, which it says in its log.
///
/// # Errors
/// When it does not in time.
pub async fn metrics_address(node: &NexNode) -> Result<String> {
    let line = node.log().find(|line| Some(line.split_once("http://")?.1.split_once("/metrics")?.0.to_owned()));
    tokio::time::timeout(PATIENCE, line).await?.context("where they are served")
}

/// One scrape.
///
/// # Errors
/// When nobody answers, or with something else.
pub async fn scrape(address: &str) -> Result<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a head")?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(body.to_owned())
}
