//! Calls to functions at rest: from the request to the reply, with the agent's coming in between.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use nex_e2e::{PATIENCE, World};
use serde_json::json;

use crate::effort::Effort;
use crate::figures::{median, millis, nanos};
use crate::report::{Figure, Report, Target};
use crate::stage;
use crate::workloads::Kind;

const NAME: &str = "cold";

/// Time without a call after which functions are at rest here, milliseconds.
const IDLE_MS: u64 = 50;

/// Measures all of it.
pub(crate) async fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let world = World::with(stage::config(&[("functions", json!({"idle_timeout_ms": IDLE_MS}))])).await?;
    for (kind, most) in [(Kind::Component, 50.0), (Kind::Module, 50.0), (Kind::JavaScript, 60.0)] {
        let subject = kind.subject();
        let deployment = stage::describe(&world, kind, kind.word(), &subject, &kind.artifact()?).await?;
        let workload = world.send(&deployment).await?;
        let mut took = Vec::new();
        for _ in 0..effort.choose(30, 3) {
            at_rest(&world, &workload.id).await?;
            let begun = Instant::now();
            stage::call(&world.nats, kind, &subject, Bytes::from_static(b"wake up")).await?;
            took.push(nanos(begun.elapsed()));
        }
        let worst = took.iter().copied().max().unwrap_or_default();
        let what = format!("{}: call to a function at rest, agent ready", kind.label());
        let figure = Figure::new(NAME, what, millis(median(&took)?), "ms").worst(millis(worst));
        report.add_figure(figure.target(Target::AtMost(most)));
        world.stop(&workload).await?;
    }
    world.node.terminate().await?;
    Ok(())
}

/// Waits until the function has no agent and the pool has one, which has had time to get ready for what may come.
async fn at_rest(world: &World, id: &str) -> Result<()> {
    let rests = async {
        loop {
            let info = world.info().await?;
            let rests = info.machines.iter().any(|machine| machine.id == id && machine.workload.instances == Some(0));
            if rests && info.available_agents > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, rests).await.context("the function does not come to rest")?
}
