//! Subjects and whole requests: what is ignored, what is refused, and what the node does all the while.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use futures_util::future::join_all;
use nex_client::{Client, lame_duck_request, stop_request};
use nex_e2e::{PATIENCE, World, body, eventually, round_trip};
use nex_protocol::WorkloadType::V8;
use nex_protocol::envelope::{self, kind};
use nex_protocol::{Code, Namespace};
use nex_testkit::{NatsServer, NexNode};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{bids, deployed, function, not_deployed, refusal, subject};

#[tokio::test]
async fn a_request_without_a_reply_subject_does_nothing() -> Result<()> {
    let server = NatsServer::start().await?;
    let node = NexNode::builder(&server).await?.env("NEX_LOGLEVEL", "debug").start().await?;
    let nats = server.client().await?;
    let world = World::of(server, node, nats);
    let stays = deployed(&world, &function(&world, "stays").await?).await?;
    let node = world.node.id();

    let deploy = function(&world, "unasked").await?;
    let stop = stop_request(&world.issuer, world.client.namespace(), node, &stays.id, "stays")?;
    let leave = lame_duck_request(None, node, None)?;
    for (subject, body) in [
        (subject(&world, "DEPLOY"), deploy.to_string().into_bytes()),
        (subject(&world, "STOP"), serde_json::to_vec(&stop)?),
        (format!("$NEX.LAMEDUCK.{node}"), serde_json::to_vec(&leave)?),
    ] {
        world.nats.publish(subject.clone(), body.into()).await?;
        let ignored = world.node.log().find(|line| {
            (line.contains("without a reply subject is ignored") && line.contains(&subject)).then_some(())
        });
        tokio::time::timeout(PATIENCE, ignored).await?.context("the node says what it ignores")?;
    }
    let info = world.info().await?;
    assert_eq!(info.machines.iter().map(|machine| machine.id.as_str()).collect::<Vec<_>>(), [stays.id.as_str()]);
    assert!(!info.tags.contains_key("nex.lameduck"), "{:?}", info.tags);
    assert_eq!(body(&world.call("stays", "").await?)?, b"stays");
    // What was ignored was not used up either.
    deployed(&world, &deploy).await?;
    assert!(world.client.stop(&stop, node).await?.stopped);
    Ok(())
}

#[tokio::test]
async fn of_many_deploys_at_a_time_64_are_worked_on_and_more_refused_at_once() -> Result<()> {
    let world = World::start().await?;
    let good = function(&world, "f").await?;
    // A store that never says anything: somebody listens there, and does not answer.
    let mut asked = world.nats.subscribe("$JS.hangs.API.>").await?;
    round_trip(&world.nats).await?;
    let mut hanging = good.clone();
    hanging["jsdomain"] = json!("hangs");
    let mut claims = Vec::new();
    for number in 0..64 {
        let name = format!("f{number}");
        let mut request = hanging.clone();
        request["workload_jwt"] = function(&world, &name).await?["workload_jwt"].clone();
        claims.push(request);
    }
    let deploys = async { join_all(claims.iter().map(|request| not_deployed(&world, request))).await };
    let meanwhile = async {
        for number in 0..64 {
            let request = tokio::time::timeout(PATIENCE, asked.next()).await?;
            request.with_context(|| format!("the store is asked for number {number}"))?;
        }
        // None of them has an answer so far, and none will have for some seconds.
        let one_more = tokio::time::timeout(Duration::from_secs(3), not_deployed(&world, &good));
        assert_eq!(one_more.await?, (Code::Busy, "the node has 64 requests of this kind in work".to_owned()));
        for subject in ["$NEX.PING", &subject(&world, "INFO")] {
            tokio::time::timeout(Duration::from_secs(3), world.call(subject, "")).await??;
        }
        let on = subject(&world, "STOP");
        let stop = refusal(&world, &on, kind::STOP, json!({"workload_id": "none"}).to_string());
        assert_eq!(tokio::time::timeout(Duration::from_secs(3), stop).await?.0, Code::NoSuchWorkload);
        anyhow::Ok(())
    };
    let (refused, meanwhile) = tokio::join!(deploys, meanwhile);
    meanwhile?;
    assert!(refused.iter().all(|(code, _)| *code == Code::ArtifactUnavailable), "{refused:?}");
    // There is room again.
    deployed(&world, &good).await?;
    Ok(())
}

#[tokio::test]
async fn a_refusal_has_at_most_1024_characters_whatever_it_quotes() -> Result<()> {
    let world = World::start().await?;
    let mut request = function(&world, "f").await?;
    request["type"] = json!("ü".repeat(100_000));
    let (code, text) = not_deployed(&world, &request).await;
    assert_eq!((code, text.chars().count()), (Code::UnsupportedType, 1024), "{text}");
    assert!(text.starts_with("Unsupported workload type on this node: üüü") && text.ends_with("ü…"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_namespace_that_is_none_is_refused_in_the_words_of_go_nex() -> Result<()> {
    let world = World::start().await?;
    let node = world.node.id();
    let request = function(&world, "f").await?.to_string();
    for (command, kind, text) in [
        ("DEPLOY", kind::RUN, "Invalid subject for workload deployment"),
        ("STOP", kind::STOP, "Invalid subject for workload stop"),
        ("INFO", kind::INFO, "Failed to extract namespace for info request"),
    ] {
        for namespace in ["a$b", "ü", &"n".repeat(129)] {
            let refused = refusal(&world, &format!("$NEX.{command}.{namespace}.{node}"), kind, request.clone()).await;
            assert_eq!(refused, (Code::InvalidSubject, text.to_owned()), "{command} {namespace}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_deployed_into_the_namespace_the_node_tells_of_itself_in() -> Result<()> {
    let world = World::start().await?;
    let request = function(&world, "f").await?;
    let system = format!("$NEX.DEPLOY.system.{}", world.node.id());
    let refused = refusal(&world, &system, kind::RUN, request.to_string()).await;
    let text = "Invalid subject for workload deployment: the namespace system is the node's own";
    assert_eq!(refused, (Code::InvalidSubject, text.to_owned()));
    // Who may look there is answered all the same.
    let reply = world.call(&format!("$NEX.INFO.system.{}", world.node.id()), "").await?;
    let info: Value = envelope::open(kind::INFO, &reply.payload)?;
    assert_eq!(info["machines"], json!([]));
    Ok(())
}

#[tokio::test]
async fn a_node_configured_as_a_lame_duck_takes_nothing_and_does_not_bid() -> Result<()> {
    let world = World::with(json!({"tags": {"nex.lameduck": "true"}})).await?;
    let refused = not_deployed(&world, &function(&world, "f").await?).await;
    assert_eq!(refused, (Code::LameDuck, "Node is in lame duck mode. Workload deploy request denied".to_owned()));
    assert_eq!(bids(&world, json!({})).await, 0);
    assert_eq!(world.info().await?.tags.get("nex.lameduck").map(String::as_str), Some("true"));
    Ok(())
}

#[tokio::test]
async fn a_full_node_does_not_bid_until_there_is_room() -> Result<()> {
    let world = World::with(json!({"node_limits": {"max_workloads": 1}})).await?;
    assert_eq!(bids(&world, json!({})).await, 1);
    let workload = world.function("f", V8, b"() => 1", "f").await?;
    assert_eq!(bids(&world, json!({})).await, 0);
    world.stop(&workload).await?;
    assert_eq!(bids(&world, json!({})).await, 1);
    Ok(())
}

#[tokio::test]
async fn a_wping_for_a_namespace_in_another_case_is_met_with_silence() -> Result<()> {
    let mut world = World::start().await?;
    world.client = Client::new(world.nats.clone(), "shop".parse::<Namespace>()?, PATIENCE);
    world.function("f", V8, b"() => 1", "f").await?;
    for subject in ["$NEX.WPING.Shop", "$NEX.WPING.SHOP.f"] {
        let request = async_nats::Request::new().timeout(Some(Duration::from_millis(300)));
        assert!(world.nats.send_request(subject, request).await.is_err(), "{subject}");
    }
    let reply = world.call("$NEX.WPING.shop.F", "").await?;
    let found: Value = envelope::open(kind::PING, &reply.payload)?;
    assert_eq!(found["running_machines"][0]["namespace"], "shop");
    Ok(())
}

#[tokio::test]
async fn an_unreadable_lame_duck_order_is_refused_and_changes_nothing() -> Result<()> {
    let world = World::start().await?;
    let subject = format!("$NEX.LAMEDUCK.{}", world.node.id());
    for body in ["leave", "[1]", "{\"delay_ms\": \"soon\"}", "{\"delay_ms\": -1}", "\"x\""] {
        let (code, text) = refusal(&world, &subject, kind::LAMEDUCK, body).await;
        assert_eq!(code, Code::BadRequest, "{body}");
        assert!(text.starts_with("Failed to enter lame duck mode: "), "{text}");
    }
    assert!(!world.info().await?.tags.contains_key("nex.lameduck"));
    assert_eq!(bids(&world, json!({})).await, 1);
    Ok(())
}

#[tokio::test]
async fn a_stop_for_another_node_is_refused() -> Result<()> {
    let world = World::start().await?;
    let workload = world.function("f", V8, b"() => 1", "f").await?;
    let mut stop = stop_request(&world.issuer, world.client.namespace(), world.node.id(), &workload.id, "f")?;
    stop.target_node = "NOTHER".to_owned();
    let refused = refusal(&world, &subject(&world, "STOP"), kind::STOP, serde_json::to_vec(&stop)?).await;
    assert_eq!(refused, (Code::WrongTarget, "Invalid stop request: it is for node NOTHER".to_owned()));
    assert_eq!(world.info().await?.machines.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_stopping_takes_no_deploys_and_says_so() -> Result<()> {
    let world = World::with(json!({"stop_grace_ms": 4000})).await?;
    let request = function(&world, "f").await?;
    // Before it has shut its ears it would end at once, and the node with it.
    let deaf = world.node.folder().join("deaf");
    let script = format!("trap '' TERM; : > {}; while :; do /bin/sleep 0.1; done", deaf.display());
    world.shell_service("stubborn", &script, false).await?;
    eventually("the service hears nothing", || async { deaf.exists() }).await?;
    world.node.process().signal(Signal::TERM)?;
    eventually("the service is being ended", || async {
        world.info().await.is_ok_and(|info| info.machines.iter().any(|machine| machine.workload.state == "stopping"))
    })
    .await?;
    let refused = not_deployed(&world, &request).await;
    assert_eq!(refused, (Code::Draining, "Node is shutting down. Workload deploy request denied".to_owned()));
    assert_eq!(bids(&world, json!({})).await, 0);
    let status = tokio::time::timeout(PATIENCE, world.node.process().wait()).await??;
    assert_eq!(status.code(), Some(0));
    Ok(())
}
