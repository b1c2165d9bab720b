//! The direct way of JavaScript workers to the node, in a real Deno, with the test in the node's place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

mod node;

use std::time::Duration;

use bytes::Bytes;
use nex_protocol::link::direct::{LARGEST, Waits};
use nex_protocol::link::host::{HostReply, HostRequest, KvRequest};
use nex_protocol::link::message::FailureKind::{Function, Killed, Timeout};
use nex_protocol::link::message::{ToAgent, ToNode};
use node::functions::{direct, function_with, key};
use node::{Hosts, Node};

const FOUND: Result<HostReply, nex_protocol::link::host::HostError> = Ok(HostReply::Revision { revision: 1 });

/// Writes into whatever takes it, from the last that was opened on, down to the pipe that is only read: right before that
/// was the one that the worker writes to.
const GARBAGE: &str = "import net from 'node:net'; async function garbage() {
    for (let fd = 200; fd > 2; fd--) { let pipe; try { pipe = new net.Socket({ fd, readable: false, writable: true }) }
      catch { continue } const failed = await new Promise((ok) => { pipe.on('error', ok);
      pipe.write('GET / HTTP/1.1\\r\\n\\r\\n', ok) }); if (failed) return } }\n";

/// Answers the node's part of a question about a worker, once it is asked.
async fn tell_waits(node: &mut Node, waits: Waits) {
    let asked = |message: &ToNode| if let ToNode::DirectWaits(worker) = message { Some(*worker) } else { None };
    let worker = node.find(asked).await;
    node.send(ToAgent::DirectWaits(worker, waits)).await;
}

/// The number of the next question, which is about that key.
async fn asked_for(node: &mut Node, wanted: &str) -> u64 {
    let ask = node.asked().await;
    assert_eq!(key(&ask.request.unwrap()), wanted);
    ask.number
}

/// A function with a call that was given up, and another, 2, that waits for the answer to a question of this number.
async fn blocked() -> (Node, u64) {
    let source = "async (s, p) => { if (p.length === 0) return new Promise(() => {});
        await new Promise((ok) => setTimeout(ok, 20)); return hostServices.kv.get('k') }";
    let mut node = direct(source, Hosts::Test).await;
    node.invoke_with(1, vec![], "", 200).await;
    node.invoke(2, "block").await;
    let number = asked_for(&mut node, "k").await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Timeout);
    (node, number)
}

#[tokio::test]
async fn until_the_node_has_opened_the_pipes_calls_go_through_the_agent() {
    let source = "(s, p) => hostServices.kv.get(new TextDecoder().decode(p))";
    let mut node = Node::with(|welcome| (welcome.deno, welcome.direct) = (Some(node::deno()), true)).await;
    node.hosts = Hosts::Test;
    let start = node::start(nex_protocol::WorkloadType::V8, node.artifact("function", source));
    node.start(start).await.unwrap();
    node.invoke(1, "before").await;
    let (number, call, request) = node.host_call().await;
    assert_eq!((call, key(&request).as_str()), (1, "before"));
    node.host_reply(number, HostReply::Revision { revision: 1 }, "by the agent").await;
    assert_eq!(node.reply(1).await.as_deref(), Ok("by the agent"));
    node.open_direct().await;
    node.invoke(2, "after").await;
    let ask = node.asked().await;
    assert_eq!(ask.call, 2);
    node.direct().answer(ask.number, FOUND, "directly").await;
    assert_eq!(node.reply(2).await.as_deref(), Ok("directly"));
}

#[tokio::test]
async fn a_node_that_offers_no_direct_way_is_not_told_of_one() {
    let mut node = function_with("() => 1", Hosts::Unsupported, |_| {}).await;
    assert_eq!(node.call(1, "").await.as_deref(), Ok("1"));
    assert!(!node.folder.path().join("direct-asks").exists());
    node.stop(0).await;
    assert!(!node.rest().await.iter().any(|message| matches!(message, ToNode::Direct(_))));
}

#[tokio::test]
async fn while_the_agent_has_a_call_the_others_follow_it() {
    let source = "async () => { const kv = hostServices.kv; const first = hostServices.async.kv.set('a', new Uint8Array(70000));
        kv.set('b', '2'); const later = hostServices.async.kv.set('d', '4'); await first; await later; kv.set('c', '3'); return 'done' }";
    let mut node = direct(source, Hosts::Test).await;
    node.invoke(1, "").await;
    let (first, _, request) = node.host_call().await;
    assert!(matches!(request, HostRequest::Kv(KvRequest::Set { key, .. }) if key == "a"));
    let (second, _, request) = node.host_call().await;
    assert!(matches!(request, HostRequest::Kv(KvRequest::Set { key, .. }) if key == "b"));
    node.host_reply(second, HostReply::Done, "").await;
    let (later, _, request) = node.host_call().await;
    assert!(matches!(request, HostRequest::Kv(KvRequest::Set { key, .. }) if key == "d"));
    node.host_reply(later, HostReply::Done, "").await;
    node.host_reply(first, HostReply::Done, "").await;
    let third = node.asked().await;
    assert!(matches!(third.request, Ok(HostRequest::Kv(KvRequest::Set { key, .. })) if key == "c"));
    node.direct().answer(third.number, Ok(HostReply::Done), "").await;
    assert_eq!(node.reply(1).await.as_deref(), Ok("done"));
}

#[tokio::test]
async fn promises_go_directly_too_and_wait_beside_each_other_and_beside_a_call_that_blocks() {
    let source = "async () => { const { kv, async } = hostServices; const both = [async.kv.get('a'), async.kv.get('b')];
        const c = kv.get('c'); return [...await Promise.all(both), c].map((value) => new TextDecoder().decode(value)).join() }";
    let mut node = direct(source, Hosts::Test).await;
    node.invoke(1, "").await;
    let mut numbers = Vec::new();
    for (key, promise) in [("a", true), ("b", true), ("c", false)] {
        let ask = node.asked().await;
        assert_eq!((node::functions::key(&ask.request.unwrap()).as_str(), ask.promise), (key, promise));
        numbers.push(ask.number);
    }
    node.direct().answer(numbers[2], FOUND, "third").await;
    node.direct().resolve(numbers[1], FOUND, vec![b'b'; 300_000]).await;
    node.direct().resolve(numbers[0], FOUND, "first").await;
    assert_eq!(node.reply(1).await.unwrap(), format!("first,{},third", "b".repeat(300_000)));
}

#[tokio::test]
async fn more_promises_than_may_be_open_wait_for_their_turn() {
    let source = "async () => (await Promise.all(Array.from({ length: 100 }, (_, at) => hostServices.async.kv.get('k')))).length";
    let mut node = direct(source, Hosts::Test).await;
    node.invoke(1, "").await;
    let mut open = Vec::new();
    for _ in 0..48 {
        open.push(asked_for(&mut node, "k").await);
    }
    assert!(tokio::time::timeout(Duration::from_millis(100), node.direct().next()).await.is_err());
    for answered in 0..100 {
        let number = open.remove(0);
        node.direct().resolve(number, FOUND, "").await;
        if answered < 52 {
            open.push(asked_for(&mut node, "k").await);
        }
    }
    assert_eq!(node.reply(1).await.as_deref(), Ok("100"));
}

#[tokio::test]
async fn a_node_that_leaves_fails_the_promises_that_wait_and_the_next_go_through_the_agent() {
    let source =
        "async () => { const { kv } = hostServices.async; const tell = (e) => [e.code, e.retry, e.message].join();
        return [await kv.get('k').catch(tell), String.fromCharCode(...await kv.get('k'))].join('; ') }";
    let mut node = direct(source, Hosts::Test).await;
    node.invoke(1, "").await;
    asked_for(&mut node, "k").await;
    node.direct = None;
    let (number, ..) = node.host_call().await;
    node.host_reply(number, HostReply::Revision { revision: 1 }, "by the agent").await;
    let text = "unavailable,true,kv.get: the way to the node was closed before the answer came; by the agent";
    assert_eq!(node.reply(1).await.as_deref(), Ok(text));
}

#[tokio::test]
async fn in_a_folder_with_a_long_path_only_calls_that_block_go_directly() {
    let source = "async () => [hostServices.kv.get('a'), await hostServices.async.kv.get('b')].map((value) => value.length).join()";
    let mut folder = std::path::PathBuf::new();
    let mut node = Node::with(|welcome| {
        folder = welcome.work_dir.join("x".repeat(100));
        std::fs::create_dir(&folder).unwrap();
        (welcome.deno, welcome.direct, welcome.work_dir) = (Some(node::deno()), true, folder.clone());
    })
    .await;
    node.hosts = Hosts::Test;
    let start = node::start(nex_protocol::WorkloadType::V8, node.artifact("function", source));
    node.start(start).await.unwrap();
    node.open_direct_in(&folder).await;
    assert!(node.direct().promises.is_none());
    node.invoke(1, "").await;
    let number = asked_for(&mut node, "a").await;
    node.direct().answer(number, FOUND, "1").await;
    let (number, ..) = node.host_call().await;
    node.host_reply(number, HostReply::Revision { revision: 1 }, "22").await;
    assert_eq!(node.reply(1).await.as_deref(), Ok("1,2"));
}

#[tokio::test]
async fn what_is_too_large_for_the_pipe_goes_through_the_agent_and_answers_may_have_any_size() {
    let source = "(s, p) => { hostServices.kv.set('k', new Uint8Array(p.length > 1 ? 70000 : 50000));
        return String(hostServices.kv.get('k').length) }";
    let mut node = direct(source, Hosts::Test).await;
    node.invoke(1, "s").await;
    let small = node.asked().await;
    assert_eq!(small.body.len(), 50_000);
    node.direct().answer(small.number, Ok(HostReply::Done), "").await;
    let number = asked_for(&mut node, "k").await;
    node.direct().answer(number, FOUND, vec![7; 300_000]).await;
    assert_eq!(node.reply(1).await.as_deref(), Ok("300000"));

    const { assert!(LARGEST < 70_000) };
    node.invoke(2, "large").await;
    let (number, ..) = node.host_call().await;
    node.host_reply(number, HostReply::Done, "").await;
    let number = asked_for(&mut node, "k").await;
    node.direct().answer(number, FOUND, Bytes::new()).await;
    assert_eq!(node.reply(2).await.as_deref(), Ok("0"));
}

#[tokio::test]
async fn a_pipe_that_closes_fails_the_call_that_waits_and_the_next_goes_through_the_agent() {
    let source =
        "() => { try { return hostServices.kv.get('k') } catch (e) { return [e.code, e.retry, e.message].join() } }";
    let mut node = direct(source, Hosts::Test).await;
    node.invoke(1, "").await;
    asked_for(&mut node, "k").await;
    node.direct = None;
    let text = "unavailable,true,kv.get: the way to the node was closed before the answer came";
    assert_eq!(node.reply(1).await.as_deref(), Ok(text));
    node.invoke(2, "").await;
    let (number, ..) = node.host_call().await;
    node.host_reply(number, HostReply::Revision { revision: 1 }, "by the agent").await;
    assert_eq!(node.reply(2).await.as_deref(), Ok("by the agent"));
}

#[tokio::test]
async fn a_pipe_that_was_closed_before_the_question_costs_the_call_nothing() {
    let mut node = direct("() => hostServices.kv.get('k')", Hosts::Test).await;
    node.direct = None;
    node.invoke(1, "").await;
    let (number, ..) = node.host_call().await;
    node.host_reply(number, HostReply::Revision { revision: 1 }, "by the agent").await;
    assert_eq!(node.reply(1).await.as_deref(), Ok("by the agent"));
}

#[tokio::test]
async fn half_an_answer_and_the_end_fail_the_call() {
    let source = "() => { try { return hostServices.kv.get('k') } catch (e) { return e.code } }";
    let mut node = direct(source, Hosts::Test).await;
    node.invoke(1, "").await;
    asked_for(&mut node, "k").await;
    node.direct().write(&[0, 0, 1]).await;
    node.direct = None;
    assert_eq!(node.reply(1).await.as_deref(), Ok("unavailable"));
}

#[tokio::test]
async fn a_worker_that_waits_for_the_node_is_not_taken_for_stuck() {
    let (mut node, number) = blocked().await;
    tell_waits(&mut node, Waits { left_ms: Some(20_000), ago_ms: None }).await;
    node.ping(3).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    node.direct().answer(number, FOUND, "waited").await;
    assert_eq!(node.reply(2).await.as_deref(), Ok("waited"));
}

#[tokio::test]
async fn one_that_had_its_answer_a_moment_ago_gets_time_and_is_asked_about_again() {
    let (mut node, number) = blocked().await;
    for _ in 0..3 {
        tell_waits(&mut node, Waits { left_ms: None, ago_ms: Some(1) }).await;
    }
    node.direct().answer(number, FOUND, "waited").await;
    assert_eq!(node.reply(2).await.as_deref(), Ok("waited"));
}

#[tokio::test]
async fn one_that_is_stuck_elsewhere_is_replaced_and_the_next_has_pipes_of_its_own() {
    let source = "async (s, p) => { if (p.length === 0) return new Promise(() => {});
        if (p.length === 1) return hostServices.kv.get('k');
        await new Promise((ok) => setTimeout(ok, 20)); for (;;); }";
    let mut node = direct(source, Hosts::Test).await;
    let first = node.direct().worker;
    node.invoke_with(1, vec![], "", 200).await;
    node.invoke(2, "loop").await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Timeout);
    tell_waits(&mut node, Waits::default()).await;
    assert_eq!(node.reply(2).await.unwrap_err().0, Killed);
    assert!(node.direct().next().await.is_none(), "its end is closed");
    node.open_direct().await;
    assert_ne!(node.direct().worker, first);
    node.invoke(3, "k").await;
    let number = asked_for(&mut node, "k").await;
    // A word about the worker before is old.
    node.send(ToAgent::Direct(first)).await;
    node.send(ToAgent::DirectWaits(first, Waits::default())).await;
    node.direct().answer(number, FOUND, "new").await;
    assert_eq!(node.reply(3).await.as_deref(), Ok("new"));
}

#[tokio::test]
async fn a_direct_call_ends_with_the_deadline_and_the_worker_lives() {
    let source = "globalThis.runs = 0; (s, p) => { runs++; if (p.length) hostServices.kv.get('never'); return runs }";
    let mut node = direct(source, Hosts::Test).await;
    node.invoke_with(1, vec![], "wait", 300).await;
    let ask = node.asked().await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Timeout);
    node.direct().answer(ask.number, Ok(HostReply::Missing), "").await;
    assert_eq!(node.call(2, "").await.as_deref(), Ok("2"), "the same worker");
}

#[tokio::test]
async fn a_worker_whose_answer_never_comes_is_replaced_after_its_deadline() {
    let source = "globalThis.runs = 0; (s, p) => { runs++; if (p.length) hostServices.kv.get('never'); return runs }";
    let mut node = direct(source, Hosts::Test).await;
    node.invoke_with(1, vec![], "wait", 300).await;
    node.asked().await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Timeout);
    tell_waits(&mut node, Waits::default()).await;
    assert_eq!(node.call(2, "").await.as_deref(), Ok("1"), "another worker");
}

#[tokio::test]
async fn what_a_function_writes_into_the_pipe_reaches_the_node_and_nobody_else() {
    let source = format!("{GARBAGE}export default (s, p) => p.length ? garbage() : hostServices.kv.get('k')");
    let mut node = direct(&source, Hosts::Test).await;
    // It may have hit the agent's stream too, and is replaced then.
    let _ = node.call(1, "garbage").await;
    let heard = node.direct().bytes().await;
    assert!(heard.starts_with(b"GET / HTTP/1.1"), "{heard:?}");
    // What a node does then.
    node.direct = None;
    node.invoke(2, "").await;
    let (number, ..) = node.host_call().await;
    node.host_reply(number, HostReply::Revision { revision: 1 }, "by the agent").await;
    assert_eq!(node.reply(2).await.as_deref(), Ok("by the agent"));
}

#[tokio::test]
async fn no_pipe_can_be_opened_by_the_function() {
    for attempt in
        ["openSync('direct-asks', 'w')", "openSync('direct-answers', 'r')", "writeFileSync('direct-asks', 'x')"]
    {
        let source = format!("async () => (await import('node:fs')).{attempt}");
        let outcome = direct(&source, Hosts::Test).await.call(1, "").await;
        assert_eq!(outcome.as_ref().map_err(|(kind, _)| *kind), Err(Function), "{attempt}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_pipe_that_was_made_not_to_wait_and_prototypes_that_were_changed_break_no_call() {
    let source = "import net from 'node:net'; for (let fd = 200; fd > 2; fd--) {
          try { globalThis.kept = new net.Socket({ fd, readable: false, writable: true }); break; } catch {} }
        Object.prototype.reply = 1; Array.prototype.push = Uint8Array.prototype.set = TextEncoder.prototype.encodeInto = null;
        export default () => hostServices.kv.get('k')";
    let mut node = direct(source, Hosts::Test).await;
    for call in 1..3 {
        node.invoke(call, "").await;
        let number = asked_for(&mut node, "k").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        node.direct().answer(number, FOUND, "fine").await;
        assert_eq!(node.reply(call).await.as_deref(), Ok("fine"));
    }
}
