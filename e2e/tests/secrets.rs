//! Secrets: what a workload is given by its sealed environment is in that workload and nowhere else. Looked for where
//! somebody would who has the machine: in processes, on the wire, in logs, on disk and in memory.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::collections::HashMap;
use std::io::BufRead;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use futures_util::{FutureExt, StreamExt};
use nex_client::Client;
use nex_e2e::{PATIENCE, World, body, descendants, eventually, round_trip};
use nex_identity::XKeyPair;
use nex_protocol::WorkloadType::{Native, V8};
use nex_protocol::control::deploy::RunResponse;
use nex_protocol::{Namespace, WorkloadType};
use nex_testkit::{NatsServer, NexNode};

/// Something to recognize, different each time: neither the test's own source nor an earlier run has it.
fn secret() -> String {
    format!("hidden-{}", XKeyPair::generate().public_key())
}

/// A world whose node and agents say all they ever would.
async fn talkative_world() -> Result<World> {
    let server = NatsServer::start().await?;
    let nats = server.client().await?;
    let node = NexNode::builder(&server).await?;
    let node = node.env("NEX_LOGLEVEL", "trace").env("NEX_AGENT_LOG", "trace").start().await?;
    let client = Client::new(nats.clone(), Namespace::default(), PATIENCE);
    let mut world = World::of(server, node, nats);
    world.client = client;
    Ok(world)
}

/// Deploys a workload with the secret in its environment.
async fn deploy(world: &World, name: &str, kind: WorkloadType, secret: &str) -> Result<RunResponse> {
    let bytes = match kind {
        Native => std::fs::read("/bin/sh")?,
        _ => b"() => String(process.env.SECRET?.length)".to_vec(),
    };
    let sha256 = world.put(name, &bytes).await?;
    let mut deployment = world.deployment(name, kind, &sha256)?;
    match kind {
        Native => deployment.argv = vec!["-c".to_owned(), "exec sleep 1000".to_owned()],
        _ => deployment.trigger_subjects = vec![name.parse()?],
    }
    deployment.environment.set("SECRET", secret);
    Ok(world.send(&deployment).await?)
}

/// Whether the bytes hold the secret, as it is or in base64 at any offset.
fn holds(bytes: &[u8], secret: &str) -> bool {
    let mut forms = vec![secret.as_bytes().to_vec(), hex::encode(secret).into_bytes()];
    for skipped in 0..3 {
        let whole = (secret.len() - skipped) / 3 * 3;
        let part = &secret.as_bytes()[skipped..skipped + whole];
        forms.extend([STANDARD_NO_PAD.encode(part).into_bytes(), URL_SAFE_NO_PAD.encode(part).into_bytes()]);
    }
    forms.iter().any(|form| count(bytes, form) > 0)
}

/// How often a sequence of bytes is there.
fn count(bytes: &[u8], wanted: &[u8]) -> usize {
    let (mut rest, mut times) = (bytes, 0);
    // Skips much faster than this file, which is compiled without optimization, could look.
    while rest.skip_until(wanted[0]).is_ok_and(|skipped| skipped > 0) {
        times += usize::from(bytes[bytes.len() - rest.len() - 1..].starts_with(wanted));
    }
    times
}

/// The program and whether the secret is in the environment of each process below the node, and of the node.
fn environments(world: &World, secret: &str) -> HashMap<u32, (String, bool)> {
    let node = world.node.process().pid();
    let mut found = HashMap::new();
    for pid in descendants(node).into_iter().chain([node]) {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        // What cannot be read is closed to us, as it is to others.
        let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!holds(&line, secret), "a command line of {name}");
        found.insert(pid, (name.trim().to_owned(), holds(&bytes, secret)));
    }
    found
}

fn files_below(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

/// How often the bytes are in what a process has written to its memory; none when it cannot be looked at.
fn times_in_memory(pid: u32, wanted: &[u8]) -> Option<usize> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut times = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, access) = (words.next()?, words.next()?);
        if !access.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let mut bytes = vec![0; usize::try_from(end - start).ok()?];
        // Some mappings are the kernel's own.
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            times += count(&bytes, wanted);
        }
    }
    Some(times)
}

#[tokio::test]
async fn a_secret_is_in_the_environment_of_its_service_and_of_no_other_process() -> Result<()> {
    let world = World::with(serde_json::json!({"machine_pool_size": 2})).await?;
    let (secret, other) = (secret(), secret());
    deploy(&world, "other", Native, &other).await?;
    deploy(&world, "function", V8, &secret).await?;
    assert_eq!(body(&world.call("function", "").await?)?, secret.len().to_string().as_bytes());
    assert!(environments(&world, &secret).values().all(|(_, holds)| !holds), "a function has it by its link");
    deploy(&world, "service", Native, &secret).await?;
    let environments = environments(&world, &secret);
    let holders: Vec<&str> = environments.values().filter(|(_, holds)| *holds).map(|(name, _)| name.as_str()).collect();
    assert_eq!(holders, ["sleep"], "{environments:?}");
    let agents = environments.values().filter(|(name, _)| name == "nex-agent").count();
    assert!(agents >= 3, "{environments:?}");
    Ok(())
}

#[tokio::test]
async fn a_secret_is_neither_on_the_wire_nor_in_logs_nor_on_disk_in_clear() -> Result<()> {
    let world = talkative_world().await?;
    let secret = secret();
    let mut wire = world.nats.subscribe(">").await?;
    round_trip(&world.nats).await?;
    let mut deployed = vec![];
    for (name, kind) in [("service", Native), ("function", V8)] {
        deployed.push(deploy(&world, name, kind, &secret).await?);
    }
    assert_eq!(body(&world.call("function", "").await?)?, secret.len().to_string().as_bytes());
    world.info().await?;

    let mut files = vec![];
    files_below(world.node.state_dir(), &mut files);
    assert!(files.iter().any(|file| file.extension().is_some_and(|extension| extension == "record")), "{files:?}");
    for file in &files {
        assert!(!holds(&std::fs::read(file)?, &secret), "{}", file.display());
    }
    for workload in &deployed {
        world.stop(workload).await?;
    }
    round_trip(&world.nats).await?;
    let mut subjects = vec![];
    while let Some(Some(message)) = wire.next().now_or_never() {
        assert!(!holds(&message.payload, &secret), "{}", message.subject);
        subjects.push(message.subject.to_string());
    }
    for heard in ["$NEX.DEPLOY.", "$NEX.events.default.workload_deployed", "$NEX.STOP."] {
        assert!(subjects.iter().any(|subject| subject.starts_with(heard)), "{heard}: {subjects:?}");
    }
    let log = world.node.log().text();
    assert!(log.contains("TRACE"), "the node was to say everything");
    assert!(!holds(log.as_bytes(), &secret));
    Ok(())
}

#[tokio::test]
async fn neither_node_nor_agents_nor_workloads_leave_a_core_dump() -> Result<()> {
    let world = World::start().await?;
    deploy(&world, "service", Native, &secret()).await?;
    deploy(&world, "function", V8, &secret()).await?;
    for (pid, (name, _)) in environments(&world, &secret()) {
        let Ok(limits) = std::fs::read_to_string(format!("/proc/{pid}/limits")) else { continue };
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("no such limit")?;
        let words: Vec<&str> = core.split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{name}: {core}");
    }
    Ok(())
}

#[tokio::test]
async fn a_node_holds_a_secret_once_and_forgets_it_with_its_workload() -> Result<()> {
    let world = World::start().await?;
    let node = world.node.process().pid();
    let secret = secret();
    let mut deployed = vec![];
    for (name, kind) in [("service", Native), ("function", V8)] {
        deployed.push(deploy(&world, name, kind, &secret).await?);
    }
    // Closed to who is not root: then it is closed to who would look.
    if times_in_memory(node, secret.as_bytes()).is_none() {
        return Ok(());
    }
    let times = || async { times_in_memory(node, secret.as_bytes()).unwrap_or_default() };
    // It is needed to start them again; the requests, the records and what was sent to the agents have left nothing.
    let once_each = eventually("it is there once for each workload", || async { times().await == 2 }).await;
    once_each.context(times().await)?;
    for workload in &deployed {
        world.stop(workload).await?;
    }
    let forgotten = eventually("the node has forgotten", || async { times().await == 0 }).await;
    forgotten.context(times().await)
}
