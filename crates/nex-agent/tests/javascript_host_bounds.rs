//! Host services of JavaScript functions: what bounds them, and workers that do not keep to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

mod node;

use std::time::Duration;

use bytes::Bytes;
use nex_protocol::link::host::HostReply;
use nex_protocol::link::message::FailureKind::{Function, Timeout};
use nex_protocol::link::message::{Start, ToNode};
use node::Hosts;
use node::functions::{by_hand, function_with, once, twin};

/// Writes frames from the worker to the agent.
const FORGE: &str = "const out = process.stdout; function forge(kind, number, head, body = new Uint8Array(0)) {
    const text = new TextEncoder().encode(head); const frame = new Uint8Array(17 + text.length + body.length);
    const view = new DataView(frame.buffer); view.setUint32(0, 13 + text.length + body.length); view.setUint8(4, kind);
    view.setBigUint64(5, number); view.setUint32(13, text.length); frame.set(text, 17);
    frame.set(body, 17 + text.length); out.write(frame); }\n";

#[tokio::test]
async fn each_call_keeps_its_number_across_what_it_waits_for() {
    let source = "async (s, p) => { await new Promise((ok) => setTimeout(ok, 5 * p.length)); await null;
        await hostServices.async.kv.set('k', p); await hostServices.async.kv.set('k', p); return 1 }";
    let mut node = twin(source).await;
    for (call, payload) in [(1, "aaa"), (2, "aa"), (3, "a")] {
        node.invoke(call, payload).await;
    }
    for call in 1..=3 {
        assert_eq!(node.reply(call).await.as_deref(), Ok("1"));
    }
    let mut calls = node.twin().calls.clone();
    calls.sort_unstable();
    assert_eq!(calls, [1, 1, 2, 2, 3, 3]);
}

#[tokio::test]
async fn a_worker_that_waits_for_the_node_is_not_taken_for_stuck() {
    let source = "async (s, p) => { if (p.length === 0) return new Promise(() => {});
        await new Promise((ok) => setTimeout(ok, 20)); return hostServices.kv.get('k') }";
    let mut node = by_hand(source).await;
    node.invoke_with(1, vec![], "", 200).await;
    node.invoke(2, "block").await;
    let (number, ..) = node.host_call().await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Timeout);
    node.ping(3).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    node.host_reply(number, HostReply::Revision { revision: 1 }, "waited").await;
    assert_eq!(node.reply(2).await.as_deref(), Ok("waited"));
}

#[tokio::test]
async fn a_blocking_call_ends_with_the_deadline_and_the_worker_lives() {
    let source = "globalThis.runs = 0; (s, p) => { runs++; if (p.length) hostServices.kv.get('never'); return runs }";
    let mut node = by_hand(source).await;
    node.invoke_with(1, vec![], "wait", 300).await;
    let (number, ..) = node.host_call().await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Timeout);
    node.host_cancelled(number).await;
    assert_eq!(node.call(2, "").await.as_deref(), Ok("2"), "the same worker");
}

#[tokio::test]
async fn one_that_loops_over_blocking_calls_is_ended_after_its_deadline() {
    let source = "(s, p) => { while (p.length) { try { hostServices.kv.get('k') } catch {} } return 'fine' }";
    let mut node = twin(source).await;
    node.invoke_with(1, vec![], "loop", 300).await;
    node.invoke(2, "").await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Timeout);
    assert_eq!(node.reply(2).await.as_deref(), Ok("fine"));
}

#[tokio::test]
async fn what_is_open_when_the_call_ends_is_given_up_and_so_is_what_comes_later() {
    let source = "async () => { hostServices.async.kv.get('left'); await new Promise((ok) => setTimeout(ok, 50));
        setTimeout(() => { try { hostServices.kv.get('late') } catch (e) { console.log(e.code) } }, 100); return 1 }";
    let mut node = by_hand(source).await;
    assert_eq!(node.call(1, "").await.as_deref(), Ok("1"));
    let (number, ..) = node.host_call().await;
    node.host_cancelled(number).await;
    let (mut said, mut logged) = (String::new(), String::new());
    while logged.is_empty() {
        let (_, line) = node.log().await;
        if line == "invalid" { logged = line } else { said += &line }
    }
    assert!(said.contains("unhandled rejection: HostServiceError: kv.get: the function's call ended"), "{said}");
    node.ping(1).await;
    node.stop(0).await;
    assert!(!node.rest().await.iter().any(|message| matches!(message, ToNode::HostCall(..))));
}

#[tokio::test]
async fn host_calls_end_with_their_worker() {
    let source = "(s, p) => { hostServices.async.kv.get('k'); for (;;); }";
    let mut node = by_hand(source).await;
    node.invoke_with(1, vec![], "", 300).await;
    let (number, ..) = node.host_call().await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Timeout);
    node.host_cancelled(number).await;
}

#[tokio::test]
async fn a_source_that_asks_while_it_loads_is_told() {
    let source = "try { hostServices.kv.get('k') } catch (e) { globalThis.why = e.code + e.message } () => why";
    assert!(once(source).await.starts_with("invalidkv.get: host services work only while"));
}

#[tokio::test]
async fn forged_host_calls_reach_nobody_and_do_no_harm() {
    let source = format!(
        "{FORGE}async (s, p) => {{ const get = '{{\"service\":\"kv\",\"method\":\"get\",\"key\":\"k\"}}';
        for (const call of ['77', '0']) forge(71, 1000n, `{{\"call\":${{call}},\"sync\":false,\"request\":${{get}}}}`);
        forge(71, 1001n, '{{\"call\":1,\"sync\":false,\"request\":{{\"service\":\"shell\"}}}}');
        forge(71, 1002n, `{{\"call\":1,\"sync\":false,\"request\":\"${{'x'.repeat(100000)}}\"}}`);
        for (let i = 0; i < 70; i++) forge(71, 2000n + BigInt(i % 66), `{{\"call\":1,\"sync\":false,\"request\":${{get}}}}`);
        forge(72, 9n, ''); forge(73, 9n, ''); forge(73, 2000n, '');
        try {{ await hostServices.async.kv.get('x') }} catch (e) {{ return e.code }} }}"
    );
    let mut node = by_hand(&source).await;
    assert_eq!(node.call(1, "").await.as_deref(), Ok("quota"));
    node.ping(1).await;
    node.stop(0).await;
    let rest = node.rest().await;
    let asked = |message: &&ToNode| matches!(message, ToNode::HostCall(..));
    assert_eq!(rest.iter().filter(asked).count(), 64);
    assert!(rest.iter().filter(asked).all(|message| matches!(message, ToNode::HostCall(_, 1, ..))), "{rest:?}");
}

#[tokio::test]
async fn a_frame_that_is_too_large_ends_only_the_worker_and_many_bodies_are_refused() {
    let head =
        "{\"call\":1,\"sync\":false,\"request\":{\"service\":\"objectStore\",\"method\":\"put\",\"name\":\"a\"}}";
    let source = format!(
        "{FORGE}(s, p) => {{ if (p.length === 1) {{ const f = new Uint8Array(17); new DataView(f.buffer).setUint32(0, 1 << 30);
        out.write(f); }} if (p.length === 2) {{ const body = new Uint8Array(5 << 20);
        for (let i = 0; i < 4; i++) forge(71, BigInt(100 + i), '{head}', body); }} return 'fine' }}"
    );
    let mut node = function_with(&source, Hosts::Test, |start| start.limits.memory_bytes = 12 << 20).await;
    let (kind, text) = node.call(1, "1").await.unwrap_err();
    assert!(kind == Function && text.contains("over the limit"), "{text}");
    node.invoke(1, "22").await;
    assert_eq!(node.reply(1).await.as_deref(), Ok("fine"));
    node.stop(0).await;
    let asked = node.rest().await.iter().filter(|message| matches!(message, ToNode::HostCall(..))).count();
    assert_eq!(asked, 2, "two bodies fit into the memory the function may have");
}

#[tokio::test]
async fn a_function_that_changes_what_everybody_uses_still_has_its_frames() {
    // `Function.prototype.call` is not among them: Deno's own code does not survive that.
    let source = "const no = () => { throw new Error('patched') };
        const all = [[Array.prototype, ['push', 'shift', 'map', 'join', 'toJSON', Symbol.iterator]],
          [Object.prototype, ['toJSON', 'error']], [Map.prototype, ['get', 'set', 'delete']], [Promise.prototype, ['then']],
          [JSON, ['stringify', 'parse']], [TextEncoder.prototype, ['encode']], [TextDecoder.prototype, ['decode']],
          [String.prototype, ['slice', 'split', 'toLowerCase', 'toUpperCase']], [Function.prototype, ['apply', 'bind']],
          [DataView.prototype, ['getUint32', 'setUint32', 'getBigUint64', 'setBigUint64', 'getUint8', 'setUint8']],
          [Object.getPrototypeOf(Uint8Array.prototype), ['set', 'subarray', 'slice', 'copyWithin']],
          [globalThis, ['Uint8Array', 'DataView', 'ArrayBuffer', 'Map', 'Promise', 'Number', 'BigInt', 'String']]];
        for (let i = 0; i < all.length; i++) for (let j = 0; j < all[i][1].length; j++)
          Object.defineProperty(all[i][0], all[i][1][j], { value: no, writable: true, configurable: true });
        async (s, p) => { hostServices.kv.set('k', p); const got = await hostServices.async.kv.get('k');
          const { headers } = await hostServices.async.messaging.request('s', got, { headers: { A: '1' } });
          return headers.A[0] === '1' ? got : 'no' }";
    let mut node = twin(source).await;
    assert_eq!(node.call(1, "one").await.as_deref(), Ok("one"));
    assert_eq!(node.call(2, "two").await.as_deref(), Ok("two"));
}

#[tokio::test]
async fn nothing_can_be_opened_or_connected_to_by_the_function() {
    let worker = "new Promise((ok, no) => { const w = new Worker(URL.createObjectURL(new Blob([`try {
        Deno.readTextFileSync('worker.js'); postMessage('read') } catch (e) { postMessage(e.name) }`])), { type: 'module' });
        w.onmessage = (e) => ok(e.data); w.onerror = (e) => { e.preventDefault(); ok('error') } })";
    for attempt in [
        "import('node:fs').then((fs) => fs.openSync('incoming', 'r'))",
        "import('node:net').then(({ connect }) => new Promise((ok, no) => { const s = connect('incoming', ok); s.on('error', no) }))",
        "import('node:net').then(({ connect }) => new Promise((ok, no) => { const s = connect(4222, '127.0.0.1', ok); s.on('error', no) }))",
        "import('node:net').then(({ createServer }) => new Promise((ok, no) => { const s = createServer().listen('x', ok); s.on('error', no) }))",
        "import('node:fs').then((fs) => fs.readFileSync('worker.js'))",
        &format!("{worker}.then((said) => {{ if (said !== 'read') throw new Error(said) }})"),
    ] {
        let source = format!("async () => await {attempt}");
        let roomy = |start: &mut Start| start.limits.memory_bytes = 512 << 20;
        let outcome = function_with(&source, Hosts::Unsupported, roomy).await.call(1, "").await;
        assert_eq!(outcome.as_ref().map_err(|(kind, _)| *kind), Err(Function), "{attempt}: {outcome:?}");
    }
}

#[tokio::test]
async fn half_a_character_is_no_reason_to_end_the_worker() {
    let source = "(s, p, c) => { console.log('\\ud800'); c.replyHeaders.A = '\\ud800'; hostServices.kv.set('\\ud800', '\\ud800');
        return hostServices.kv.keys() }";
    let mut node = twin(source).await;
    assert_eq!(node.call(1, "").await.as_deref(), Ok("[\"\u{fffd}\"]"));
    assert_eq!(node.log().await.1, "\u{fffd}");
}

#[tokio::test]
async fn large_values_and_binary_ones_pass_both_ways() {
    let source = "async (s, p) => { hostServices.kv.set('k', p); const a = hostServices.kv.get('k');
        const b = await hostServices.async.kv.get('k'); return a.length === b.length && a.every((v, i) => v === b[i]) ? a : 'no' }";
    let mut node = function_with(source, Hosts::Twin(Box::default()), |start| start.limits.reply_bytes = 8 << 20).await;
    let binary = Bytes::from((0..=255).cycle().take(3_000_001).collect::<Vec<u8>>());
    node.invoke(1, binary.clone()).await;
    assert!(node.outcome(1).await.unwrap().1 == binary);
}
