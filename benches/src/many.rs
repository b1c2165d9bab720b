//! Many idle functions on one node: what they take while nobody calls them, how long it takes to list them, and whether
//! each of them answers when it is called.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use nex_e2e::{PATIENCE, World};
use nex_testkit::NatsServer;
use rand::seq::SliceRandom as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::effort::Effort;
use crate::figures::{median, millis, nanos, percentile, timed};
use crate::processes::Weight;
use crate::report::{Figure, Report, Target};
use crate::stage;
use crate::workloads::Kind;

const NAME: &str = "many";

/// The number that the targets are for.
const JUDGED: usize = 1000;

/// Most that so many idle functions may take over the empty node.
const MEMORY: Target = Target::AtMost(1024.0);

/// Longest time for a list of them.
const LISTING: Target = Target::AtMost(200.0);

/// How long the node may rest before it is weighed.
const REST: Duration = Duration::from_secs(2);

/// Time without a call after which a function is at rest.
const IDLE: Duration = Duration::from_millis(1500);

/// Measures all of it: functions are added up to each number in turn.
pub(crate) async fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let server = NatsServer::builder().config("http: \"127.0.0.1:-1\"").start().await?;
    let monitor = monitor(&server).await?;
    let idle = u64::try_from(effort.choose(IDLE, IDLE / 5).as_millis())?;
    let world = World::on(server, stage::config(&[("functions", json!({"idle_timeout_ms": idle}))])).await?;
    let kind = Kind::Component;
    let (xkey, key) = (world.info().await?.public_xkey, kind.word());
    let sha256 = world.put(key, &kind.artifact()?).await?;
    // Deploying is what `deploy` measures: here it only has to be done.
    let node = world.node.process().pid();
    tokio::time::sleep(effort.choose(REST, REST / 10)).await;
    let empty = (Weight::of(node), subscriptions(monitor).await?);

    let mut deployed = 0;
    for count in effort.choose([1, 100, JUDGED], [1, 10, 50]) {
        let begun = Instant::now();
        for number in deployed..count {
            let subject = subject(number);
            let name = format!("idle{number}");
            let deployment = stage::describe_stored(&world, kind, key, &name, &subject, &sha256)?;
            stage::deploy(&world, &deployment, &xkey).await.with_context(|| format!("deploy of number {number}"))?;
        }
        let figure =
            |what: &str, value: f64, unit| Figure::new(NAME, format!("{count} idle functions: {what}"), value, unit);
        let each = begun.elapsed().as_secs_f64() * 1e3 / (count - deployed) as f64;
        report.add_figure(figure("deploy of each", each, "ms"));
        deployed = count;

        at_rest(&world).await?;
        tokio::time::sleep(effort.choose(REST, REST / 10)).await;
        let weight = Weight::of(node);
        let mib = |kib: u64| kib as f64 / 1024.0;
        report.add_figure(figure("memory (PSS)", mib(weight.kib), "MiB").beside("the node empty", mib(empty.0.kib)));
        let mut over = figure("memory over the empty node", mib(weight.kib.saturating_sub(empty.0.kib)), "MiB");
        let mut listing = listing(&world, count, effort).await?;
        if count == JUDGED {
            over = over.target(MEMORY);
            listing = listing.target(LISTING);
        }
        report.add_figure(over);
        report
            .add_figure(figure("threads", weight.threads as f64, "").beside("the node empty", empty.0.threads as f64));
        report.add_figure(
            figure("processes", weight.processes as f64, "").beside("the node empty", empty.0.processes as f64),
        );
        report.add_figure(figure("subscriptions", subscriptions(monitor).await?, "").beside("the node empty", empty.1));
        report.add_figure(listing);
        called(&world, kind, count, effort, report).await?;
    }
    world.node.terminate().await?;
    Ok(())
}

/// Waits until no function has an agent.
async fn at_rest(world: &World) -> Result<()> {
    let rest = async {
        while world.info().await?.machines.iter().any(|machine| machine.workload.instances != Some(0)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, rest).await.context("functions that nobody calls keep their agents")?
}

fn subject(number: usize) -> String {
    format!("bench.many.{number}")
}

/// INFO, which lists the workloads of a namespace.
async fn listing(world: &World, count: usize, effort: Effort) -> Result<Figure> {
    let mut samples = timed(effort.choose(50, 5), async || {
        let listed = world.info().await?.machines.len();
        ensure!(listed == count, "{listed} of {count} functions are listed");
        Ok(())
    })
    .await?;
    let what = format!("{count} idle functions: list of them (INFO)");
    let worst = samples.iter().copied().max().unwrap_or_default();
    Ok(Figure::new(NAME, what, millis(percentile(&mut samples, 500)?), "ms").worst(millis(worst)))
}

/// Each of them once, in random order, one in flight: the first call to many that had none.
async fn called(world: &World, kind: Kind, count: usize, effort: Effort, report: &mut Report) -> Result<()> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut samples = Vec::new();
    for _ in 0..effort.choose(3, 1) {
        order.shuffle(&mut rand::rng());
        for number in &order {
            let begun = Instant::now();
            stage::call(&world.nats, kind, &subject(*number), Bytes::from_static(b"hello"))
                .await
                .with_context(|| format!("call of number {number}"))?;
            samples.push(nanos(begun.elapsed()));
        }
    }
    let worst = samples.iter().copied().max().unwrap_or_default();
    let what = format!("{count} idle functions: call of one at random, all answered");
    report.add_figure(Figure::new(NAME, what, millis(median(&samples)?), "ms").worst(millis(worst)));
    Ok(())
}

/// The port of the server's monitoring.
async fn monitor(server: &NatsServer) -> Result<u16> {
    let log = server.log().context("the server has no log")?;
    let port = log
        .lines()
        .iter()
        .find_map(|line| line.split_once("Starting http monitor on ")?.1.rsplit(':').next()?.trim().parse().ok());
    port.context("the server does not say where its monitoring is")
}

/// Subscriptions on the server, its own among them.
async fn subscriptions(port: u16) -> Result<f64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET /varz HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("the server's monitoring gives no document")?;
    let document: serde_json::Value = serde_json::from_str(body)?;
    document.get("subscriptions").and_then(serde_json::Value::as_f64).context("no number of subscriptions")
}
