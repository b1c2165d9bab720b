//! The documentation's walk-through, "Getting Started" to "Deploying Functions", step by step: the commands a user
//! types, run as he runs them, and what they print.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nex_e2e::{User, body, eventually};
use nex_testkit::{NatsServer, examples};
use serde_json::Value;

fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

#[tokio::test]
async fn every_step_of_the_getting_started_guide_works() -> Result<()> {
    let server = NatsServer::start().await?;
    let nats = server.client().await?;
    let user = User::at(server.url())?;
    // Relative on purpose: it is the user's working directory that counts.
    let state = "state".to_owned();

    // Installing Nex
    assert!(user.prints(&["version"]).await.contains(env!("CARGO_PKG_VERSION")));
    assert!(user.complains(&["node", "info", "NABCD"]).await.contains("nex node ls"));
    assert_eq!(user.prints(&["node", "ls"]).await.trim(), "No nodes discovered");

    // Creating a Node Configuration: the documentation's file for "no sandbox" mode
    let config = user.home.path().join("config.json");
    std::fs::write(
        &config,
        r#"{"kernel_filepath":"/path/to/vmlinux-5.10","rootfs_filepath":"/path/to/rootfs.ext4","machine_pool_size":1,
            "cni":{"network_name":"fcnet","interface_name":"veth0"},
            "machine_template":{"vcpu_count":1,"memsize_mib":256},"tags":{"simple":"true"},"no_sandbox":true}"#,
    )?;
    let config = config.to_string_lossy().into_owned();
    assert!(user.prints(&["node", "check", "--config", &config]).await.contains("ok"));

    // Starting a Node
    let node = user.node_up(&["--config", &config, "--state-dir", &state]).await?;
    let awaiting = node.log().find(|line| line.contains("NATS execution engine awaiting commands").then_some(()));
    tokio::time::timeout(nex_e2e::PATIENCE, awaiting).await?.context("the node is ready")?;
    let log = node.log().text();
    for part in ["established node NATS connection", "use this key as the recipient", "received agent handshake"] {
        assert!(log.contains(part), "{part} in {log}");
    }

    // Interrogating Nodes
    let nodes = user.json(&["node", "ls", "--json"]).await;
    let id = nodes[0]["node_id"].as_str().context("an id")?.to_owned();
    let listed = user.prints(&["node", "ls"]).await;
    assert!(listed.contains(&id) && listed.contains("Version"), "{listed}");

    // Deploying Services
    let service = text(examples()?.echo_service()?);
    let url = format!("nats_url={}", user.url);
    let printed = user.prints(&["devrun", &service, &url]).await;
    for part in [
        "Created issuer account key: ",
        "Created publisher xkey: ",
        "Workload 'echo-service' accepted. You can now refer to this workload with ID: ",
        &format!(" on node {id}"),
    ] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
    private_key(&user.home.path().join(".nex/issuer.nk"));
    private_key(&user.home.path().join(".nex/publisher.xk"));
    let answers = || async { nats.request("svc.echo", "hey".into()).await.is_ok_and(|reply| reply.payload == "hey") };
    eventually("the echo service answers", answers).await?;
    // nats micro info EchoService
    let info = nats.request("$SRV.INFO.EchoService", "".into()).await?;
    let info: Value = serde_json::from_slice(&info.payload)?;
    assert_eq!((info["version"].as_str(), info["endpoints"][0]["subject"].as_str()), (Some("1.0.0"), Some("svc.echo")));

    let shown = user.prints(&["node", "info", &id]).await;
    for part in [
        "NEX Node Information",
        &id,
        "Xkey: X",
        "Version: ",
        "Uptime: ",
        "simple=true",
        "Memory in kB",
        "Available: ",
        "Healthy: true",
        "Name: echo-service",
        "Description: Workload published in devmode",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }

    // Deploying Functions
    for (path, name, trigger, expected) in [
        (examples()?.javascript()?, "echofunctionjs", "js.echo", "hello"),
        (examples()?.wasm()?, "echofunctionwasm", "wasm.echo", "hellowasm.echo"),
    ] {
        let printed = user.prints(&["devrun", &text(path), &format!("--trigger_subject={trigger}")]).await;
        assert!(
            printed.contains("Reusing existing issuer account key: ")
                && printed.contains(&format!("Workload '{name}' accepted")),
            "{printed}"
        );
        let reply = nats.request(trigger, "hello".into()).await?;
        assert_eq!(body(&reply)?, expected.as_bytes());
    }
    let shown = user.prints(&["node", "info", &id]).await;
    for name in ["echo-service", "echofunctionjs", "echofunctionwasm"] {
        assert!(shown.contains(&format!("Name: {name}")), "{shown}");
    }

    // A newer version of a workload replaces the older one
    let changed = user.home.path().join("echofunction.js");
    std::fs::write(&changed, "(subject, payload) => 'changed'")?;
    user.prints(&["devrun", &text(changed), "--trigger_subject=js.echo"]).await;
    assert_eq!(body(&nats.request("js.echo", "".into()).await?)?, b"changed");
    let info = user.json(&["node", "info", &id, "--json"]).await;
    assert_eq!(info["machines"].as_array().context("machines")?.len(), 3);

    // A mistake in it does not
    let mistake = user.home.path().join("mistake.js");
    std::fs::write(&mistake, "(subject, payload) => {")?;
    let refused =
        user.complains(&["devrun", &text(mistake), "--name", "echofunctionjs", "--trigger_subject=js.echo"]).await;
    assert!(refused.contains("syntax error at 1:"), "{refused}");
    assert_eq!(body(&nats.request("js.echo", "".into()).await?)?, b"changed", "the older one still answers");

    // Stopping
    for machine in info["machines"].as_array().context("machines")? {
        let printed = user.prints(&["stop", &id, machine["id"].as_str().context("an id")?]).await;
        assert!(printed.contains("stopped."), "{printed}");
    }
    assert_eq!(user.json(&["node", "info", &id, "--json"]).await["machines"].as_array().map(Vec::len), Some(0));
    assert_eq!(node.terminate(nex_e2e::PATIENCE).await?.code(), Some(0), "{}", node.log().tail(20));
    Ok(())
}

fn private_key(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn the_production_form_runs_what_lies_in_an_object_store() -> Result<()> {
    let world = nex_e2e::World::start().await?;
    let user = User::at(world.server.url())?;
    world.put("prod", b"() => env.greeting + '!'").await?;
    let (issuer, xkey) = (text(user.home.path().join("issuer.nk")), text(user.home.path().join("publisher.xk")));
    nex_identity::Issuer::load_or_create(issuer.as_ref())?;
    nex_identity::XKeyPair::load_or_create(xkey.as_ref())?;
    let id = world.node.id();
    let run = |name: &'static str| {
        [
            "run",
            "nats://E2E/prod",
            id,
            "--issuer",
            &issuer,
            "--xkey",
            &xkey,
            "--name",
            name,
            "--type",
            "v8",
            "--trigger_subject",
            "prod",
            "--json",
            "greeting=hi",
        ]
        .map(str::to_owned)
    };
    let arguments = run("prod");
    let response = user.json(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(response["name"].as_str(), Some("prod"));
    assert_eq!(body(&world.call("prod", "").await?)?, b"hi!");
    let missing =
        user.complains(&["run", "nats://E2E/nothing", id, "--issuer", &issuer, "--xkey", &xkey, "--name", "x"]).await;
    assert!(missing.contains("nothing"), "{missing}");
    let stranger = text(user.home.path().join("stranger.nk"));
    nex_identity::Issuer::load_or_create(stranger.as_ref())?;
    let refused = user.complains(&["stop", id, "prod", "--issuer", &stranger]).await;
    assert!(refused.contains("the issuer is not the one who deployed"), "{refused}");
    assert!(user.prints(&["stop", id, "prod", "--issuer", &issuer]).await.contains("Workload 'prod' stopped."));
    Ok(())
}

#[tokio::test]
async fn a_node_brings_its_own_nats_where_there_is_none() -> Result<()> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let user = User::at(format!("nats://127.0.0.1:{port}"))?;
    let config = user.home.path().join("config.json");
    std::fs::write(&config, format!(r#"{{"public_nats_server": {{"port": {port}, "jetstream": true}}}}"#))?;
    let state = text(user.home.path().join("state"));
    let node = user.node_up(&["--state-dir", &state]).await?;
    let awaiting = node.log().find(|line| line.contains("awaiting commands").then_some(()));
    tokio::time::timeout(nex_e2e::PATIENCE, awaiting).await?.context("the node is ready")?;
    let script = user.home.path().join("f.js");
    std::fs::write(&script, "() => 'own'")?;
    user.prints(&["devrun", &text(script), "--trigger_subject=own"]).await;
    let below = nex_e2e::descendants(node.pid());
    assert!(below.len() >= 3, "nats-server, two agents, an engine: {below:?}");
    node.kill().await?;
    eventually("the server dies with its node", || async { below.iter().all(|pid| !nex_e2e::is_alive(*pid)) }).await?;
    // The data outlives it, under the state directory.
    let node = user.node_up(&["--state-dir", &state]).await?;
    let awaiting = node.log().find(|line| line.contains("awaiting commands").then_some(()));
    tokio::time::timeout(nex_e2e::PATIENCE, awaiting).await?.context("the node is ready")?;
    let nats = async_nats::connect(&user.url).await?;
    eventually("the function is back", || async {
        nats.request("own", "".into()).await.is_ok_and(|reply| reply.payload == "own")
    })
    .await?;
    let below = nex_e2e::descendants(node.pid());
    assert_eq!(node.terminate(nex_e2e::PATIENCE).await?.code(), Some(0), "{}", node.log().tail(20));
    assert!(below.iter().all(|pid| !nex_e2e::is_alive(*pid)), "the server is stopped with its node");
    // What is not in a log that is still being read may come yet.
    node.log().closed().await;
    let said = node.log().tail(50);
    assert!(!said.contains("lost the connection"), "the connection is left before its server goes:\n{said}");
    Ok(())
}

#[tokio::test]
async fn a_configuration_is_checked_whole_and_starts_nothing() -> Result<()> {
    let user = User::at("nats://127.0.0.1:1".to_owned())?;
    let config = text(user.home.path().join("bad.json"));
    std::fs::write(&config, r#"{"machine_pool_size":0,"tags":7,"no_sandbx":true}"#)?;
    let output = user.nex(&["node", "check", "--config", &config]).await;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success());
    for part in ["machine_pool_size: must be from 1", "tags: expected an object", "did you mean no_sandbox?"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    Ok(())
}
