//! What a host call costs above the NATS round trip it makes.
//!
//! The same round trip is made by a client of this process and, in turns, by functions; a function makes many in one
//! call and tells how long each took by its own clock, so what is measured is guest, agent, link, node and back.
//!
//! All of it twice: as the machine is, and with processors that do not sleep. Half of such a time is the waking of
//! processors; the second figure is the part that nex has in it.

use anyhow::{Context, Result};
use async_nats::jetstream;
use nex_e2e::{World, body};
use nex_protocol::WorkloadType::{V8, Wasm};
use nex_testkit::examples;
use serde_json::json;

use crate::awake::Awake;
use crate::effort::Effort;
use crate::figures::timed;
use crate::report::Report;
use crate::responder;
use crate::turns::Turns;

const NAME: &str = "host-calls";

/// The JavaScript side: makes so many calls of one kind and gives the times in nanoseconds.
const SCRIPT: &str = "async (subject, payload) => {
  const [kind, count] = new TextDecoder().decode(payload).split(' ');
  const { kv, messaging, async } = hostServices;
  const calls = {
    'kv.get': () => kv.get('key'),
    'kv.get-async': () => async.kv.get('key'),
    'messaging.request': () => messaging.request('bench.echo', 'x'),
    'messaging.request-async': () => async.messaging.request('bench.echo', 'x'),
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

const CASES: [Case; 6] = [
    Case { what: "JavaScript kv.get", subject: "bench.js", kind: "kv.get", trip: Trip::Get },
    Case { what: "JavaScript kv.get, async", subject: "bench.js", kind: "kv.get-async", trip: Trip::Get },
    Case { what: "JavaScript messaging.request", subject: "bench.js", kind: "messaging.request", trip: Trip::Request },
    Case {
        what: "JavaScript messaging.request, async",
        subject: "bench.js",
        kind: "messaging.request-async",
        trip: Trip::Request,
    },
    Case { what: "component keyvalue get", subject: "bench.wasm.time", kind: "get", trip: Trip::Get },
    Case { what: "component messaging request", subject: "bench.wasm.time", kind: "request", trip: Trip::Request },
];

/// Measures all of it.
pub(crate) async fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let world = World::with(json!({"functions": {"timeout_ms": 60_000}})).await?;
    world.function("script", V8, SCRIPT.as_bytes(), "bench.js").await?;
    world.function("guest", Wasm, &std::fs::read(examples()?.probe()?)?, "bench.wasm.*").await?;

    let _responder = responder::start(world.server.url()).await?;

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

    for awake in [false, true] {
        let _awake = if awake { Some(Awake::keep().await?) } else { None };
        for case in &CASES {
            let mut turns = Turns::default();
            for _ in 0..effort.rounds {
                let base = match case.trip {
                    Trip::Get => {
                        timed(effort.operations, async || {
                            stream.direct_get_last_for_subject("$KV.hs_default_script_kv.key").await?;
                            Ok(())
                        })
                        .await?
                    }
                    Trip::Request => {
                        timed(effort.operations, async || {
                            client.request("bench.echo", "x".into()).await?;
                            Ok(())
                        })
                        .await?
                    }
                };
                let reply = world.call(case.subject, format!("{} {}", case.kind, effort.operations)).await?;
                let times: Vec<u64> = serde_json::from_slice(body(&reply)?).context("the function told no times")?;
                turns.add(times, base)?;
            }
            let baseline = match case.trip {
                Trip::Get => "async-nats direct get",
                Trip::Request => "async-nats request",
            };
            let what = format!("{}{}", case.what, if awake { ", awake" } else { "" });
            report.add(turns.line(NAME, what, baseline, None)?);
        }
    }
    Ok(())
}
