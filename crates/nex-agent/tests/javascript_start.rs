//! How JavaScript functions start: in a worker that waits for them, or in one of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

mod node;

use std::path::{Path, PathBuf};

use nex_protocol::link::message::{Prestart, Start, ToAgent};
use nex_protocol::name::WorkloadType;
use node::{LIMITS, Node, deno, gone, start};
use rustix::process::{Pid, Signal, kill_process};

const PID: &str = "() => process.pid";

/// Agents that are told to have a worker ready.
async fn waiting() -> Node {
    Node::with(|welcome| {
        welcome.deno = Some(deno());
        welcome.prestart = Some(Prestart { memory_bytes: LIMITS.memory_bytes });
    })
    .await
}

/// The processes that an agent has started.
fn children(node: &Node) -> Vec<i32> {
    let agent = node.agent.id().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{agent}/task/{agent}/children")).unwrap();
    children.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The worker that waits, other than that one.
async fn worker(node: &mut Node, other: Option<i32>) -> i32 {
    for number in 0.. {
        // The agent answers while its worker starts.
        node.ping(number).await;
        if let Some(pid) = children(node).into_iter().find(|pid| Some(*pid) != other) {
            return pid;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    unreachable!()
}

fn function(node: &Node, source: &str) -> Start {
    start(WorkloadType::V8, node.artifact("function", source))
}

fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// A program in the place of Deno.
fn instead_of_deno(folder: &Path, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join("no-deno");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn a_function_runs_in_the_worker_that_waits_for_it() {
    let mut node = waiting().await;
    let pid = worker(&mut node, None).await;
    let started = node.start(function(&node, PID)).await;
    assert_eq!(started, Ok(u32::try_from(pid).ok()));
    assert_eq!(node.call(1, "").await, Ok(pid.to_string()));
    assert_eq!(children(&node), [pid]);
    node.stop(1000).await;
    assert_eq!(node.end().await.code(), Some(0));
    gone(pid).await;
}

#[tokio::test]
async fn a_function_that_comes_before_the_worker_is_ready_waits_for_it() {
    let mut node = waiting().await;
    node.start(function(&node, PID)).await.unwrap();
    let pid = node.call(1, "").await.unwrap();
    assert_eq!(children(&node), [pid.parse::<i32>().unwrap()]);
}

#[tokio::test]
async fn a_worker_that_died_with_its_function_is_replaced_by_an_ordinary_one() {
    let mut node = waiting().await;
    node.start(function(&node, "(s, p) => p.length ? process.kill(process.pid, 'SIGKILL') : 'fine'")).await.unwrap();
    node.call(1, "die").await.unwrap_err();
    assert_eq!(node.call(2, "").await.as_deref(), Ok("fine"));
    assert_eq!(children(&node).len(), 1);
}

#[tokio::test]
async fn a_function_with_another_limit_gets_a_worker_of_its_own_and_no_other_stays() {
    let mut node = waiting().await;
    let pid = worker(&mut node, None).await;
    let mut start = function(&node, PID);
    start.limits.memory_bytes *= 2;
    let own = node.start(start).await.unwrap().and_then(|pid| i32::try_from(pid).ok()).unwrap();
    assert!(own != pid && !exists(pid));
    assert_eq!(children(&node), [own]);
    assert_eq!(node.call(1, "").await, Ok(own.to_string()));
}

/// A service that sleeps, in that agent.
async fn sleeper(node: &mut Node) -> i32 {
    let sleep = start(WorkloadType::Native, "/bin/sleep".into());
    let pid = node.start(Start { argv: vec!["1000".into()], ..sleep }).await.unwrap();
    i32::try_from(pid.unwrap()).unwrap()
}

#[tokio::test]
async fn another_kind_of_workload_finds_neither_the_worker_nor_its_files() {
    // While a program starts it has its libraries and the like open, too.
    let of_the_system =
        |path: &std::path::Path| ["/usr", "/lib", "/lib64", "/etc"].iter().any(|top| path.starts_with(top));
    let descriptors = |pid: i32| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        open.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|path| !of_the_system(&path))).count()
    };
    let mut plain = Node::new().await;
    let alone = sleeper(&mut plain).await;
    let mut node = waiting().await;
    let pid = worker(&mut node, None).await;
    let sleep = sleeper(&mut node).await;
    assert!(!exists(pid));
    assert_eq!(children(&node), [sleep]);
    assert_eq!(descriptors(sleep), descriptors(alone));
    let left: Vec<_> = std::fs::read_dir(node.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    node.stop(1000).await;
    plain.stop(1000).await;
}

#[tokio::test]
async fn a_worker_that_dies_while_it_waits_is_replaced() {
    let mut node = waiting().await;
    let first = worker(&mut node, None).await;
    kill_process(Pid::from_raw(first).unwrap(), Signal::KILL).unwrap();
    gone(first).await;
    let second = worker(&mut node, Some(first)).await;
    let started = node.start(function(&node, PID)).await;
    assert_eq!(started, Ok(u32::try_from(second).ok()));
    assert_eq!(node.call(1, "").await, Ok(second.to_string()));
}

#[tokio::test]
async fn a_worker_that_waits_ends_with_its_agent() {
    for stop in [true, false] {
        let mut node = waiting().await;
        let pid = worker(&mut node, None).await;
        if stop {
            node.send(ToAgent::Stop { grace_ms: 1000 }).await;
        } else {
            node.agent.start_kill().unwrap();
        }
        gone(pid).await;
        node.end().await;
    }
}

#[tokio::test]
async fn a_deno_that_does_not_come_up_is_told_and_a_waiting_agent_stays() {
    let folder = tempfile::tempdir().unwrap();
    for (script, reason) in [
        ("exec sleep 1000", "Deno did not start within 0.9 s"),
        (
            "echo 'error: no such flag' >&2; exit 3",
            "Deno ended while it was started (exit status: 3): error: no such flag",
        ),
        ("echo nonsense-nonsense", "Deno started and said something that nobody expects"),
    ] {
        let program = instead_of_deno(folder.path(), script);
        for prestart in [None, Some(Prestart { memory_bytes: LIMITS.memory_bytes })] {
            let mut node = Node::with(|welcome| {
                welcome.deno = Some(program.clone());
                welcome.start_timeout_ms = 1000;
                welcome.prestart = prestart;
            })
            .await;
            node.ping(1).await;
            let why = node.start(function(&node, PID)).await.unwrap_err();
            assert!(why.starts_with(reason), "{script}: {why}");
            assert_eq!(node.end().await.code(), Some(0));
        }
    }
}

#[tokio::test]
async fn what_is_made_when_it_is_first_used_is_denos_own() {
    let source = "globalThis.Request = globalThis.Response = globalThis.Headers = class {};
        globalThis.setTimeout = () => { throw new Error('no') };
        async () => await (await fetch('data:,hello')).text()";
    let own = Node::with(|welcome| welcome.deno = Some(deno())).await;
    for mut node in [own, waiting().await] {
        node.start(function(&node, source)).await.unwrap();
        assert_eq!(node.call(1, "").await.as_deref(), Ok("hello"));
    }
}

#[tokio::test]
async fn a_function_that_does_not_name_process_has_its_environment_there_all_the_same() {
    let source = "() => { const it = globalThis['pro' + 'cess']; return it.env.KEY + typeof it.exit }";
    let mut node = Node::with(|welcome| welcome.deno = Some(deno())).await;
    let mut start = function(&node, source);
    start.environment.set("KEY", "value ");
    node.start(start).await.unwrap();
    assert_eq!(node.call(1, "").await.as_deref(), Ok("value function"));
}
