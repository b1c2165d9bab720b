//! Artifacts that are missing, too large, or change while they are read.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream;
use futures_util::StreamExt;
use nex_client::ClientError;
use nex_e2e::{BUCKET, World, body};
use nex_protocol::{Code, WorkloadType};
use serde_json::json;

fn code(error: &anyhow::Error) -> Option<Code> {
    error.downcast_ref::<ClientError>().and_then(ClientError::code)
}

#[tokio::test]
async fn an_artifact_over_the_limit_is_refused_before_it_is_fetched() -> Result<()> {
    let world =
        World::with(json!({"node_limits": {"max_workload_bytes": 100_000, "max_total_bytes": 150_000}})).await?;
    let large = format!("() => 1 //{}", "x".repeat(200_000));
    let error = world.function("large", WorkloadType::V8, large.as_bytes(), "large").await.unwrap_err();
    assert_eq!(code(&error), Some(Code::ArtifactTooLarge), "{error}");
    let artifacts = world.node.state_dir().join("artifacts");
    assert_eq!(std::fs::read_dir(&artifacts)?.count(), 0, "not a byte was fetched");
    let half = |n: u8| format!("() => {n} //{}", "x".repeat(90_000));
    world.function("a", WorkloadType::V8, half(1).as_bytes(), "a").await?;
    let error = world.function("b", WorkloadType::V8, half(2).as_bytes(), "b").await.unwrap_err();
    assert_eq!(code(&error), Some(Code::TotalBytesLimit), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_number_of_workloads_is_limited_and_freed_by_a_stop() -> Result<()> {
    let world = World::with(json!({"node_limits": {"max_workloads": 1}})).await?;
    let first = world.function("a", WorkloadType::V8, b"() => 1", "a").await?;
    let error = world.function("b", WorkloadType::V8, b"() => 2", "b").await.unwrap_err();
    assert_eq!(code(&error), Some(Code::WorkloadLimit), "{error}");
    world.stop(&first).await?;
    world.function("b", WorkloadType::V8, b"() => 2", "b").await?;
    Ok(())
}

#[tokio::test]
async fn an_object_whose_bytes_are_not_its_digests_is_refused() -> Result<()> {
    let world = World::start().await?;
    let sha256 = world.put("f", format!("() => 1 //{}", "x".repeat(300_000)).as_bytes()).await?;
    // Somebody swaps a part of the object under its unchanged description.
    let jetstream = jetstream::new(world.nats.clone());
    let stream = jetstream.get_stream(format!("OBJ_{BUCKET}")).await?;
    let consumer = stream
        .create_consumer(jetstream::consumer::pull::Config {
            filter_subject: format!("$O.{BUCKET}.C.>"),
            ..Default::default()
        })
        .await?;
    let parts: Vec<_> = consumer.fetch().max_messages(100).messages().await?.collect().await;
    let parts: Vec<_> = parts.into_iter().map(|part| part.map(|part| part.message)).collect::<Result<_, _>>().unwrap();
    stream.purge().filter(format!("$O.{BUCKET}.C.>")).await?;
    for part in &parts {
        let mut payload = part.payload.to_vec();
        payload[0] ^= 1;
        jetstream.publish(part.subject.clone(), payload.into()).await?.await?;
    }
    let mut deployment = world.deployment("f", WorkloadType::V8, &sha256)?;
    deployment.trigger_subjects = vec!["f".parse()?];
    let error = world.send(&deployment).await.unwrap_err();
    assert!(
        error.to_string().contains("Failed to cache workload bytes") || error.code() == Some(Code::HashMismatch),
        "{error}"
    );
    let left: Vec<_> = std::fs::read_dir(world.node.state_dir().join("artifacts"))?.collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[tokio::test]
async fn an_object_whose_parts_vanish_while_it_is_read_is_an_error_in_bounded_time() -> Result<()> {
    let world = World::start().await?;
    let sha256 = world.put("f", format!("() => 1 //{}", "x".repeat(500_000)).as_bytes()).await?;
    let mut stream = jetstream::new(world.nats.clone()).get_stream(format!("OBJ_{BUCKET}")).await?;
    // The description stays, half of the parts go.
    let first = stream.info().await?.state.first_sequence;
    stream.delete_message(first + 1).await?;
    stream.delete_message(first + 2).await?;
    let mut deployment = world.deployment("f", WorkloadType::V8, &sha256)?;
    deployment.trigger_subjects = vec!["f".parse()?];
    let error = tokio::time::timeout(Duration::from_secs(25), world.send(&deployment)).await?.unwrap_err();
    assert_eq!(error.code(), Some(Code::ArtifactUnavailable), "{error}");
    assert!(world.info().await.is_ok());
    Ok(())
}

#[tokio::test]
async fn the_same_bytes_are_fetched_once_and_a_redeploy_runs_the_new_ones() -> Result<()> {
    let world = World::start().await?;
    let old = world.function("f", WorkloadType::V8, b"() => 'old'", "f").await?;
    world.function("g", WorkloadType::V8, b"() => 'old'", "g").await?;
    assert_eq!(std::fs::read_dir(world.node.state_dir().join("artifacts"))?.count(), 1);
    world.stop(&old).await?;
    world.function("f", WorkloadType::V8, b"() => 'new'", "f").await?;
    assert_eq!(body(&world.call("f", "").await?)?, b"new");
    assert_eq!(body(&world.call("g", "").await?)?, b"old");
    Ok(())
}

#[tokio::test]
async fn a_duplicate_is_refused_where_the_node_takes_none() -> Result<()> {
    let world = World::with(json!({"allow_duplicate_workloads": false})).await?;
    world.function("a", WorkloadType::V8, b"() => 1", "a").await?;
    let error = world.function("b", WorkloadType::V8, b"() => 1", "b").await.unwrap_err();
    assert_eq!(code(&error), Some(Code::Duplicate), "{error}");
    Ok(())
}
