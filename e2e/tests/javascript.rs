//! JavaScript functions through the whole system: contract, bad scripts, and their callers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::time::{Duration, Instant};

use anyhow::Result;
use async_nats::HeaderMap;
use futures_util::StreamExt;
use futures_util::future::join_all;
use nex_client::ClientError;
use nex_e2e::{World, body, failure};
use nex_protocol::WorkloadType::V8;
use nex_protocol::{Code, Namespace};
use nex_testkit::examples;
use serde_json::json;

#[tokio::test]
async fn results_reach_the_caller_as_bytes_text_json_or_nothing() -> Result<()> {
    let world = World::start().await?;
    let cases: [(&str, &str, &[u8], &[u8]); 7] = [
        ("bytes", "(s, p) => p", b"\x00\xff\x80", b"\x00\xff\x80"),
        ("text", "() => 'grüße'", b"", "grüße".as_bytes()),
        ("json", "(s) => ({ subject: s, n: [1, null] })", b"", br#"{"subject":"js.json","n":[1,null]}"#),
        ("nothing", "() => {}", b"x", b""),
        ("waited", "async (s, p) => { await new Promise(r => setTimeout(r, 5)); return p; }", b"late", b"late"),
        ("module", "export default (s, p) => new TextDecoder().decode(p).toUpperCase()", b"loud", b"LOUD"),
        ("typed", "const f: (s: string) => string = (s) => s;\nexport default f;", b"", b"js.typed"),
    ];
    for (name, source, payload, expected) in cases {
        let subject = format!("js.{name}");
        world.function(name, V8, source.as_bytes(), &subject).await?;
        assert_eq!(body(&world.call(&subject, payload).await?)?, expected, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn headers_reach_the_function_and_its_own_reach_the_caller() -> Result<()> {
    let world = World::start().await?;
    let source = b"(s, p, c) => { c.replyHeaders['X-Seen'] = c.headers['X-Asked']; return s; }";
    world.function("h", V8, source, "h.>").await?;
    let mut headers = HeaderMap::new();
    headers.append("X-Asked", "one");
    headers.append("X-Asked", "two");
    let request = async_nats::Request::new().headers(headers).payload("".into());
    let reply = world.nats.send_request("h.a.b", request).await?;
    assert_eq!(body(&reply)?, b"h.a.b", "a wildcard trigger gets the subject of the message");
    let seen: Vec<_> = reply.headers.unwrap().get_all("X-Seen").map(|value| value.to_string()).collect();
    assert_eq!(seen, ["one", "two"]);
    Ok(())
}

#[tokio::test]
async fn a_throwing_function_answers_with_its_error_at_once() -> Result<()> {
    let world = World::start().await?;
    world.function("t", V8, b"() => { throw new TypeError('no\\nway'); }", "t").await?;
    let began = Instant::now();
    let reply = world.call("t", "").await?;
    let (code, text) = failure(&reply).unwrap();
    assert_eq!((code, reply.payload.len()), (500, 0));
    assert!(text.contains("TypeError: no way"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(3));
    Ok(())
}

#[tokio::test]
async fn a_script_with_a_syntax_error_or_no_function_is_refused_with_the_reason() -> Result<()> {
    let world = World::start().await?;
    for (source, part) in
        [("(s, p) => { return", "syntax error at 1:19"), ("let a = 1;", "function"), ("export const a = 1;", "default")]
    {
        let error = world.function("bad", V8, source.as_bytes(), "bad").await.unwrap_err();
        assert!(error.to_string().contains("Failed to deploy workload: workload rejected by agent: "), "{error}");
        assert!(error.to_string().contains(part), "{source}: {error}");
        assert_eq!(error.downcast_ref::<ClientError>().and_then(ClientError::code), Some(Code::StartFailed));
    }
    assert!(world.info().await?.machines.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_script_that_loops_for_ever_times_out_and_the_next_call_works() -> Result<()> {
    let world = World::with(json!({"functions": {"timeout_ms": 500}})).await?;
    let source = b"(s, p) => { if (p.length) for (;;); return 'fine'; }";
    world.function("loop", V8, source, "loop").await?;
    let began = Instant::now();
    let (code, text) = failure(&world.call("loop", "x").await?).unwrap();
    assert_eq!(code, 504, "{text}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(body(&world.call("loop", "").await?)?, b"fine");
    Ok(())
}

#[tokio::test]
async fn a_script_that_allocates_for_ever_fails_its_call_and_nothing_else() -> Result<()> {
    let world =
        World::with(json!({"functions": {"timeout_ms": 20000}, "machine_template": {"memsize_mib": 64}})).await?;
    world.function("bystander", V8, b"() => 'fine'", "bystander").await?;
    for (name, source) in [
        ("heap", "(s, p) => { if (!p.length) return 'fine'; const k = []; for (;;) k.push({ a: [k.length] }); }"),
        (
            "buffers",
            "(s, p) => { if (!p.length) return 'fine'; const k = []; for (;;) k.push(new Uint8Array(1 << 24).fill(1)); }",
        ),
    ] {
        world.function(name, V8, source.as_bytes(), name).await?;
        let (code, text) = failure(&world.call(name, "x").await?).unwrap();
        // A buffer that cannot be had is a RangeError of the function; a heap that overflows ends the engine.
        assert!(code == 507 || (code == 500 && text.contains("RangeError")), "{name}: {code} {text}");
        assert_eq!(body(&world.call(name, "").await?)?, b"fine", "{name}");
    }
    assert_eq!(body(&world.call("bystander", "").await?)?, b"fine");
    Ok(())
}

#[tokio::test]
async fn a_script_cannot_forge_frames_by_writing_to_its_standard_output() -> Result<()> {
    let world = World::start().await?;
    let source = br#"
        import process from "node:process";
        export default (s, p) => {
            if (!p.length) return "fine";
            process.stdout.write(new Uint8Array(64).fill(255));
            return "forged";
        };"#;
    world.function("forger", V8, source, "forger").await?;
    world.function("bystander", V8, b"() => 'fine'", "bystander").await?;
    let reply = world.call("forger", "x").await?;
    assert!(failure(&reply).is_some(), "what the engine says after that is not believed: {:?}", reply.payload);
    assert_eq!(body(&world.call("bystander", "").await?)?, b"fine");
    assert_eq!(body(&world.call("forger", "").await?)?, b"fine", "its worker was replaced");
    Ok(())
}

#[tokio::test]
async fn a_script_has_no_permissions_and_a_frozen_environment() -> Result<()> {
    let world = World::start().await?;
    let sha256 = world
        .put("env", b"(s) => { try { env.A = '2'; } catch {} return env.A + typeof Deno + typeof env.PATH; }")
        .await?;
    let mut deployment = world.deployment("env", V8, &sha256)?;
    deployment.trigger_subjects = vec!["env".parse()?];
    deployment.environment.set("A", "1");
    world.send(&deployment).await?;
    assert_eq!(body(&world.call("env", "").await?)?, b"1undefinedundefined");
    let source = br#"
        import fs from "node:fs";
        export default async (s, p) => {
            const tried = {};
            try { fs.readFileSync("/etc/passwd"); tried.fs = "open"; } catch { tried.fs = "refused"; }
            try { await fetch("http://127.0.0.1:1/"); tried.net = "open"; } catch (e) { tried.net = /onnect/.test(e.message) ? "open" : "refused"; }
            return tried;
        };"#;
    world.function("tries", V8, source, "tries").await?;
    assert_eq!(body(&world.call("tries", "").await?)?, br#"{"fs":"refused","net":"refused"}"#);
    Ok(())
}

#[tokio::test]
async fn console_lines_are_published_with_their_level() -> Result<()> {
    let world = World::start().await?;
    let mut logs = world.nats.subscribe("$NEX.logs.>").await?;
    nex_e2e::round_trip(&world.nats).await?;
    let workload =
        world.function("talk", V8, b"() => { console.log('said', { a: 1 }); console.error('cried'); }", "talk").await?;
    world.call("talk", "").await?;
    let mut seen = vec![];
    while seen.len() < 2 {
        let message = tokio::time::timeout(nex_e2e::PATIENCE, logs.next()).await?.unwrap();
        assert_eq!(message.subject.as_str(), format!("$NEX.logs.default.{}.{}.talk", world.node.id(), workload.id));
        seen.push(serde_json::from_slice::<nex_protocol::log::Entry>(&message.payload)?);
    }
    assert_eq!((seen[0].text.as_str(), seen[0].level), ("said { a: 1 }", nex_protocol::log::Level::Info));
    assert_eq!((seen[1].text.as_str(), seen[1].level), ("cried", nex_protocol::log::Level::Error));
    Ok(())
}

#[tokio::test]
async fn calls_run_concurrently_up_to_the_limit_and_are_refused_beyond_the_queue() -> Result<()> {
    let world = World::with(json!({"functions": {"concurrency": 2, "max_pending": 2, "timeout_ms": 10000}})).await?;
    let source = b"async () => { await new Promise(r => setTimeout(r, 600)); return 'done'; }";
    world.function("slow", V8, source, "slow").await?;
    let replies = join_all((0..8).map(|_| world.call("slow", ""))).await;
    let (mut done, mut refused) = (0, 0);
    for reply in replies {
        match failure(&reply?) {
            None => done += 1,
            Some((503, _)) => refused += 1,
            Some(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((done, refused), (4, 4));
    Ok(())
}

#[tokio::test]
async fn copies_of_a_function_on_several_nodes_share_the_messages() -> Result<()> {
    let world = World::start().await?;
    let other = nex_testkit::NexNode::start(&world.server).await?;
    world.function("shared", V8, b"() => 'x'", "shared").await?;
    let sha256 = world.put("shared", b"() => 'x'").await?;
    let mut deployment = world.deployment("shared", V8, &sha256)?;
    deployment.trigger_subjects = vec!["shared".parse()?];
    let client = nex_client::Client::new(world.nats.clone(), Namespace::default(), Duration::from_secs(10));
    let xkey = client.node_info(other.id()).await?.public_xkey;
    client
        .deploy(
            &deployment.request(&world.issuer, &world.publisher, client.namespace(), other.id(), &xkey)?,
            other.id(),
        )
        .await?;
    let inbox = world.nats.new_inbox();
    let mut replies = world.nats.subscribe(inbox.clone()).await?;
    for _ in 0..20 {
        world.nats.publish_with_reply("shared", inbox.clone(), "".into()).await?;
    }
    for _ in 0..20 {
        tokio::time::timeout(nex_e2e::PATIENCE, replies.next()).await?.unwrap();
    }
    let extra = tokio::time::timeout(Duration::from_millis(300), replies.next()).await;
    assert!(extra.is_err(), "one reply a message");
    Ok(())
}

#[tokio::test]
async fn a_function_does_not_reply_into_nats_itself() -> Result<()> {
    let world = World::start().await?;
    world.function("deputy", V8, b"() => 'x'", "deputy").await?;
    let mut events = world.events().await?;
    let mut victim = world.nats.subscribe("$JS.API.>").await?;
    nex_e2e::round_trip(&world.nats).await?;
    // Who calls has no right to this subject himself; the node has.
    world.nats.publish_with_reply("deputy", "$JS.API.STREAM.DELETE.OBJ_E2E", "".into()).await?;
    let event = events.next("function_exec_failed").await?;
    assert!(event["error"].as_str().unwrap().contains("not one that a function may publish to"), "{event}");
    let published = tokio::time::timeout(Duration::from_millis(200), victim.next()).await;
    assert!(published.is_err(), "{published:?}");
    Ok(())
}

#[tokio::test]
async fn a_trigger_that_the_server_does_not_allow_is_refused_instead_of_staying_silent() -> Result<()> {
    let permissions = r#"authorization { users: [{ user: "u", password: "p", permissions: { subscribe: { deny: ["secret.>"] } } }] }"#;
    let server = nex_testkit::NatsServer::builder().account("u", "p").config(permissions).start().await?;
    let world = World::on(server, json!({})).await?;
    let error = world.function("spy", V8, b"() => 1", "secret.plans").await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("permissions violation"), "{error}");
    world.function("honest", V8, b"() => 'ok'", "open.door").await?;
    assert_eq!(body(&world.call("open.door", "").await?)?, b"ok");
    assert_eq!(world.info().await?.machines.len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_examples_answer() -> Result<()> {
    let world = World::start().await?;
    world.function("js", V8, &std::fs::read(examples()?.javascript()?)?, "js.echo").await?;
    world.function("ts", V8, &std::fs::read(examples()?.typescript()?)?, "ts.echo").await?;
    assert_eq!(body(&world.call("js.echo", "heya").await?)?, b"heya");
    body(&world.call("ts.echo", "heya").await?)?;
    Ok(())
}
