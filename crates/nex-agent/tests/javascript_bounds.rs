//! JavaScript functions that do what they should not: nothing of it wedges them, burns the node or fills its disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

mod node;

use std::path::Path;
use std::time::{Duration, Instant};

use nex_protocol::link::message::FailureKind::{Function, Timeout};
use nex_protocol::link::message::Start;
use node::functions::function_with;
use node::{Hosts, Node};

/// Writes frames from the worker to the agent.
const FORGE: &str = "const out = process.stdout; function frame(kind, number, head) {
    const text = new TextEncoder().encode(head); const frame = new Uint8Array(17 + text.length);
    const view = new DataView(frame.buffer); view.setUint32(0, 13 + text.length); view.setUint8(4, kind);
    view.setBigUint64(5, number); view.setUint32(13, text.length); frame.set(text, 17); return frame; }\n";

async fn with(source: &str, change: impl FnOnce(&mut Start)) -> Node {
    function_with(source, Hosts::Unsupported, change).await
}

async fn function(source: &str) -> Node {
    with(source, |_| {}).await
}

/// Files below a folder, with their sizes.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push((entry.path(), entry.metadata().unwrap().len()));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn nothing_can_be_stored_on_the_nodes_disk() {
    let attempts = "const cached = async () => { const cache = await caches.open('x');
        await cache.put('https://a/b', new Response(new Uint8Array(1 << 20))) };
      const stored = () => localStorage.setItem('a', 'b'.repeat(100000));
      const fails = async (attempt) => { try { await attempt(); return 'stored' } catch { return 'failed' } };";
    let source = format!(
        "{attempts} const inWorker = () => new Promise((ok, no) => {{ const code = {attempts:?} +
        'postMessage(await fails(cached) + await fails(stored))';
        const w = new Worker(URL.createObjectURL(new Blob([code])), {{ type: 'module' }});
        w.onmessage = (e) => ok(e.data); w.onerror = (e) => {{ e.preventDefault(); ok('error: ' + e.message) }} }});
        async () => [await fails(cached), await fails(stored), await inWorker()].join()"
    );
    let mut node = with(&source, |start| start.limits.memory_bytes = 512 << 20).await;
    let before = files(node.folder.path());
    assert_eq!(node.call(1, "").await.as_deref(), Ok("failed,failed,failedfailed"));
    assert_eq!(files(node.folder.path()), before);
}

#[tokio::test]
async fn values_and_errors_that_are_in_the_way_are_answered_and_wedge_nothing() {
    for (bad, expected) in [
        ("new (class extends Uint8Array { get length() { return 1 } get byteLength() { return 1 } })(8)", Ok(8)),
        ("Promise.reject(Object.assign(new RangeError(), { message: Symbol() }))", Err(())),
        ("Promise.reject(new Proxy(new Error(), { getPrototypeOf() { throw 1 } }))", Err(())),
        ("{ toJSON() { throw Object.assign(new RangeError(), { message: { toString: null } }) } }", Err(())),
    ] {
        for kind in ["", "async "] {
            let mut node = function(&format!("{kind}(s, p) => p.length ? ({bad}) : 'fine'")).await;
            match (node.call(1, "bad").await, expected) {
                (Ok(body), Ok(length)) => assert_eq!(body.len(), length),
                (Err((Function, _)), Err(())) => {}
                (other, _) => panic!("{bad}: {other:?}"),
            }
            assert_eq!(node.call(2, "").await.as_deref(), Ok("fine"), "{kind}{bad}");
        }
    }
}

#[tokio::test]
async fn answers_nobody_asked_for_end_the_worker() {
    for forged in ["69, 1n, ''", "68, 99n, ''", "67, 99n, '{}'", "65, 0n, ''"] {
        let source = format!(
            "{FORGE}async (s, p) => {{ if (p.length) {{ out.write(frame({forged})); await new Promise(() => {{}}) }}
            return 'fine' }}"
        );
        let mut node = function(&source).await;
        let (kind, text) = node.call(1, "forge").await.unwrap_err();
        assert!(kind == Function && text.contains("nobody asked for"), "{forged}: {text}");
        assert_eq!(node.call(2, "").await.as_deref(), Ok("fine"), "{forged}");
    }
}

#[tokio::test]
async fn a_flood_of_messages_holds_up_no_deadline() {
    // Host calls that are given up: of all that may be said at any time, the cheapest.
    let source = format!(
        "{FORGE}(s, p) => {{ const many = new Uint8Array(17 * 500); const one = frame(72, 5n, '');
        for (let i = 0; i < 500; i++) many.set(one, 17 * i); while (p.length) out.write(many); return 'fine' }}"
    );
    let mut node = function(&source).await;
    let begun = Instant::now();
    node.invoke_with(1, vec![], "flood", 300).await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Timeout);
    assert_eq!(node.call(2, "").await.as_deref(), Ok("fine"));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_goes_on_computing_after_its_answer_is_ended() {
    let source = "(s, p) => { if (p.length) setTimeout(() => { for (;;); }, 0); return 'fine' }";
    let mut node = function(source).await;
    // More often than workers may die with no call to blame.
    for call in 1..8 {
        assert_eq!(node.call(call, "loop").await.as_deref(), Ok("fine"));
        // Until the loop has begun, and is suspected.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(node.call(9, "").await.as_deref(), Ok("fine"));
    for call in 10..18 {
        // The call may run ahead of the timer, or find the loop; it does not wait for it.
        let begun = Instant::now();
        assert!(!matches!(node.call(call, "loop").await, Err((Timeout, _))));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn what_begins_to_compute_a_while_after_its_answer_is_found_out() {
    let source = "let busy = true; (s, p) => { if (p.length) { const until = Date.now() + 1500;
        const tick = () => { if (Date.now() > until) for (;;); for (let i = 0; i < 1e6; i++); setTimeout(tick, 1) };
        tick() } return process.pid }";
    let mut node = function(source).await;
    let first = node.call(1, "loop").await.unwrap();
    node::gone(first.parse().unwrap()).await;
    assert_ne!(node.call(2, "").await.unwrap(), first);
}

#[tokio::test]
async fn an_idle_worker_and_one_that_only_waits_stay() {
    let source = "(s, p) => { setTimeout(() => {}, 60000); return process.pid }";
    let mut node = function(source).await;
    let first = node.call(1, "").await.unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(node.call(2, "").await.unwrap(), first);
}

#[tokio::test]
async fn a_stream_that_was_made_not_to_wait_still_carries_large_replies() {
    // One that reads as well takes calls away from the worker.
    let source = "import net from 'node:net'; let socket;
        export default (s, p) => { socket ??= new net.Socket({ fd: 1, readable: false }); return 'x'.repeat(1 << 20) }";
    let mut node = function(source).await;
    for call in 1..4 {
        assert_eq!(node.call(call, "").await.map(|body| body.len()), Ok(1 << 20), "{call}");
    }
}

#[tokio::test]
async fn answers_that_were_given_before_the_worker_was_ended_count() {
    let source = format!(
        "{FORGE}let go; async (s, p) => {{ if (p.length === 0) return await new Promise((ok) => go = ok);
        go('answered'); await new Promise((ok) => setTimeout(ok, 20)); process.kill(process.pid, 'SIGKILL') }}"
    );
    let mut node = function(&source).await;
    node.invoke(1, "").await;
    node.invoke(2, "end").await;
    assert_eq!(node.reply(1).await.as_deref(), Ok("answered"));
    assert_eq!(node.reply(2).await.unwrap_err().0, Function);
}

#[tokio::test]
async fn reply_headers_may_be_anything_that_gives_pairs() {
    for headers in ["new Headers({ a: 'b' })", "new Map([['a', 'b']])", "[['a', ['b']]]", "{ a: 'b' }"] {
        let mut node = function(&format!("(s, p, c) => {{ c.replyHeaders = {headers}; return 1 }}")).await;
        node.invoke(1, "").await;
        assert_eq!(node.outcome(1).await.unwrap().0, [("a".to_owned(), "b".to_owned())], "{headers}");
    }
}

#[tokio::test]
async fn what_needs_deno_is_told_to_be_not_available() {
    let (kind, text) = function("() => Deno.cwd()").await.call(1, "").await.unwrap_err();
    assert!(kind == Function && text.contains("not available to functions"), "{text}");
}
