//! Host calls of JavaScript that go to the node past the agent, through the whole system.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::time::Duration;

use anyhow::Result;
use futures_util::StreamExt;
use nex_e2e::{World, body, failure};
use nex_protocol::WorkloadType::V8;
use nex_protocol::log::Entry;
use serde_json::{Value, json};

/// Writes into whatever takes it, from the last that was opened on, down to the pipe that is only read: right before that
/// was the one that the worker writes to.
const GARBAGE: &str = "import net from 'node:net'; async function garbage() {
    for (let fd = 200; fd > 2; fd--) { let pipe; try { pipe = new net.Socket({ fd, readable: false, writable: true }) }
      catch { continue } const failed = await new Promise((ok) => { pipe.on('error', ok);
      pipe.write('GET / HTTP/1.1\\r\\n\\r\\n', ok) }); if (failed) return } }\n";

#[tokio::test]
async fn what_a_function_writes_into_its_direct_way_ends_that_way_and_nothing_else() -> Result<()> {
    let world = World::start().await?;
    let mut logs = world.nats.subscribe("$NEX.logs.>").await?;
    nex_e2e::round_trip(&world.nats).await?;
    let source = format!(
        "{GARBAGE}export default (s, p) => {{ if (p.length) return garbage();
        hostServices.kv.set('k', 'value'); return hostServices.kv.get('k') }}"
    );
    world.function("vandal", V8, source.as_bytes(), "vandal").await?;
    let bystander = b"(s, p) => { hostServices.kv.set('k', p); return hostServices.kv.get('k') }";
    world.function("bystander", V8, bystander, "bystander").await?;
    assert_eq!(body(&world.call("vandal", "").await?)?, b"value");
    let mut told = None;
    for _ in 0..20 {
        // It does not always hit the pipe, and may hit the agent's stream too: its worker is replaced then.
        if told.is_some() {
            break;
        }
        world.call("vandal", "x").await?;
        while told.is_none()
            && let Ok(message) = tokio::time::timeout(Duration::from_secs(1), logs.next()).await
        {
            let message = message.unwrap();
            let entry: Entry = serde_json::from_slice(&message.payload)?;
            told = entry.text.contains("no direct way to host services any more").then_some(message.subject);
        }
    }
    assert!(told.is_some_and(|subject| subject.ends_with(".vandal")));
    nex_e2e::eventually("it works again", async || {
        let reply = world.call("vandal", "").await;
        reply.is_ok_and(|reply| body(&reply).is_ok_and(|value| value == b"value"))
    })
    .await?;
    assert_eq!(body(&world.call("bystander", "fine").await?)?, b"fine");
    Ok(())
}

#[tokio::test]
async fn calls_keep_their_order_whichever_way_they_go() -> Result<()> {
    const ROUNDS: usize = 50;
    let world = World::start().await?;
    let mut published = world.nats.subscribe("published").await?;
    nex_e2e::round_trip(&world.nats).await?;
    let source = br#"async (s, p) => {
        const { messaging, async } = hostServices;
        let last = 0;
        for (let round = 0; round < Number(new TextDecoder().decode(p)); round++) {
            const later = [async.messaging.publish('published', String(last++))];
            messaging.publish('published', String(last++));
            later.push(async.messaging.publish('published', String(last++)));
            // Too large for the short way: what follows takes the long one too, until it has its answer.
            later.push(async.messaging.publish('published', String(last++).padStart(70000, '0')));
            later.push(async.messaging.publish('published', String(last++)));
            messaging.publish('published', String(last++));
            await Promise.all(later);
            messaging.publish('published', String(last++));
            messaging.publish('published', String(last++).padStart(70000, '0'));
            messaging.publish('published', String(last++));
        }
    }"#;
    world.function("order", V8, source, "order").await?;
    assert_eq!(body(&world.call("order", ROUNDS.to_string()).await?)?, b"");
    for expected in 0..ROUNDS * 9 {
        let message = tokio::time::timeout(nex_e2e::PATIENCE, published.next()).await?.unwrap();
        assert_eq!(std::str::from_utf8(&message.payload)?.parse::<usize>()?, expected);
    }
    Ok(())
}

#[tokio::test]
async fn errors_are_the_same_on_both_ways() -> Result<()> {
    let world = World::start().await?;
    let source = br#"async (s, p) => {
        const [way, when] = new TextDecoder().decode(p).split(' ');
        const { kv, messaging } = when === 'later' ? hostServices.async : hostServices;
        const calls = [() => kv.get(''), () => kv.update('k', 'v', 77), () => messaging.request('nobody', 'x'),
          () => messaging.publish('$SYS.x', 'x'), () => messaging.request('silent', 'x', { timeout: 100 })];
        // While one is open that is too large for the short way, the others take the long one.
        const large = 'x'.repeat(70000);
        const open = way === 'agent' ? hostServices.async.messaging.request('silent', large, { timeout: 3000 }) : null;
        const seen = [];
        for (const call of calls) {
            try { seen.push(await call()) } catch (e) { seen.push([e.service, e.method, e.code, e.retry, e.message]) }
        }
        await open?.catch(() => {});
        return seen;
    }"#;
    world.function("errors", V8, source, "errors").await?;
    let _silent = world.nats.subscribe("silent").await?;
    nex_e2e::round_trip(&world.nats).await?;
    let directly: Value = serde_json::from_slice(body(&world.call("errors", "node now").await?)?)?;
    for other in ["node later", "agent now", "agent later"] {
        let seen: Value = serde_json::from_slice(body(&world.call("errors", other).await?)?)?;
        assert_eq!(directly, seen, "{other}");
    }
    let codes: Vec<&Value> = directly.as_array().unwrap().iter().map(|error| &error[2]).collect();
    assert_eq!(json!(codes), json!(["invalid", "conflict", "no-responders", "denied", "timeout"]));
    Ok(())
}

#[tokio::test]
async fn promises_are_kept_at_the_same_time() -> Result<()> {
    const AT_ONCE: usize = 40;
    let world = World::start().await?;
    let mut asked = world.nats.subscribe("gathered").await?;
    nex_e2e::round_trip(&world.nats).await?;
    let source = br#"async (s, p) => {
        const one = (at) => hostServices.async.messaging.request('gathered', String(at));
        const answers = await Promise.all(Array.from({ length: Number(new TextDecoder().decode(p)) }, (_, at) => one(at)));
        return answers.map((answer) => new TextDecoder().decode(answer));
    }"#;
    world.function("gathers", V8, source, "gathers").await?;
    // None is answered before all are there, and then the last one first.
    let (reply, ()) = tokio::join!(world.call("gathers", AT_ONCE.to_string()), async {
        let mut requests = Vec::new();
        while requests.len() < AT_ONCE {
            requests.push(asked.next().await.unwrap());
        }
        for request in requests.into_iter().rev() {
            world.nats.publish(request.reply.unwrap(), request.payload).await.unwrap();
        }
    });
    let answers: Vec<String> = serde_json::from_slice(body(&reply?)?)?;
    assert!(answers.iter().enumerate().all(|(at, answer)| *answer == at.to_string()), "{answers:?}");
    Ok(())
}

#[tokio::test]
async fn a_promise_that_nobody_awaits_is_given_up_with_its_call_and_what_it_published_is_not() -> Result<()> {
    let world = World::start().await?;
    let mut published = world.nats.subscribe("published").await?;
    let _silent = world.nats.subscribe("silent").await?;
    nex_e2e::round_trip(&world.nats).await?;
    let source = br#"let told = 'nothing'; (s, p) => {
        if (p.length) return told;
        hostServices.async.messaging.request('silent', 'x', { timeout: 60000 }).catch((error) => told = error.message);
        hostServices.async.messaging.publish('published', 'heard').catch(() => {});
    }"#;
    world.function("leaves", V8, source, "leaves").await?;
    assert_eq!(body(&world.call("leaves", "").await?)?, b"");
    let heard = tokio::time::timeout(nex_e2e::PATIENCE, published.next()).await?.unwrap();
    assert_eq!(&heard.payload[..], b"heard");
    nex_e2e::eventually("it hears of it", async || {
        let told = world.call("leaves", "x").await;
        told.is_ok_and(|told| body(&told).is_ok_and(|told| told.ends_with(b"ended before the answer came: await it")))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn one_that_goes_on_asking_after_its_deadline_is_replaced() -> Result<()> {
    let world = World::with(json!({"functions": {"timeout_ms": 1000}})).await?;
    let source = b"(s, p) => { while (p.length) { try { hostServices.kv.get('k') } catch {} } return 'fine' }";
    world.function("loop", V8, source, "loop").await?;
    assert_eq!(failure(&world.call("loop", "x").await?).unwrap().0, 504);
    assert_eq!(body(&world.call("loop", "").await?)?, b"fine");
    Ok(())
}

#[tokio::test]
async fn a_worker_that_waits_for_a_slow_answer_is_not_taken_for_stuck() -> Result<()> {
    let world = World::with(json!({"functions": {"timeout_ms": 3000}})).await?;
    let mut begun = world.nats.subscribe("begun").await?;
    let mut slow = world.nats.subscribe("slow").await?;
    nex_e2e::round_trip(&world.nats).await?;
    let source = br#"(s, p) => {
        if (p.length) return hostServices.messaging.request('slow', p, { timeout: 60000 });
        hostServices.messaging.publish('begun', '');
        return new Promise(() => {});
    }"#;
    world.function("waits", V8, source, "waits").await?;
    let second = async {
        begun.next().await.unwrap();
        // Its deadline is to be a good deal later than that of the first.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        world.call("waits", "x").await
    };
    let (first, second, ()) = tokio::join!(world.call("waits", ""), second, async {
        let asked = slow.next().await.unwrap();
        // Past the deadline of the first, and the time that a stuck worker has.
        tokio::time::sleep(Duration::from_millis(2100)).await;
        world.nats.publish(asked.reply.unwrap(), "at last".into()).await.unwrap();
    });
    assert_eq!(failure(&first?).unwrap().0, 504);
    assert_eq!(body(&second?)?, b"at last");
    Ok(())
}
