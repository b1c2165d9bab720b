//! WebAssembly components and their host services through the whole system: guest, agent, link, node, NATS. What the
//! guest does is in `e2e/guests`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::StreamExt;
use nex_e2e::{World, body, failure, web_server};
use nex_protocol::WorkloadType::Wasm;
use nex_protocol::control::deploy::NatsConnection;
use nex_testkit::examples;
use serde_json::{Value, json};

/// A world with the probe on `try.>`.
async fn probed(config: Value) -> Result<World> {
    let world = World::with(config).await?;
    world.function("probe", Wasm, &std::fs::read(examples()?.probe()?)?, "try.*").await?;
    Ok(world)
}

/// What the probe says of something.
async fn said(world: &World, what: &str, payload: &str) -> Result<String> {
    let reply = world.call(&format!("try.{what}"), payload).await?;
    Ok(String::from_utf8(body(&reply)?.to_vec())?)
}

#[tokio::test]
async fn a_handler_gets_its_message_whole_and_replies_with_headers() -> Result<()> {
    let world = probed(json!({})).await?;
    let mut headers = async_nats::HeaderMap::new();
    headers.append("Twice", "1");
    headers.append("Twice", "2");
    let request = async_nats::Request::new().headers(headers.clone()).payload(vec![0, 159, 146, 150].into());
    let reply = world.nats.send_request("try.echo", request).await?;
    assert_eq!(body(&reply)?, [0, 159, 146, 150]);
    let twice: Vec<_> = reply.headers.as_ref().unwrap().get_all("Twice").map(|value| value.as_str()).collect();
    assert_eq!(twice, ["1", "2"]);
    let large = vec![7_u8; 900_000];
    assert_eq!(body(&world.call("try.echo", large.clone()).await?)?, large);
    Ok(())
}

#[tokio::test]
async fn a_handlers_failures_are_told_apart() -> Result<()> {
    let world = probed(json!({"functions": {"timeout_ms": 1500}})).await?;
    let fails = |what: &'static str, payload: &'static str| {
        let world = &world;
        async move { anyhow::Ok(failure(&world.call(&format!("try.{what}"), payload).await?).unwrap()) }
    };
    assert_eq!(fails("fail", "two\nlines").await?, (500, "two lines".to_owned()));
    assert_eq!(fails("fail", "").await?, (500, "the function failed and did not say why".to_owned()));
    assert_eq!(fails("exit", "3").await?.0, 500);
    assert_eq!(fails("exit", "0").await?.0, 500, "a handler that exits has no reply");
    assert_eq!(fails("panic", "at the disco").await?.0, 500);
    assert_eq!(fails("spin", "").await?.0, 504, "a loop of host calls ends at its deadline");
    assert_eq!(said(&world, "echo", "still here").await?, "still here");
    Ok(())
}

#[tokio::test]
async fn a_component_knows_its_configuration_and_logs() -> Result<()> {
    let world = World::start().await?;
    let mut logs = world.nats.subscribe("$NEX.logs.>").await?;
    let sha256 = world.put("probe", &std::fs::read(examples()?.probe()?)?).await?;
    let mut deployment = world.deployment("probe", Wasm, &sha256)?;
    deployment.trigger_subjects = vec!["try.*".parse()?];
    deployment.environment.set("COLOUR", "blue");
    world.send(&deployment).await?;
    assert_eq!(
        said(&world, "ambient", "COLOUR").await?,
        "default/probe time:true Some(\"blue\") None env:Some(\"blue\")"
    );
    let mut seen = vec![];
    while seen.len() < 6 {
        let message = tokio::time::timeout(nex_e2e::PATIENCE, logs.next()).await?.unwrap();
        let line: Value = serde_json::from_slice(&message.payload)?;
        if message.subject.contains("probe") {
            seen.push(format!(
                "{} {}",
                line["level"].as_str().unwrap_or_default(),
                line["text"].as_str().unwrap_or_default()
            ));
        }
    }
    seen.sort();
    let levels = [
        ("traced", "DEBUG"),
        ("probe: first", "INFO"),
        ("second", "INFO"),
        ("printed", "INFO"),
        ("complained", "WARN"),
        ("critical", "ERROR"),
    ];
    let mut expected: Vec<String> = levels.iter().map(|(text, level)| format!("{level} {text}")).collect();
    expected.sort();
    assert_eq!(seen, expected);
    Ok(())
}

#[tokio::test]
async fn keys_are_set_read_listed_counted_and_swapped() -> Result<()> {
    let world = probed(json!({})).await?;
    assert_eq!(said(&world, "keys", "").await?, r#"Some("one") Some("") None true false ["a", "b"] None"#);
    assert_eq!(said(&world, "atomics", "").await?, r#"[1, 42, 40] None Some("theirs") Some("mine")"#);
    let errors = said(&world, "key-errors", "").await?;
    let errors: Vec<&str> = errors.lines().collect();
    assert_eq!(errors[0], "Err(Error::NoSuchStore)");
    assert!(
        errors[1].contains("kv.get: \\\"no key\\\" is no key: ") && errors[1].contains("(invalid)"),
        "{}",
        errors[1]
    );
    assert!(errors[2].contains("(too-large)"), "{}", errors[2]);
    assert!(errors[3].contains("kv.increment: the value is no decimal number"), "{}", errors[3]);
    assert_eq!(errors[4], "true", "a cursor of somebody else's");
    assert_eq!(
        said(&world, "batch", "").await?,
        r#"44 [("k0", Some("0")), ("k1", None), ("k39", Some("39"))]"#,
        "39 of the batch, and a, b, n, swapped and word of before"
    );
    // Other clients see the same keys.
    let bucket = async_nats::jetstream::new(world.nats.clone()).get_key_value("hs_default_probe_kv").await?;
    assert_eq!(bucket.get("swapped").await?.unwrap(), "mine");
    Ok(())
}

#[tokio::test]
async fn counts_that_are_made_at_once_are_all_counted() -> Result<()> {
    let world = probed(json!({"functions": {"timeout_ms": 30_000}})).await?;
    let calls = (0..4).map(|_| said(&world, "count-to", "25"));
    let mut last = 0;
    for count in futures_util::future::join_all(calls).await {
        last = last.max(count?.parse::<u32>()?);
    }
    assert_eq!(last, 100);
    Ok(())
}

#[tokio::test]
async fn objects_lie_in_containers_and_are_read_in_ranges() -> Result<()> {
    let world = probed(json!({})).await?;
    assert_eq!(
        said(&world, "containers", "").await?,
        r#"false Err("there is no container \"pictures\"") ["pictures/cat"] pictures true false []"#
    );
    assert_eq!(
        said(&world, "objects", "").await?,
        r#"["a", "empty", "moved"] "first" moved docs 6 (true, false) [] true"#
    );
    assert_eq!(said(&world, "ranges", "").await?, r#"["0123456789", "234", "9", "56789", "", ""] 3"#);
    let errors = said(&world, "object-errors", "").await?;
    let errors: Vec<&str> = errors.lines().collect();
    for (at, text) in [
        (0, "there is no object"),
        (1, "there is no object"),
        (2, "there is no container"),
        (3, "no '/'"),
        (4, "clear it instead"),
        (5, "there is no container"),
        (6, "there is no object"),
        (7, "given to a container already"),
        (8, "an object's name is not empty"),
        (9, "call write-data first"),
    ] {
        assert!(errors[at].contains(text), "{at}: {}", errors[at]);
    }
    assert_eq!(errors[10], "true", "a value has one stream");
    Ok(())
}

#[tokio::test]
async fn objects_larger_than_the_functions_memory_stream_through() -> Result<()> {
    let config = json!({
        "machine_template": {"memsize_mib": 32},
        "functions": {"timeout_ms": 60_000},
        "host_services": {"services": {"objectstore": {"config": {"max_bytes": 200 << 20}}}},
    });
    let world = probed(config).await?;
    let size = 64_u64 << 20;
    let reply = tokio::time::timeout(Duration::from_secs(60), async {
        let request = async_nats::Request::new().payload("64".into()).timeout(Some(Duration::from_secs(60)));
        world.nats.send_request("try.through", request).await
    });
    assert_eq!(body(&reply.await??)?, format!("{size} {size} true").as_bytes());
    Ok(())
}

#[tokio::test]
async fn an_upload_that_is_not_finished_or_does_not_fit_leaves_nothing() -> Result<()> {
    let world = probed(json!({})).await?;
    assert_eq!(said(&world, "half", "").await?, "false");
    let refused = said(&world, "too-much", "700").await?;
    assert!(refused.contains("the bucket is full") && refused.ends_with(" []"), "{refused}");
    assert_eq!(said(&world, "ranges", "").await?, r#"["0123456789", "234", "9", "56789", "", ""] 3"#);
    Ok(())
}

#[tokio::test]
async fn messages_are_sent_asked_for_and_collected() -> Result<()> {
    let world = probed(json!({})).await?;
    let mut news = world.nats.subscribe("base.news").await?;
    let mut one = world.nats.subscribe("base.one").await?;
    for name in ["x", "y", "z"] {
        let mut many = world.nats.subscribe("base.many").await?;
        let nats = world.nats.clone();
        tokio::spawn(async move {
            while let Some(asked) = many.next().await {
                nats.publish(asked.reply.unwrap(), name.into()).await.unwrap();
            }
        });
    }
    nex_e2e::round_trip(&world.nats).await?;
    let nats = world.nats.clone();
    tokio::spawn(async move {
        let asked = one.next().await.unwrap();
        nats.publish_with_headers(asked.reply.unwrap(), asked.headers.unwrap(), "answer".into()).await.unwrap();
    });
    let all = said(&world, "messages", "base").await?;
    let (first, rest) = all.split_once(" [").unwrap();
    assert_eq!(first, r#"answer[("Kind", "probe")]"#);
    assert_eq!(rest.matches("[]").count(), 2, "two of three answers, without headers: {all}");
    assert!(all.ends_with(" 3"), "all of three answers, until none came: {all}");
    let published = news.next().await.unwrap();
    assert_eq!(
        (&published.payload[..], published.headers.unwrap().get("Kind").unwrap().as_str()),
        (&b"hello"[..], "probe")
    );

    for subject in ["$SYS.REQ.SERVER.PING", "$JS.API.INFO", "$NEX.PING", "$KV.hs_default_other_kv.a", "_INBOX.a.b"] {
        let refused = said(&world, "publish", subject).await?;
        assert_eq!(refused.matches("ErrorCode::Denied").count(), 2, "{refused}");
    }
    assert!(said(&world, "publish", "no one.").await?.contains("ErrorCode::Invalid"));
    assert!(said(&world, "publish", "nobody.listens").await?.contains("ErrorCode::NoResponders"));
    Ok(())
}

#[tokio::test]
async fn http_goes_where_the_node_allows_and_shows_redirects_as_they_are() -> Result<()> {
    let address = web_server().await?;
    let allow = json!({"host_services": {"services": {"http": {"config": {"allow": [address.to_string()]}}}}});
    let world = probed(allow).await?;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let sent = if matches!(method, "GET" | "DELETE") { "" } else { " body" };
        let got = said(&world, "web", &format!("{method} http://{address}/a?q=a%20b{sent}")).await?;
        let expected = format!("200 [\"yes\"] 0 {method} /a?q=a%20b HTTP/1.1 [{}]", sent.trim());
        assert_eq!(got, expected);
    }
    assert_eq!(said(&world, "web", &format!("HEAD http://{address}/")).await?, "200 [\"yes\"] 0 ");
    let moved = said(&world, "web", &format!("GET http://{address}/moved")).await?;
    assert!(moved.starts_with("302 [\"yes\"] 1 "), "{moved}");
    for url in ["http://127.0.0.1:1/", "http://169.254.169.254/latest", "http://[::1]/", "http://10.0.0.1/"] {
        assert_eq!(said(&world, "web", &format!("GET {url}")).await?, "ErrorCode::HttpRequestDenied", "{url}");
    }
    assert!(said(&world, "web", &format!("BREW http://{address}/")).await?.starts_with("ErrorCode::InternalError"));
    let flood = said(&world, "flood", &format!("http://{address}/")).await?;
    let (answered, refused) = flood.split_once(' ').unwrap();
    assert!((16..100).contains(&answered.parse::<u32>()?), "{flood}");
    assert_eq!(refused, "ErrorCode::ConnectionLimitReached");
    Ok(())
}

#[tokio::test]
async fn a_wasi_cli_command_may_import_the_same() -> Result<()> {
    let world = World::start().await?;
    world.function("command", Wasm, &std::fs::read(examples()?.command_with_keys()?)?, "command").await?;
    let reply = world.call("command", "").await?;
    assert_eq!(body(&reply)?, br#"[Some(("a", [49])), None] 2 ["a"] None"#);
    Ok(())
}

#[tokio::test]
async fn the_examples_in_rust_do_what_their_readmes_say() -> Result<()> {
    let address = web_server().await?;
    let allow = json!({"host_services": {"services": {"http": {"config": {"allow": [address.to_string()]}}}}});
    let world = World::with(allow).await?;
    world.function("counter", Wasm, &std::fs::read(examples()?.counter()?)?, "count.*").await?;
    let counted = world.call("count.apples", "").await?;
    assert_eq!(body(&counted)?, b"1");
    assert_eq!(counted.headers.as_ref().unwrap().get("Counted").unwrap().as_str(), "count.apples");
    assert_eq!(body(&world.call("count.apples", "").await?)?, b"2");
    assert_eq!(body(&world.call("count.pears", "").await?)?, b"1");

    world.function("fetcher", Wasm, &std::fs::read(examples()?.fetcher()?)?, "fetch").await?;
    let urls = format!("http://{address}/a\nhttp://{address}/b?c\nhttp://10.1.1.1/\n");
    let lines = String::from_utf8(body(&world.call("fetch", urls).await?)?.to_vec())?;
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines[0], format!("http://{address}/a 200 18 bytes"));
    assert_eq!(lines[1], format!("http://{address}/b?c 200 20 bytes"));
    assert!(lines[2].starts_with("http://10.1.1.1/ failed: "), "{}", lines[2]);
    Ok(())
}

#[tokio::test]
async fn one_components_data_is_not_anothers() -> Result<()> {
    let world = probed(json!({})).await?;
    let other = std::fs::read(examples()?.probe()?)?;
    world.function("other", Wasm, &other, "other.*").await?;
    let elsewhere = nex_client::Client::new(world.nats.clone(), "elsewhere".parse()?, Duration::from_secs(10));
    let sha256 = world.put("probe", &other).await?;
    let mut deployment = world.deployment("probe", Wasm, &sha256)?;
    deployment.trigger_subjects = vec!["elsewhere.*".parse()?];
    let xkey = world.info().await?.public_xkey;
    let request = deployment.request(&world.issuer, &world.publisher, elsewhere.namespace(), world.node.id(), &xkey)?;
    elsewhere.deploy(&request, world.node.id()).await?;

    assert_eq!(said(&world, "set", "secret=mine").await?, "Ok(())");
    said(&world, "ranges", "").await?;
    for place in ["other", "elsewhere"] {
        let ask = async |what: &str, payload: &str| -> Result<String> {
            let reply = world.call(&format!("{place}.{what}"), payload).await?;
            Ok(String::from_utf8(body(&reply)?.to_vec())?)
        };
        assert_eq!(ask("get", "secret").await?, "Ok(None)");
        for name in ["../probe/secret", "hs_default_probe_kv.secret", "$KV.hs_default_probe_kv.secret", "*", ">"] {
            let got = ask("get", name).await?;
            assert!(got == "Ok(None)" || got.contains("(invalid)"), "{place} {name}: {got}");
        }
        for name in ["digits", "../digits", "../../hs_default_probe_obj/digits", "/digits"] {
            assert!(ask("object", name).await?.contains("there is no object"), "{place} {name}");
        }
    }
    assert_eq!(said(&world, "get", "secret").await?, r#"Ok(Some("mine"))"#);
    Ok(())
}

#[tokio::test]
async fn a_preview_1_module_that_asks_for_host_services_is_told_what_to_build() -> Result<()> {
    let world = World::start().await?;
    let sha256 = world.put("old", &std::fs::read(examples()?.wasm()?)?).await?;
    let mut deployment = world.deployment("old", Wasm, &sha256)?;
    deployment.trigger_subjects = vec!["old".parse()?];
    deployment.wants_host_services = true;
    let refused = world.send(&deployment).await.unwrap_err().to_string();
    assert!(refused.contains("a WASI preview 1 module has no host services: build a component"), "{refused}");
    deployment.wants_host_services = false;
    deployment.host_services = Some(NatsConnection { nats_url: world.server.url(), ..Default::default() });
    let refused = world.send(&deployment).await.unwrap_err().to_string();
    assert!(refused.contains("has no host services"), "{refused}");
    let importing = wat::parse_str(
        r#"(module (import "wasi:keyvalue/store@0.2.0-draft" "open" (func (param i32 i32 i32)))
            (memory (export "memory") 1) (func (export "_start")))"#,
    )?;
    let refused = world.function("importing", Wasm, &importing, "importing").await.unwrap_err().to_string();
    assert!(refused.contains("has no host services"), "{refused}");
    deployment.host_services = None;
    world.send(&deployment).await?;
    Ok(())
}

#[tokio::test]
async fn a_component_that_is_neither_handler_nor_command_is_refused_and_says_so() -> Result<()> {
    let world = World::start().await?;
    let empty = wat::parse_str("(component)")?;
    let refused = world.function("empty", Wasm, &empty, "empty").await.unwrap_err().to_string();
    assert!(refused.contains("exports no nex:function/handler@0.1.0 and is no wasi:cli command"), "{refused}");
    let unknown = wat::parse_str(r#"(component (import "their:own/thing@1.0.0" (instance (export "f" (func)))))"#)?;
    let refused = world.function("unknown", Wasm, &unknown, "unknown").await.unwrap_err().to_string();
    assert!(refused.contains("their:own/thing@1.0.0"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_component_in_a_loop_of_host_calls_is_held_to_its_quota_and_keeps_nobody_else_waiting() -> Result<()> {
    let config = json!({
        "functions": {"timeout_ms": 2000},
        "host_services": {"services": {"quota": {"config": {"calls_per_second": 50}}}},
    });
    let world = probed(config).await?;
    let spinning: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn({
                let nats = world.nats.clone();
                async move { nats.request("try.spin", "".into()).await }
            })
        })
        .collect();
    let asked = Instant::now();
    world.info().await?;
    assert!(asked.elapsed() < Duration::from_secs(1), "the node answers meanwhile: {:?}", asked.elapsed());
    for spin in spinning {
        assert_eq!(failure(&spin.await??).unwrap().0, 504);
    }
    assert_eq!(said(&world, "echo", "alive").await?, "alive");
    Ok(())
}
