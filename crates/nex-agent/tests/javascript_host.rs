//! Host services of JavaScript functions, in a real Deno: everything a function sees of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

mod node;

use std::time::Duration;

use bytes::Bytes;
use nex_protocol::link::host::HostReply;
use nex_protocol::link::message::FailureKind::{Function, Timeout};
use nex_protocol::link::message::{Invoke, ToAgent};
use node::Hosts;
use node::functions::{by_hand, direct, function_with, key, once, once_json, twin};
use serde_json::{Value, json};

#[tokio::test]
async fn every_example_of_the_documentation_runs_unchanged() {
    let http = "(subject, payload) => {
        get = this.hostServices.http.get('https://example.org');
        post = this.hostServices.http.post('https://example.org', payload);
        put = this.hostServices.http.put('https://example.org', payload);
        patch = this.hostServices.http.patch('https://example.org', payload);
        del = this.hostServices.http.delete('https://example.org');
        head = this.hostServices.http.head('https://example.org');
        return { get: get, post: post, put: put, patch: patch, del: del, head: head };
    }";
    let answers = once_json(http).await;
    for (name, method) in [("get", "GET"), ("post", "POST"), ("put", "PUT"), ("patch", "PATCH"), ("del", "DELETE")] {
        assert_eq!(answers[name]["status"], 200);
        assert_eq!(answers[name]["headers"], json!({"Content-Type": "application/json", "X-A": "1, 2"}));
        let said: Value = serde_json::from_str(answers[name]["response"].as_str().unwrap()).unwrap();
        assert_eq!(said["method"], method);
        assert_eq!(said["body"], if name.starts_with('p') { "payload" } else { "" });
    }
    assert_eq!(answers["head"]["response"], "");
    let kv = "(subject, payload) => {
        this.hostServices.kv.set('hello', payload);
        this.hostServices.kv.delete('hello');
        this.hostServices.kv.set('hello2', payload);
        return {
            keys: this.hostServices.kv.keys(),
            hello2: String.fromCharCode(...this.hostServices.kv.get('hello2'))
        }
    }";
    assert_eq!(once_json(kv).await, json!({"keys": ["hello2"], "hello2": "payload"}));
    let objects = "(subject, payload) => {
        this.hostServices.objectStore.put('hello', payload);
        this.hostServices.objectStore.delete('hello');
        this.hostServices.objectStore.put('hello2', payload);
        return {
            list: this.hostServices.objectStore.list(),
            hello2: String.fromCharCode(...this.hostServices.objectStore.get('hello2'))
        }
    };";
    let answer = once_json(objects).await;
    assert_eq!(answer["list"][0]["name"], "hello2");
    assert_eq!((answer["list"].as_array().unwrap().len(), &answer["hello2"]), (1, &json!("payload")));
    let messaging = "(subject, payload) => {
        this.hostServices.messaging.publish('hello.world', payload);
        req = this.hostServices.messaging.request('hello.world.request', payload)
        reqMany = this.hostServices.messaging.requestMany('hello.world.request.many', payload)
        return {
            'hello.world.request': String.fromCharCode(...req),
            'hello.world.request.many': String.fromCharCode(...reqMany[0])
        }
    };";
    let mut node = twin(messaging).await;
    let answer: Value = serde_json::from_str(&node.call(1, "payload").await.unwrap()).unwrap();
    assert_eq!(answer, json!({"hello.world.request": "re:payload", "hello.world.request.many": "re:payload"}));
    assert_eq!(node.twin().published[0].0, "hello.world");
    assert_eq!(node.twin().calls, [1, 1, 1]);
}

#[tokio::test]
async fn every_method_works_blocking_and_with_promises() {
    let body = "const text = (bytes) => bytes && new TextDecoder().decode(bytes);
        const kv = hs.kv, os = hs.objectStore, m = hs.messaging, h = hs.http, r = {};
        r.kv = [await kv.set('a', 'one'), text(await kv.get('a')), (await kv.get('a')).revision, await kv.get('b'),
          await kv.exists('a'), await kv.exists('b'), await kv.create('b', new Uint16Array([0x4141]), { ttl: 50 }),
          await kv.update('b', new DataView(new ArrayBuffer(2)), 2), await kv.keys(), await kv.delete('b'),
          await kv.exists('b')];
        r.os = [(await os.put('x', new Uint8Array(150000).fill(7))).size, (await os.get('x')).length, await os.get('y'),
          (await os.info('x')).name, await os.info('y'), (await os.list()).length, await os.delete('x'),
          (await os.list()).length, (await os.put('empty', '')).size, (await os.get('empty')).length];
        const headers = { A: ['1', '2'], B: 3 };
        const one = await m.request('s', 'p', { timeout: 100, headers });
        const many = await m.requestMany('s', undefined, { max: 2, stall: 10, timeout: 100, headers: [['C', '4']] });
        r.m = [await m.publish('s', 'p', { headers }), text(one), one.headers, many.map(text), many[1].headers];
        const post = await h.post(new URL('https://a/?q=1'), '{}', { headers: new Headers({ 'X-B': 'c' }), timeout: 9 });
        r.h = [post.status, post.headers['content-type'], post.json(), post.body.length === post.response.length,
          (await h.get('https://a', { headers: { D: 'e' } })).json().headers, (await h.del('https://gone')).response];
        return r;";
    let expected = json!({
        "kv": [null, "one", 1, null, true, false, 2, 3, ["a", "b"], null, false],
        "os": [150_000, 150_000, null, "x", null, 1, null, 0, 0, 0],
        "m": [null, "re:p", {"A": ["1", "2"], "B": ["3"], "At": ["0"]}, ["re:", "re:"], {"C": ["4"], "At": ["1"]}],
        "h": [200, "application/json", {"method": "POST", "headers": [["x-b", "c"]], "timeout": 9, "body": "{}"}, true,
            [["D", "e"]], ""],
    });
    let blocking = format!("() => {{ const hs = hostServices; {} }}", body.replace("await ", ""));
    assert_eq!(once_json(&blocking).await, expected);
    let mut node = direct(&blocking, Hosts::Twin(Box::default())).await;
    let answer: Value = serde_json::from_str(&node.call(1, "payload").await.unwrap()).unwrap();
    assert_eq!(answer, expected, "directly");
    assert_eq!(node.asked_directly, 13, "all but keys, objects and HTTP");
    assert_eq!(once_json(&format!("async () => {{ const hs = hostServices.async; {body} }}")).await, expected);
}

#[tokio::test]
async fn errors_say_service_method_code_and_whether_to_try_again() {
    let source = "async () => { const seen = []; const note = (e) => seen.push([e instanceof HostServiceError,
          e instanceof Error, e.name, e.service, e.method, e.code, e.retry, e.message]);
        const hs = hostServices;
        for (const f of [() => hs.messaging.request('nobody', 'x'), () => hs.http.del('https://denied/'),
          () => hs.kv.update('a', 'x', 4), () => hs.kv.set('a', { b: 1 }), () => hs.kv.get(), () => hs.kv.set('a'),
          () => hs.kv.set('a', 'b', { ttl: -1 }), () => hs.kv.update('a', 'b'),
          () => hs.objectStore.put('a', new Uint8Array(13e6))]) { try { f(); seen.push(0) } catch (e) { note(e) } }
        await hs.async.messaging.request('nobody', 'x').catch(note); await hs.async.kv.get(3).catch(note);
        return seen }";
    let memory = 12 << 20;
    let mut node = function_with(source, Hosts::Twin(Box::default()), |start| start.limits.memory_bytes = memory).await;
    let seen: Value = serde_json::from_str(&node.call(1, "").await.unwrap()).unwrap();
    let error = |service: &str, method: &str, code: &str, retry: bool, text: &str| {
        json!([true, true, "HostServiceError", service, method, code, retry, format!("{service}.{method}: {text}")])
    };
    let nobody = error("messaging", "request", "no-responders", true, "nobody listens on 'nobody'");
    let payload = "a payload is a string, a Uint8Array or another view or buffer, not";
    let expected = [
        nobody.clone(),
        error("http", "del", "denied", false, "this host is not allowed"),
        error("kv", "update", "conflict", false, "the key is at another revision"),
        error("kv", "set", "invalid", false, &format!("{payload} of type object")),
        error("kv", "get", "invalid", false, "the key is a string, not undefined"),
        error("kv", "set", "invalid", false, &format!("{payload} undefined")),
        error("kv", "set", "invalid", false, "ttl is a number that is not negative"),
        error("kv", "update", "invalid", false, "the revision that the key is at is missing"),
        error(
            "objectStore",
            "put",
            "too-large",
            false,
            &format!("the payload has 13000000 bytes, {memory} are allowed"),
        ),
        nobody,
        error("kv", "get", "invalid", false, "the key is a string, not of type number"),
    ];
    for (seen, expected) in seen.as_array().unwrap().iter().zip(&expected) {
        assert_eq!(seen, expected);
    }
    assert_eq!(seen.as_array().unwrap().len(), expected.len());
    let (kind, text) = twin("() => hostServices.http.get('https://denied')").await.call(1, "").await.unwrap_err();
    assert_eq!((kind, text.as_str()), (Function, "HostServiceError: http.get: this host is not allowed"));
}

#[tokio::test]
async fn asynchronous_calls_are_open_side_by_side_and_answered_in_any_order() {
    let source = "async () => { const order = []; const text = (b) => new TextDecoder().decode(b);
        await Promise.all(['a', 'b', 'c'].map((k) => hostServices.async.kv.get(k).then((v) => { order.push(text(v)); console.log(k) })));
        return order.join('') }";
    let mut node = by_hand(source).await;
    node.invoke(1, "").await;
    let mut open = vec![];
    for _ in 0..3 {
        open.push(node.host_call().await);
    }
    // They are under way together, in no particular order.
    open.sort_by_key(|(_, _, request)| key(request));
    for (number, call, request) in open.into_iter().rev() {
        assert_eq!(call, 1);
        node.host_reply(number, HostReply::Revision { revision: 1 }, key(&request)).await;
        assert_eq!(node.log().await.1, key(&request));
    }
    assert_eq!(node.reply(1).await.as_deref(), Ok("cba"));
}

#[tokio::test]
async fn more_asynchronous_calls_than_may_be_open_wait_for_their_turn() {
    let source = "async () => { const all = await Promise.all(Array.from({ length: 500 }, (_, at) =>
          hostServices.async.kv.set('k' + at, String(at)).then(() => hostServices.async.kv.get('k' + at))));
        return all.every((v, at) => new TextDecoder().decode(v) === String(at)) }";
    assert_eq!(once(source).await, "true");
}

#[tokio::test]
async fn a_blocking_call_works_inside_timers_and_promises_while_others_are_open() {
    let source = "async () => { const text = (b) => new TextDecoder().decode(b);
        const slow = hostServices.async.kv.get('slow');
        const timer = new Promise((ok) => setTimeout(() => ok(text(hostServices.kv.get('timer'))), 20));
        const then = Promise.resolve().then(() => text(hostServices.kv.get('then')));
        return [await then, await timer, text(await slow), text(hostServices.kv.get('end'))].join() }";
    let mut node = by_hand(source).await;
    node.invoke(7, "").await;
    let (slow, call, request) = node.host_call().await;
    assert_eq!((call, key(&request).as_str()), (7, "slow"));
    for expected in ["then", "timer", "end"] {
        if expected == "end" {
            node.host_reply(slow, HostReply::Revision { revision: 1 }, "slow").await;
        }
        let (number, call, request) = node.host_call().await;
        assert_eq!((call, key(&request).as_str()), (7, expected));
        if expected == "then" {
            // Another call and a large body meanwhile: neither is lost.
            node.invoke(8, "").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        node.host_reply(number, HostReply::Revision { revision: 1 }, expected).await;
        if expected == "timer" {
            let (number, call, request) = node.host_call().await;
            assert_eq!((call, key(&request).as_str()), (8, "slow"));
            node.host_reply(number, HostReply::Revision { revision: 1 }, "other").await;
            let (number, _, request) = node.host_call().await;
            assert_eq!(key(&request), "then");
            node.host_reply(number, HostReply::Revision { revision: 1 }, "x").await;
        }
    }
    assert_eq!(node.reply(7).await.as_deref(), Ok("then,timer,slow,end"));
}

#[tokio::test]
async fn watches_are_iterated_and_end_with_break() {
    let asynchronous =
        "async () => { const seen = []; const { kv } = hostServices.async; const watch = kv.watch('k.>');
        await kv.set('k.a', '1'); await kv.set('k.b', '2'); await kv.delete('k.a'); await kv.set('k.c', '3');
        for await (const { key, value, revision, deleted } of watch) {
          seen.push([key, value && new TextDecoder().decode(value), revision, deleted]); if (deleted) break }
        return seen }";
    let blocking =
        asynchronous.replace("await ", "").replace("hostServices.async", "hostServices").replace("async ", "");
    for source in [asynchronous, &blocking] {
        let mut node = twin(source).await;
        let seen: Value = serde_json::from_str(&node.call(1, "").await.unwrap()).unwrap();
        assert_eq!(seen, json!([["k.a", "1", 1, false], ["k.b", "2", 2, false], ["k.a", null, 3, true]]));
        node.ping(1).await;
        assert_eq!(node.twin().cancelled.len(), 1, "{source}");
    }
    let source =
        "async () => { try { for await (const _ of hostServices.async.kv.watch()); } catch (e) { return e.code } }";
    let mut node = by_hand(source).await;
    node.invoke_with(1, vec![], "", 400).await;
    let (number, ..) = node.host_call().await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Timeout);
    node.host_cancelled(number).await;
}

#[tokio::test]
async fn fetch_gives_a_real_response() {
    let source = "async () => { const out = []; const fail = async (p) => { try { await p(); return 'ok' } catch (e) { return e.name } };
        const r = await fetch('https://a/x?y=1', { method: 'POST', body: 'abc', headers: { 'X-Q': '1' } });
        out.push(r instanceof Response, r.ok, r.status, r.url, r.redirected, r.headers.get('x-a'), await r.clone().json());
        const m = await fetch(new Request('https://moved/')); out.push(m.redirected, m.url, m.clone().url);
        const g = await fetch('https://gone/'); out.push(g.status, await g.text(), g.body);
        out.push(await fail(() => fetch('https://denied/')), await fail(() => fetch('nonsense')),
          await fail(() => fetch('https://a/', { signal: AbortSignal.abort() })),
          await fail(() => fetch('https://moved/', { redirect: 'error' })),
          (await fetch('https://moved/', { redirect: 'manual' })).headers.get('location'),
          await (await fetch('data:text/plain,hi')).text());
        return out }";
    let said = json!({"method": "POST", "body": "abc", "timeout": null,
        "headers": [["content-type", "text/plain;charset=UTF-8"], ["x-q", "1"]]});
    let expected = json!([
        true,
        true,
        200,
        "https://a/x?y=1",
        false,
        "1, 2",
        said,
        true,
        "https://elsewhere.example/",
        "https://elsewhere.example/",
        204,
        "",
        null,
        "HostServiceError",
        "TypeError",
        "AbortError",
        "TypeError",
        "https://elsewhere.example/",
        "hi"
    ]);
    assert_eq!(once_json(source).await, expected);
    let source = "async () => { const c = new AbortController(); setTimeout(() => c.abort(), 30);
        try { await fetch('https://a/', { signal: c.signal }) } catch (e) { return e.name } }";
    let mut node = by_hand(source).await;
    node.invoke(1, "").await;
    let (number, ..) = node.host_call().await;
    node.host_cancelled(number).await;
    assert_eq!(node.reply(1).await.as_deref(), Ok("AbortError"));
}

#[tokio::test]
async fn the_examples_do_what_they_say() {
    let mut counter = twin(include_str!("../../../examples/counter-js/counter.js")).await;
    assert_eq!(counter.call(1, "").await.as_deref(), Ok("1"));
    assert_eq!(counter.call(2, "").await.as_deref(), Ok("2"));
    let mut fan_out = twin(include_str!("../../../examples/fanout-js/fanout.js")).await;
    assert_eq!(fan_out.call(1, "21").await.as_deref(), Ok(r#"{"answers":100,"mean":null}"#));
    let mut fetcher = twin(include_str!("../../../examples/fetcher-js/fetcher.js")).await;
    let fetched: Value =
        serde_json::from_str(&fetcher.call(1, "https://gone/\nhttps://denied/").await.unwrap()).unwrap();
    assert_eq!(fetched[0], json!({"url": "https://gone/", "status": 204, "bytes": 0}));
    assert_eq!(fetched[1]["error"], "http.fetch: this host is not allowed");
    let mut documents = twin(include_str!("../../../examples/documents-js/documents.ts")).await;
    for (call, action, reply) in [(1, "put", r#""size":5"#), (2, "get", "hello"), (3, "list", r#"[{"name":"a.txt""#)] {
        let invoke = Invoke {
            subject: format!("documents.{action}"),
            headers: vec![("Name".into(), "a.txt".into())],
            timeout_ms: 10_000,
        };
        documents.send(ToAgent::Invoke(call, invoke, Bytes::from_static(b"hello"))).await;
        let said = documents.reply(call).await.unwrap();
        assert!(said.contains(reply), "{action}: {said}");
    }
}
