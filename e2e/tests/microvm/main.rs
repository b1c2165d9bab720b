//! Workloads in microVMs: a real monitor, a real kernel, the image that `nex rootfs` makes. Attacks are tried from inside.
//!
//! The monitor is QEMU or, with `NEX_TEST_FIRECRACKER` (a folder with `firecracker` and `jailer`), the real Firecracker in
//! its jail. Where the monitor, a kernel or the programs for guests are missing (`cargo xtask guest` makes them), each test
//! says so on its standard error and ends. `NEX_TEST_KERNEL` names another kernel, one with its drivers built in, and
//! `NEX_TEST_BOOT_ARGUMENTS` what it has to be told.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod networks;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nex_e2e::groups::{group, has_control_groups, limit};
use nex_e2e::machines::{boot, config, intruder, line, machines, pieces};
use nex_e2e::{PATIENCE, body, descendants, eventually, is_alive};
use nex_protocol::WorkloadType;
use nex_testkit::{NatsServer, NexNode, examples};
use serde_json::json;

#[tokio::test]
async fn functions_and_services_run_in_machines_and_are_stopped_there() -> Result<()> {
    let Some(pieces) = pieces() else { return Ok(()) };
    let (world, mut logs) = machines(pieces, json!({})).await?;
    let info = world.info().await?;
    assert_eq!(info.tags.get("nex.vmm").map(String::as_str), pieces.monitor["vmm"].as_str());
    assert!(!info.tags.contains_key("nex.unsafe") && info.tags.contains_key("nex.accelerator"), "{:?}", info.tags);

    let module = std::fs::read(examples()?.wasm()?)?;
    let function = world.function("echo", WorkloadType::Wasm, &module, "vm.echo").await?;
    let reply = world.call("vm.echo", "hello").await?;
    assert!(body(&reply)?.starts_with(b"hello"), "{reply:?}");
    let service = intruder(&world, pieces, "talks", &["say", "spoken inside", "environment", "who", "stay"]).await?;
    assert_eq!(line(&mut logs, "spoken").await?, "spoken inside");
    let environment = line(&mut logs, "environment").await?;
    assert!(environment.contains("SECRET"), "{environment}");
    let who = line(&mut logs, "who").await?;
    assert!(who.contains("Uid: 1000 1000 1000 1000") && who.contains("NoNewPrivs: 1"), "{who}");
    assert!(who.contains("CapEff: 0000000000000000"), "{who}");

    let machines = world.node.state_dir().join("machines");
    let count = || std::fs::read_dir(&machines).map_or(0, Iterator::count);
    for workload in [&function, &service] {
        let before = descendants(world.node.process().pid()).len();
        assert!(world.stop(workload).await?.stopped);
        assert!(descendants(world.node.process().pid()).len() < before, "its machine is gone with it");
    }
    eventually("only the pool's machine is left", || async { count() == 1 }).await?;
    let monitors = descendants(world.node.process().pid());
    let bounded = has_control_groups(&world).await?;
    let group = monitors.iter().find_map(|pid| group(*pid, "memory"));
    let most = group.as_deref().and_then(|group| limit(group, ["memory.max", "memory.limit_in_bytes"]));
    assert!(!bounded || most >= Some((192 + 6 + 128) << 20), "a control group with its bound: {group:?} {most:?}");
    assert_eq!(world.node.terminate().await?.code(), Some(0));
    assert!(group.is_none_or(|group| !group.exists()), "nor its control group");
    assert!(monitors.iter().all(|pid| !is_alive(*pid)), "no machine outlives its node");
    assert_eq!(count(), 0);
    Ok(())
}

#[tokio::test]
async fn a_javascript_function_runs_in_a_machine() -> Result<()> {
    let Some(pieces) = pieces() else { return Ok(()) };
    let more = json!({
        "workload_types": ["v8"], "machine_template": {"vcpu_count": 1, "memsize_mib": 512},
    });
    let (world, _logs) = machines(pieces, more).await?;
    let source = std::fs::read(examples()?.javascript()?)?;
    world.function("echojs", WorkloadType::V8, &source, "vm.js").await?;
    let reply = world.call("vm.js", "hello").await?;
    assert!(String::from_utf8_lossy(body(&reply)?).contains("hello"), "{reply:?}");
    Ok(())
}

#[tokio::test]
async fn a_workload_that_asks_for_more_than_the_usual_machine_has_gets_a_larger_one() -> Result<()> {
    let Some(pieces) = pieces() else { return Ok(()) };
    let larger = json!({"machine_templates": [{"vcpu_count": 1, "memsize_mib": 320}]});
    let (world, mut logs) = machines(pieces, larger).await?;
    let sha256 = world.put("large", &std::fs::read(&pieces.intruder)?).await?;
    let mut deployment = world.deployment("large", WorkloadType::Native, &sha256)?;
    deployment.argv = ["room", "stay"].map(str::to_owned).to_vec();
    deployment.limits.memory_mib = Some(257);
    let refused = world.send(&deployment).await.unwrap_err().to_string();
    assert!(refused.contains("limits.memory_mib is 257, this node gives at most 256"), "{refused}");
    deployment.limits.memory_mib = Some(256);
    world.send(&deployment).await?;
    let memory = line(&mut logs, "room").await?;
    let kib: u64 = memory.split(' ').nth(1).context("a number")?.parse()?;
    assert!((256 << 10..=320 << 10).contains(&kib), "{memory}");
    Ok(())
}

#[tokio::test]
async fn the_last_words_and_the_status_of_a_service_that_ends_are_not_lost() -> Result<()> {
    let Some(pieces) = pieces() else { return Ok(()) };
    let (world, mut logs) = machines(pieces, json!({})).await?;
    let mut events = world.events().await?;
    intruder(&world, pieces, "ends", &["flood", "say", "the last line", "exit", "7"]).await?;
    let ended = tokio::time::timeout(boot(), events.next("workload_undeployed")).await??;
    assert_eq!((&ended["code"], &ended["message"]), (&json!(7), &json!("exited with status 7")));
    line(&mut logs, "the last line").await?;
    Ok(())
}

#[tokio::test]
async fn from_inside_there_is_no_way_to_the_image_the_link_the_agent_or_any_network() -> Result<()> {
    let Some(pieces) = pieces() else { return Ok(()) };
    let before = std::fs::read(&pieces.image)?;
    let (world, mut logs) = machines(pieces, json!({})).await?;
    intruder(&world, pieces, "tries", &["root", "link", "network", "vsock", "say", "over", "stay"]).await?;
    let mut tried = 0;
    loop {
        let said = line(&mut logs, "").await?;
        if said == "over" {
            break;
        }
        assert!(said.contains(": refused"), "{said}");
        tried += 1;
    }
    assert!(tried >= 10, "{tried} attempts");
    assert!(std::fs::read(&pieces.image)? == before, "the image is as it was");
    Ok(())
}

#[tokio::test]
async fn a_guest_that_takes_all_it_can_harms_only_itself() -> Result<()> {
    let Some(pieces) = pieces() else { return Ok(()) };
    let (world, mut logs) = machines(pieces, json!({"machine_pool_size": 1})).await?;
    let module = std::fs::read(examples()?.wasm()?)?;
    world.function("echo", WorkloadType::Wasm, &module, "vm.echo").await?;
    let mut events = world.events().await?;

    intruder(&world, pieces, "fills", &["fill", "stay"]).await?;
    let filled = line(&mut logs, "fill").await?;
    assert!(filled.contains("stopped after"), "{filled}");
    intruder(&world, pieces, "forks", &["fork", "stay"]).await?;
    let forked = line(&mut logs, "fork").await?;
    assert!(forked.contains("stopped after"), "{forked}");
    intruder(&world, pieces, "eats", &["eat"]).await?;
    let ended = tokio::time::timeout(boot(), events.next("workload_undeployed")).await??;
    assert_eq!(ended["workload_name"], "eats", "{ended}");
    // All that a guest has is less than what its machine may take on the host.
    assert!(!ended["message"].as_str().unwrap_or_default().contains("more memory than it may"), "{ended}");
    assert!(body(&world.call("vm.echo", "still").await?)?.starts_with(b"still"));
    Ok(())
}

#[tokio::test]
async fn machines_that_a_killed_node_left_are_ended_by_the_next_and_workloads_come_back() -> Result<()> {
    let Some(pieces) = pieces() else { return Ok(()) };
    let (mut world, _logs) = machines(pieces, json!({"machine_pool_size": 2})).await?;
    let module = std::fs::read(examples()?.wasm()?)?;
    let function = world.function("echo", WorkloadType::Wasm, &module, "vm.echo").await?;
    let mut left = descendants(world.node.process().pid());
    // Not the process that would end them.
    left.retain(|pid| !std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("reap")));
    assert!(left.len() >= 2, "{left:?}");
    // Stopped, they cannot notice that their node is gone: the worst that a node can leave.
    for pid in &left {
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid.cast_signed()).unwrap(),
            rustix::process::Signal::STOP,
        )?;
    }
    world.node.kill().await?;
    let again = NexNode::builder(&world.server).await?.config(config(pieces)).sandboxed();
    let mut again = again.state_dir(world.node.state_dir()).spawn().await?;
    again.wait_ready_within(boot()).await?;
    eventually("what was left is gone", || async { left.iter().all(|pid| !is_alive(*pid)) }).await?;
    let back = async {
        while !world.nats.request("vm.echo", "x".into()).await.is_ok_and(|reply| body(&reply).is_ok()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(boot(), back).await.context("the function is back")?;
    assert_eq!(world.info().await?.machines[0].id, function.id);
    // It lives in the folder of the one before, which goes with that one.
    std::mem::swap(&mut world.node, &mut again);
    assert_eq!(world.node.terminate().await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_machine_that_does_not_come_up_says_why_and_the_node_stays() -> Result<()> {
    let Some(pieces) = pieces() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let text = folder.path().join("text");
    std::fs::write(&text, "no kernel")?;
    let empty = folder.path().join("empty.ext4");
    let made = Command::new("/usr/sbin/mke2fs").args(["-q", "-t", "ext4"]).arg(&empty).arg("8M").output()?;
    assert!(made.status.success());
    let cases = [
        ("kernel_filepath", &text, &["could not prepare an agent"][..]),
        (
            "rootfs_filepath",
            &text,
            &["cannot mount the root image", "No working init", "VFS: Unable to mount root", "Kernel panic"],
        ),
        ("rootfs_filepath", &empty, &["is this image made by", "No working init", "Kernel panic"]),
    ];
    for (key, path, words) in cases {
        let server = NatsServer::start().await?;
        let mut config = config(pieces);
        config[key] = json!(path);
        let node = NexNode::builder(&server).await?.config(config).sandboxed().spawn().await?;
        let told = node.log().find(|line| {
            let failed = line.contains("could not prepare an agent");
            (failed && words.iter().any(|word| line.contains(word))).then_some(())
        });
        tokio::time::timeout(boot(), told).await.with_context(|| format!("{key}: {}", node.log().tail(20)))?;
        assert!(node.process().is_running(), "{key}");
    }
    Ok(())
}

#[tokio::test]
async fn a_node_without_the_pieces_does_not_start_and_names_each() -> Result<()> {
    let server = NatsServer::start().await?;
    let missing = json!({
        "vmm": "qemu", "qemu_path": "/nowhere/qemu", "kernel_filepath": "/nowhere/vmlinux",
        "default_resource_dir": "/nowhere",
    });
    let cases = [
        (missing, &["qemu_path", "kernel_filepath", "rootfs_filepath", "nex rootfs"][..]),
        (
            json!({"firecracker_path": "/nowhere/firecracker", "jailer_path": "/nowhere/jailer"}),
            &["firecracker_path", "jailer_path", "nex node preflight", "vmm to \"qemu\"", "--no-sandbox"],
        ),
        (json!({"vmm": "vmware"}), &["neither \"firecracker\" nor \"qemu\""]),
    ];
    for (config, words) in cases {
        let node = NexNode::builder(&server).await?.config(config).sandboxed().spawn().await?;
        let status = tokio::time::timeout(PATIENCE, node.process().wait()).await??;
        let log = node.log().text();
        assert_eq!(status.code(), Some(1), "{log}");
        for word in words {
            assert!(log.contains(word), "{word} in {log}");
        }
    }
    Ok(())
}
