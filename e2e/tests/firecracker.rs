//! The Firecracker sandbox, whole, against the strict stand-in for Firecracker and its jailer: what the node tells them, in
//! which order, and what becomes of it when something goes wrong. The guest is played by a process with the real agent.
//!
//! The real Firecracker is tried by hand with `microvm/`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nex_e2e::groups::{group, has_control_groups, limit};
use nex_e2e::{PATIENCE, World, body, descendants, eventually, is_alive, metrics_address, scrape};
use nex_protocol::WorkloadType;
use nex_testkit::{Binaries, NatsServer, NexNode, examples};
use serde_json::{Value, json};

/// Firecracker's stand-in in a folder of its own, with what it is to do.
struct StandIn {
    folder: tempfile::TempDir,
}

impl StandIn {
    /// None, and the reason told, where this cannot be played.
    fn with(settings: Value) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/kvm").exists() {
            eprintln!("SKIPPED: the jail's stand-in takes root and a /dev/kvm, as the real one does");
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        let stand_in = Self { folder };
        // Machines run as users of their own, and have to find all of it.
        fs::set_permissions(stand_in.path(""), fs::Permissions::from_mode(0o755))?;
        let programs = Binaries::nex()?.parent().context("nex is in no folder")?.to_owned();
        for (from, to) in [
            ("firecracker-stand-in", "firecracker-stand-in"),
            ("jailer-stand-in", "jailer-stand-in"),
            ("nex-agent", "nex-agent"),
        ] {
            fs::copy(programs.join(from), stand_in.path(to)).with_context(|| format!("{from} (cargo build)"))?;
        }
        // Any program is as good as a kernel to who only looks at its first bytes.
        fs::copy(programs.join("jailer-stand-in"), stand_in.path("vmlinux"))?;
        let image = stand_in.path("rootfs.ext4");
        let made = Command::new("/usr/sbin/mke2fs").args(["-q", "-t", "ext4"]).arg(&image).arg("8M").output()?;
        anyhow::ensure!(made.status.success(), "mke2fs");
        let births = stand_in.path("births");
        fs::create_dir(&births)?;
        fs::set_permissions(&births, fs::Permissions::from_mode(0o1777))?;
        stand_in.play(settings)?;
        Ok(Some(stand_in))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What it does from now on.
    fn play(&self, mut settings: Value) -> Result<()> {
        settings["births"] = json!(self.path("births"));
        fs::write(self.path("stand-in.json"), settings.to_string())?;
        fs::set_permissions(self.path("stand-in.json"), fs::Permissions::from_mode(0o644))?;
        Ok(())
    }

    fn config(&self, more: &Value) -> Value {
        let mut config = json!({
            "firecracker_path": self.path("firecracker-stand-in"), "jailer_path": self.path("jailer-stand-in"),
            "kernel_filepath": self.path("vmlinux"), "rootfs_filepath": self.path("rootfs.ext4"), "network": "none",
            "workload_types": ["native", "wasm"], "boot_timeout_ms": 20_000,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        config
    }

    async fn node(&self, server: &NatsServer, more: Value) -> Result<NexNode> {
        NexNode::builder(server).await?.config(self.config(&more)).sandboxed().spawn().await
    }

    /// A world whose workloads live in its machines.
    async fn world(&self, more: Value) -> Result<World> {
        let server = NatsServer::start().await?;
        let mut node = self.node(&server, more).await?;
        node.wait_ready().await?;
        let nats = server.client().await?;
        Ok(World::of(server, node, nats))
    }
}

fn machines(world: &World) -> usize {
    fs::read_dir(world.node.state_dir().join("machines")).map_or(0, Iterator::count)
}

async fn told(node: &NexNode, words: &str) -> Result<String> {
    let found = node.log().find(|line| line.contains(words).then(|| line.to_owned()));
    let found =
        tokio::time::timeout(PATIENCE, found).await.with_context(|| format!("{words}: {}", node.log().tail(30)))?;
    found.with_context(|| format!("{words}: {}", node.log().tail(30)))
}

#[tokio::test]
async fn every_release_boots_once_and_restores_from_then_on() -> Result<()> {
    for version in ["1.7.0", "1.12.0", "1.16.1"] {
        let Some(stand_in) = StandIn::with(json!({"version": version}))? else { return Ok(()) };
        let limits = json!({"bandwidth": {"size": 1_000_000, "refill_time": 1000, "one_time_burst": 5_000_000},
            "iops": {"size": 1000, "refill_time": 1000}});
        let more = json!({"machine_pool_size": 3, "rate_limiters": limits, "scratch": {"drive_mib": 64}});
        let world = stand_in.world(more).await?;
        told(&world.node, "a snapshot of a booted machine was taken").await?;
        let info = world.info().await?;
        assert_eq!(info.tags.get("nex.vmm").map(String::as_str), Some("firecracker"));
        assert!(!info.tags.contains_key("nex.unjailed") && !info.tags.contains_key("nex.unsafe"), "{:?}", info.tags);

        let module = fs::read(examples()?.wasm()?)?;
        let function = world.function("echo", WorkloadType::Wasm, &module, "vm.echo").await?;
        assert!(body(&world.call("vm.echo", "hello").await?)?.starts_with(b"hello"));
        let service = world.shell_service("talks", "exec sleep 1000", false).await;
        let refused = service.unwrap_err().to_string();
        assert!(refused.contains("dynamically linked"), "a dynamic program has no place in a machine: {refused}");

        eventually("the pool is full again", || async { machines(&world) == 4 }).await?;
        let users: Vec<_> = descendants(world.node.process().pid()).iter().filter_map(|pid| user(*pid)).collect();
        assert!(users.iter().any(|user| *user >= 1_900_000_000), "machines run as users of their own: {users:?}");
        assert!(world.stop(&function).await?.stopped);
        let left = descendants(world.node.process().pid());
        assert_eq!(world.node.terminate().await?.code(), Some(0));
        assert!(left.iter().all(|pid| !is_alive(*pid)), "no machine outlives its node");
        assert_eq!(machines(&world), 0, "{version}");
        assert!(!world.node.log().text().contains("could not prepare"), "{version}: {}", world.node.log().text());
    }
    Ok(())
}

fn user(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

#[tokio::test]
async fn guests_report_free_memory_where_that_is_wanted_and_known() -> Result<()> {
    let cases = [("1.13.0", true, false), ("1.14.0", true, true), ("1.16.1", true, true), ("1.16.1", false, false)];
    for (version, wanted, expected) in cases {
        let Some(stand_in) = StandIn::with(json!({"version": version}))? else { return Ok(()) };
        let world = stand_in.world(json!({"machine_pool_size": 2, "free_page_reporting": wanted})).await?;
        eventually("the pool is full", || async { machines(&world) == 2 }).await?;
        let snapshot = fs::read_dir(world.node.state_dir().join("snapshots"))?.next().context("a snapshot")??;
        let state: Value = serde_json::from_slice(&fs::read(snapshot.path().join("machine.state"))?)?;
        let balloon = &state["config"]["balloon"];
        assert_eq!(balloon["free_page_reporting"], json!(expected), "{version}: {state}");
        if wanted && !expected {
            told(&world.node, "free_page_reporting takes Firecracker 1.14").await?;
        }
        assert!(!world.node.log().text().contains("could not prepare"), "{version}: {}", world.node.log().text());
    }
    Ok(())
}

#[tokio::test]
async fn what_goes_wrong_with_a_machine_is_said_and_the_node_stays() -> Result<()> {
    let short = json!({"boot_timeout_ms": 1500, "snapshots": false});
    let cases = [
        (json!({"faults": {"die_at_start": true}}), "ended"),
        (json!({"faults": {"die_during_boot": true}}), "ended"),
        (json!({"faults": {"never_bind_vsock": true}}), "cannot reach the machine monitor"),
        (json!({"faults": {"never_answer_connect": true}}), "did not come up in time"),
        (json!({"faults": {"garbage_for_ok": true}}), "did not come up in time"),
        (json!({"faults": {"no_init": true}}), "ended"),
        (json!({"faults": {"out_of_memory": true}}), "memory"),
        (json!({"faults": {"refuse": ["/drives/root"]}}), "Firecracker refused PUT /drives/root"),
        (json!({"faults": {"hang": ["/boot-source"]}}), "did not answer PUT /boot-source"),
    ];
    for (settings, words) in cases {
        let Some(stand_in) = StandIn::with(settings.clone())? else { return Ok(()) };
        let server = NatsServer::start().await?;
        let node = stand_in.node(&server, short.clone()).await?;
        let line = told(&node, "could not prepare an agent").await?;
        assert!(line.contains(words), "{settings}: {words} in {line}");
        assert!(node.process().is_running(), "{settings}");
        node.terminate().await?;
        let left = fs::read_dir(node.state_dir().join("machines"))?.count();
        assert_eq!(left, 0, "{settings}: nothing stays");
    }
    Ok(())
}

#[tokio::test]
async fn a_machine_whose_monitor_dies_is_replaced_and_its_function_answers_again() -> Result<()> {
    let Some(stand_in) = StandIn::with(json!({}))? else { return Ok(()) };
    let world = stand_in.world(json!({})).await?;
    let module = fs::read(examples()?.wasm()?)?;
    world.function("echo", WorkloadType::Wasm, &module, "vm.echo").await?;
    let before = descendants(world.node.process().pid());
    for pid in &before {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let answered = async {
        while !world.nats.request("vm.echo", "x".into()).await.is_ok_and(|reply| body(&reply).is_ok()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.context("the function is back")?;
    Ok(())
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_restored_is_given_up_and_machines_boot() -> Result<()> {
    let Some(stand_in) = StandIn::with(json!({"faults": {"refuse": ["/snapshot/load"]}}))? else { return Ok(()) };
    let world = stand_in.world(json!({"machine_pool_size": 2})).await?;
    told(&world.node, "from now on machines boot").await?;
    eventually("the pool is full", || async { machines(&world) == 2 }).await?;
    let module = fs::read(examples()?.wasm()?)?;
    world.function("echo", WorkloadType::Wasm, &module, "vm.echo").await?;
    assert!(body(&world.call("vm.echo", "hello").await?)?.starts_with(b"hello"));
    Ok(())
}

#[tokio::test]
async fn jailed_machines_that_hang_are_ended_when_their_node_is_killed() -> Result<()> {
    let Some(stand_in) = StandIn::with(json!({}))? else { return Ok(()) };
    let world = stand_in.world(json!({"machine_pool_size": 3})).await?;
    eventually("all are ready", || async { monitors(&world).len() == 3 }).await?;
    let left = monitors(&world);
    // A signal to the whole service is no reason to leave machines behind.
    signal(reaper(&world).context("a reaper")?, rustix::process::Signal::TERM)?;
    for pid in &left {
        signal(*pid, rustix::process::Signal::STOP)?;
    }
    let groups: Vec<_> = left.iter().flat_map(|pid| [group(*pid, "memory"), group(*pid, "pids")]).flatten().collect();
    world.node.kill().await?;
    eventually("nothing outlives it", || async { left.iter().all(|pid| !is_alive(*pid)) }).await?;
    eventually("nor do their control groups", || async { groups.iter().all(|group| !group.exists()) }).await
}

fn signal(pid: u32, signal: rustix::process::Signal) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).context("a process id")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// The process that would end the machines of a killed node.
fn reaper(world: &World) -> Option<u32> {
    let is_meant = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.split(|byte| *byte == 0).nth(2) == Some(b"reap"))
    };
    descendants(world.node.process().pid()).into_iter().find(is_meant)
}

#[tokio::test]
async fn twenty_machines_of_a_killed_node_are_found_and_ended_by_the_next() -> Result<()> {
    let Some(stand_in) = StandIn::with(json!({}))? else { return Ok(()) };
    let world = stand_in.world(json!({"machine_pool_size": 20})).await?;
    eventually("the pool is full", || async { machines(&world) == 20 }).await?;
    eventually("all are ready", || async { monitors(&world).len() == 20 }).await?;
    let left = monitors(&world);
    // The worst that a node can leave: machines that cannot notice that it is gone, and nobody who ends them.
    signal(reaper(&world).context("a reaper")?, rustix::process::Signal::KILL)?;
    for pid in &left {
        signal(*pid, rustix::process::Signal::STOP)?;
    }
    world.node.kill().await?;
    let again = NexNode::builder(&world.server).await?.config(stand_in.config(&json!({}))).sandboxed();
    let mut again = again.state_dir(world.node.state_dir()).spawn().await?;
    again.wait_ready().await?;
    eventually("what was left is gone", || async { left.iter().all(|pid| !is_alive(*pid)) }).await?;
    eventually("only its own machine is there", || async { machines(&world) == 1 }).await?;
    assert_eq!(again.terminate().await?.code(), Some(0));
    Ok(())
}

/// Monitors of the node's machines.
fn monitors(world: &World) -> Vec<u32> {
    let is_monitor = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
            line.windows(20).any(|part| part == b"firecracker-stand-in")
                && line.windows(10).any(|part| part == b"--api-sock")
        })
    };
    descendants(world.node.process().pid()).into_iter().filter(is_monitor).collect()
}

#[tokio::test]
async fn every_monitor_is_bounded_from_its_start_and_its_group_goes_with_it() -> Result<()> {
    for jail in [json!({}), json!({"no_jailer": true})] {
        let Some(stand_in) = StandIn::with(json!({}))? else { return Ok(()) };
        let mut more = json!({"machine_pool_size": 2, "machine_template": {"vcpu_count": 2, "memsize_mib": 128}});
        more.as_object_mut().unwrap().extend(jail.as_object().unwrap().clone());
        let world = stand_in.world(more).await?;
        if !has_control_groups(&world).await? {
            return Ok(());
        }
        eventually("all are ready", || async { monitors(&world).len() == 2 }).await?;
        let mut groups = Vec::new();
        for pid in monitors(&world) {
            let (memory, pids) = (group(pid, "memory").context("memory")?, group(pid, "pids").context("pids")?);
            let bytes = limit(&memory, ["memory.max", "memory.limit_in_bytes"]).context("a limit of memory")?;
            // More where the state directory is in memory.
            assert!([128 + 4 + 128, 128 + 4 + 128 + 128].contains(&(bytes >> 20)), "{bytes}");
            assert_eq!(limit(&pids, ["pids.max", ""]), Some(2 + 128));
            assert!(memory.file_name() == pids.file_name(), "both are the machine's own");
            groups.extend([memory, pids]);
        }
        assert_ne!(groups[0], groups[2], "each has one of its own");
        assert_eq!(world.node.terminate().await?.code(), Some(0));
        assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_machines_do_is_summed_in_the_nodes_metrics() -> Result<()> {
    let Some(stand_in) = StandIn::with(json!({"metrics_ms": 50}))? else { return Ok(()) };
    let world = stand_in.world(json!({"machine_pool_size": 2, "otel_metrics": true, "otel_metrics_port": 0})).await?;
    let address = metrics_address(&world.node).await?;
    let value = |text: &str, series: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    let wanted = [
        (r#"nex_machines{state="running"}"#, 2.0),
        (r#"nex_machines{state="starting"}"#, 0.0),
        (r#"nex_machine_starts_total{from="kernel"}"#, 1.0),
        (r#"nex_machine_starts_total{from="snapshot"}"#, 1.0),
        (r#"nex_machine_faults_total{kind="memory"}"#, 0.0),
        (r#"nex_machine_faults_total{kind="seccomp"}"#, 0.0),
    ];
    eventually("machines are told", || async {
        let text = scrape(&address).await.unwrap();
        wanted.iter().all(|(series, expected)| value(&text, series) == Some(*expected))
    })
    .await?;
    eventually("what their monitors count is told", || async {
        let text = scrape(&address).await.unwrap();
        let counted = |series| value(&text, series).unwrap_or_default();
        let (read, written) = (
            counted(r#"nex_machine_drive_bytes_total{direction="read"}"#),
            counted(r#"nex_machine_drive_bytes_total{direction="written"}"#),
        );
        // Of both machines, many times: each line counts from the one before.
        read >= 8.0 * 4096.0 && (read / 4096.0 - written / 512.0).abs() < f64::EPSILON
    })
    .await?;
    let text = scrape(&address).await?;
    assert!(value(&text, r#"nex_machine_start_seconds_total{from="kernel"}"#).is_some_and(|took| took > 0.0), "{text}");
    assert!(value(&text, r#"nex_machine_throttled_total{device="drive"}"#).is_some_and(|count| count > 0.0), "{text}");
    Ok(())
}

#[tokio::test]
async fn what_no_machine_needs_any_more_is_removed_at_the_next_start() -> Result<()> {
    let Some(stand_in) = StandIn::with(json!({}))? else { return Ok(()) };
    let world = stand_in.world(json!({"scratch": {"drive_mib": 64}})).await?;
    let state = world.node.state_dir().to_owned();
    assert_eq!(world.node.terminate().await?.code(), Some(0));
    let shared = state.join("machines.shared");
    fs::create_dir_all(&shared)?;
    // A copy of a kernel that was replaced, and a file of somebody else's.
    fs::write(shared.join("fe01-20-400-5f3a"), "then")?;
    fs::write(shared.join("README"), "not ours")?;
    assert!(state.join("machines.blank/blank-64.ext4").is_file());
    let config = stand_in.config(&json!({"scratch": {"drive_mib": 32}}));
    let again = NexNode::builder(&world.server).await?.config(config).sandboxed();
    let mut again = again.state_dir(&state).spawn().await?;
    again.wait_ready().await?;
    assert!(!shared.join("fe01-20-400-5f3a").exists() && shared.join("README").exists());
    assert!(state.join("machines.blank/blank-32.ext4").is_file());
    assert!(!state.join("machines.blank/blank-64.ext4").exists());
    assert_eq!(again.terminate().await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_monitor_that_takes_more_memory_than_it_may_is_ended_and_that_is_said() -> Result<()> {
    let Some(stand_in) = StandIn::with(json!({"faults": {"eat_memory_after_ms": 1500}}))? else { return Ok(()) };
    let world = stand_in.world(json!({"machine_template": {"vcpu_count": 1, "memsize_mib": 128}})).await?;
    if !has_control_groups(&world).await? {
        return Ok(());
    }
    let mut events = world.events().await?;
    let module = fs::read(examples()?.wasm()?)?;
    // It comes up again and again; the first may be lost before it is taken, which is said, too.
    let _ = world.function("echo", WorkloadType::Wasm, &module, "vm.echo").await;
    let said = async {
        tokio::select! {
            event = events.next("workload_undeployed") => event.map(|event| event.to_string()),
            line = told(&world.node, "out_of_memory=true") => line,
        }
    };
    let said = said.await?;
    assert!(said.contains("memory"), "{said}");
    assert!(world.node.process().is_running());
    Ok(())
}

#[tokio::test]
async fn without_its_jailer_firecracker_runs_as_the_node_and_the_tags_say_so() -> Result<()> {
    let Some(stand_in) = StandIn::with(json!({}))? else { return Ok(()) };
    let world = stand_in.world(json!({"no_jailer": true, "jailer_path": "/nowhere"})).await?;
    assert_eq!(world.info().await?.tags.get("nex.unjailed").map(String::as_str), Some("true"));
    let module = fs::read(examples()?.wasm()?)?;
    world.function("echo", WorkloadType::Wasm, &module, "vm.echo").await?;
    assert!(body(&world.call("vm.echo", "hello").await?)?.starts_with(b"hello"));
    Ok(())
}

#[tokio::test]
async fn what_a_machine_compiled_is_not_compiled_again_by_the_next() -> Result<()> {
    let Some(stand_in) = StandIn::with(json!({}))? else { return Ok(()) };
    let world = stand_in.world(json!({})).await?;
    let kept = world.node.state_dir().join("compiled-guest");
    let files = || -> Vec<(PathBuf, u64)> {
        let entries = fs::read_dir(&kept).into_iter().flatten().flatten();
        let files = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "cwasm"));
        files.map(|file| (file.path(), file.metadata().unwrap().ino())).collect()
    };
    let module = fs::read(examples()?.wasm()?)?;
    let first = world.function("echo", WorkloadType::Wasm, &module, "vm.echo").await?;
    eventually("it is kept", || async { files().len() == 1 }).await?;
    let was = files();
    assert!(world.stop(&first).await?.stopped);
    let second = world.function("echo", WorkloadType::Wasm, &module, "vm.echo").await?;
    assert!(body(&world.call("vm.echo", "hello").await?)?.starts_with(b"hello"));
    assert!(world.stop(&second).await?.stopped);
    assert_eq!(files(), was, "nothing was handed in again");
    // What does not load is replaced (the first 16 bytes name the engine).
    let mut bytes = fs::read(&was[0].0)?;
    bytes[16..].fill(b'x');
    fs::write(&was[0].0, bytes)?;
    world.function("echo", WorkloadType::Wasm, &module, "vm.echo").await?;
    assert!(body(&world.call("vm.echo", "hello").await?)?.starts_with(b"hello"));
    eventually("it is replaced", || async { files().len() == 1 && files()[0].1 != was[0].1 }).await?;
    Ok(())
}
