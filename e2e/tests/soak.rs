//! Thousands of spoilt requests against one node with workloads on it: each is answered as it should be, and nothing
//! happens to the node, its memory or its workloads.
//!
//! 2,000 requests; `NEX_SOAK=100000` is the nightly form. A run that fails prints the seed that repeats its requests
//! (`NEX_SOAK_SEED`). Deployments that are good by chance are stopped by the one who sent them, at most two at a time.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

#[path = "soak/mailbox.rs"]
mod mailbox;
#[path = "soak/mutation.rs"]
mod mutation;
#[path = "soak/requests.rs"]
mod requests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::{HeaderMap, Message, StatusCode};
use nex_client::Client;
use nex_client::deployment::stop_request;
use nex_e2e::{BUCKET, World, body, descendants, eventually};
use nex_identity::Issuer;
use nex_protocol::WorkloadType::{Native, V8, Wasm};
use nex_protocol::control::deploy::RunResponse;
use nex_protocol::control::ping::PingResponse;
use nex_protocol::envelope::{self, EnvelopeError, kind};
use nex_protocol::subject;
use nex_testkit::{NatsServer, examples};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use mailbox::Mailbox;
use requests::{Expected, Good, Ground, SPARE, SPARES};

/// Requests in work at a time; fewer than a node takes of one kind.
const AT_A_TIME: u64 = 32;

/// Requests between two looks at the workloads.
const BETWEEN_CALLS: u64 = 50;

/// Longest wait for one answer. A deploy may wait for an agent.
const DEADLINE: Duration = Duration::from_secs(30);

/// Largest message of the server, bytes: more than a node takes.
const MAX_PAYLOAD: usize = 4 << 20;

/// What the node's memory may grow by after it has seen half of everything.
const MEMORY: u64 = 16 << 20;

struct Soak {
    ground: Ground,
    mailbox: Mailbox,
    seed: u64,
    next: AtomicU64,
    spares: Semaphore,
    large: Semaphore,
    tally: [AtomicU64; 4],
    deployed: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_and_its_workloads_outlive_thousands_of_spoilt_requests() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let requests = number("NEX_SOAK").unwrap_or(2000);
    let seed = number("NEX_SOAK_SEED").unwrap_or_else(rand::random);
    let ground = ground().await?;
    let soak = Arc::new(Soak {
        mailbox: Mailbox::open(&ground.world.nats).await?,
        ground,
        seed,
        next: AtomicU64::new(0),
        spares: Semaphore::new(2),
        large: Semaphore::new(2),
        tally: Default::default(),
        deployed: AtomicU64::new(0),
    });
    let outcome = run(&soak, requests).await;
    outcome.with_context(|| {
        let (node, server) = (soak.ground.world.node.log(), soak.ground.world.server.log());
        let server = server.map(|log| log.tail(20)).unwrap_or_default();
        format!(
            "NEX_SOAK={requests} NEX_SOAK_SEED={seed}; the server's last words:{server}\nthe node's:{}",
            node.tail(20)
        )
    })
}

/// A node that trusts one issuer, and a workload of each type on it.
async fn ground() -> Result<Ground> {
    let server = NatsServer::builder().config(&format!("max_payload: {MAX_PAYLOAD}")).start().await?;
    let issuer = Issuer::generate();
    let config = json!({"valid_issuers": [issuer.public_key()], "machine_pool_size": 2});
    let mut world = World::on(server, config).await?;
    world.issuer = issuer;
    let examples = examples()?;
    let service = world.put("service", &std::fs::read(examples.echo_service()?)?).await?;
    let mut service = world.deployment("service", Native, &service)?;
    service.essential = true;
    service.environment.set("NATS_URL", world.server.url());
    let workloads = vec![
        world.send(&service).await?,
        world.function("script", V8, &std::fs::read(examples.javascript()?)?, "soak.script").await?,
        world.function("module", Wasm, &std::fs::read(examples.wasm()?)?, "soak.module").await?,
    ];
    let spare = world.put(SPARE, &std::fs::read(examples.wasm()?)?).await?;
    let info = world.info().await?;
    let reply = world.call(&subject::ping(world.node.id()), "").await?;
    let ping = envelope::open::<PingResponse>(kind::PING, &reply.payload)?;
    // The service answers some time after it runs.
    eventually("the service answers", async || world.call("svc.echo", "x").await.is_ok_and(|r| &r.payload[..] == b"x"))
        .await?;
    let (types, xkey, stranger) = (info.supported_workload_types, info.public_xkey, Issuer::generate());
    Ok(Ground { world, ping, types, xkey, workloads, spare, stranger })
}

async fn run(soak: &Arc<Soak>, requests: u64) -> Result<()> {
    let node = &soak.ground.world.node;
    let (pid, processes) = (node.process().pid(), descendants(node.process().pid()).len());
    let mut memory = Vec::new();
    let began = Instant::now();
    for tenth in 1..=10 {
        let mut workers = JoinSet::new();
        for _ in 0..AT_A_TIME {
            let (soak, end) = (Arc::clone(soak), requests * tenth / 10);
            workers.spawn(async move { work(&soak, end).await });
        }
        while let Some(worker) = workers.join_next().await {
            worker??;
        }
        memory.push(resident(pid)?);
        // Each has said by now what it had to say about the last tenth, be it nothing.
        let unexpected = soak.mailbox.unexpected();
        ensure!(unexpected.is_empty(), "answers that should not have come: {unexpected:?}");
    }
    let count = |index: usize| soak.tally[index].load(Ordering::Relaxed);
    println!(
        "{requests} requests in {:.1} s: {} answered, {} met by silence, {} with nobody listening, {} without an \
         answer to expect; {} spares deployed and stopped; memory after each tenth, MiB: {:?}",
        began.elapsed().as_secs_f64(),
        count(0),
        count(1),
        count(2),
        count(3),
        soak.deployed.load(Ordering::Relaxed),
        memory.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>(),
    );

    ensure!(node.process().is_running() && node.process().pid() == pid, "the node has ended");
    unharmed(soak).await?;
    deploys(soak).await.context("a deploy afterwards")?;
    let reply = soak.ground.world.call(&subject::ping(node.id()), "").await?;
    let ping = envelope::open::<PingResponse>(kind::PING, &reply.payload)?;
    ensure!(ping.running_machines == soak.ground.workloads.len(), "left over: {} workloads", ping.running_machines);
    eventually("every spare's agent is gone", async || descendants(pid).len() <= processes).await?;
    // What a large request took is given back some time later: what is lost is in none of the last values less.
    let (warm, end) = (memory[..5].iter().max().unwrap(), memory[7..].iter().min().unwrap());
    ensure!(*end <= warm + MEMORY, "the node's memory grew from {warm} to {end} bytes");
    Ok(())
}

/// Sends requests until as many are sent.
async fn work(soak: &Soak, end: u64) -> Result<()> {
    loop {
        let taken =
            soak.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| (next < end).then_some(next + 1));
        let Ok(number) = taken else { return Ok(()) };
        send(soak, number).await.with_context(|| format!("request {number}"))?;
        if number.is_multiple_of(BETWEEN_CALLS) {
            calls(soak, number).await.with_context(|| format!("calls after request {number}"))?;
        }
    }
}

async fn send(soak: &Soak, number: u64) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(soak.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let Good { mut subject, body, deploys } = soak.ground.good(&mut rng)?;
    if rng.random_bool(0.1) && !deploys {
        subject = soak.ground.wrong_subject(&mut rng, &subject);
    }
    let large = rng.random_bool(0.01);
    // No more at a time than two of the large ones, and two that may really deploy.
    let _turns = (
        if deploys { Some(soak.spares.acquire().await?) } else { None },
        if large { Some(soak.large.acquire().await?) } else { None },
    );
    let body = if large { enlarged(&mut rng, body) } else { mutation::mutated(&mut rng, body) };
    let expected = soak.ground.expected(&subject, &body);
    let headers = headers(&mut rng);
    let nats = &soak.ground.world.nats;
    let shown = format!("{subject} {}", String::from_utf8_lossy(&body[..body.len().min(2000)]));

    if rng.random_bool(0.02) {
        // No reply subject, or one that is not answered to: nothing to expect but that the node survives.
        soak.tally[3].fetch_add(1, Ordering::Relaxed);
        if deploys || rng.random_bool(0.4) {
            return Ok(nats.publish_with_headers(subject, headers, body.into()).await?);
        }
        let reply = match rng.random_range(0..3) {
            0 => subject::PING.to_owned(),
            1 => format!("$JS.API.STREAM.DELETE.OBJ_{BUCKET}"),
            _ => "r".repeat(rng.random_range(1500..1900)),
        };
        return Ok(nats.publish_with_reply_and_headers(subject, reply, headers, body.into()).await?);
    }
    let index = match expected {
        Expected::Answer(_) => 0,
        Expected::Silence => 1,
        Expected::Nobody => 2,
        Expected::Either => 3,
    };
    soak.tally[index].fetch_add(1, Ordering::Relaxed);
    if matches!(expected, Expected::Silence | Expected::Either) {
        // One that may be answered has no mailbox; of one that is not to be answered, any answer is found at the end.
        let reply = match expected {
            Expected::Silence => soak.mailbox.closed(number),
            _ => nats.new_inbox(),
        };
        nats.publish_with_reply_and_headers(subject, reply, headers, body.into()).await?;
        // Keeps the pace: nobody waits for an answer that does not come, and the node refuses what is too much at once.
        soak.ground.world.call(&subject::ping(soak.ground.world.node.id()), "").await?;
        return Ok(());
    }
    let (reply, answer) = soak.mailbox.expecting(number);
    nats.publish_with_reply_and_headers(subject, reply, headers, body.into()).await?;
    let answer = tokio::time::timeout(DEADLINE, answer).await.with_context(|| format!("no answer to {shown}"))??;
    let deployed = judge(expected, &answer).with_context(|| format!("the answer to {shown}"))?;
    match deployed {
        Some(workload) if deploys => stop(soak, &workload).await,
        Some(workload) => bail!("{workload:?} was deployed by {shown}"),
        None => Ok(()),
    }
}

/// Whether an answer is what was expected; gives what it says was deployed.
fn judge(expected: Expected, answer: &Message) -> Result<Option<RunResponse>> {
    let nobody = answer.status == Some(StatusCode::NO_RESPONDERS);
    let Expected::Answer(kind) = expected else {
        ensure!(nobody, "somebody answered: {:?}", answer.payload);
        return Ok(None);
    };
    ensure!(!nobody, "nobody listens");
    let document: Value = serde_json::from_slice(&answer.payload)?;
    ensure!(document["type"] == kind, "an envelope of type {}", document["type"]);
    match envelope::open::<Value>(kind, &answer.payload) {
        Ok(data) if kind == kind::RUN => Ok(Some(serde_json::from_value(data)?)),
        Ok(data) => {
            ensure!(![kind::STOP, kind::LAMEDUCK].contains(&kind), "an order was obeyed: {data}");
            Ok(None)
        }
        Err(EnvelopeError::Refused { code: Some(_), message, .. }) => {
            ensure!(!message.is_empty() && message.chars().count() <= 1025, "a refusal of {} bytes", message.len());
            Ok(None)
        }
        Err(error) => bail!("no envelope: {error}"),
    }
}

/// Ends what was deployed on the way.
async fn stop(soak: &Soak, workload: &RunResponse) -> Result<()> {
    let world = &soak.ground.world;
    soak.deployed.fetch_add(1, Ordering::Relaxed);
    let namespace = SPARES.parse()?;
    let request = stop_request(&world.issuer, &namespace, world.node.id(), &workload.id, &workload.name)?;
    let client = Client::new(world.nats.clone(), namespace, DEADLINE);
    ensure!(client.stop(&request, world.node.id()).await?.stopped);
    Ok(())
}

/// The node takes work as before, and the artifacts are still there.
async fn deploys(soak: &Soak) -> Result<()> {
    let request = soak.ground.deploy(true, true)?.to_string();
    let answer = soak.ground.world.call(&subject::deploy(SPARES, soak.ground.world.node.id()), request).await?;
    let workload = judge(Expected::Answer(kind::RUN), &answer)?.with_context(|| format!("{:?}", answer.payload))?;
    stop(soak, &workload).await
}

/// A body near or beyond what a node reads.
fn enlarged(rng: &mut StdRng, mut body: Value) -> Vec<u8> {
    let size = rng.random_range((512 << 10)..MAX_PAYLOAD - (64 << 10));
    match rng.random_range(0..3) {
        0 => vec![b'x'; size],
        1 => vec![b'['; size],
        _ => {
            body["description"] = "d".repeat(size).into();
            body.to_string().into_bytes()
        }
    }
}

fn headers(rng: &mut StdRng) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if rng.random_bool(0.1) {
        for number in 0..rng.random_range(1..100) {
            let value: String = (0..rng.random_range(0..100)).map(|_| rng.random_range('!'..='~')).collect();
            headers.append(format!("X-{number}"), value);
        }
        headers.append("Nats-Msg-Id", "1");
        headers.append("Status", "503");
    }
    headers
}

/// Each workload answers rightly.
async fn calls(soak: &Soak, number: u64) -> Result<()> {
    let payload = format!("call {number}");
    for (subject, expected) in [
        ("svc.echo", payload.clone()),
        ("soak.script", payload.clone()),
        ("soak.module", format!("{payload}soak.module")),
    ] {
        let reply = soak.ground.world.call(subject, payload.clone()).await.context(subject)?;
        ensure!(body(&reply)? == expected.as_bytes(), "{subject} answered {:?}", reply.payload);
    }
    Ok(())
}

/// The workloads are those of the beginning, and have run all the time.
async fn unharmed(soak: &Soak) -> Result<()> {
    calls(soak, u64::MAX).await?;
    let machines = soak.ground.world.info().await?.machines;
    let mut ids: Vec<&str> = machines.iter().map(|machine| machine.id.as_str()).collect();
    let mut expected: Vec<&str> = soak.ground.workloads.iter().map(|workload| workload.id.as_str()).collect();
    ids.sort_unstable();
    expected.sort_unstable();
    ensure!(ids == expected, "workloads {ids:?}, at the beginning {expected:?}");
    for machine in &machines {
        let workload = &machine.workload;
        ensure!(machine.healthy && workload.restarts == 0, "{}: {} restarts", workload.name, workload.restarts);
    }
    Ok(())
}

/// Memory of a process that is in use, bytes.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}
