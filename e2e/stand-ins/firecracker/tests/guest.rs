//! The guest: console, vsock, birth, agent, snapshots, and what goes wrong with them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

mod monitor;

use std::io::{Read, Write};
use std::net::Shutdown;

use monitor::{Bench, Monitor, birth, line};
use serde_json::{Value, json};

/// Says where it is and what it was given, then gives back what it reads.
const ECHO: &str = r#"exec 3<&0; echo "$NEX_AGENT_LOG $(pwd) $(touch artifact && echo wrote)" >&3; exec cat <&3 >&3"#;

fn load(more: Value) -> Value {
    let mut load = json!({
        "snapshot_path": "state", "mem_backend": { "backend_type": "File", "backend_path": "memory" },
    });
    load.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    load
}

fn booted(bench: &Bench) -> Monitor {
    let mut monitor = bench.start();
    monitor.configure();
    monitor.act("InstanceStart");
    monitor.wait_for_line("nex-init: ready");
    monitor
}

#[test]
fn a_guest_is_born_and_its_agent_has_the_link() {
    let bench = Bench::new(&json!({}));
    let agent = bench.agent(ECHO);
    bench.set(&json!({ "agent": agent }));
    let mut monitor = booted(&bench);
    assert!(monitor.seen.iter().any(|line| line.contains("Command line: console=ttyS0")), "{:?}", monitor.seen);
    // Nobody listens there, and what is no request is none.
    for request in ["CONNECT 1025\n", "CONNECT x1024\n", "HELLO WORLD\n", "CONNECT 1"] {
        assert_eq!(monitor.connect("v.sock", request).1, "", "{request:?}");
    }
    let (mut link, answer) = monitor.link("v.sock", &birth('a'));
    assert_eq!(answer, "{}");
    assert_eq!(line(&mut link), "warn /var/lib/nex wrote");
    assert!(!std::path::Path::new("/var/lib/nex/artifact").exists());
    link.write_all(b"there and back\n").unwrap();
    assert_eq!(line(&mut link), "there and back");
    // There is one link.
    assert_eq!(monitor.connect("v.sock", "CONNECT 1024\n").1, "");
    // An agent that ends reboots its guest, and that ends the monitor.
    link.shutdown(Shutdown::Write).unwrap();
    monitor.wait_for_line("nex-init: the agent ended");
    assert_eq!(monitor.wait_for_end().code(), Some(0));
}

#[test]
fn the_agent_dies_with_its_monitor_and_stands_still_with_its_guest() {
    let bench = Bench::new(&json!({}));
    let agent = bench.agent("exec 3<&0; echo $$ >&3; exec cat <&3 >&3");
    bench.set(&json!({ "agent": agent }));
    let monitor = booted(&bench);
    let (mut link, _) = monitor.link("v.sock", &birth('a'));
    line(&mut link);
    monitor.set_state("Paused");
    assert_eq!(monitor.get("/")["state"], "Paused");
    monitor.set_state("Resumed");
    link.write_all(b"awake\n").unwrap();
    assert_eq!(line(&mut link), "awake");
    drop(monitor);
    // Killed: the link ends although nobody closed this side of it.
    assert_eq!(link.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_birth_message_that_is_not_whole_ends_the_guest() {
    let bench = Bench::new(&json!({}));
    for (field, value) in [("entropy", json!("0".repeat(64))), ("clock_unix_ms", json!(1)), ("name", json!(""))] {
        let mut monitor = booted(&bench);
        let mut bad = birth('a');
        bad[field] = value;
        assert_eq!(monitor.link("v.sock", &bad).1, "", "{field}");
        monitor.wait_for_line("nex-init: the");
        assert_eq!(monitor.wait_for_end().code(), Some(0));
        std::fs::remove_file(bench.path("v.sock")).unwrap();
        std::fs::remove_file(bench.path("api.sock")).unwrap();
    }
}

#[test]
fn a_snapshot_is_restored_as_often_as_one_likes_each_time_with_entropy_of_its_own() {
    let bench = Bench::new(&json!({}));
    let agent = bench.agent(ECHO);
    bench.set(&json!({ "agent": agent, "births": bench.folder() }));
    let monitor = booted(&bench);
    monitor.set_state("Paused");
    monitor.put(
        "/snapshot/create",
        &json!({ "snapshot_path": "state", "mem_file_path": "memory", "snapshot_type": "Full" }),
    );
    assert_eq!(std::fs::metadata(bench.path("memory")).unwrap().len(), 64 << 20);
    // The one that was frozen goes on.
    monitor.set_state("Resumed");
    assert_eq!(monitor.link("v.sock", &birth('a')).1, "{}");
    drop(monitor);

    for (digit, answer) in [('b', "{}"), ('c', "{}"), ('b', "")] {
        let folder = tempfile::tempdir_in(bench.folder()).unwrap();
        for file in ["state", "memory", "rootfs.ext4"] {
            std::fs::hard_link(bench.path(file), folder.path().join(file)).unwrap();
        }
        let mut monitor = bench.start_in(folder.path(), &[]);
        monitor.put("/snapshot/load", &load(json!({ "vsock_override": { "uds_path": "mine.sock" } })));
        assert_eq!(monitor.get("/")["state"], "Paused");
        monitor.set_state("Resumed");
        assert_eq!(monitor.link("mine.sock", &birth(digit)).1, answer, "{digit}");
        if answer.is_empty() {
            monitor.wait_for_line("born with the same entropy");
        }
    }
}

#[test]
fn a_load_that_fails_is_told_and_ends_the_monitor() {
    let bench = Bench::new(&json!({}));
    let monitor = booted(&bench);
    monitor.set_state("Paused");
    monitor.put("/snapshot/create", &json!({ "snapshot_path": "state", "mem_file_path": "memory" }));
    drop(monitor);
    let restart = |version: &str| {
        let _ = std::fs::remove_file(bench.path("api.sock"));
        bench.set(&json!({ "version": version }));
        bench.start()
    };
    let ends = |mut monitor: Monitor| assert_eq!(monitor.wait_for_end().code(), Some(1));

    // The socket of the one that is gone is in the way.
    let monitor = restart("1.16.1");
    monitor.refuses("PUT", "/snapshot/load", &load(json!({})), "Address already in use");
    ends(monitor);
    std::fs::remove_file(bench.path("v.sock")).unwrap();

    let network = json!({ "iface_id": "eth0", "host_dev_name": "t" });
    #[rustfmt::skip]
    let cases = [
        ("1.16.1", load(json!({ "snapshot_path": "nowhere" })), "No such file"),
        ("1.16.1", load(json!({ "snapshot_path": "vmlinux" })), "load snapshot state"),
        ("1.16.1", load(json!({ "mem_backend": { "backend_type": "File", "backend_path": "vmlinux" } })), "bytes"),
        ("1.16.1", load(json!({ "network_overrides": [network] })), "Unknown Network"),
        ("1.7.0", load(json!({})), "Invalid data version: 10"),
    ];
    for (version, body, with) in cases {
        let monitor = restart(version);
        monitor.refuses("PUT", "/snapshot/load", &body, with);
        ends(monitor);
    }

    // Those that are only asked wrongly are not fatal.
    let monitor = restart("1.16.1");
    let both = load(json!({ "mem_file_path": "memory" }));
    monitor.refuses("PUT", "/snapshot/load", &both, "too many fields");
    monitor.refuses("PUT", "/snapshot/load", &json!({ "snapshot_path": "state" }), "missing field");
    monitor.refuses(
        "PUT",
        "/snapshot/load",
        &load(json!({ "mem_backend": { "backend_path": "memory" } })),
        "backend_type",
    );
    monitor.put("/snapshot/load", &json!({ "snapshot_path": "state", "mem_file_path": "memory", "resume_vm": true }));
    assert_eq!(monitor.get("/")["state"], "Running");
    drop(monitor);
    std::fs::remove_file(bench.path("v.sock")).unwrap();

    let monitor = restart("1.16.1");
    monitor.put("/machine-config", &json!({ "vcpu_count": 1, "mem_size_mib": 64 }));
    monitor.refuses("PUT", "/snapshot/load", &load(json!({})), "not allowed after configuring");
    monitor.get("/");
    drop(monitor);

    std::fs::remove_file(bench.path("rootfs.ext4")).unwrap();
    let monitor = restart("1.16.1");
    monitor.refuses("PUT", "/snapshot/load", &load(json!({})), "backing file");
    ends(monitor);
}

#[test]
fn a_link_that_was_open_at_the_snapshot_is_reset() {
    let bench = Bench::new(&json!({}));
    let agent = bench.agent("exec cat >/dev/null");
    bench.set(&json!({ "agent": agent }));
    let mut monitor = booted(&bench);
    let (mut link, _) = monitor.link("v.sock", &birth('a'));
    monitor.set_state("Paused");
    monitor.put("/snapshot/create", &json!({ "snapshot_path": "state", "mem_file_path": "memory" }));
    monitor.set_state("Resumed");
    assert_eq!(link.read(&mut [0]).unwrap(), 0);
    assert_eq!(monitor.wait_for_end().code(), Some(0));
    // And a guest restored from it has an agent without a link.
    std::fs::remove_file(bench.path("api.sock")).unwrap();
    std::fs::remove_file(bench.path("v.sock")).unwrap();
    let mut monitor = bench.start();
    monitor.put("/snapshot/load", &load(json!({ "resume_vm": true })));
    monitor.wait_for_line("nex-init: the agent ended");
    assert_eq!(monitor.wait_for_end().code(), Some(0));
}

#[test]
fn a_kernel_or_an_image_that_is_none_does_not_boot() {
    let bench = Bench::new(&json!({}));
    std::fs::write(bench.path("bzImage"), [b'M', b'Z'].repeat(600)).unwrap();
    let mut monitor = bench.start();
    monitor.configure();
    monitor.put("/boot-source", &json!({ "kernel_image_path": "bzImage" }));
    monitor.refuses("PUT", "/actions", &json!({ "action_type": "InstanceStart" }), "kernel image");
    monitor.put("/boot-source", &json!({ "kernel_image_path": "vmlinux", "boot_args": "console=ttyS0 panic=-1" }));
    std::fs::write(bench.path("rootfs.ext4"), vec![0; 4096]).unwrap();
    monitor.act("InstanceStart");
    monitor.wait_for_line("Kernel panic");
    assert_eq!(monitor.wait_for_end().code(), Some(0));
}

#[test]
fn ctrl_alt_del_ends_the_guest() {
    let bench = Bench::new(&json!({}));
    let mut monitor = booted(&bench);
    monitor.act("SendCtrlAltDel");
    assert_eq!(monitor.wait_for_end().code(), Some(0));
}

#[test]
fn faults_happen_as_they_were_ordered() {
    let bench = Bench::new(&json!({}));
    let agent = bench.agent("exec cat");
    let with = |faults: Value| {
        for socket in ["api.sock", "v.sock"] {
            let _ = std::fs::remove_file(bench.path(socket));
        }
        bench.set(&json!({ "agent": agent, "faults": faults }));
        bench.start()
    };
    let start = |monitor: &mut Monitor| {
        monitor.configure();
        monitor.act("InstanceStart");
        monitor.wait_for_line("nex-init: ready");
    };

    let mut monitor = with(json!({ "die_during_boot": true }));
    monitor.configure();
    monitor.act("InstanceStart");
    assert_eq!(monitor.wait_for_end().code(), Some(1));

    let mut monitor = with(json!({ "never_bind_vsock": true }));
    start(&mut monitor);
    assert!(!bench.path("v.sock").exists());
    drop(monitor);

    let mut monitor = with(json!({ "garbage_for_ok": true }));
    start(&mut monitor);
    let mut stream = std::os::unix::net::UnixStream::connect(bench.path("v.sock")).unwrap();
    stream.write_all(b"CONNECT 1024\n").unwrap();
    let mut answer = [0; 3];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0, 0xff, 0xfe]);
    drop(monitor);

    let mut monitor = with(json!({ "die_after_ms": 10 }));
    start(&mut monitor);
    let (mut link, _) = monitor.link("v.sock", &birth('a'));
    assert_eq!(monitor.wait_for_end().code(), Some(1));
    assert_eq!(link.read(&mut [0]).unwrap(), 0);

    let monitor = with(json!({ "refuse": ["/drives/rootfs"], "out_of_memory": true }));
    monitor.refuses("PUT", "/drives/rootfs", &monitor::rootfs(), "as the stand-in was told");
    monitor.put("/boot-source", &json!({ "kernel_image_path": "vmlinux" }));
    monitor.refuses("PUT", "/actions", &json!({ "action_type": "InstanceStart" }), "Cannot allocate memory");
    drop(monitor);

    let mut monitor = with(json!({ "flood_console": true }));
    start(&mut monitor);
    monitor.wait_for_line("flood");
}
