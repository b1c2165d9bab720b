//! MicroVMs: how long until one is ready, how long until it runs something, how fast the pool fills, what an idle one takes.
//!
//! With QEMU, or with Firecracker where `NEX_TEST_FIRECRACKER` names it; where neither is there, nothing is measured and the
//! reason told. There is nothing to compare these figures with in the same run: they are told as they are.

#![allow(clippy::indexing_slicing, reason = "of JSON values, which give null where there is nothing")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nex_e2e::World;
use nex_e2e::descendants;
use nex_e2e::machines::{boot, config, intruder, pieces};
use nex_testkit::{NatsServer, NexNode};
use serde_json::json;

use crate::effort::Effort;
use crate::figures::{median, nanos};
use crate::processes::proportional_kib;
use crate::report::{Figure, Report};

const NAME: &str = "machines";

/// Machines that are kept ready, for what is counted per machine.
const POOL: usize = 4;

/// What a node says of a machine that became ready.
const READY: &str = "a machine is ready";

pub(crate) async fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let Some(pieces) = pieces() else {
        report.skip(NAME, "microVMs", "what they are made of is not all there: the reason stands above");
        return Ok(());
    };
    let monitor = pieces.monitor["vmm"].as_str().unwrap_or_default().to_owned();
    let rounds = effort.rounds.min(5);
    let mut add = |what: &str, value: f64, unit: &'static str| {
        report.add_figure(Figure::new(NAME, format!("{monitor}: {what}"), value, unit));
    };

    let server = NatsServer::start().await?;
    let mut settings = config(pieces);
    settings["machine_pool_size"] = json!(POOL);
    let begun = Instant::now();
    let node = NexNode::builder(&server).await?.config(settings).arg("--loglevel").arg("debug").sandboxed();
    let mut node = node.spawn().await?;
    node.wait_ready_within(boot()).await?;
    let ready = || node.log().lines().into_iter().filter(|line| line.contains(READY)).collect::<Vec<_>>();
    let filled = async {
        while ready().len() < POOL {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(boot(), filled).await.context("the pool does not fill")?;
    let all = begun.elapsed();
    let lines = ready();
    let first = lines.first().context("no machine")?;
    add("cold boot, to the handshake", field(first, "ready_ms")?, "ms");
    let restored: Vec<u64> = node
        .log()
        .lines()
        .iter()
        .filter(|line| line.contains("machine restored"))
        .filter_map(|line| took_nanos(line))
        .collect();
    if !restored.is_empty() {
        add("restore from the snapshot, to the guest's answer", median(&restored)? as f64 / 1e6, "ms");
    }
    add(&format!("from nothing to a pool of {POOL}"), all.as_secs_f64() * 1000.0, "ms");
    let monitors = descendants(node.process().pid());
    let taken: u64 = monitors.iter().filter_map(|pid| proportional_kib(*pid)).sum();
    add("memory of an idle machine, its share (PSS)", taken as f64 / 1024.0 / POOL as f64, "MiB");

    let nats = server.client().await?;
    let world = World::of(server, node, nats);
    let mut claims = Vec::new();
    let mut refills = Vec::new();
    for round in 0..rounds {
        let before = world.node.log().lines().iter().filter(|line| line.contains(READY)).count();
        let begun = Instant::now();
        let workload = intruder(&world, pieces, &format!("stays{round}"), &["stay"]).await?;
        // The first one fetches the artifact.
        if round > 0 || rounds == 1 {
            claims.push(nanos(begun.elapsed()));
        }
        let refilled = async {
            while world.node.log().lines().iter().filter(|line| line.contains(READY)).count() <= before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(boot(), refilled).await.context("the pool does not refill")?;
        refills.push(nanos(begun.elapsed()));
        world.stop(&workload).await?;
    }
    add("deploy to a running service, machine ready, artifact cached", median(&claims)? as f64 / 1e6, "ms");
    add("until the pool is full again", median(&refills)? as f64 / 1e6, "ms");
    world.node.terminate().await?;
    Ok(())
}

/// A number in a line of the node's log.
fn field(line: &str, name: &str) -> Result<f64> {
    let value =
        line.split_once(&format!("{name}=")).map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default());
    value.context("no such field")?.parse().with_context(|| format!("{name} in {line}"))
}

/// The time in `took=12.3ms`.
fn took_nanos(line: &str) -> Option<u64> {
    let text = line.split_once("took=")?.1.split_whitespace().next()?;
    let (number, scale) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e6),
        None => match text.strip_suffix("µs") {
            Some(number) => (number, 1e3),
            None => (text.strip_suffix('s')?, 1e9),
        },
    };
    Some((number.parse::<f64>().ok()? * scale) as u64)
}
