//! Workloads that end, are started again, come back with the node or do not; and what is told of them, also when NATS
//! is slow.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use nex_client::stop_request;
use nex_e2e::{PATIENCE, World, body, descendants, eventually, failure, round_trip};
use nex_protocol::Code;
use nex_protocol::WorkloadType::V8;
use nex_protocol::control::deploy::NatsConnection;
use nex_protocol::envelope::kind;
use nex_protocol::log::{Entry, Level};
use nex_testkit::{NatsServer, NexNode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{refusal, subject};

/// Processes of this program below the node.
fn processes(world: &World, program: &str) -> Vec<u32> {
    let is_one = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|it| it.trim() == program);
    descendants(world.node.process().pid()).into_iter().filter(is_one).collect()
}

/// Kills the agent of the only JavaScript function: the one that has a worker below it.
fn kill_agent(world: &World) -> Result<()> {
    let workers = processes(world, "deno");
    let agents = processes(world, "nex-agent");
    let holds = |agent: &u32| descendants(*agent).iter().any(|pid| workers.contains(pid));
    let agent = agents.into_iter().find(holds).context("the function's agent")?;
    signal(agent, Signal::KILL)
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    Ok(kill_process(Pid::from_raw(pid.cast_signed()).context("a process id")?, signal)?)
}

#[tokio::test]
async fn an_essential_service_that_ends_with_0_is_done() -> Result<()> {
    let world = World::with(json!({"restart": {"base_ms": 10}})).await?;
    let mut events = world.events().await?;
    world.shell_service("done", "exit 0", true).await?;
    let event = events.next_of(&["workload_restarting", "workload_undeployed"]).await?;
    assert_eq!((&event["type"], &event["data"]["code"]), (&json!("workload_undeployed"), &json!(0)), "{event}");
    assert!(world.info().await?.machines.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_function_whose_agent_was_killed_is_started_again_and_answers() -> Result<()> {
    let world = World::with(json!({"restart": {"base_ms": 50}})).await?;
    let mut events = world.events().await?;
    let workload = world.function("f", V8, b"(s, p) => p", "f").await?;
    kill_agent(&world)?;
    let event = events.next("workload_restarting").await?;
    assert_eq!((&event["workload_id"], &event["attempt"]), (&json!(workload.id), &json!(1)), "{event}");
    eventually("it answers again", || async {
        world.call("f", "x").await.is_ok_and(|reply| body(&reply).is_ok_and(|body| body == b"x"))
    })
    .await?;
    let machine = &world.info().await?.machines[0];
    assert_eq!((&machine.id, machine.healthy, machine.workload.restarts), (&workload.id, true, 1));
    Ok(())
}

/// A server whose JetStream is also that of a domain.
async fn server_of(domain: &str) -> Result<NatsServer> {
    NatsServer::builder().config(&format!("mappings {{ \"$JS.{domain}.API.>\": \"$JS.API.>\" }}")).start().await
}

#[tokio::test]
async fn a_function_keeps_its_connections_and_domain_when_it_is_started_again() -> Result<()> {
    let world = World::on(server_of("hub").await?, json!({"restart": {"base_ms": 50}})).await?;
    // Of its own: where it is asked, and where it keeps things.
    let (asks, keeps) = (NatsServer::start().await?, NatsServer::start().await?);
    let source = b"() => {
        const kv = hostServices.kv, seen = (kv.get('seen') ?? []).length;
        kv.set('seen', 'x'.repeat(seen + 1));
        return String(seen + 1);
    }";
    let sha256 = world.put("counts", source).await?;
    let mut deployment = world.deployment("counts", V8, &sha256)?;
    deployment.trigger_subjects = vec!["counts".parse()?];
    deployment.jsdomain = "hub".to_owned();
    let to = |server: &NatsServer| Some(NatsConnection { nats_url: server.url(), ..NatsConnection::default() });
    (deployment.trigger_connection, deployment.host_services) = (to(&asks), to(&keeps));
    let mut events = world.events().await?;
    world.send(&deployment).await?;
    let caller = asks.client().await?;
    let call = async |expected: &str| -> Result<()> {
        let request = async_nats::Request::new().payload("".into()).timeout(Some(PATIENCE));
        assert_eq!(body(&caller.send_request("counts", request).await?)?, expected.as_bytes());
        Ok(())
    };
    call("1").await?;
    call("2").await?;
    kill_agent(&world)?;
    events.next("workload_restarting").await?;
    eventually("it runs again", || async { world.info().await.is_ok_and(|info| info.machines[0].healthy) }).await?;
    call("3").await?;
    let here = world.nats.send_request("counts", async_nats::Request::new().timeout(Some(PATIENCE))).await;
    assert!(here.is_err(), "nobody listens on the node's own server");
    Ok(())
}

#[tokio::test]
async fn a_slow_nats_costs_lines_which_are_counted_and_nobody_waits_for_it() -> Result<()> {
    let world = World::start().await?;
    // Another server for the calls: how long they take is seen while the node's own server does nothing.
    let other = NatsServer::start().await?;
    let sha256 = world.put("f", b"(s, p) => p").await?;
    let mut deployment = world.deployment("f", V8, &sha256)?;
    deployment.trigger_subjects = vec!["f".parse()?];
    deployment.trigger_connection = Some(NatsConnection { nats_url: other.url(), ..NatsConnection::default() });
    world.send(&deployment).await?;
    let flood = format!("while :; do echo {}; done", "x".repeat(1000));
    let flooding = world.shell_service("flood", &flood, false).await?;

    let server = world.server.pid().context("the server runs")?;
    let caller = other.client().await?;
    signal(server, Signal::STOP)?;
    // Long enough for all that lies between the service and the server to fill up: queues and sockets.
    let (began, mut slowest) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < Duration::from_secs(4) {
        let asked = Instant::now();
        let request = async_nats::Request::new().payload("x".into()).timeout(Some(PATIENCE));
        assert_eq!(body(&caller.send_request("f", request).await?)?, b"x");
        slowest = slowest.max(asked.elapsed());
    }
    signal(server, Signal::CONT)?;
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let lost = world.node.log().find(|line| line.contains("were dropped").then(|| line.to_owned()));
    let line = tokio::time::timeout(PATIENCE, lost).await?.context("the node says what was dropped")?;
    let count = line.split("lost=").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    assert!(count.is_some_and(|count| count > 0), "{line}");
    // The flood goes on, and the node with it.
    world.function("later", V8, b"() => 'here'", "later").await?;
    assert_eq!(body(&world.call("later", "").await?)?, b"here");
    assert!(world.stop(&flooding).await?.stopped);
    Ok(())
}

#[tokio::test]
async fn a_failed_call_is_a_line_in_the_functions_log() -> Result<()> {
    let world = World::start().await?;
    let mut logs = world.nats.subscribe("$NEX.logs.default.>").await?;
    round_trip(&world.nats).await?;
    let workload = world.function("throws", V8, b"() => { throw new TypeError('no way') }", "t.*").await?;
    let (_, text) = failure(&world.call("t.one", "").await?).context("it fails")?;
    // JavaScript's own trace of the error comes before it.
    let entry = loop {
        let line = tokio::time::timeout(PATIENCE, logs.next()).await?.context("the log goes on")?;
        assert_eq!(line.subject.as_str(), format!("$NEX.logs.default.{}.{}.throws", world.node.id(), workload.id));
        let entry: Entry = serde_json::from_slice(&line.payload)?;
        if entry.text.starts_with("call on t.one failed: ") {
            break entry;
        }
    };
    assert_eq!((entry.level, entry.id.as_str()), (Level::Error, workload.id.as_str()));
    assert!(entry.text.contains("TypeError: no way"), "{}", entry.text);
    assert!(text.contains("no way"), "{text}");
    Ok(())
}

/// Ends the node and starts it again on the same state with this configuration.
async fn start_again(world: &mut World, config: Value) -> Result<()> {
    let (id, state) = (world.node.id().to_owned(), world.node.state_dir().to_owned());
    world.node.terminate().await?;
    let node = NexNode::builder(&world.server).await?.state_dir(state).config(config).start().await?;
    assert_eq!(node.id(), id);
    world.node = node;
    Ok(())
}

#[tokio::test]
async fn what_the_configuration_does_not_allow_any_more_does_not_come_back_and_is_kept() -> Result<()> {
    let state = tempfile::tempdir()?;
    let server = NatsServer::start().await?;
    let node = NexNode::builder(&server).await?.state_dir(state.path()).start().await?;
    let nats = server.client().await?;
    let mut world = World::of(server, node, nats);
    let sha256 = world.put("f", b"() => 'f'").await?;
    let mut deployment = world.deployment("f", V8, &sha256)?;
    deployment.trigger_subjects = vec!["inside.f".parse()?];
    deployment.limits.memory_mib = Some(128);
    let workload = world.send(&deployment).await?;
    for (narrower, reason) in [
        (json!({"deny_trigger_subjects": ["inside.>"]}), "deny list"),
        (json!({"workload_types": ["native", "wasm"]}), "Unsupported workload type"),
        (json!({"workload_limits": {"max_memory_mib": 64}}), "at most 64"),
        (json!({"artifact_buckets": ["OTHER"]}), "takes no artifacts from bucket"),
    ] {
        start_again(&mut world, narrower).await?;
        let told = world.node.log().find(|line| line.contains("its record is kept").then(|| line.to_owned()));
        let line = tokio::time::timeout(PATIENCE, told).await?.context("the node says what it leaves")?;
        assert!(line.contains(reason) && line.contains(&workload.id), "{reason}: {line}");
        assert!(world.info().await?.machines.is_empty(), "{reason}");
        assert_eq!(std::fs::read_dir(state.path().join("workloads"))?.count(), 1, "{reason}");
    }
    start_again(&mut world, json!({})).await?;
    eventually("it is back as soon as it is allowed", || async {
        world.info().await.is_ok_and(|info| info.machines.iter().any(|m| m.id == workload.id && m.healthy))
    })
    .await?;
    assert_eq!(body(&world.call("inside.f", "").await?)?, b"f");
    Ok(())
}

#[tokio::test]
async fn what_the_configuration_starts_is_stopped_by_the_configuration_alone() -> Result<()> {
    let state = tempfile::tempdir()?;
    let server = NatsServer::start().await?;
    let auto = json!({"name": "auto", "type": "v8", "location": "nats://E2E/auto", "trigger_subjects": ["auto"]});
    let config = |issuers: Value| {
        let restart = json!({"base_ms": 50, "cap_ms": 50});
        json!({"autostart": {"workloads": [auto]}, "valid_issuers": issuers, "restart": restart})
    };
    let builder = NexNode::builder(&server).await?.state_dir(state.path());
    let node = builder.config(config(json!([]))).start().await?;
    let nats = server.client().await?;
    let mut world = World::of(server, node, nats);
    world.put("auto", b"() => 'auto'").await?;
    // Where everybody may deploy, and where only the one who asks may.
    for issuers in [json!([]), json!([world.issuer.public_key()])] {
        start_again(&mut world, config(issuers)).await?;
        eventually("it runs", || async {
            world.info().await.is_ok_and(|info| info.machines.iter().any(|machine| machine.healthy))
        })
        .await?;
        let machine = world.info().await?.machines.remove(0);
        let stop = stop_request(&world.issuer, world.client.namespace(), world.node.id(), &machine.id, "auto")?;
        let refused = refusal(&world, &subject(&world, "STOP"), kind::STOP, serde_json::to_vec(&stop)?).await;
        let text = "Invalid stop request: the node's configuration runs it (autostart): take it out there";
        assert_eq!(refused, (Code::InvalidStopClaim, text.to_owned()));
        assert_eq!(body(&world.call("auto", "").await?)?, b"auto");
    }
    start_again(&mut world, json!({})).await?;
    assert!(world.info().await?.machines.is_empty());
    Ok(())
}
