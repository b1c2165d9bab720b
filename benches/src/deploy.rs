//! From a deploy to the first reply.
//!
//! "Cached" means that the node has the artifact and, for WebAssembly, the compiled code; what is not cached has bytes that
//! the node never saw. A "warm pool" has an agent ready; the pool is "empty" for the second of two deploys that come at once
//! to a pool of one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nex_e2e::{PATIENCE, World};
use nex_protocol::control::deploy::RunResponse;
use serde_json::json;

use crate::effort::Effort;
use crate::figures::{median, millis, nanos};
use crate::report::{Figure, Report, Target};
use crate::stage;
use crate::workloads::Kind;

const NAME: &str = "deploy";

/// Longest time from a deploy to the first reply with artifact cached and a warm agent, milliseconds.
const TARGET: Target = Target::AtMost(50.0);

/// A node to deploy to.
struct Site {
    world: World,
    xkey: String,
    kind: Kind,
    sha256: String,
}

/// Key of the artifact that is deployed again and again.
const KEY: &str = "again";

impl Site {
    /// A node that has run the artifact before.
    async fn prepare(kind: Kind) -> Result<Self> {
        let world = World::with(stage::config(&[("machine_pool_size", json!(1))])).await?;
        let xkey = world.info().await?.public_xkey;
        let sha256 = world.put(KEY, &kind.artifact()?).await?;
        let site = Self { world, xkey, kind, sha256 };
        let (workload, _) = site.to_first_reply("first", KEY, &site.sha256).await?;
        site.world.stop(&workload).await?;
        Ok(site)
    }

    /// Where a workload of this name is called.
    fn subject(&self, name: &str) -> String {
        if self.kind == Kind::Service { self.kind.subject() } else { format!("bench.deploy.{name}") }
    }

    /// Deploys and calls until there is an answer.
    async fn to_first_reply(&self, name: &str, key: &str, sha256: &str) -> Result<(RunResponse, Duration)> {
        let subject = self.subject(name);
        let deployment = stage::describe_stored(&self.world, self.kind, key, name, &subject, sha256)?;
        let begun = Instant::now();
        let workload = stage::deploy(&self.world, &deployment, &self.xkey).await?;
        stage::first_reply(&self.world.nats, self.kind, &subject).await?;
        Ok((workload, begun.elapsed()))
    }

    /// Waits until an agent is ready.
    async fn warm(&self) -> Result<()> {
        let filled = async {
            while self.world.info().await?.available_agents == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, filled).await.context("the pool does not fill")?
    }
}

/// Measures all of it.
pub(crate) async fn run(effort: Effort, report: &mut Report) -> Result<()> {
    for kind in [Kind::Component, Kind::JavaScript, Kind::Service] {
        let site = Site::prepare(kind).await?;
        let rounds = effort.choose(30, 3);
        let mut cached = Vec::new();
        for round in 0..rounds {
            site.warm().await?;
            let (workload, took) = site.to_first_reply(&format!("cached{round}"), KEY, &site.sha256).await?;
            cached.push(nanos(took));
            site.world.stop(&workload).await?;
        }
        report.add_figure(figure(kind, "artifact cached, warm pool", &cached)?.target(TARGET));

        let mut fresh = Vec::new();
        for round in 0..rounds {
            let name = format!("fresh{round}");
            let sha256 = site.world.put(&name, &kind.variant(round)?).await?;
            site.warm().await?;
            let (workload, took) = site.to_first_reply(&name, &name, &sha256).await?;
            fresh.push(nanos(took));
            site.world.stop(&workload).await?;
        }
        report.add_figure(figure(kind, "artifact not cached, warm pool", &fresh)?);

        // A second service would answer on the first one's subject.
        if kind != Kind::Service {
            report.add_figure(figure(kind, "artifact cached, empty pool", &empty(&site, rounds).await?)?);
        }
        in_a_row(&site, effort.choose(100, 10), report).await?;
        site.world.node.terminate().await?;
    }
    Ok(())
}

/// Two at once with one agent ready: the later of the two had to wait for another.
async fn empty(site: &Site, rounds: usize) -> Result<Vec<u64>> {
    let mut samples = Vec::new();
    for round in 0..rounds {
        site.warm().await?;
        let names = (format!("left{round}"), format!("right{round}"));
        let left = site.to_first_reply(&names.0, KEY, &site.sha256);
        let right = site.to_first_reply(&names.1, KEY, &site.sha256);
        let ((left, left_took), (right, right_took)) = tokio::try_join!(left, right)?;
        samples.push(nanos(left_took.max(right_took)));
        site.world.stop(&left).await?;
        site.world.stop(&right).await?;
    }
    Ok(samples)
}

/// One after the other, each called once, none stopped before the last one has answered.
async fn in_a_row(site: &Site, count: usize, report: &mut Report) -> Result<()> {
    let (begun, mut workloads, mut samples) = (Instant::now(), Vec::new(), Vec::new());
    for number in 0..count {
        let (workload, took) = site.to_first_reply(&format!("row{number}"), KEY, &site.sha256).await?;
        samples.push(nanos(took));
        workloads.push(workload);
    }
    let all = begun.elapsed();
    for workload in &workloads {
        site.world.stop(workload).await?;
    }
    report.add_figure(figure(site.kind, &format!("each of {count} in a row, artifact cached"), &samples)?);
    let what = format!("{}: all of {count} in a row", site.kind.label());
    report.add_figure(Figure::new(NAME, what, millis(nanos(all)), "ms"));
    Ok(())
}

fn figure(kind: Kind, what: &str, samples: &[u64]) -> Result<Figure> {
    let worst = samples.iter().copied().max().context("nothing was measured")?;
    let what = format!("{}: {what}", kind.label());
    Ok(Figure::new(NAME, what, millis(median(samples)?), "ms").worst(millis(worst)))
}
