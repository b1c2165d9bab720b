//! What a workload may take: asked for in its deploy, capped by the node's policy, enforced while it runs.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nex_client::{ClientError, Deployment};
use nex_e2e::{World, descendants, eventually, failure};
use nex_protocol::control::deploy::RunResponse;
use nex_protocol::control::limits::WorkloadLimits;
use nex_protocol::{Code, WorkloadType};
use serde_json::json;

fn none() -> WorkloadLimits {
    WorkloadLimits::default()
}

/// A shell that runs a script, with limits.
async fn shell(world: &World, name: &str, script: &str, limits: WorkloadLimits) -> Result<RunResponse, ClientError> {
    let sha256 = world.put(name, &fs::read("/bin/sh").unwrap()).await.unwrap();
    let mut deployment = world.deployment(name, WorkloadType::Native, &sha256).unwrap();
    deployment.argv = vec!["-c".to_owned(), script.to_owned()];
    deployment.limits = limits;
    world.send(&deployment).await
}

async fn function(world: &World, name: &str, source: &str, limits: WorkloadLimits) -> Result<RunResponse, ClientError> {
    let sha256 = world.put(name, source.as_bytes()).await.unwrap();
    let mut deployment: Deployment = world.deployment(name, WorkloadType::V8, &sha256).unwrap();
    deployment.trigger_subjects = vec![name.parse().unwrap()];
    deployment.limits = limits;
    world.send(&deployment).await
}

/// Whether the node could make control groups. Where it cannot, a test of what they do tells so and ends.
async fn has_control_groups(world: &World) -> Result<bool> {
    match shell(world, "asks", "sleep 300", WorkloadLimits { cpu_millis: Some(500), ..none() }).await {
        Ok(workload) => {
            world.stop(&workload).await?;
            Ok(true)
        }
        Err(error) => {
            assert_eq!(error.code(), Some(Code::LimitUnavailable), "{error}");
            eprintln!("SKIPPED: this machine lets nobody here make control groups: {error}");
            Ok(false)
        }
    }
}

/// Processor time that a process has used, ticks of a hundredth of a second.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    [11, 12].iter().filter_map(|field| fields.get(*field)?.parse::<u64>().ok()).sum()
}

#[tokio::test]
async fn a_service_gets_no_more_processor_than_it_asked_for() -> Result<()> {
    let world = World::start().await?;
    if !has_control_groups(&world).await? {
        return Ok(());
    }
    let limits = WorkloadLimits { cpu_millis: Some(100), ..none() };
    shell(&world, "spins", "while :; do :; done", limits).await?;
    let spinning = || {
        let is = |pid: &u32| command_line(*pid).contains("while :;");
        descendants(world.node.process().pid()).into_iter().find(is)
    };
    eventually("it spins", || async { spinning().is_some_and(|pid| ticks(pid) > 0) }).await?;
    let pid = spinning().context("it runs")?;
    let (before, began) = (ticks(pid), Instant::now());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (used, wall) = (ticks(pid) - before, began.elapsed().as_millis() / 10);
    // A tenth is asked for; without the limit it would be all of one processor, or half of it on a busy machine.
    assert!(u128::from(used) * 4 < wall, "{used} of {wall} ticks");
    let info = world.info().await?;
    assert_eq!(info.machines[0].workload.limits, limits, "INFO tells the limits");
    Ok(())
}

/// Command line of a process; empty when it is gone.
fn command_line(pid: u32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned()
}

#[tokio::test]
async fn a_functions_processor_is_bounded_although_a_worker_was_there_before_it() -> Result<()> {
    let world = World::start().await?;
    if !has_control_groups(&world).await? {
        return Ok(());
    }
    let waits = |pid: &u32| command_line(*pid).ends_with("waits\0");
    let node = world.node.process().pid();
    eventually("a worker waits", || async { descendants(node).iter().any(waits) }).await?;
    let limits = WorkloadLimits { cpu_millis: Some(500), ..none() };
    function(&world, "pid", "() => String(process.pid)", limits).await?;
    let worker = String::from_utf8(world.call("pid", "").await?.payload.to_vec())?;
    assert_ne!(fs::read(format!("/proc/{worker}/cgroup"))?, fs::read(format!("/proc/{node}/cgroup"))?);
    Ok(())
}

#[tokio::test]
async fn a_service_that_takes_more_memory_than_it_asked_for_is_ended() -> Result<()> {
    let world = World::start().await?;
    if !has_control_groups(&world).await? {
        return Ok(());
    }
    let mut events = world.events().await?;
    let limits = WorkloadLimits { memory_mib: Some(32), ..none() };
    // Doubles a variable of the shell until somebody stops it.
    let script = "x=0123456789abcdef; i=0; while [ $i -lt 24 ]; do x=$x$x; i=$((i+1)); done; sleep 300";
    shell(&world, "grows", script, limits).await?;
    let ended = events.next("workload_undeployed").await?;
    assert_eq!(ended["workload_name"], "grows");
    let message = ended["message"].as_str().unwrap_or_default();
    assert!(message.contains("memory"), "{ended}");
    Ok(())
}

#[tokio::test]
async fn a_function_is_cut_off_after_the_time_it_asked_for() -> Result<()> {
    let world = World::start().await?;
    let limits = WorkloadLimits { timeout_ms: Some(300), ..none() };
    function(&world, "waits", "() => new Promise(() => {})", limits).await?;
    let began = Instant::now();
    let reply = world.call("waits", "").await?;
    let (code, text) = failure(&reply).context("it failed")?;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(code, 504, "{text}");
    Ok(())
}

#[tokio::test]
async fn a_functions_memory_is_what_it_asked_for() -> Result<()> {
    let world = World::start().await?;
    let hungry = "(s, p) => { let a = []; for (let i = 0; i < 60; i++) { a.push(new Array(131072).fill(i)); } return String(a.length) }";
    function(&world, "roomy", hungry, WorkloadLimits { memory_mib: Some(200), ..none() }).await?;
    function(&world, "narrow", hungry, WorkloadLimits { memory_mib: Some(32), ..none() }).await?;
    assert_eq!(failure(&world.call("roomy", "").await?), None);
    assert!(failure(&world.call("narrow", "").await?).is_some(), "60 MiB do not fit into 32");
    Ok(())
}

#[tokio::test]
async fn more_than_the_node_gives_is_refused_and_names_the_cap() -> Result<()> {
    let caps = json!({"workload_limits": {"max_cpu_millis": 500, "max_memory_mib": 64, "max_instances": 2, "max_timeout_ms": 1000}});
    let world = World::with(caps).await?;
    let cases = [
        (WorkloadLimits { cpu_millis: Some(501), ..none() }, "limits.cpu_millis is 501, this node gives at most 500"),
        (WorkloadLimits { memory_mib: Some(65), ..none() }, "limits.memory_mib is 65, this node gives at most 64"),
        (WorkloadLimits { max_instances: Some(3), ..none() }, "limits.max_instances is 3, this node gives at most 2"),
        (
            WorkloadLimits { timeout_ms: Some(1001), ..none() },
            "limits.timeout_ms is 1001, this node gives at most 1000",
        ),
    ];
    for (limits, reason) in cases {
        let refused = function(&world, "f", "() => 1", limits).await.unwrap_err();
        assert_eq!(refused.code(), Some(Code::LimitExceeded), "{refused}");
        assert!(refused.to_string().contains(reason), "{refused}");
    }
    let within = WorkloadLimits { memory_mib: Some(64), max_instances: Some(2), timeout_ms: Some(1000), ..none() };
    function(&world, "f", "() => 1", within).await?;
    for limits in [WorkloadLimits { timeout_ms: Some(1), ..none() }, WorkloadLimits { memory_mib: Some(0), ..none() }] {
        let refused = shell(&world, "s", "sleep 300", limits).await.unwrap_err();
        assert_eq!(refused.code(), Some(Code::BadRequest), "{refused}");
    }
    Ok(())
}
