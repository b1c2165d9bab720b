//! What a host call costs above the NATS round trip it makes.
//!
//! The same round trip is made by a client of this process and, in turns, by functions; a function makes many in one
//! call and tells how long each took by its own clock, so what is measured is guest, agent, link, node and back.

use anyhow::{Context, Result};
use async_nats::jetstream;
use futures_util::StreamExt as _;
use nex_e2e::{World, body};
use nex_protocol::WorkloadType::{V8, Wasm};
use nex_testkit::examples;
use serde_json::json;

use crate::Effort;
use crate::figures::{median, percentile, timed};
use crate::report::{Line, Report};

const NAME: &str = "host-calls";

/// The JavaScript side: makes so many calls of one kind and gives the times in nanoseconds.
const SCRIPT: &str = "async (subject, payload) => {
  const [kind, count] = new TextDecoder().decode(payload).split(' ');
  const { kv, messaging, async } = hostServices;
  const calls = {
    'kv.get': () => kv.get('key'),
    'kv.get-async': () => async.kv.get('key'),
    'messaging.request': () => messaging.request('bench.echo', 'x'),
  };
  const call = calls[kind], times = [];
  for (let n = 0; n < Number(count); n++) {
    const begun = performance.now();
    const answer = call();
    if (answer instanceof Promise) await answer;
    times.push(Math.round((performance.now() - begun) * 1e6));
  }
  return times;
}";

/// One kind of call, by JavaScript or a component, and whose round trip it makes.
struct Case {
    what: &'static str,
    subject: &'static str,
    kind: &'static str,
    trip: Trip,
}

#[derive(Clone, Copy)]
enum Trip {
    Get,
    Request,
}

const CASES: [Case; 5] = [
    Case { what: "JavaScript kv.get", subject: "bench.js", kind: "kv.get", trip: Trip::Get },
    Case { what: "JavaScript kv.get, async", subject: "bench.js", kind: "kv.get-async", trip: Trip::Get },
    Case { what: "JavaScript messaging.request", subject: "bench.js", kind: "messaging.request", trip: Trip::Request },
    Case { what: "component keyvalue get", subject: "bench.wasm.time", kind: "get", trip: Trip::Get },
    Case { what: "component messaging request", subject: "bench.wasm.time", kind: "request", trip: Trip::Request },
];

/// Answers on `bench.echo`, on a thread of its own, for as long as the program runs. Ready when this returns.
fn echo(url: String) -> Result<()> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let answer = async {
            let client = async_nats::connect(url).await?;
            let mut asked = client.subscribe("bench.echo").await?;
            nex_e2e::round_trip(&client).await?;
            ready.send(())?;
            while let Some(message) = asked.next().await {
                if let Some(reply) = message.reply {
                    client.publish(reply, message.payload).await?;
                }
            }
            anyhow::Ok(())
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("no runtime").and_then(|runtime| runtime.block_on(answer))
    });
    is_ready.recv().context("the echo did not start")
}

/// Measures all of it.
pub(crate) async fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let world = World::with(json!({"functions": {"timeout_ms": 60_000}})).await?;
    report.server(&world.nats.server_info().version);
    world.function("script", V8, SCRIPT.as_bytes(), "bench.js").await?;
    world.function("guest", Wasm, &std::fs::read(examples()?.probe()?)?, "bench.wasm.*").await?;

    echo(world.server.url())?;

    let client = world.server.client().await?;
    // The first calls make the buckets.
    for (subject, setting) in [("bench.js", "kv.get 1"), ("bench.wasm.time", "get 1")] {
        body(&world.call(subject, setting).await?)?;
    }
    let context = jetstream::new(client.clone());
    let stream = context.get_stream("KV_hs_default_script_kv").await?;
    for bucket in ["script", "guest"] {
        context.publish(format!("$KV.hs_default_{bucket}_kv.key"), "value".into()).await?.await?;
    }

    for case in &CASES {
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        let (mut base50, mut base99) = (Vec::new(), Vec::new());
        let (mut above, mut ratio) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            let mut base = match case.trip {
                Trip::Get => {
                    timed(effort.operations, || async {
                        stream.direct_get_last_for_subject("$KV.hs_default_script_kv.key").await?;
                        Ok(())
                    })
                    .await?
                }
                Trip::Request => {
                    timed(effort.operations, || async {
                        client.request("bench.echo", "x".into()).await?;
                        Ok(())
                    })
                    .await?
                }
            };
            let reply = world.call(case.subject, format!("{} {}", case.kind, effort.operations)).await?;
            let mut times: Vec<u64> = serde_json::from_slice(body(&reply)?).context("the function told no times")?;
            let (mine, theirs) = (percentile(&mut times, 50)?, percentile(&mut base, 50)?);
            p50.push(mine);
            p99.push(percentile(&mut times, 99)?);
            base50.push(theirs);
            base99.push(percentile(&mut base, 99)?);
            above.push(mine.saturating_sub(theirs));
            ratio.push(mine.saturating_mul(1000) / theirs.max(1));
        }
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        report.add(Line {
            benchmark: NAME,
            what: case.what.to_owned(),
            baseline: match case.trip {
                Trip::Get => "async-nats direct get".to_owned(),
                Trip::Request => "async-nats request".to_owned(),
            },
            p50_us: micros(median(&p50)?),
            p99_us: micros(median(&p99)?),
            baseline_p50_us: micros(median(&base50)?),
            baseline_p99_us: micros(median(&base99)?),
            above_us: micros(median(&above)?),
            ratio: micros(median(&ratio)?),
        });
    }
    Ok(())
}
