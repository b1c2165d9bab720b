//! Host services of JavaScript functions through the whole system: function, agent, link, node, NATS.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use anyhow::Result;
use futures_util::StreamExt;
use nex_e2e::{World, body, failure, web_server};
use nex_protocol::WorkloadType::V8;
use serde_json::{Value, json};

async fn call_json(world: &World, subject: &str, payload: &str) -> Result<Value> {
    let reply = world.call(subject, payload).await?;
    Ok(serde_json::from_slice(body(&reply)?)?)
}

#[tokio::test]
async fn the_documentations_key_value_example_runs_unchanged() -> Result<()> {
    let world = World::start().await?;
    let source = br#"
        (subject, payload) => {
            this.hostServices.kv.set('hello', payload);
            this.hostServices.kv.delete('hello');

            this.hostServices.kv.set('hello2', payload);
            return {
                keys: this.hostServices.kv.keys(),
                hello2: String.fromCharCode(...this.hostServices.kv.get('hello2'))
            };
        };"#;
    world.function("kv", V8, source, "hs.kv").await?;
    assert_eq!(call_json(&world, "hs.kv", "world").await?, json!({"keys": ["hello2"], "hello2": "world"}));
    // As the documentation prints it, the value is in the reply as it is: bytes, in JSON's way of writing them.
    let printed = String::from_utf8(source.to_vec())?
        .replace("String.fromCharCode(...this.hostServices.kv.get('hello2'))", "this.hostServices.kv.get('hello2')");
    world.function("printed", V8, printed.as_bytes(), "hs.printed").await?;
    let answer = call_json(&world, "hs.printed", "AB").await?;
    assert_eq!(answer, json!({"keys": ["hello2"], "hello2": {"0": 65, "1": 66}}));
    Ok(())
}

#[tokio::test]
async fn the_documentations_object_store_example_runs_unchanged() -> Result<()> {
    let world = World::start().await?;
    let source = br#"
        (subject, payload) => {
            this.hostServices.objectStore.put('hello', payload);
            this.hostServices.objectStore.delete('hello');

            this.hostServices.objectStore.put('hello2', payload);
            return {
                list: this.hostServices.objectStore.list(),
                hello2: String.fromCharCode(...this.hostServices.objectStore.get('hello2'))
            }
        };"#;
    world.function("objects", V8, source, "hs.objects").await?;
    let answer = call_json(&world, "hs.objects", "bytes").await?;
    assert_eq!(answer["hello2"], "bytes");
    assert_eq!((answer["list"].as_array().unwrap().len(), &answer["list"][0]["name"]), (1, &json!("hello2")));
    Ok(())
}

#[tokio::test]
async fn the_documentations_messaging_example_runs_unchanged() -> Result<()> {
    let world = World::start().await?;
    let mut published = world.nats.subscribe("hello.world").await?;
    let mut asked = world.nats.subscribe("hello.world.request").await?;
    let mut many = world.nats.subscribe("hello.world.request.many").await?;
    nex_e2e::round_trip(&world.nats).await?;
    let nats = world.nats.clone();
    tokio::spawn(async move {
        let one = asked.next().await.unwrap();
        nats.publish(one.reply.unwrap(), "one".into()).await.unwrap();
        let several = many.next().await.unwrap();
        for answer in ["a", "b", "c"] {
            nats.publish(several.reply.clone().unwrap(), answer.into()).await.unwrap();
        }
    });
    let source = br#"
        (subject, payload) => {
            this.hostServices.messaging.publish('hello.world', payload);
            req = this.hostServices.messaging.request('hello.world.request', payload);
            reqMany = this.hostServices.messaging.requestMany('hello.world.request.many', payload);
            return {
                req: String.fromCharCode(...req),
                reqMany: reqMany.map(one => String.fromCharCode(...one))
            };
        };"#;
    world.function("messaging", V8, source, "hs.messaging").await?;
    assert_eq!(call_json(&world, "hs.messaging", "x").await?, json!({"req": "one", "reqMany": ["a", "b", "c"]}));
    assert_eq!(published.next().await.unwrap().payload, "x");
    Ok(())
}

#[tokio::test]
async fn the_documentations_http_methods_reach_an_allowed_server_and_no_other() -> Result<()> {
    let address = web_server().await?;
    let allow = json!({"host_services": {"services": {"http": {"config": {"allow": [address.to_string()]}}}}});
    let world = World::with(allow).await?;
    let source = format!(
        r#"(subject, payload) => {{
            const http = this.hostServices.http, url = 'http://{address}/path?q=a%20b';
            const answers = [http.get(url), http.post(url, payload), http.put(url, payload), http.patch(url, payload),
                http.del(url), http.head(url)];
            return answers.map(a => a.status + ' ' + a.response);
        }}"#
    );
    world.function("http", V8, source.as_bytes(), "hs.http").await?;
    let answers = call_json(&world, "hs.http", "body").await?;
    let expected = ["GET", "POST", "PUT", "PATCH", "DELETE"].map(|method| {
        let sent = if matches!(method, "GET" | "DELETE") { "" } else { "body" };
        format!("200 {method} /path?q=a%20b HTTP/1.1 [{sent}]")
    });
    for (got, expected) in answers.as_array().unwrap().iter().zip(&expected) {
        assert_eq!(got.as_str().unwrap(), expected);
    }
    assert_eq!(answers[5], "200 ");

    let spy = br#"async (s, p) => {
        const url = new TextDecoder().decode(p);
        try { return (await fetch(url)).status } catch (e) { return e.name + ':' + e.code }
    }"#;
    world.function("spy", V8, spy, "hs.spy").await?;
    let port = address.port();
    for url in [
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "http://127.0.0.1:1/".to_owned(),
        format!("http://localhost:{}/", if port == 1 { 2 } else { 1 }),
        "http://[::1]/".to_owned(),
        "http://10.0.0.1/".to_owned(),
        "http://0x7f000001/".to_owned(),
        "http://[::ffff:169.254.169.254]/".to_owned(),
    ] {
        let reply = world.call("hs.spy", url.clone()).await?;
        assert_eq!(body(&reply)?, b"HostServiceError:denied", "{url}");
    }
    let allowed = world.call("hs.spy", format!("http://{address}/")).await?;
    assert_eq!(body(&allowed)?, b"200");
    Ok(())
}

/// The source of an example that needs no building.
fn example(path: &str) -> Result<Vec<u8>> {
    Ok(std::fs::read(nex_testkit::workspace_root().join("examples").join(path))?)
}

#[tokio::test]
async fn the_examples_do_what_their_readmes_say() -> Result<()> {
    let address = web_server().await?;
    let allow = json!({"host_services": {"services": {"http": {"config": {"allow": [address.to_string()]}}}}});
    let world = World::with(allow).await?;

    world.function("counter", V8, &example("counter-js/counter.js")?, "count.*").await?;
    let calls = (0..20).map(|_| world.call("count.visits", ""));
    let mut counts: Vec<u32> = vec![];
    for reply in futures_util::future::join_all(calls).await {
        counts.push(std::str::from_utf8(body(&reply?)?)?.parse()?);
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=20).collect::<Vec<_>>(), "no count is lost, however many count at once");

    world.function("fetcher", V8, &example("fetcher-js/fetcher.js")?, "fetch").await?;
    let fetched =
        call_json(&world, "fetch", &format!("http://{address}/a\nhttp://{address}/b\nhttp://10.1.1.1/\n")).await?;
    assert_eq!((&fetched[0]["status"], &fetched[1]["status"]), (&json!(200), &json!(200)), "{fetched}");
    assert!(fetched[2]["error"].is_string(), "{fetched}");

    world.function("documents", V8, &example("documents-js/documents.ts")?, "documents.*").await?;
    let mut named = async_nats::HeaderMap::new();
    named.insert("Name", "hello.txt");
    for (action, payload, expected) in [("put", "Hello, world", None), ("get", "", Some("Hello, world"))] {
        let request = async_nats::Request::new().headers(named.clone()).payload(payload.into());
        let reply = world.nats.send_request(format!("documents.{action}"), request).await?;
        let got = body(&reply)?;
        assert!(expected.is_none_or(|expected| got == expected.as_bytes()), "{action}: {got:?}");
    }
    assert_eq!(call_json(&world, "documents.list", "").await?[0]["name"], "hello.txt");

    for value in ["20", "22"] {
        let mut sensor = world.nats.subscribe("sensors.read").await?;
        let nats = world.nats.clone();
        tokio::spawn(async move {
            while let Some(asked) = sensor.next().await {
                nats.publish(asked.reply.unwrap(), value.into()).await.unwrap();
            }
        });
    }
    nex_e2e::round_trip(&world.nats).await?;
    world.function("fanout", V8, &example("fanout-js/fanout.js")?, "sensors").await?;
    assert_eq!(call_json(&world, "sensors", "").await?, json!({"answers": 2, "mean": 21}));
    Ok(())
}

#[tokio::test]
async fn a_deploy_may_name_the_server_its_function_works_on() -> Result<()> {
    let world = World::start().await?;
    let elsewhere = nex_testkit::NatsServer::start().await?;
    let sha256 =
        world.put("far", b"(s, p) => { hostServices.kv.set('k', p); return hostServices.kv.get('k') }").await?;
    let mut deployment = world.deployment("far", V8, &sha256)?;
    deployment.trigger_subjects = vec!["far".parse()?];
    deployment.host_services =
        Some(nex_protocol::control::deploy::NatsConnection { nats_url: elsewhere.url(), ..Default::default() });
    world.send(&deployment).await?;
    let reply = elsewhere.client().await?.request("far", "x".into()).await?;
    assert_eq!(body(&reply)?, b"x");
    let buckets = async_nats::jetstream::new(elsewhere.client().await?);
    assert!(buckets.get_key_value("hs_default_far_kv").await.is_ok(), "its data lies there");
    let own = async_nats::jetstream::new(world.nats.clone());
    assert!(own.get_key_value("hs_default_far_kv").await.is_err(), "and not on the node's server");
    assert!(world.nats.request("far", "x".into()).await.is_err(), "where nobody is triggered either");

    deployment.host_services = Some(nex_protocol::control::deploy::NatsConnection {
        nats_url: "nats://127.0.0.1:1".into(),
        ..Default::default()
    });
    let refused = world.send(&deployment).await.unwrap_err().to_string();
    assert!(refused.contains("the workload connection: cannot reach nats://127.0.0.1:1"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_namespace_over_its_quota_is_refused_and_recovers() -> Result<()> {
    let quota = json!({"host_services": {"services": {"quota": {"config": {"calls_per_second": 5}}}}});
    let world = World::with(quota).await?;
    let source = b"() => { let n = 0; try { for (;;) { hostServices.kv.exists('a'); n++ } } catch (e) { return n + ' ' + e.code } }";
    world.function("greedy", V8, source, "greedy").await?;
    let answer = String::from_utf8(body(&world.call("greedy", "").await?)?.to_vec())?;
    let (count, code) = answer.split_once(' ').unwrap();
    assert_eq!(code, "quota");
    assert!((1..=20).contains(&count.parse::<u32>()?), "{count}");
    Ok(())
}

#[tokio::test]
async fn tenants_do_not_see_each_other() -> Result<()> {
    let world = World::start().await?;
    let store =
        b"(s, p) => { hostServices.kv.set('secret', p); hostServices.objectStore.put('secret', p); return 'kept' }";
    world.function("owner", V8, store, "hs.owner").await?;
    assert_eq!(body(&world.call("hs.owner", "mine").await?)?, b"kept");
    let snoop = br#"(s, p) => {
        const names = ['secret', '../owner/secret', 'hs_default_owner_kv.secret', '>', '*', '$KV.hs_default_owner_kv.secret'];
        const seen = [];
        for (const name of names) {
            for (const service of [hostServices.kv, hostServices.objectStore]) {
                try { const got = service.get(name); if (got !== null) seen.push(name) } catch (e) { if (e.code !== 'invalid') seen.push(e.message) }
            }
        }
        seen.push(...hostServices.kv.keys(), ...hostServices.objectStore.list());
        for (const subject of ['$JS.API.STREAM.MSG.GET.KV_hs_default_owner_kv', '$KV.hs_default_owner_kv.secret', '$NEX.PING', '_INBOX.x', '$SYS.REQ.SERVER.PING']) {
            try { hostServices.messaging.publish(subject, p); seen.push(subject) } catch (e) { if (e.code !== 'denied') seen.push(e.message) }
        }
        return seen;
    }"#;
    world.function("snoop", V8, snoop, "hs.snoop").await?;
    assert_eq!(call_json(&world, "hs.snoop", "x").await?, json!([]));
    Ok(())
}

#[tokio::test]
async fn data_outlives_the_function_and_its_node_and_limits_hold() -> Result<()> {
    let world = World::with(json!({"host_services": {"services": {"kv": {"config": {"max_bytes": 20000}}}}})).await?;
    let source = br#"(s, p) => {
        if (p.length) {
            try { hostServices.kv.set('big', new Uint8Array(p.length * 1000)); return 'stored' } catch (e) { return e.code }
        }
        const before = hostServices.kv.get('n');
        const n = before === null ? 1 : Number(new TextDecoder().decode(before)) + 1;
        hostServices.kv.set('n', String(n));
        return String(n);
    }"#;
    let first = world.function("counter", V8, source, "hs.counter").await?;
    assert_eq!(body(&world.call("hs.counter", "").await?)?, b"1");
    assert_eq!(body(&world.call("hs.counter", "").await?)?, b"2");
    assert_eq!(body(&world.call("hs.counter", "x".repeat(100)).await?)?, b"too-large");
    world.stop(&first).await?;
    world.function("counter", V8, source, "hs.counter").await?;
    assert_eq!(body(&world.call("hs.counter", "").await?)?, b"3");
    Ok(())
}

#[tokio::test]
async fn asynchronous_calls_run_at_the_same_time_and_end_with_their_function() -> Result<()> {
    let world = World::with(json!({"functions": {"timeout_ms": 1500}})).await?;
    let mut slow = world.nats.subscribe("slow.*").await?;
    nex_e2e::round_trip(&world.nats).await?;
    let nats = world.nats.clone();
    tokio::spawn(async move {
        // Answers only when all three have been asked, so they must be under way together.
        let asked = [slow.next().await.unwrap(), slow.next().await.unwrap(), slow.next().await.unwrap()];
        for message in asked {
            nats.publish(message.reply.unwrap(), message.subject.to_string().into()).await.unwrap();
        }
    });
    let source = br#"async (s, p) => {
        const ask = (n) => hostServices.async.messaging.request('slow.' + n, p);
        const all = await Promise.all([ask(1), ask(2), ask(3)]);
        return all.map(one => new TextDecoder().decode(one));
    }"#;
    world.function("gather", V8, source, "hs.gather").await?;
    assert_eq!(call_json(&world, "hs.gather", "").await?, json!(["slow.1", "slow.2", "slow.3"]));

    let waits = b"(s, p) => hostServices.messaging.request('nobody.answers', p, { timeout: 60000 })";
    let _listening = world.nats.subscribe("nobody.answers").await?;
    nex_e2e::round_trip(&world.nats).await?;
    world.function("waits", V8, waits, "hs.waits").await?;
    let (code, text) = failure(&world.call("hs.waits", "").await?).unwrap();
    assert!(code == 504 || code == 500, "{code} {text}");
    let (again, _) = failure(&world.call("hs.waits", "").await?).unwrap();
    assert_eq!(again, code, "it goes on taking calls");
    Ok(())
}
