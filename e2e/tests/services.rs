//! Services through the whole system: environment, logs, restarts, and what must not be left behind.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::Result;
use futures_util::StreamExt;
use nex_e2e::{PATIENCE, World, descendants, eventually, is_alive};
use nex_protocol::WorkloadType::Native;
use nex_protocol::log::{Entry, Level};
use serde_json::json;

/// The agent that hosts a service started by `sleep`-like children of the node.
fn parent(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let rest = stat.rsplit_once(')').unwrap().1;
    rest.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Process id that a service wrote to a file.
async fn pid_from(path: &std::path::Path) -> Result<u32> {
    let read = || std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    eventually("the service writes its process id", || async move { read().is_some() }).await?;
    Ok(read().unwrap())
}

#[tokio::test]
async fn a_service_gets_its_environment_and_nothing_else() -> Result<()> {
    let world = World::start().await?;
    let mut logs = world.nats.subscribe("$NEX.logs.default.>").await?;
    nex_e2e::round_trip(&world.nats).await?;
    let env = std::fs::read("/usr/bin/env")?;
    let sha256 = world.put("env", &env).await?;
    let mut deployment = world.deployment("env", Native, &sha256)?;
    deployment.environment.set("mixed_Case", "kept as it is");
    world.send(&deployment).await?;
    let line = tokio::time::timeout(PATIENCE, logs.next()).await?.unwrap();
    let entry: Entry = serde_json::from_slice(&line.payload)?;
    assert_eq!((entry.text.as_str(), entry.level), ("mixed_Case=kept as it is", Level::Info));
    Ok(())
}

#[tokio::test]
async fn what_is_no_program_of_this_machine_is_refused_with_its_own_reason() -> Result<()> {
    let world = World::start().await?;
    let shell = std::fs::read("/bin/sh")?;
    let mut other_machine = shell.clone();
    other_machine[18] = 0xf3; // RISC-V
    // Its interpreter, the dynamic loader, does not exist.
    let loader = shell.windows(6).position(|window| window == b"/ld-li").unwrap();
    let mut no_loader = shell.clone();
    no_loader[loader + 1] = b'x';
    for (bytes, part) in [
        (b"#!/bin/sh\necho hi\n".to_vec(), "ELF"),
        (vec![0u8; 64], "ELF"),
        (shell[..40].to_vec(), "ELF"),
        (other_machine, "this node is"),
        (no_loader, "static"),
    ] {
        let sha256 = world.put("bad", &bytes).await?;
        let error = world.send(&world.deployment("bad", Native, &sha256)?).await.unwrap_err();
        assert!(error.to_string().contains("Failed to deploy workload: "), "{error}");
        assert!(error.to_string().contains(part), "expected {part}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn stopping_a_service_ends_its_whole_process_group_even_when_it_ignores_term() -> Result<()> {
    let world = World::with(json!({"stop_grace_ms": 300})).await?;
    let dir = tempfile::tempdir()?;
    let (leader, child) = (dir.path().join("leader"), dir.path().join("child"));
    let script = format!(
        "trap '' TERM; (trap '' TERM; while :; do /bin/sleep 1; done) & echo $! > {}; echo $$ > {}; while :; do /bin/sleep 1; done",
        child.display(),
        leader.display()
    );
    let workload = world.shell_service("stubborn", &script, false).await?;
    let (leader, child) = (pid_from(&leader).await?, pid_from(&child).await?);
    world.stop(&workload).await?;
    assert!(!is_alive(leader) && !is_alive(child));
    Ok(())
}

#[tokio::test]
async fn an_essential_service_restarts_with_backoff_after_a_failure_and_keeps_its_id() -> Result<()> {
    let world = World::with(json!({"restart": {"base_ms": 50, "cap_ms": 200}})).await?;
    let mut events = world.events().await?;
    let dir = tempfile::tempdir()?;
    let runs = dir.path().join("runs");
    // Fails three times, then stays.
    let script =
        format!("echo x >> {0}; [ $(/usr/bin/wc -l < {0}) -ge 4 ] || exit 3; exec /bin/sleep 1000", runs.display());
    let workload = world.shell_service("phoenix", &script, true).await?;
    for attempt in 1..=3 {
        let event = events.next("workload_restarting").await?;
        assert_eq!(
            (event["attempt"].as_u64(), event["workload_id"].as_str()),
            (Some(attempt), Some(workload.id.as_str()))
        );
        assert!(event["delay_ms"].as_u64().unwrap() <= 200);
    }
    eventually("it runs again", || async {
        world.info().await.is_ok_and(|info| info.machines.iter().any(|m| m.id == workload.id && m.healthy))
    })
    .await?;
    assert_eq!(world.info().await?.machines[0].workload.restarts, 3);
    Ok(())
}

#[tokio::test]
async fn a_service_that_is_not_essential_ends_with_its_exit_code_in_the_event() -> Result<()> {
    let world = World::start().await?;
    let mut events = world.events().await?;
    world.shell_service("once", "exit 7", false).await?;
    let event = events.next("workload_undeployed").await?;
    assert_eq!((event["workload_name"].as_str(), event["code"].as_i64()), (Some("once"), Some(7)));
    assert!(world.info().await?.machines.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_restart_is_given_up_after_the_policys_limit() -> Result<()> {
    let world = World::with(json!({"restart": {"base_ms": 10, "cap_ms": 20, "max_attempts": 2}})).await?;
    let mut events = world.events().await?;
    let workload = world.shell_service("hopeless", "exit 1", true).await?;
    let event = events.next("workload_given_up").await?;
    assert_eq!((&event["workload_name"], &event["attempts"]), (&json!("hopeless"), &json!(2)), "{event}");
    let event = events.next("workload_undeployed").await?;
    assert!(event["message"].as_str().unwrap().starts_with("given up after 2 restarts"), "{event}");
    // It is still there to be seen, and to be stopped for good.
    let machines = world.info().await?.machines;
    assert_eq!((machines[0].healthy, machines[0].workload.state.as_str()), (false, "failed"));
    assert!(world.stop(&workload).await?.stopped);
    assert!(world.info().await?.machines.is_empty());
    let records = std::fs::read_dir(world.node.state_dir().join("workloads"))?.count();
    assert_eq!(records, 0, "no later start of the node brings it back");
    Ok(())
}

#[tokio::test]
async fn an_essential_service_comes_back_after_its_agent_was_killed_and_the_old_one_is_gone() -> Result<()> {
    let world = World::with(json!({"restart": {"base_ms": 50}})).await?;
    let dir = tempfile::tempdir()?;
    let pid = dir.path().join("pid");
    let script = format!("echo $$ > {}; exec /bin/sleep 1000", pid.display());
    let workload = world.shell_service("vital", &script, true).await?;
    let first = pid_from(&pid).await?;
    let mut events = world.events().await?;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(parent(first) as i32).unwrap(),
        rustix::process::Signal::KILL,
    )?;
    events.next("workload_restarting").await?;
    eventually("another process runs it", || async { pid_from(&pid).await.is_ok_and(|now| now != first) }).await?;
    eventually("the old process is gone", || async { !is_alive(first) }).await?;
    assert_eq!(world.info().await?.machines[0].id, workload.id);
    Ok(())
}

#[tokio::test]
async fn an_agent_that_hangs_is_replaced() -> Result<()> {
    let world = World::with(json!({"restart": {"base_ms": 50}, "agent_ping_timeout_ms": 200})).await?;
    let dir = tempfile::tempdir()?;
    let pid = dir.path().join("pid");
    world.shell_service("vital", &format!("echo $$ > {}; exec /bin/sleep 1000", pid.display()), true).await?;
    let first = pid_from(&pid).await?;
    let agent = parent(first);
    let mut events = world.events().await?;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(agent as i32).unwrap(),
        rustix::process::Signal::STOP,
    )?;
    let event = events.next("workload_restarting").await?;
    assert!(event["message"].as_str().unwrap().contains("hangs"), "{event}");
    eventually("the hung agent and its service are gone", || async { !is_alive(agent) && !is_alive(first) }).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_told_to_stop_ends_its_services_and_exits_with_0() -> Result<()> {
    let world = World::start().await?;
    let dir = tempfile::tempdir()?;
    let pid = dir.path().join("pid");
    let script = format!(
        "trap 'echo bye > {0}.bye; exit 0' TERM; echo $$ > {0}; while :; do /bin/sleep 0.05; done",
        pid.display()
    );
    world.shell_service("polite", &script, false).await?;
    let service = pid_from(&pid).await?;
    let below = descendants(world.node.process().pid());
    let mut events = world.events().await?;
    let status = world.node.terminate().await?;
    assert_eq!(status.code(), Some(0), "{}", world.node.log().tail(20));
    assert!(dir.path().join("pid.bye").exists(), "the service was told to end");
    assert!(!is_alive(service));
    assert!(below.iter().all(|pid| !is_alive(*pid)), "nothing is left running");
    events.next("workload_undeployed").await?;
    assert_eq!(events.next("node_stopped").await?["graceful"], json!(true));
    Ok(())
}

#[tokio::test]
async fn nothing_outlives_a_node_that_is_killed() -> Result<()> {
    let world = World::start().await?;
    let dir = tempfile::tempdir()?;
    let pid = dir.path().join("pid");
    let script = format!("trap '' TERM; echo $$ > {}; while :; do /bin/sleep 0.1; done", pid.display());
    world.shell_service("orphan", &script, true).await?;
    world.function("f", nex_protocol::WorkloadType::V8, b"() => 1", "f").await?;
    let service = pid_from(&pid).await?;
    let below = descendants(world.node.process().pid());
    assert!(below.contains(&service) && below.len() >= 4, "{below:?}");
    world.node.kill().await?;
    eventually("agents, engines and services end by themselves", || async { below.iter().all(|pid| !is_alive(*pid)) })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_flood_of_output_neither_stops_the_node_nor_the_service() -> Result<()> {
    let world = World::start().await?;
    let dir = tempfile::tempdir()?;
    let done = dir.path().join("done");
    let script = format!(
        "i=0; while [ $i -lt 200000 ]; do echo line $i; i=$((i+1)); done; echo 1 > {}; exec /bin/sleep 1000",
        done.display()
    );
    world.shell_service("flood", &script, false).await?;
    let began = std::time::Instant::now();
    world.info().await?;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    pid_from(&done).await?;
    Ok(())
}

#[tokio::test]
async fn files_of_a_node_are_its_owners_alone() -> Result<()> {
    let world = World::start().await?;
    world.shell_service("s", "exec /bin/sleep 1000", false).await?;
    let mode = |name: &str| std::fs::metadata(world.node.state_dir().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("node.nk"), mode("node.xk"), mode(".")), (0o600, 0o600, 0o700));
    for record in std::fs::read_dir(world.node.state_dir().join("workloads"))? {
        assert_eq!(record?.metadata()?.permissions().mode() & 0o777, 0o600);
    }
    Ok(())
}
