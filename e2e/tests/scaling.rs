//! The agents of a function: none while nobody calls it, more while its calls queue.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use anyhow::{Context, Result};
use futures_util::future::join_all;
use nex_e2e::{Events, World, body, descendants, eventually, failure};
use nex_protocol::WorkloadType::{V8, Wasm};
use nex_protocol::control::deploy::RunResponse;
use nex_protocol::control::limits::WorkloadLimits;
use nex_testkit::{NatsServer, NexNode, examples};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A node that lets agents go soon.
async fn restless() -> Result<(World, Events)> {
    let world = World::with(json!({"functions": {"idle_timeout_ms": 200}})).await?;
    let events = world.events().await?;
    Ok((world, events))
}

/// Deploys a JavaScript function with limits of its own.
async fn limited(world: &World, name: &str, source: &str, limits: WorkloadLimits) -> Result<RunResponse> {
    let sha256 = world.put(name, source.as_bytes()).await?;
    let mut deployment = world.deployment(name, V8, &sha256)?;
    deployment.trigger_subjects = vec![name.parse()?];
    deployment.limits = limits;
    Ok(world.send(&deployment).await?)
}

/// Processes of agents, those of the pool included.
fn agents(world: &World) -> Vec<u32> {
    let is_agent =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "nex-agent\n");
    descendants(world.node.process().pid()).into_iter().filter(is_agent).collect()
}

/// Kills an agent that has the function: any but those of the pool, which are the youngest.
async fn kill_one(world: &World) -> Result<()> {
    let (mut all, pooled) = (agents(world), world.info().await?.available_agents);
    all.sort_unstable();
    let victim = all.get(all.len() - pooled - 1).context("an agent with the function")?;
    Ok(kill_process(Pid::from_raw(victim.cast_signed()).context("pid")?, Signal::KILL)?)
}

/// Agents of a function, as INFO tells.
async fn instances(world: &World, workload: &RunResponse) -> Result<(bool, Option<u32>)> {
    let info = world.info().await?;
    let machine = info.machines.iter().find(|machine| machine.id == workload.id).context("the function")?;
    Ok((machine.healthy, machine.workload.instances))
}

/// The next change of a function's agents with this reason.
async fn scaled(events: &mut Events, reason: &str) -> Result<Value> {
    loop {
        let told = events.next("function_scaled").await?;
        if told["reason"] == reason {
            return Ok(told);
        }
    }
}

#[tokio::test]
async fn a_function_that_nobody_calls_has_no_agent_and_the_next_call_brings_one() -> Result<()> {
    let (world, mut events) = restless().await?;
    let wasm = world.function("wasm", Wasm, &std::fs::read(examples()?.wasm()?)?, "wasm").await?;
    let rested = scaled(&mut events, "idle").await?;
    assert_eq!((&rested["workload_id"], &rested["before"]), (&json!(wasm.id), &json!(1)), "{rested}");
    assert_eq!(instances(&world, &wasm).await?, (true, Some(0)), "it is well, and triggered");
    let script = world.function("script", V8, b"(s, p) => p", "script").await?;
    scaled(&mut events, "idle").await?;
    eventually("only the pool's agent is left", || async { agents(&world).len() <= 1 }).await?;
    for (subject, workload) in [("wasm", &wasm), ("script", &script)] {
        assert!(body(&world.call(subject, "hello").await?)?.starts_with(b"hello"));
        let came = scaled(&mut events, "call").await?;
        assert_eq!((&came["workload_id"], &came["instances"]), (&json!(workload.id), &json!(1)), "{came}");
        assert!(came["took_ms"].is_u64(), "{came}");
    }
    Ok(())
}

#[tokio::test]
async fn calls_that_come_at_once_to_a_function_at_rest_are_all_answered_by_one_agent() -> Result<()> {
    let (world, mut events) = restless().await?;
    world.function("f", V8, b"let n = 0; () => ++n", "f").await?;
    scaled(&mut events, "idle").await?;
    let replies = join_all((0..100).map(|_| world.call("f", ""))).await;
    let mut numbers = Vec::new();
    for reply in replies {
        numbers.push(String::from_utf8_lossy(body(&reply?)?).parse::<u32>()?);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_function_keeps_its_agent_when_its_deploy_says_so() -> Result<()> {
    let (world, mut events) = restless().await?;
    let limits = WorkloadLimits { idle_timeout_ms: Some(0), ..WorkloadLimits::default() };
    let resident = limited(&world, "resident", "let n = 0; () => ++n", limits).await?;
    world.function("other", V8, b"() => 1", "other").await?;
    let rested = scaled(&mut events, "idle").await?;
    assert_eq!(rested["workload_name"], "other");
    assert_eq!(instances(&world, &resident).await?, (true, Some(1)));
    Ok(())
}

/// A function whose calls take a while, one at a time in each agent.
const SLOW: &str = "const id = crypto.randomUUID(); let running = 0;
async () => {
  if (++running > 1) throw new Error('two at a time');
  await new Promise((done) => setTimeout(done, 100));
  running--;
  return id;
}";

fn one_at_a_time(max_instances: u64) -> WorkloadLimits {
    WorkloadLimits { concurrency: Some(1), max_instances: Some(max_instances), ..WorkloadLimits::default() }
}

async fn several(config: Value) -> Result<(World, Events)> {
    let mut all = json!({
        "functions": {"timeout_ms": 20_000}, "workload_limits": {"max_instances": 3}, "machine_pool_size": 2,
    });
    for (key, value) in config.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    let world = World::with(all).await?;
    let events = world.events().await?;
    Ok((world, events))
}

#[tokio::test]
async fn calls_that_queue_bring_more_agents_and_never_more_than_there_may_be() -> Result<()> {
    let (world, mut events) = several(json!({})).await?;
    let slow = limited(&world, "slow", SLOW, one_at_a_time(3)).await?;
    let replies = join_all((0..60).map(|_| world.call("slow", ""))).await;
    let mut answered = std::collections::BTreeSet::new();
    for reply in replies {
        answered.insert(body(&reply?)?.to_vec());
    }
    assert!((2..=3).contains(&answered.len()), "{} agents", answered.len());
    let grown = scaled(&mut events, "queue").await?;
    assert!(grown["instances"].as_u64().is_some_and(|n| (2..=3).contains(&n)), "{grown}");
    eventually("three at most", || async { instances(&world, &slow).await.is_ok_and(|(_, n)| n <= Some(3)) }).await?;
    world.stop(&slow).await?;
    eventually("all agents are gone with it", || async { agents(&world).len() <= 2 }).await
}

#[tokio::test]
async fn an_agent_that_is_lost_takes_its_calls_with_it_and_the_others_go_on() -> Result<()> {
    let (world, mut events) = several(json!({"restart": {"base_ms": 50, "cap_ms": 200}})).await?;
    let slow = limited(&world, "slow", SLOW, one_at_a_time(3)).await?;
    join_all((0..60).map(|_| world.call("slow", ""))).await;
    scaled(&mut events, "queue").await?;
    kill_one(&world).await?;
    let lost = scaled(&mut events, "lost").await?;
    assert_eq!(lost["workload_id"], json!(slow.id));
    body(&world.call("slow", "").await?)?;
    assert_eq!(world.info().await?.machines[0].workload.restarts, 0, "the function never failed");
    Ok(())
}

#[tokio::test]
async fn calls_that_wait_are_not_lost_with_an_agent_that_they_are_not_in() -> Result<()> {
    let (world, mut events) = several(json!({"restart": {"base_ms": 50, "cap_ms": 200}})).await?;
    limited(&world, "slow", SLOW, one_at_a_time(2)).await?;
    let kill = async {
        scaled(&mut events, "queue").await?;
        kill_one(&world).await
    };
    let (replies, killed) = tokio::join!(join_all((0..60).map(|_| world.call("slow", ""))), kill);
    killed?;
    let mut lost = 0;
    for reply in replies {
        lost += usize::from(failure(&reply?).is_some());
    }
    assert!(lost <= 1, "{lost} calls failed, one was in it");
    Ok(())
}

#[tokio::test]
async fn a_function_of_a_node_that_was_killed_comes_back_without_an_agent() -> Result<()> {
    let (server, state) = (NatsServer::start().await?, tempfile::tempdir()?);
    let node = NexNode::builder(&server).await?.state_dir(state.path()).start().await?;
    let nats = server.client().await?;
    let mut world = World::of(server, node, nats);
    let workload = world.function("f", V8, b"(s, p) => p", "f").await?;
    world.node.kill().await?;
    world.node = NexNode::builder(&world.server).await?.state_dir(state.path()).start().await?;
    eventually("it is back", || async {
        instances(&world, &workload).await.is_ok_and(|found| found == (true, Some(0)))
    })
    .await?;
    assert_eq!(body(&world.call("f", "x").await?)?, b"x");
    assert_eq!(instances(&world, &workload).await?, (true, Some(1)));
    Ok(())
}

#[tokio::test]
async fn a_function_at_rest_is_stopped_like_any_other_and_a_call_that_waits_for_an_agent_is_answered() -> Result<()> {
    let (world, mut events) = restless().await?;
    let first = world.function("first", V8, b"() => 1", "first").await?;
    let second = world.function("second", V8, b"() => 2", "second").await?;
    for _ in 0..2 {
        scaled(&mut events, "idle").await?;
    }
    assert!(world.stop(&first).await?.stopped);
    assert!(world.call("first", "").await.is_err(), "nobody listens any more");
    // Begun before the stop and not awaited: the agent is on its way when the stop comes.
    let (reply, stopped) = tokio::join!(world.call("second", ""), world.stop(&second));
    assert!(stopped?.stopped);
    if let Ok(reply) = reply {
        assert!(failure(&reply).is_some() || body(&reply)? == b"2", "{reply:?}");
    }
    Ok(())
}
