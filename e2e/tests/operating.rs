//! What operators see and order: workloads across nodes, logs, events, lame duck mode, the node as a micro service. By
//! the command line where it has a command for it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::client::RequestErrorKind;
use async_nats::jetstream;
use futures_util::StreamExt;
use nex_client::lame_duck_request;
use nex_e2e::{PATIENCE, User, World, eventually, metrics_address, round_trip, scrape};
use nex_identity::Issuer;
use nex_protocol::control::deploy::RunResponse;
use nex_protocol::envelope::{self, EnvelopeError, kind};
use nex_protocol::{Code, WorkloadType};
use nex_testkit::{NatsServer, NexNode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// A service that writes a line to each of its outputs ten times a second, for as long as it runs.
const TALKS: &str = "while :; do echo out; echo err >&2; sleep 0.1; done";

#[tokio::test]
async fn workloads_are_found_on_all_nodes_by_namespace_id_and_name() -> Result<()> {
    let world = World::start().await?;
    let idle = NexNode::start(&world.server).await?;
    let one = world.function("Greeter", WorkloadType::V8, b"() => 'hi'", "greet").await?;
    world.shell_service("talker", TALKS, true).await?;
    let user = User::at(world.server.url())?;

    let nodes = user.json(&["node", "probe", "--json"]).await;
    assert_eq!(nodes.as_array().map(Vec::len), Some(1), "a node without such workloads is silent: {nodes}");
    assert_eq!(nodes[0]["node_id"], world.node.id());
    assert_ne!(world.node.id(), idle.id());
    for (asked, found) in [("greeter", 1), (one.id.as_str(), 1), ("GREETER", 1), ("nobody", 0)] {
        let nodes = user.json(&["node", "probe", "--workload", asked, "--json"]).await;
        let machines = nodes[0]["running_machines"].as_array().map_or(0, Vec::len);
        assert_eq!(machines, found, "{asked}: {nodes}");
    }
    let table = user.prints(&["node", "probe"]).await;
    assert!(table.contains("Node Name") && table.contains(&one.id) && table.contains("default"), "{table}");
    assert_eq!(user.prints(&["node", "probe", "--workload", "nobody"]).await.trim(), "No workloads matched");

    let listed = user.json(&["workload", "ls", "--json"]).await;
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|found| found["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Greeter", "talker"]);
    assert_eq!((&listed[1]["state"], &listed[1]["restarts"]), (&json!("running"), &json!(0)));
    let table = user.prints(&["workload", "ls"]).await;
    assert!(table.contains("Restarts") && table.contains("talker"), "{table}");
    let other = user.prints(&["workload", "ls", "--namespace", "other"]).await;
    assert_eq!(other.trim(), "No workloads in namespace other");
    Ok(())
}

#[tokio::test]
async fn a_wping_for_nothing_here_is_met_with_silence_and_a_wrong_one_with_its_error() -> Result<()> {
    let world = World::start().await?;
    world.function("f", WorkloadType::V8, b"() => 1", "f").await?;
    for subject in ["$NEX.WPING.other", "$NEX.WPING.other.f", "$NEX.WPING.default.g"] {
        let request = async_nats::Request::new().timeout(Some(Duration::from_millis(300)));
        assert!(world.nats.send_request(subject, request).await.is_err(), "{subject}");
    }
    for subject in ["$NEX.WPING.default.f.x", "$NEX.WPING.b%d"] {
        let reply = world.call(subject, "").await?;
        let refused = envelope::open::<Value>(kind::PING, &reply.payload).unwrap_err();
        let EnvelopeError::Refused { code, .. } = refused else { panic!("{refused}") };
        assert_eq!(code, Some(Code::InvalidSubject), "{subject}");
    }
    let reply = world.call("$NEX.WPING.default.f", "").await?;
    let data: Value = envelope::open(kind::PING, &reply.payload)?;
    assert_eq!(data["running_machines"][0]["name"], "f");
    Ok(())
}

#[tokio::test]
async fn logs_are_shown_by_level_node_and_workload() -> Result<()> {
    let world = World::start().await?;
    let talker = world.shell_service("talker", TALKS, true).await?;
    world.shell_service("other", "while :; do echo other; sleep 0.1; done", true).await?;
    let user = User::at(world.server.url())?;

    let name = ["logs", "--workload_name", "talker", "--count", "4", "--json"];
    let lines = json_lines(&user.prints(&name).await);
    assert_eq!(lines.len(), 4);
    for line in &lines {
        let (text, level) = (line["text"].as_str().unwrap(), line["level"].as_str().unwrap());
        assert!([("out", "INFO"), ("err", "WARN")].contains(&(text, level)), "{line}");
        assert_eq!(
            (line["workload_id"].as_str(), line["node_id"].as_str()),
            (Some(&*talker.id), Some(world.node.id()))
        );
    }
    let severe = user.prints(&["logs", "--level", "warn", "--count", "2", "--node", world.node.name()]).await;
    assert!(severe.lines().all(|line| line.ends_with("WARN  talker  err")), "{severe}");
    let by_id = user.prints(&["logs", "--workload_id", &talker.id, "--count", "2"]).await;
    assert!(!by_id.contains("other"), "{by_id}");
    assert!(user.complains(&["logs", "--since", "1h"]).await.contains("nats stream add"), "nothing is kept here");
    assert!(user.complains(&["logs", "--node", "nobody"]).await.contains("nex node ls"));
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_told_to_logs_to_nats() -> Result<()> {
    let server = NatsServer::start().await?;
    let nats = server.client().await?;
    let mut log = nats.subscribe("$NEX.logs.system.>").await?;
    round_trip(&nats).await?;
    let node = NexNode::builder(&server).await?.arg("--logger").arg("nats").start().await?;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2 {
        let line = tokio::time::timeout(PATIENCE, log.next()).await?.context("the log goes on")?;
        let entry: Value = serde_json::from_slice(&line.payload)?;
        let (text, level) = (entry["text"].as_str().unwrap(), entry["level"].as_str().unwrap());
        let output = line.subject.strip_prefix(&*format!("$NEX.logs.system.{}.", node.id())).context("its subject")?;
        if text.contains("awaiting commands") {
            assert_eq!((output, level), ("stdout", "INFO"));
            seen.insert("ready");
        }
        if text.contains("running without a sandbox") {
            assert_eq!((output, level), ("stderr", "WARN"));
            seen.insert("warned");
        }
    }
    assert_eq!(node.log().text(), "", "and nowhere else");
    Ok(())
}

#[tokio::test]
async fn what_a_stream_keeps_can_be_read_later_and_followed() -> Result<()> {
    let world = World::start().await?;
    let kept = jetstream::stream::Config {
        name: "NEX".into(),
        subjects: vec!["$NEX.events.>".into(), "$NEX.logs.>".into()],
        ..Default::default()
    };
    let stream = jetstream::new(world.nats.clone()).create_stream(kept).await?;
    let talker = world.shell_service("talker", "echo first; echo second; sleep 300", false).await?;
    eventually("the lines are kept", || async {
        stream
            .get_last_raw_message_by_subject(&log_subject(&world, &talker))
            .await
            .is_ok_and(|message| String::from_utf8_lossy(&message.payload).contains("second"))
    })
    .await?;
    let user = User::at(world.server.url())?;

    let lines = user.prints(&["logs", "--since", "1h"]).await;
    assert_eq!(lines.lines().filter(|line| line.contains("talker")).count(), 2, "{lines}");
    assert!(lines.find("first") < lines.find("second"), "{lines}");
    let events = user.prints(&["events", "--since", "1h", "--type", "workload_deployed"]).await;
    assert!(events.contains("workload_name=talker") && events.lines().count() == 1, "{events}");

    let follows = user.starts(&["events", "--since", "1h", "--follow", "--type", "workload_undeployed"]).await?;
    world.stop(&talker).await?;
    let seen = follows.log().find(|line| line.contains("workload_name=talker").then_some(()));
    tokio::time::timeout(PATIENCE, seen).await?.context("the end of the service is shown")?;
    follows.kill().await?;
    Ok(())
}

fn log_subject(world: &World, workload: &RunResponse) -> String {
    format!("$NEX.logs.default.{}.{}.{}", world.node.id(), workload.id, workload.name)
}

#[tokio::test]
async fn events_are_shown_as_they_come_and_as_they_are() -> Result<()> {
    let world = World::start().await?;
    world.function("f", WorkloadType::V8, b"() => 'x'", "f").await?;
    let user = User::at(world.server.url())?;
    let mut command = user.command(&["events", "--type", "function_exec_succeeded", "--count", "1", "--json"]);
    let mut output = tokio::task::spawn_blocking(move || command.output());
    // When the command listens is not told: the function is called until it has seen a call.
    let output = loop {
        world.call("f", "").await?;
        if let Ok(output) = tokio::time::timeout(Duration::from_millis(50), &mut output).await {
            break output??;
        }
    };
    let event: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!((&event["specversion"], &event["type"]), (&json!("1.0"), &json!("function_exec_succeeded")));
    assert_eq!((&event["data"]["workload_name"], &event["source"]), (&json!("f"), &json!(world.node.id())));
    Ok(())
}

#[tokio::test]
async fn a_lame_duck_takes_no_work_lets_its_own_go_on_and_leaves() -> Result<()> {
    let world = World::with(json!({"lame_duck_ms": 2000})).await?;
    let service = world.shell_service("talker", TALKS, true).await?;
    let mut events = world.events().await?;
    let user = User::at(world.server.url())?;
    let said = user.prints(&["lameduck", world.node.id(), "--delay", "1ms"]).await;
    assert!(said.starts_with(&format!("Command to enter lame duck mode issued to {}", world.node.id())), "{said}");
    assert!(said.contains("valid_issuers"), "nobody in particular gets no node to leave at once: {said}");

    let entered = events.next("node_entered_lameduck").await?;
    assert_eq!((&entered["id"], &entered["leaves_in_ms"]), (&json!(world.node.id()), &json!(2000)));
    let listed = user.prints(&["node", "ls"]).await;
    assert!(listed.contains(&format!("{}*", world.node.id())), "{listed}");
    let refused = world.function("f", WorkloadType::V8, b"() => 1", "f").await.unwrap_err();
    assert!(refused.to_string().contains("lame duck"), "{refused}");
    let workload = user.json(&["workload", "ls", "--json"]).await;
    assert_eq!((&workload[0]["id"], &workload[0]["state"]), (&json!(service.id), &json!("running")));

    let ended = events.next("workload_undeployed").await?;
    assert_eq!(ended["workload_id"], service.id);
    let stopped = events.next("node_stopped").await?;
    assert_eq!(stopped, json!({"id": world.node.id(), "graceful": true}));
    let status = tokio::time::timeout(PATIENCE, world.node.process().wait()).await??;
    assert_eq!(status.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn no_call_is_lost_when_a_node_stops() -> Result<()> {
    let world = World::start().await?;
    world.function("echo", WorkloadType::V8, b"(subject, payload) => payload", "echo").await?;
    let nats = world.nats.clone();
    let callers = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(1));
        let (mut calls, mut answers) = (JoinSet::new(), Vec::new());
        // Until the first one is told that nobody listens.
        while answers.last().is_none_or(Result::is_ok) {
            pace.tick().await;
            let nats = nats.clone();
            calls.spawn(async move { nats.request("echo", "x".into()).await });
            while let Some(answer) = calls.try_join_next() {
                answers.push(answer?);
            }
        }
        answers.extend(calls.join_all().await);
        anyhow::Ok(answers)
    });
    for _ in 0..20 {
        world.call("echo", "among them").await?;
    }
    let status = world.node.terminate().await?;
    assert_eq!(status.code(), Some(0), "{}", world.node.log().tail(20));
    let mut answered = 0;
    for answer in callers.await?? {
        match answer {
            Ok(answer) => {
                assert_eq!((answer.payload.as_ref(), answer.headers), (b"x".as_slice(), None));
                answered += 1;
            }
            Err(error) => assert_eq!(error.kind(), RequestErrorKind::NoResponders, "after {answered} answers"),
        }
    }
    assert!(answered > 20, "{answered} were answered");
    Ok(())
}

#[tokio::test]
async fn a_node_with_trusted_issuers_leaves_for_nobody_else() -> Result<()> {
    let trusted = Issuer::generate();
    let world = World::with(json!({"valid_issuers": [trusted.public_key()]})).await?;
    let (node, long) = (world.node.id(), Some(Duration::from_secs(3600)));
    let order = async |request| world.client.lame_duck(&request, node).await;

    let unsigned = lame_duck_request(None, node, long)?;
    let stranger = lame_duck_request(Some(&Issuer::generate()), node, long)?;
    let for_another = lame_duck_request(Some(&trusted), "NOTHER", long)?;
    for (request, reason) in
        [(unsigned, "signed orders only"), (stranger, "not one this node trusts"), (for_another, "another node")]
    {
        let refused = order(request).await.unwrap_err();
        assert_eq!(refused.code(), Some(Code::LameDuckRefused), "{refused}");
        assert!(refused.to_string().contains(reason), "{refused}");
    }
    assert!(!world.info().await?.tags.contains_key("nex.lameduck"), "nothing has happened so far");

    let signed = lame_duck_request(Some(&trusted), node, long)?;
    let answer = order(signed.clone()).await?;
    assert!(answer.success && answer.leaves_in_ms > 3_000_000, "{answer:?}");
    let sooner = order(lame_duck_request(Some(&trusted), node, Some(Duration::from_secs(600)))?).await?;
    let later = order(lame_duck_request(Some(&trusted), node, long)?).await?;
    assert!(sooner.leaves_in_ms <= 600_000 && later.leaves_in_ms <= 600_000, "only ever sooner: {sooner:?} {later:?}");
    let again = order(signed).await.unwrap_err();
    assert_eq!(again.code(), Some(Code::ClaimUsed), "{again}");
    assert_eq!(world.info().await?.tags.get("nex.lameduck").map(String::as_str), Some("true"));
    Ok(())
}

#[tokio::test]
async fn a_strict_node_wants_a_signature_even_when_it_trusts_everybody() -> Result<()> {
    let world = World::with(json!({"claims": "strict"})).await?;
    let unsigned = lame_duck_request(None, world.node.id(), None)?;
    let refused = world.client.lame_duck(&unsigned, world.node.id()).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::LameDuckRefused), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_lame_duck_starts_no_service_again() -> Result<()> {
    let world = World::with(json!({"restart": {"base_ms": 20, "cap_ms": 20}})).await?;
    let mut events = world.events().await?;
    let dir = tempfile::tempdir()?;
    let go = dir.path().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done; exit 3", go.display());
    world.shell_service("falls", &script, true).await?;
    assert!(world.client.lame_duck(&lame_duck_request(None, world.node.id(), None)?, world.node.id()).await?.success);
    std::fs::write(go, "")?;
    // The event that comes next about the service: undeployed, with no restart before it.
    let event = events.next_of(&["workload_restarting", "workload_undeployed"]).await?;
    assert_eq!((&event["type"], &event["data"]["code"]), (&json!("workload_undeployed"), &json!(3)), "{event}");
    Ok(())
}

#[tokio::test]
async fn a_node_is_a_micro_service_that_counts_its_requests() -> Result<()> {
    let world = World::start().await?;
    let (ping, info) = (micro(&world, "$SRV.PING").await?, micro(&world, "$SRV.INFO.nex").await?);
    assert_eq!((&ping["type"], &ping["name"]), (&json!("io.nats.micro.v1.ping_response"), &json!("nex")));
    assert_eq!((&ping["id"], &info["id"]), (&json!(world.node.id()), &json!(world.node.id())));
    let subjects: Vec<&str> =
        info["endpoints"].as_array().unwrap().iter().map(|e| e["subject"].as_str().unwrap()).collect();
    for subject in ["$NEX.PING", "$NEX.AUCTION", &format!("$NEX.DEPLOY.*.{}", world.node.id())] {
        assert!(subjects.contains(&subject), "{subject} in {subjects:?}");
    }
    // A request that is refused, and one that is not.
    world.client.stop(&Default::default(), world.node.id()).await.unwrap_err();
    world.info().await?;
    let of_node = format!("$SRV.STATS.nex.{}", world.node.id());
    let counted = async |name: &str| -> Result<(u64, u64)> {
        let stats = micro(&world, &of_node).await?;
        let endpoint = stats["endpoints"].as_array().unwrap().iter().find(|e| e["name"] == name).context("endpoint")?;
        Ok((endpoint["num_requests"].as_u64().unwrap(), endpoint["num_errors"].as_u64().unwrap()))
    };
    // Counted after it is answered.
    eventually("both are counted", || async {
        let (stop, info) = (counted("STOP").await.unwrap(), counted("INFO").await.unwrap());
        stop == (1, 1) && info.0 >= 1 && info.1 == 0
    })
    .await?;
    Ok(())
}

async fn micro(world: &World, subject: &str) -> Result<Value> {
    // Served a moment after the control interface, which is what is waited for when a node starts.
    eventually("the service is there", || async { world.nats.request(subject.to_owned(), "".into()).await.is_ok() })
        .await?;
    Ok(serde_json::from_slice(&world.call(subject, "").await?.payload)?)
}

#[tokio::test]
async fn prometheus_is_told_what_workloads_pool_and_requests_have_come_to() -> Result<()> {
    let world = World::with(json!({"otel_metrics": true, "otel_metrics_port": 0})).await?;
    let address = metrics_address(&world.node).await?;
    world
        .function("f", WorkloadType::V8, b"(s, p) => { if (!p.length) throw new Error('no'); return p; }", "f")
        .await?;
    world.shell_service("talker", TALKS, true).await?;
    for payload in ["a", "b", ""] {
        world.call("f", payload).await?;
    }
    let one = r#"{namespace="default",workload_name="f"}"#;
    let counted = [
        format!("nex_function_trigger_total{one} 2"),
        format!("nex_function_failed_trigger_total{one} 1"),
        format!("nex_function_instances{one} 1"),
        format!("nex_function_calls_running{one} 0"),
        r#"nex_workload_up{namespace="default",workload_name="talker",workload_type="native",state="running"} 1"#
            .into(),
        r#"nex_workload_count{namespace="default",workload_type="v8"} 1"#.into(),
        "nex_pool_claims_total 2".into(),
        r#"nex_control_requests_total{endpoint="DEPLOY"} 2"#.into(),
        r#"nex_control_refusals_total{endpoint="DEPLOY"} 0"#.into(),
        format!("nex_node_info{{id=\"{}\",version=\"{}\"}} 1", world.node.id(), env!("CARGO_PKG_VERSION")),
    ];
    // Counted after the reply.
    eventually("all is counted", || async {
        let text = scrape(&address).await.unwrap();
        counted.iter().all(|line| text.lines().any(|found| found == line))
    })
    .await?;
    let text = scrape(&address).await?;
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_default();
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(f64::NAN)
    };
    assert!(value("process_open_fds") > 3.0 && value("process_resident_memory_bytes") > 1e6, "{text}");
    assert!(!text.contains("nex_total_vcpu_allocation_count"), "there are no machines here:\n{text}");
    let user = User::at(world.server.url())?;
    let told = user.json(&["node", "info", world.node.id(), "--json"]).await;
    assert!(told["pool"]["claims"] == 2 && told["pool"]["target"].as_u64() >= Some(1), "{told}");
    assert!(world.node.terminate().await?.success());
    assert!(scrape(&address).await.is_err(), "nobody listens any more");
    Ok(())
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
