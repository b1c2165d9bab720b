//! How many calls a second, and what each costs in processor time: of the node, the agent, the engine, and of everybody.
//!
//! Everything shares one machine, so calls a second alone say little: on two processors the client and the server take half of
//! them. "Per processor" divides by the processor time of all processes that take part: client, server, and the responder or
//! the node with what belongs to it. The answering side alone stands beside it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::future::try_join_all;

use crate::effort::Effort;
use crate::figures::{median, median_of, millis, nanos};
use crate::processes::{NodeTime, processor_time};
use crate::report::{Figure, Report, Target};
use crate::responder;
use crate::stage::{self, Stage};
use crate::workloads::Kind;

const NAME: &str = "throughput";

const IN_FLIGHT: [usize; 2] = [64, 256];

/// The number in flight that the targets are for.
const JUDGED: usize = 64;

/// Between two questions to the busy node.
const PAUSE: Duration = Duration::from_millis(10);

const PAYLOAD: usize = 1 << 10;

fn target(kind: Kind, in_flight: usize) -> Option<Target> {
    match kind {
        _ if in_flight != JUDGED => None,
        Kind::Component | Kind::Module => Some(Target::RatioAtLeast(0.5)),
        Kind::JavaScript => Some(Target::RatioAtLeast(0.4)),
        Kind::Service => None,
    }
}

/// Processor time of everybody.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    client: Duration,
    server: Duration,
    responder: Duration,
    node: NodeTime,
}

impl Used {
    fn so_far(stage: &Stage) -> Self {
        Self {
            client: processor_time(std::process::id()),
            server: stage.world.server.pid().map_or(Duration::ZERO, processor_time),
            responder: processor_time(stage.responder.pid()),
            node: NodeTime::of(stage.world.node.process().pid()),
        }
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            client: self.client.saturating_sub(earlier.client),
            server: self.server.saturating_sub(earlier.server),
            responder: self.responder.saturating_sub(earlier.responder),
            node: NodeTime {
                node: self.node.node.saturating_sub(earlier.node.node),
                agents: self.node.agents.saturating_sub(earlier.node.agents),
                engines: self.node.engines.saturating_sub(earlier.node.engines),
            },
        }
    }

    /// Of whoever answers: the one that is not asked uses next to nothing.
    fn answering(self) -> Duration {
        self.responder + self.node.node + self.node.agents + self.node.engines
    }

    fn everybody(self) -> Duration {
        self.client + self.server + self.answering()
    }
}

/// The sum of all turns of one kind.
#[derive(Debug, Default)]
struct Sum {
    calls: u64,
    rates: Vec<f64>,
    used: Used,
}

impl Sum {
    async fn turn<F: Future<Output = Result<()>>>(
        &mut self,
        stage: &Stage,
        in_flight: usize,
        length: Duration,
        once: impl Fn() -> F,
    ) -> Result<f64> {
        let (before, begun) = (Used::so_far(stage), Instant::now());
        let calls = flood(in_flight, length, once).await?;
        let rate = calls as f64 / begun.elapsed().as_secs_f64();
        let used = Used::so_far(stage).since(before);
        self.calls += calls;
        self.rates.push(rate);
        self.used.client += used.client;
        self.used.server += used.server;
        self.used.responder += used.responder;
        self.used.node.node += used.node.node;
        self.used.node.agents += used.node.agents;
        self.used.node.engines += used.node.engines;
        Ok(rate)
    }

    /// Microseconds of a call.
    fn each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.calls.max(1) as f64
    }

    /// Calls for a second of processor time.
    fn per_processor(&self, time: Duration) -> f64 {
        self.calls as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Keeps so many calls in flight for so long; how many were answered.
async fn flood<F: Future<Output = Result<()>>>(
    in_flight: usize,
    length: Duration,
    once: impl Fn() -> F,
) -> Result<u64> {
    let (end, count) = (Instant::now() + length, Cell::new(0));
    let callers = (0..in_flight).map(|_| async {
        while Instant::now() < end {
            once().await?;
            count.set(count.get() + 1);
        }
        anyhow::Ok(())
    });
    try_join_all(callers).await?;
    Ok(count.get())
}

/// The node's own interface while all its functions are busy.
async fn control(effort: Effort, stage: &Stage, payload: &Bytes, report: &mut Report) -> Result<()> {
    let in_flight = 256;
    for kind in [Kind::Component, Kind::JavaScript] {
        let subject = kind.subject();
        let busy = flood(in_flight, effort.turn * 2, || stage::call(&stage.client, kind, &subject, payload.clone()));
        let samples = Cell::new(Vec::new());
        let asked = async {
            loop {
                let begun = Instant::now();
                stage.world.info().await?;
                let mut all = samples.take();
                all.push(nanos(begun.elapsed()));
                samples.set(all);
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            flooded = busy => drop(flooded?),
            asked = asked => return asked,
        }
        let samples = samples.take();
        let worst = samples.iter().copied().max().context("INFO was not answered at all")?;
        let what = format!("{}, {in_flight} in flight: INFO of the node", kind.label());
        let figure = Figure::new(NAME, what, millis(median(&samples)?), "ms").worst(millis(worst));
        report.add_figure(figure.target(Target::AtMost(50.0)));
    }
    Ok(())
}

/// Measures all of it.
pub(crate) async fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let stage = Stage::full().await?;
    let payload = Bytes::from(vec![b'x'; PAYLOAD]);
    for in_flight in IN_FLIGHT {
        for kind in Kind::ALL {
            one(effort, &stage, kind, in_flight, &payload, report)
                .await
                .with_context(|| format!("{}, {in_flight} in flight", kind.label()))?;
        }
    }
    control(effort, &stage, &payload, report).await
}

async fn one(
    effort: Effort,
    stage: &Stage,
    kind: Kind,
    in_flight: usize,
    payload: &Bytes,
    report: &mut Report,
) -> Result<()> {
    let (client, subject) = (&stage.client, kind.subject());
    let mine = || stage::call(client, kind, &subject, payload.clone());
    let base = || async {
        client.request(responder::SUBJECT, payload.clone()).await?;
        Ok(())
    };
    flood(in_flight, effort.turn / 4, mine).await?;
    flood(in_flight, effort.turn / 4, base).await?;
    let (mut figure, mut beside, mut ratios) = (Sum::default(), Sum::default(), Vec::new());
    for _ in 0..effort.rounds {
        let base = beside.turn(stage, in_flight, effort.turn, base).await?;
        ratios.push(figure.turn(stage, in_flight, effort.turn, mine).await? / base);
    }
    let label = format!("{}, {in_flight} in flight", kind.label());
    let (rate, base) = (median_of(&figure.rates)?, median_of(&beside.rates)?);
    report.add_figure(Figure::new(NAME, format!("{label}: calls"), rate, "1/s").beside_in_turns(
        "responder",
        base,
        median_of(&ratios)?,
    ));
    let per_processor = |sum: &Sum| sum.per_processor(sum.used.everybody());
    let mut all = Figure::new(NAME, format!("{label}: calls per processor"), per_processor(&figure), "1/s")
        .beside("responder", per_processor(&beside));
    all.target = target(kind, in_flight);
    report.add_figure(all);
    let answering = |sum: &Sum| sum.per_processor(sum.used.answering());
    report.add_figure(
        Figure::new(NAME, format!("{label}: calls per processor of the answering side"), answering(&figure), "1/s")
            .beside("responder", answering(&beside)),
    );
    let used = figure.used;
    for (who, time) in [("node", used.node.node), ("agent", used.node.agents), ("engine", used.node.engines)] {
        let figure = Figure::new(NAME, format!("{label}: processor time of the {who}"), figure.each(time), "µs/call");
        report.add_figure(figure.beside("all of the responder", beside.each(beside.used.responder)));
    }
    for (who, mine, base) in [("client", used.client, beside.used.client), ("server", used.server, beside.used.server)]
    {
        let figure = Figure::new(NAME, format!("{label}: processor time of the {who}"), figure.each(mine), "µs/call");
        report.add_figure(figure.beside(format!("the {who}, asking the responder"), beside.each(base)));
    }
    Ok(())
}
