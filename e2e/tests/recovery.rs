//! What happens when something ends that should not: NATS, the node, an agent that is none.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result};
use nex_e2e::{World, body, eventually};
use nex_protocol::WorkloadType::{V8, Wasm};
use nex_testkit::{Binaries, NatsServer, NexNode, Process, examples, forget_user};
use serde_json::json;

#[tokio::test]
async fn node_and_triggers_come_back_by_themselves_when_nats_does() -> Result<()> {
    let mut world = World::start().await?;
    world.function("f", V8, b"(s, p) => p", "f").await?;
    let id = world.node.id().to_owned();
    world.server.kill().await?;
    world.server.restart().await?;
    let nats = world.server.client().await?;
    eventually("the trigger answers", || async {
        let request =
            async_nats::Request::new().payload("x".into()).timeout(Some(std::time::Duration::from_millis(500)));
        nats.send_request("f", request).await.is_ok_and(|reply| body(&reply).is_ok_and(|body| body == b"x"))
    })
    .await?;
    eventually("the control interface answers", || async {
        let client = nex_client::Client::new(nats.clone(), Default::default(), std::time::Duration::from_secs(1));
        client.node_info(&id).await.is_ok_and(|info| info.machines.len() == 1 && info.machines[0].healthy)
    })
    .await?;
    assert!(world.node.process().is_running());
    Ok(())
}

#[tokio::test]
async fn a_trigger_that_is_denied_after_a_reconnect_is_told_of_and_comes_back_when_it_is_allowed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rules = folder.path().join("rules.conf");
    let write = |denied: &str| {
        let text = format!("permissions: {{ publish: \">\", subscribe: {{ deny: [{denied}] }} }}\n");
        std::fs::write(&rules, text)
    };
    write("")?;
    let users = format!(
        "authorization {{ users: [ {{ user: node, password: pass, include \"{}\" }}, {{ user: me, password: pass }} ] }}",
        // The server takes it for a path from its own folder, which lies beside this one.
        std::path::Path::new("..").join(folder.path().file_name().context("name")?).join("rules.conf").display()
    );
    let server = NatsServer::builder().config(&users).start().await?;
    let me = async_nats::ConnectOptions::with_user_and_password("me".into(), "pass".into());
    let nats = me.connect(server.url()).await?;
    let builder = NexNode::builder_with(&server, nats.clone()).env("NATS_USER", "node").env("NATS_PASSWORD", "pass");
    let node = builder.start().await?;
    let world = World::of(server, node, nats);
    let mut events = world.events().await?;
    let workload = world.function("f", V8, b"(s, p) => p", "some.f").await?;

    let server_pid = rustix::process::Pid::from_raw(world.server.pid().context("pid")?.cast_signed()).context("pid")?;
    write("\"some.*\"")?;
    rustix::process::kill_process(server_pid, rustix::process::Signal::HUP)?;
    let told = events.next("trigger_failed").await?;
    assert_eq!((&told["workload_id"], &told["trigger_subject"]), (&json!(workload.id), &json!("some.f")), "{told}");
    write("")?;
    rustix::process::kill_process(server_pid, rustix::process::Signal::HUP)?;
    eventually("the trigger answers again", || async {
        world.nats.request("some.f", "x".into()).await.is_ok_and(|reply| body(&reply).is_ok_and(|body| body == b"x"))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn deploys_that_have_to_wait_for_an_agent_are_told_of() -> Result<()> {
    let world = World::start().await?;
    let mut events = world.events().await?;
    let names = ["a", "b", "c", "d"];
    let deploys = names.map(|name| world.function(name, Wasm, b"\0asm\x01\0\0\0", name));
    // Whether they can run does not matter: each claims an agent, and there is one.
    futures_util::future::join_all(deploys).await;
    let told = events.next("pool_empty").await?;
    assert_eq!(told, json!({"id": world.node.id(), "pool_size": 1}));
    Ok(())
}

#[tokio::test]
async fn a_second_node_on_one_state_directory_is_refused_and_the_first_runs_on() -> Result<()> {
    let world = World::start().await?;
    let second = NexNode::builder(&world.server).await?.state_dir(world.node.state_dir()).spawn().await?;
    let status = second.process().wait().await?;
    assert_ne!(status.code(), Some(0));
    let said = second.log().text();
    assert!(said.contains("is in use by another node (process "), "{said}");
    assert!(world.info().await.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_node_that_was_killed_comes_back_with_its_identity_and_its_workloads() -> Result<()> {
    let server = NatsServer::start().await?;
    let state = tempfile::tempdir()?;
    let node = NexNode::builder(&server).await?.state_dir(state.path()).start().await?;
    let nats = server.client().await?;
    let mut world = World::of(server, node, nats);
    let sha256 = world.put("f", b"() => env.SECRET").await?;
    let mut deployment = world.deployment("f", V8, &sha256)?;
    deployment.trigger_subjects = vec!["f".parse()?];
    deployment.environment.set("SECRET", "still sealed");
    let workload = world.send(&deployment).await?;
    let (id, xkey) = (world.node.id().to_owned(), world.info().await?.public_xkey);
    for graceful in [false, true] {
        if graceful {
            assert_eq!(world.node.terminate().await?.code(), Some(0));
        } else {
            world.node.kill().await?;
        }
        world.node = NexNode::builder(&world.server).await?.state_dir(state.path()).start().await?;
        assert_eq!(world.node.id(), id);
        eventually("the function is back", || async {
            world.info().await.is_ok_and(|info| info.machines.iter().any(|m| m.id == workload.id && m.healthy))
        })
        .await?;
        assert_eq!(world.info().await?.public_xkey, xkey);
        assert_eq!(body(&world.call("f", "").await?)?, b"still sealed");
    }
    let on_disk = Command::new("grep").arg("-rlaF").arg("still sealed").arg(state.path()).output()?;
    assert!(on_disk.stdout.is_empty(), "no secret lies on disk in clear");
    // Stopped for good: it does not come back.
    world.stop(&workload).await?;
    world.node.kill().await?;
    world.node = NexNode::builder(&world.server).await?.state_dir(state.path()).start().await?;
    assert!(world.info().await?.machines.is_empty());
    Ok(())
}

#[tokio::test]
async fn what_the_configuration_starts_comes_up_as_soon_as_its_artifact_is_there() -> Result<()> {
    let workload = json!({"name": "auto", "type": "v8", "location": "nats://E2E/auto", "trigger_subjects": ["auto"],
        "environment": {"WORD": "hello"}});
    let world =
        World::with(json!({"autostart": {"workloads": [workload]}, "restart": {"base_ms": 50, "cap_ms": 200}})).await?;
    assert!(world.info().await?.machines.iter().all(|machine| !machine.healthy), "there is no such object yet");
    world.put("auto", b"() => env.WORD").await?;
    eventually("the function answers", || async {
        let request = async_nats::Request::new().timeout(Some(std::time::Duration::from_millis(500)));
        world
            .nats
            .send_request("auto", request)
            .await
            .is_ok_and(|reply| body(&reply).is_ok_and(|body| body == b"hello"))
    })
    .await
}

/// A node whose agent program is something else.
async fn node_with_agent(server: &NatsServer, agent: &str) -> Result<(Process, tempfile::TempDir)> {
    let dir = tempfile::tempdir()?;
    // The agent is looked for beside `nex` first.
    std::fs::copy(Binaries::nex()?, dir.path().join("nex"))?;
    let fake = dir.path().join("nex-agent");
    std::fs::write(&fake, agent)?;
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755))?;
    let config = dir.path().join("node.json");
    std::fs::write(&config, json!({"agent_handshake_timeout_ms": 500, "workload_types": ["wasm"]}).to_string())?;
    let mut command = Command::new(dir.path().join("nex"));
    forget_user(&mut command);
    command.args(["node", "up", "--no-sandbox", "--config"]).arg(&config);
    command.arg("--state-dir").arg(dir.path().join("state")).env("NATS_URL", server.url());
    Ok((Process::spawn("node with another agent", command).await?, dir))
}

/// Whatever the agent does, the node answers, refuses deploys with a reason, and ends in order.
async fn refuses_deploys_with(agent: &str) -> Result<()> {
    let server = NatsServer::start().await?;
    let nats = server.client().await?;
    let (process, _dir) = node_with_agent(&server, agent).await?;
    let client = nex_client::Client::new(nats.clone(), Default::default(), std::time::Duration::from_secs(2));
    eventually("the node answers", || async { client.ping_nodes().await.is_ok_and(|nodes| nodes.len() == 1) }).await?;
    let node = client.ping_nodes().await?.pop().context("a node")?.node_id;
    let error = Deployer { client, nats, node }.deploy().await.unwrap_err().to_string();
    assert!(error.contains("Failed to get agent client from pool: no available agent client in pool: "), "{error}");
    assert!(process.is_running());
    assert_eq!(process.terminate(nex_e2e::PATIENCE).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_node_whose_agents_talk_nonsense_stays_up_and_refuses_deploys() -> Result<()> {
    refuses_deploys_with("#!/bin/sh\necho garbage >&0; sleep 1000\n").await
}

#[tokio::test]
async fn a_node_whose_agents_hang_stays_up_and_refuses_deploys() -> Result<()> {
    refuses_deploys_with("#!/bin/sh\nexec sleep 1000\n").await
}

#[tokio::test]
async fn a_node_whose_agents_die_stays_up_and_refuses_deploys() -> Result<()> {
    refuses_deploys_with("#!/bin/sh\nexit 3\n").await
}

/// Deploys one function without a [`World`].
struct Deployer {
    client: nex_client::Client,
    nats: async_nats::Client,
    node: String,
}

impl Deployer {
    async fn deploy(&self) -> Result<()> {
        use async_nats::jetstream;
        use sha2::Digest;
        let bytes = std::fs::read(examples()?.wasm()?)?;
        let context = jetstream::new(self.nats.clone());
        let config = jetstream::object_store::Config { bucket: "D".to_owned(), ..Default::default() };
        let store = context.create_object_store(config).await?;
        store.put("f", &mut &bytes[..]).await?;
        let sha256 = hex::encode(sha2::Sha256::digest(&bytes));
        let mut deployment = nex_client::Deployment::new("f".parse()?, Wasm, "nats://D/f".parse()?, sha256);
        deployment.trigger_subjects = vec!["f".parse()?];
        let (issuer, publisher) = (nex_identity::Issuer::generate(), nex_identity::XKeyPair::generate());
        let xkey = self.client.node_info(&self.node).await?.public_xkey;
        let request = deployment.request(&issuer, &publisher, self.client.namespace(), &self.node, &xkey)?;
        self.client.deploy(&request, &self.node).await?;
        Ok(())
    }
}
