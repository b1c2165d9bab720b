//! JavaScript functions, in a real Deno.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

mod node;

use bytes::Bytes;
use nex_protocol::link::message::FailureKind::{Function, Killed, OutOfMemory, Overloaded, ReplyTooLarge, Timeout};
use nex_protocol::link::message::{Limits, Start, ToNode};
use nex_protocol::log::Level;
use nex_protocol::name::WorkloadType;
use node::{LIMITS, Node, Started, deno, gone, start};

async fn try_function(source: impl AsRef<[u8]>, change: impl FnOnce(&mut Start)) -> (Node, Started) {
    let mut node = Node::with(|welcome| welcome.deno = Some(deno())).await;
    let mut start = start(WorkloadType::V8, node.artifact("function", source));
    start.environment.set("KEY", "value");
    change(&mut start);
    let started = node.start(start).await;
    (node, started)
}

async fn function(source: &str) -> Node {
    let (node, started) = try_function(source, |_| {}).await;
    assert!(started.unwrap().is_some(), "a worker has a process group");
    node
}

/// The reply of a function that is called once.
async fn once(source: &str) -> Result<String, (nex_protocol::link::message::FailureKind, String)> {
    function(source).await.call(1, "payload").await
}

async fn rejected(source: &str) -> String {
    try_function(source, |_| {}).await.1.unwrap_err()
}

#[tokio::test]
async fn sources_of_every_kind_run() {
    for source in [
        "(subject, payload) => `${subject} ${new TextDecoder().decode(payload)}`",
        "function f(subject, payload) { return subject + ' ' + new TextDecoder().decode(payload) }\nf",
        "export default function (subject, payload) { return subject + ' ' + new TextDecoder().decode(payload) }",
        "const later = await Promise.resolve(1);\nexport default async (s, p) => s + ' ' + new TextDecoder().decode(p)",
        "(subject: string, payload: Uint8Array): string => subject + ' ' + new TextDecoder().decode(payload)",
        "enum Space { One = ' ' }; (s: string, p: Uint8Array) => s + Space.One + new TextDecoder().decode(p)",
        "interface A { b: string }\nexport default (s: string, p: Uint8Array) => s + ' ' + new TextDecoder().decode(p)",
        "enum Space { One = ' ' }; export default (s: string, p: Uint8Array) => s + Space.One + new TextDecoder().decode(p)",
    ] {
        assert_eq!(once(source).await.as_deref(), Ok("some.subject payload"), "{source}");
    }
}

#[tokio::test]
async fn sources_that_are_no_function_are_rejected_with_the_reason() {
    let value = "the script's last value is undefined, not a function: end it with the function";
    for (source, reason) in [
        ("const f = () => 1;", value),
        ("export const f = () => 1;", "the module has no default export that is a function"),
        ("const a = 1;\nconst b = ;\n() => b", "syntax error at 2:11: Expression expected"),
        ("export default (a: strin => 1", "syntax error at 1:30: unexpected end of the source"),
        ("return 1", "the script failed: SyntaxError: Illegal return statement"),
        (
            "const a = 1;\nconst a = 2;\nexport default () => a",
            "syntax error at 2:7: Identifier 'a' has already been declared",
        ),
        ("throw new Error('at the top')", "the script failed: Error: at the top"),
        ("export default () => 1; null.x", "the module failed: TypeError:"),
        ("import x from 'https://example.com/x.js'; export default () => x", "the module failed:"),
    ] {
        let why = rejected(source).await;
        assert!(why.starts_with(reason), "{source}: {why}");
    }
}

#[tokio::test]
async fn nothing_runs_twice_while_the_kind_of_source_is_found_out() {
    for source in [
        "globalThis.runs = (globalThis.runs ?? 0) + 1; () => runs",
        "globalThis.runs = (globalThis.runs ?? 0) + 1; export default () => runs",
        "globalThis.runs = (globalThis.runs ?? 0) + 1; (a: string) => runs",
        "globalThis.runs = (globalThis.runs ?? 0) + 1; export default (a: string) => runs",
    ] {
        assert_eq!(once(source).await.as_deref(), Ok("1"), "{source}");
    }
}

#[tokio::test]
async fn a_node_without_deno_and_a_source_too_large_are_told() {
    let mut node = Node::new().await;
    let artifact = node.artifact("f", "() => 1");
    assert!(node.start(start(WorkloadType::V8, artifact)).await.unwrap_err().contains("no Deno"));
    let (_, started) = try_function("() => 1", |start| start.limits.script_bytes = 4).await;
    assert!(started.unwrap_err().contains("larger than the 4 bytes"));
    let (_, started) = try_function(b"\xff\xfe", |_| {}).await;
    assert!(started.unwrap_err().contains("no UTF-8"));
}

#[tokio::test]
async fn results_become_bytes_text_json_or_nothing() {
    for (source, reply) in [
        ("(s, p) => p", "payload"),
        ("(s, p) => p.buffer", "payload"),
        ("(s, p) => new DataView(p.buffer, 3)", "load"),
        ("() => 'text ä'", "text ä"),
        ("() => ({ a: [1, null] })", r#"{"a":[1,null]}"#),
        ("() => 42", "42"),
        ("() => false", "false"),
        ("() => undefined", ""),
        ("async () => null", ""),
    ] {
        assert_eq!(once(source).await.as_deref(), Ok(reply), "{source}");
    }
    let mut node = function("(s, p) => p").await;
    let binary = Bytes::from((0..=255).cycle().take(300_000).collect::<Vec<u8>>());
    node.invoke(1, binary.clone()).await;
    assert_eq!(node.outcome(1).await.unwrap().1, binary);
}

#[tokio::test]
async fn results_without_a_json_form_and_throws_are_failures_of_the_function() {
    for (source, message) in [
        ("() => { throw new TypeError('no\\nway') }", "TypeError: no way"),
        ("async () => { await null; throw new Error('later') }", "Error: later"),
        ("() => { throw 'text' }", "text"),
        ("() => 10n", "TypeError: Do not know how to serialize a BigInt"),
        ("() => { const a = {}; a.a = a; return a }", "TypeError: Converting circular structure to JSON"),
        ("() => () => 1", "TypeError: a result of type function has no JSON form"),
        ("(s, p, c) => { c.replyHeaders['a b'] = 'c'; return 1 }", "'a b' with its value is no message header"),
        ("() => process.exit(3)", "Error: a function has no process.exit"),
    ] {
        let (kind, text) = once(source).await.unwrap_err();
        assert!(kind == Function && text.starts_with(message), "{source}: {text}");
    }
}

#[tokio::test]
async fn the_context_has_headers_workload_deadline_and_trace_and_takes_reply_headers() {
    let mut node = function(
        "function f(s, p, c) { c.replyHeaders.One = '1'; c.replyHeaders.Two = ['2', '3'];
           return [this === globalThis, c.headers, c.workload, c.trace, c.deadline - Date.now()] }; f",
    )
    .await;
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let headers = vec![header("A", "1"), header("A", "2"), header("TraceParent", "00-a-b-01")];
    node.invoke_with(1, headers, "", 5000).await;
    let (headers, body) = node.outcome(1).await.unwrap();
    assert_eq!(headers, [header("One", "1"), header("Two", "2"), header("Two", "3")]);
    let result: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(result[0], true);
    assert_eq!(result[1], serde_json::json!({"A": ["1", "2"], "TraceParent": ["00-a-b-01"]}));
    assert_eq!(result[2], serde_json::json!({"name": "work", "namespace": "space"}));
    assert_eq!(result[3], "00-a-b-01");
    assert!((1..=5000).contains(&result[4].as_i64().unwrap()), "{result}");
}

#[tokio::test]
async fn the_environment_is_given_and_frozen() {
    let source = "() => { try { env.KEY = 'other' } catch {} delete env.KEY; globalThis.env = 1; \
                  return [env.KEY, process.env.KEY, Object.keys(env).length] }";
    assert_eq!(once(source).await.as_deref(), Ok(r#"["value","value",1]"#));
}

#[tokio::test]
async fn nothing_of_the_machine_can_be_reached() {
    for attempt in [
        "import('node:fs').then((fs) => fs.readFileSync('/etc/passwd', 'utf8'))",
        "import('node:child_process').then((c) => c.execSync('id').toString())",
        "fetch('http://127.0.0.1:4222')",
        "fetch('file:///etc/passwd')",
        "import('node:net').then((net) => new Promise((ok, no) => net.connect(4222, '127.0.0.1').on('connect', ok).on('error', no)))",
        "import('node:process').then((p) => p.default.env.HOME.length)",
        "import('https://example.com/x.js')",
        "import('file:///etc/passwd')",
        "Deno.env.toObject()",
    ] {
        let outcome = once(&format!("async () => await {attempt}")).await;
        assert_eq!(outcome.as_ref().map_err(|(kind, _)| *kind), Err(Function), "{attempt}: {outcome:?}");
    }
    assert_eq!(once("() => [typeof Deno, typeof prompt].join()").await.as_deref(), Ok("undefined,undefined"));
}

#[tokio::test]
async fn modules_of_node_that_the_source_names_can_be_used() {
    let source = "import { createHash } from 'node:crypto';
                  export default (s, p) => createHash('sha256').update(p).digest('hex').slice(0, 8)";
    assert_eq!(once(source).await.as_deref(), Ok("239f59ed"));
}

#[tokio::test]
async fn calls_that_wait_run_side_by_side_up_to_the_limit() {
    // Each waits until as many are inside as may be; one at a time would never end.
    let source = "let inside = 0, most = 0; const waiting = [];
                  async () => { most = Math.max(most, ++inside); if (inside === 4) waiting.splice(0).forEach((go) => go());
                    else await new Promise((go) => waiting.push(go)); inside--; return most }";
    let mut node = function(source).await;
    for call in 1..=8 {
        node.invoke(call, "").await;
    }
    for call in 1..=8 {
        assert_eq!(node.reply(call).await.as_deref(), Ok("4"));
    }
}

#[tokio::test]
async fn an_endless_loop_is_ended_at_its_deadline_and_the_next_call_works() {
    let mut node = function("(s, p) => { if (p.length) for (;;); return 'fine' }").await;
    node.invoke_with(1, vec![], "loop", 300).await;
    node.invoke(2, "").await;
    node.ping(9).await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Timeout);
    assert_eq!(node.reply(2).await.as_deref(), Ok("fine"), "it had not begun in the worker that was stuck");
}

#[tokio::test]
async fn calls_that_were_with_a_stuck_worker_are_told_so() {
    let source = "async (s, p) => { if (p.length) { await new Promise((go) => setTimeout(go, 50)); for (;;); } \
                  await new Promise(() => {}) }";
    let mut node = function(source).await;
    node.invoke(1, "").await;
    node.invoke_with(2, vec![], "loop", 300).await;
    assert_eq!(node.reply(2).await.unwrap_err().0, Timeout);
    let (kind, text) = node.reply(1).await.unwrap_err();
    assert!(kind == Killed && text.contains("did not give way"), "{text}");
}

#[tokio::test]
async fn a_call_that_waits_too_long_times_out_and_harms_nobody() {
    let mut node =
        function("let n = 0; async (s, p) => { n++; if (p.length) await new Promise(() => {}); return n }").await;
    node.invoke_with(1, vec![], "wait", 100).await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Timeout);
    assert_eq!(node.call(2, "").await.as_deref(), Ok("2"), "the same worker");
}

#[tokio::test]
async fn a_call_whose_turn_does_not_come_is_told_overloaded() {
    let source = "async (s, p) => { await new Promise((go) => setTimeout(go, 400)); return 'done' }";
    let (mut node, started) = try_function(source, |start| start.limits.concurrency = 1).await;
    started.unwrap();
    node.invoke(1, "").await;
    node.invoke_with(2, vec![], "", 50).await;
    assert_eq!(node.reply(2).await.unwrap_err().0, Overloaded);
    assert_eq!(node.reply(1).await.as_deref(), Ok("done"));
}

#[tokio::test]
async fn exhausting_memory_is_told_and_the_next_call_works() {
    for fill in [
        "a.push({ a: [1, 2, 3] })",
        "a.push(new Uint8Array(16 << 20).fill(1))",
        "a.push('x'.repeat(1 << 20) + a.length)",
    ] {
        let mut node = function(&format!("(s, p) => {{ const a = []; while (p.length) {fill}; return 'fine' }}")).await;
        assert_eq!(node.call(1, "fill").await.unwrap_err().0, OutOfMemory, "{fill}");
        assert_eq!(node.call(2, "").await.as_deref(), Ok("fine"), "{fill}");
    }
}

#[tokio::test]
async fn a_small_memory_limit_is_enough_for_a_small_function() {
    let (mut node, started) =
        try_function("export default (s: string, p) => p", |start| start.limits.memory_bytes = 8 << 20).await;
    started.unwrap();
    assert_eq!(node.call(1, "fine").await.as_deref(), Ok("fine"));
}

#[tokio::test]
async fn long_console_output_is_cut_into_lines() {
    let source = "() => { console.log('a'.repeat(16000) + '\\n' + '\u{1F600}'.repeat(10000)) }";
    let mut node = function(source).await;
    node.invoke(1, "").await;
    assert_eq!(node.log().await.1, "a".repeat(16000));
    let mut rest = String::new();
    while rest.chars().count() < 10_000 {
        rest += &node.log().await.1;
    }
    assert_eq!(rest, "\u{1F600}".repeat(10_000));
}

#[tokio::test]
async fn a_reply_too_large_is_told() {
    let limits = Limits { reply_bytes: 1000, ..LIMITS };
    let (mut node, started) =
        try_function("(s, p) => 'x'.repeat(Number(new TextDecoder().decode(p)))", |start| start.limits = limits).await;
    started.unwrap();
    assert_eq!(node.call(1, "1001").await.unwrap_err().0, ReplyTooLarge);
    assert_eq!(node.call(2, "1000").await.unwrap().len(), 1000);
}

#[tokio::test]
async fn garbage_in_the_workers_stream_is_told_and_survived() {
    let source = "import { writeSync } from 'node:fs';
                  export default (s, p) => { if (p.length) process.stdout.write('x'.repeat(100)); return 'fine' }";
    let mut node = function(source).await;
    let (kind, text) = node.call(1, "garbage").await.unwrap_err();
    assert!(kind == Function && text.contains("write to console instead"), "{text}");
    assert_eq!(node.call(2, "").await.as_deref(), Ok("fine"));
}

#[tokio::test]
async fn a_forged_outcome_answers_nobody_else() {
    // Frame: length, kind 67 (outcome), call, head length, head.
    let source = "function forge(call) { const head = new TextEncoder().encode('{}'); const frame = new Uint8Array(17 + head.length);
                    const view = new DataView(frame.buffer); view.setUint32(0, 13 + head.length); view.setUint8(4, 67);
                    view.setBigUint64(5, call); view.setUint32(13, head.length); frame.set(head, 17); process.stdout.write(frame); }
                  (s, p) => { forge(77n); return 'mine' }";
    let mut node = function(source).await;
    // The true one counts when it is there before the worker is ended.
    match node.call(1, "").await {
        Ok(body) => assert_eq!(body, "mine"),
        Err((kind, text)) => assert!(kind == Function && text.contains("nobody asked for"), "{text}"),
    }
    node.ping(1).await;
    assert!(node.stop(0).await.code.is_none());
    let forged = node.rest().await.into_iter().find(|message| matches!(message, ToNode::Outcome(77, ..)));
    assert_eq!(forged, None);
}

#[tokio::test]
async fn a_worker_that_ends_itself_fails_its_call_and_is_replaced() {
    let source = "(s, p) => { if (p.length) process.kill(process.pid, 'SIGKILL'); return 'fine' }";
    let mut node = function(source).await;
    let first = node.call(1, "end").await;
    assert_eq!(first.unwrap_err().0, Function);
    assert_eq!(node.call(2, "").await.as_deref(), Ok("fine"));
}

#[tokio::test]
async fn console_goes_to_the_log_with_its_level() {
    let mut node = function(
        "() => { console.debug('d'); console.log('l', { a: [1] }); console.info('i %d', 3); console.warn('w\\nw2'); \
         console.error('e'); console.trace('t') }",
    )
    .await;
    node.invoke(1, "").await;
    let expected = [
        (Level::Debug, "d"),
        (Level::Info, "l { a: [ 1 ] }"),
        (Level::Info, "i 3"),
        (Level::Warn, "w"),
        (Level::Warn, "w2"),
        (Level::Error, "e"),
        (Level::Debug, "Trace: t"),
    ];
    for (level, text) in expected {
        assert_eq!(node.log().await, (level, text.to_owned()));
    }
    assert_eq!(node.reply(1).await.as_deref(), Ok(""));
}

#[tokio::test]
async fn errors_nobody_waits_for_are_logged_and_survived() {
    let mut node = function(
        "(s, p) => { Promise.reject(new Error('lost')); setTimeout(() => { throw new Error('timer') }); return 1 }",
    )
    .await;
    assert_eq!(node.call(1, "").await.as_deref(), Ok("1"));
    let mut said = String::new();
    while !(said.contains("unhandled rejection: Error: lost") && said.contains("uncaught: Error: timer")) {
        let (level, text) = node.log().await;
        assert_eq!(level, Level::Error);
        said += &text;
    }
    assert_eq!(node.call(2, "").await.as_deref(), Ok("1"));
}

#[tokio::test]
async fn the_stack_of_a_throw_is_logged_with_the_functions_name() {
    let mut node = function("function broken() { throw new Error('no') }\nbroken").await;
    node.invoke(1, "").await;
    assert_eq!(node.log().await, (Level::Error, "Error: no".into()));
    let (_, line) = node.log().await;
    assert!(line.contains("broken") && line.contains("work.js:1:"), "{line}");
}

#[tokio::test]
async fn a_function_whose_worker_keeps_dying_without_a_call_is_given_up() {
    let source = "setTimeout(() => process.kill(process.pid, 'SIGKILL'), 20); () => 1";
    let mut node = function(source).await;
    let exit = node.exited().await;
    assert!(exit.message.contains("5 times"), "{}", exit.message);
    assert_eq!(node.end().await.code(), Some(0));
}

#[tokio::test]
async fn stop_lets_running_calls_finish_and_refuses_the_rest() {
    let source =
        "async (s, p) => { console.log('begun'); await new Promise((go) => setTimeout(go, 200)); return 'done' }";
    let (mut node, started) = try_function(source, |start| start.limits.concurrency = 1).await;
    started.unwrap();
    node.invoke(1, "").await;
    node.invoke(2, "").await;
    assert_eq!(node.log().await.1, "begun");
    let exit = node.stop(10_000).await;
    assert_eq!(exit.message, "stopped");
    assert_eq!(node.reply(1).await.as_deref(), Ok("done"));
    assert_eq!(node.reply(2).await.unwrap_err().0, Killed);
    assert_eq!(node.end().await.code(), Some(0));
}

#[tokio::test]
async fn stop_ends_a_loop_after_its_grace_and_the_worker_with_it() {
    let (mut node, started) = try_function("() => { console.log('begun'); for (;;); }", |_| {}).await;
    let worker = i32::try_from(started.unwrap().unwrap()).unwrap();
    node.invoke(1, "").await;
    assert_eq!(node.log().await.1, "begun");
    node.stop(50).await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Killed);
    gone(worker).await;
}

#[tokio::test]
async fn the_worker_dies_with_the_link_and_with_the_agent() {
    for kill_agent in [false, true] {
        let (mut node, started) = try_function("() => { for (;;); }", |_| {}).await;
        let worker = i32::try_from(started.unwrap().unwrap()).unwrap();
        node.invoke(1, "").await;
        if kill_agent {
            node.agent.start_kill().unwrap();
        } else {
            node.to = None;
        }
        gone(worker).await;
        node.end().await;
    }
}

#[tokio::test]
async fn a_flood_of_logs_holds_up_no_ping() {
    let mut node = function("() => { for (;;) console.log('x'.repeat(100)) }").await;
    node.invoke_with(1, vec![], "", 1500).await;
    for number in 0..10 {
        node.send(nex_protocol::link::message::ToAgent::Ping(number)).await;
        while node.next().await != ToNode::Pong(number) {}
    }
    loop {
        if let ToNode::Outcome(1, _, outcome) = node.next().await {
            assert_eq!(outcome.unwrap_err().kind, Timeout);
            break;
        }
    }
}
