//! From the kill of an agent to the next answered call, beside the delay that the restart policy asked for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use nex_e2e::{PATIENCE, World};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::effort::Effort;
use crate::figures::{median, millis, nanos};
use crate::processes::agents;
use crate::report::{Figure, Report};
use crate::stage;
use crate::workloads::Kind;

const NAME: &str = "restart";

/// Measures all of it.
pub(crate) async fn run(effort: Effort, report: &mut Report) -> Result<()> {
    for kind in [Kind::Component, Kind::JavaScript, Kind::Service] {
        // Each kill is the first failure, whatever came before: the delay does not grow.
        let world = World::with(stage::config(&[("restart", json!({"stable_ms": 1}))])).await?;
        let subject = kind.subject();
        let deployment = stage::describe(&world, kind, kind.word(), &subject, &kind.artifact()?).await?;
        world.send(&deployment).await?;
        stage::first_reply(&world.nats, kind, &subject).await?;

        let mut events = world.events().await?;
        let (mut took, mut delays) = (Vec::new(), Vec::new());
        for _ in 0..effort.choose(10, 2) {
            until_ready(&world).await?;
            // The oldest has the workload, the other one waits in the pool.
            let agent = *agents(world.node.process().pid()).first().context("no agent")?;
            let agent = Pid::from_raw(agent.cast_signed()).context("no process id")?;
            kill_process(agent, Signal::KILL)?;
            let begun = Instant::now();
            let event = events.next("workload_restarting").await?;
            let delay = event.get("delay_ms").and_then(serde_json::Value::as_u64).context("no delay in the event")?;
            answered(&world, kind, &subject).await?;
            took.push(nanos(begun.elapsed()));
            delays.push(nanos(Duration::from_millis(delay)));
        }
        let above: Vec<u64> = took.iter().zip(&delays).map(|(took, delay)| took.saturating_sub(*delay)).collect();
        let worst = above.iter().copied().max().unwrap_or_default();
        let what = |what: &str| format!("{}: {what}", kind.label());
        let figure = Figure::new(NAME, what("kill of the agent to the next reply"), millis(median(&took)?), "ms");
        report.add_figure(figure.beside("the delay of the policy", millis(median(&delays)?)));
        let figure = Figure::new(NAME, what("beyond the delay"), millis(median(&above)?), "ms");
        report.add_figure(figure.worst(millis(worst)));
        world.node.terminate().await?;
    }
    Ok(())
}

/// Waits until another agent is ready: otherwise its start would be measured as well.
async fn until_ready(world: &World) -> Result<()> {
    let filled = async {
        while world.info().await?.available_agents == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The workload itself, beyond what counts as stable.
        tokio::time::sleep(Duration::from_millis(20)).await;
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, filled).await.context("the pool does not fill")?
}

/// Calls until the answer is a right one. A function's call waits at the node and is answered after the restart; what a
/// service was sent when it died is lost, and nobody says so.
async fn answered(world: &World, kind: Kind, subject: &str) -> Result<()> {
    let each = if kind == Kind::Service { Duration::from_millis(20) } else { PATIENCE };
    let asked = async {
        loop {
            let call = stage::call(&world.nats, kind, subject, Bytes::from_static(b"again"));
            if let Ok(Ok(())) = tokio::time::timeout(each, call).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.context("no reply after the kill")
}
