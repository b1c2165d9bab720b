//! What the API takes and what it refuses, before and after the start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

mod monitor;

use monitor::{Bench, exchange, rootfs};
use serde_json::{Value, json};

fn with(body: &Value, field: &str, value: Value) -> Value {
    let mut body = body.clone();
    body[field] = value;
    body
}

fn drive_with(field: &str, value: Value) -> Value {
    with(&rootfs(), field, value)
}

#[test]
fn what_is_wrong_before_the_start_is_refused() {
    let bench = Bench::new(&json!({}));
    let monitor = bench.start();
    std::os::unix::net::UnixListener::bind(bench.path("taken.sock")).unwrap();
    let machine = json!({ "vcpu_count": 1, "mem_size_mib": 64 });
    let boot = json!({ "kernel_image_path": "vmlinux" });
    let network = json!({ "iface_id": "eth0", "host_dev_name": "t" });
    let bucket = json!({ "bandwidth": { "size": 1, "refill_time": 100, "burst": 1 } });
    #[rustfmt::skip]
    let cases = [
        ("PUT", "/machine-config", json!({ "vcpu_count": 1 }), "mem_size_mib"),
        ("PUT", "/machine-config", with(&machine, "ht_enabled", json!(false)), "unknown field"),
        ("PUT", "/machine-config", json!({ "vcpu_count": 0, "mem_size_mib": 64 }), "vCPUs"),
        ("PUT", "/machine-config", json!({ "vcpu_count": 33, "mem_size_mib": 64 }), "vCPUs"),
        ("PUT", "/machine-config", json!({ "vcpu_count": 3, "mem_size_mib": 64, "smt": true }), "vCPUs"),
        ("PUT", "/machine-config", json!({ "vcpu_count": -1, "mem_size_mib": 64 }), "invalid value"),
        ("PUT", "/machine-config", json!({ "vcpu_count": "1", "mem_size_mib": 64 }), "invalid type"),
        ("PUT", "/machine-config", json!({ "vcpu_count": 1, "mem_size_mib": 0 }), "memory size"),
        ("PUT", "/machine-config", json!({ "vcpu_count": 1, "mem_size_mib": 63, "huge_pages": "2M" }), "page size"),
        ("PUT", "/machine-config", with(&machine, "huge_pages", json!("1G")), "unknown variant"),
        ("PUT", "/machine-config", with(&machine, "cpu_template", json!("V1N1")), "unknown variant"),
        ("PATCH", "/machine-config", json!({}), "Empty PATCH"),
        ("PUT", "/boot-source", json!({ "boot_args": "quiet" }), "kernel_image_path"),
        ("PUT", "/boot-source", json!({ "kernel_image_path": "nowhere" }), "kernel file"),
        ("PUT", "/boot-source", json!({ "kernel_image_path": "vmlinux", "initrd_path": "nowhere" }), "initrd"),
        ("PUT", "/boot-source", with(&boot, "boot_args", json!("a".repeat(2048))), "command line"),
        ("PUT", "/boot-source", json!({ "kernel_image_path": "vmlinux", "boot_args": "a\nb" }), "command line"),
        ("PUT", "/drives/other", rootfs(), "does not match"),
        ("PUT", "/drives/root-fs", drive_with("drive_id", json!("root-fs")), "alphanumeric"),
        ("PUT", "/drives/", rootfs(), "cannot be empty"),
        ("PUT", "/drives/rootfs", drive_with("path_on_host", json!("nowhere")), "backing file"),
        ("PUT", "/drives/rootfs", drive_with("socket", json!("s")), "Invalid block config"),
        ("PUT", "/drives/rootfs", drive_with("is_read_only", Value::Null), "Invalid block config"),
        ("PUT", "/drives/rootfs", drive_with("cache_type", json!("writeback")), "unknown variant"),
        ("PUT", "/drives/rootfs", drive_with("io_engine", json!("io_uring")), "unknown variant"),
        ("PUT", "/drives/rootfs", drive_with("rate_limiter", bucket), "unknown field"),
        ("PUT", "/drives/rootfs", drive_with("rate_limiter", json!({ "ops": { "size": 1 } })), "refill_time"),
        ("PUT", "/network-interfaces/eth0", json!({ "iface_id": "eth0" }), "host_dev_name"),
        ("PUT", "/network-interfaces/eth0", json!({ "iface_id": "eth0", "host_dev_name": "nex-no-such" }), "Open tap"),
        ("PUT", "/network-interfaces/eth0", with(&network, "host_dev_name", json!("a-name-too-long-x")), "interface"),
        ("PUT", "/network-interfaces/eth0", with(&network, "guest_mac", json!("1:2")), "MAC"),
        ("PUT", "/network-interfaces/eth0", with(&network, "allow_mmds_requests", json!(true)), "unknown field"),
        ("PUT", "/vsock", json!({ "guest_cid": 2, "uds_path": "v.sock" }), "CID"),
        ("PUT", "/vsock", json!({ "guest_cid": 3 }), "uds_path"),
        ("PUT", "/vsock", json!({ "guest_cid": 3, "uds_path": "taken.sock" }), "Address already in use"),
        ("PUT", "/vsock", json!({ "guest_cid": 3, "uds_path": "x".repeat(120) }), "binding"),
        ("PUT", "/entropy", json!({ "source": "/dev/urandom" }), "unknown field"),
        ("PUT", "/balloon", json!({ "amount_mib": 1 }), "deflate_on_oom"),
        ("PUT", "/balloon", json!({ "amount_mib": 4096, "deflate_on_oom": true }), "too large"),
        ("PUT", "/logger", json!({ "level": "Loud" }), "unknown variant"),
        ("PUT", "/metrics", json!({}), "metrics_path"),
        ("PUT", "/mmds/config", json!({ "version": "V2", "network_interfaces": [] }), "empty"),
        ("PUT", "/mmds/config", json!({ "version": "V2", "network_interfaces": ["eth0"] }), "not configured"),
        ("PUT", "/mmds/config", json!({ "version": "V3", "network_interfaces": ["eth0"] }), "unknown variant"),
        ("PUT", "/mmds/config", json!({ "network_interfaces": ["e"], "ipv4_address": "10.0.0.1" }), "link local"),
        ("PATCH", "/mmds", json!({ "a": 1 }), "not initialized"),
        ("PUT", "/actions", json!({ "action_type": "Start" }), "unknown variant"),
        ("PUT", "/actions", json!({ "action_type": "InstanceStart", "payload": "" }), "unknown field"),
        ("PUT", "/actions", json!({ "action_type": "InstanceStart" }), "without kernel"),
        ("PUT", "/actions", json!({ "action_type": "FlushMetrics" }), "before starting"),
        ("PUT", "/actions", json!({ "action_type": "SendCtrlAltDel" }), "before starting"),
        ("PATCH", "/vm", json!({ "state": "Paused" }), "before starting"),
        ("PATCH", "/vm", json!({ "state": "Running" }), "unknown variant"),
        ("PATCH", "/drives/rootfs", json!({ "drive_id": "rootfs" }), "before starting"),
        ("PATCH", "/balloon", json!({ "amount_mib": 1 }), "before starting"),
        ("PUT", "/snapshot/create", json!({ "snapshot_path": "s", "mem_file_path": "m" }), "before starting"),
        ("PUT", "/snapshot", json!({}), "Missing snapshot"),
        ("PUT", "/snapshot/restore", json!({}), "Invalid request method"),
        ("PUT", "/serial", json!({ "path": "x" }), "unknown field"),
        ("PUT", "/machine", json!({}), "Invalid request method"),
        ("PUT", "/machine-config/x", json!({}), "Invalid request method"),
        ("POST", "/actions", json!({ "action_type": "InstanceStart" }), "Invalid HTTP Method"),
        ("PATCH", "/boot-source", json!({}), "Invalid request method"),
        ("DELETE", "/machine-config", Value::Null, "Invalid request method"),
        ("GET", "/", json!({}), "cannot have a body"),
    ];
    for (method, path, body, what) in cases {
        monitor.refuses(method, path, &body, what);
    }
    for (method, path, with) in
        [("PUT", "/actions", "Empty PUT"), ("PATCH", "/vm", "Empty PATCH"), ("GET", "/x", "Invalid")]
    {
        let (status, answer) = monitor.try_request(method, path, None).unwrap();
        assert!(status == 400 && answer["fault_message"].as_str().unwrap().contains(with), "{method} {path}: {answer}");
    }
    // The last of two fields with one name would win in a parser that is not strict.
    let twice = r#"{"vcpu_count": 1, "vcpu_count": 2, "mem_size_mib": 64}"#;
    assert_eq!(monitor.try_request("PUT", "/machine-config", Some(twice)).unwrap().0, 400);
}

#[test]
fn a_drive_that_is_only_read_needs_no_more_and_there_is_one_root() {
    let bench = Bench::new(&json!({}));
    let monitor = bench.start();
    monitor.put("/drives/rootfs", &rootfs());
    // The same id again replaces it.
    monitor.put("/drives/rootfs", &rootfs());
    let mut other = drive_with("drive_id", json!("scratch"));
    monitor.refuses("PUT", "/drives/scratch", &other, "root block device already exists");
    other["is_root_device"] = json!(false);
    other["rate_limiter"] =
        json!({ "bandwidth": { "size": 10, "one_time_burst": 5, "refill_time": 100 }, "ops": null });
    monitor.put("/drives/scratch", &other);
    assert_eq!(monitor.get("/vm/config")["drives"].as_array().unwrap().len(), 2);
}

#[test]
fn what_a_machine_is_told_comes_back() {
    let bench = Bench::new(&json!({}));
    let monitor = bench.start();
    monitor.put("/logger", &json!({ "log_path": "log", "level": "Debug", "show_level": true }));
    monitor.put("/metrics", &json!({ "metrics_path": "metrics" }));
    monitor.refuses("PUT", "/metrics", &json!({ "metrics_path": "metrics" }), "Reinitialization");
    monitor.put("/entropy", &json!({}));
    monitor.put("/balloon", &json!({ "amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 1 }));
    monitor.put("/mmds", &json!({ "a": { "b": 1, "c": 2 } }));
    monitor.does("PATCH", "/mmds", &json!({ "a": { "b": null } }));
    assert_eq!(monitor.get("/mmds"), json!({ "a": { "c": 2 } }));
    let info = monitor.get("/");
    assert_eq!(
        info,
        json!({ "id": "test", "state": "Not started", "vmm_version": "1.16.1", "app_name": "Firecracker" })
    );
    monitor.configure();
    monitor.does("PATCH", "/machine-config", &json!({ "track_dirty_pages": true }));
    let machine = monitor.get("/machine-config");
    assert_eq!((&machine["mem_size_mib"], &machine["track_dirty_pages"]), (&json!(64), &json!(true)));
    assert_eq!(monitor.get("/vm/config")["vsock"], json!({ "guest_cid": 3, "uds_path": "v.sock" }));
    assert_eq!(monitor.get("/version")["firecracker_version"], "1.16.1");
    // The balloon is held against the machine, and the machine against the balloon.
    monitor.put("/balloon", &json!({ "amount_mib": 32, "deflate_on_oom": true, "stats_polling_interval_s": 1 }));
    monitor.refuses("PATCH", "/machine-config", &json!({ "mem_size_mib": 16 }), "balloon");
    monitor.act("InstanceStart");
    assert_eq!(monitor.get("/")["state"], "Running");
    assert_eq!(monitor.get("/balloon/statistics")["target_mib"], 32);
    monitor.does("PATCH", "/balloon", &json!({ "amount_mib": 8 }));
    monitor.refuses("PATCH", "/balloon/statistics", &json!({ "stats_polling_interval_s": 0 }), "enabled/disabled");
    monitor.act("FlushMetrics");
    assert!(std::fs::read_to_string(bench.path("metrics")).unwrap().starts_with('{'));
}

#[test]
fn what_is_configured_before_the_start_is_refused_after_it() {
    let bench = Bench::new(&json!({}));
    let monitor = bench.start();
    monitor.configure();
    monitor.act("InstanceStart");
    let after = "after starting";
    let load = json!({ "snapshot_path": "s", "mem_file_path": "m" });
    #[rustfmt::skip]
    let cases = [
        ("PUT", "/machine-config", json!({ "vcpu_count": 1, "mem_size_mib": 64 }), after),
        ("PATCH", "/machine-config", json!({ "vcpu_count": 1 }), after),
        ("PUT", "/boot-source", json!({ "kernel_image_path": "vmlinux" }), after),
        ("PUT", "/vsock", json!({ "guest_cid": 3, "uds_path": "w.sock" }), after),
        ("PUT", "/entropy", json!({}), after),
        ("PUT", "/balloon", json!({ "amount_mib": 0, "deflate_on_oom": true }), after),
        ("PUT", "/logger", json!({ "level": "Info" }), after),
        ("PUT", "/metrics", json!({ "metrics_path": "metrics" }), after),
        ("PUT", "/serial", json!({}), after),
        ("PUT", "/cpu-config", json!({}), after),
        ("PUT", "/actions", json!({ "action_type": "InstanceStart" }), after),
        ("PUT", "/snapshot/load", load, after),
        ("PUT", "/drives/rootfs", rootfs(), "PCI is not enabled"),
        ("PUT", "/mmds", json!({}), "not initialized"),
        ("PATCH", "/balloon", json!({ "amount_mib": 0 }), "No balloon"),
        ("PATCH", "/drives/other", json!({ "drive_id": "other", "path_on_host": "rootfs.ext4" }), "not found"),
        ("PATCH", "/drives/rootfs", json!({ "drive_id": "rootfs", "path_on_host": "nowhere" }), "nowhere"),
        ("PATCH", "/network-interfaces/eth0", json!({ "iface_id": "eth0" }), "not found"),
        ("PUT", "/snapshot/create", json!({ "snapshot_path": "s", "mem_file_path": "m" }), "while running"),
    ];
    for (method, path, body, what) in cases {
        monitor.refuses(method, path, &body, what);
    }
    let limiter = json!({ "bandwidth": { "size": 0, "refill_time": 0 } });
    monitor.does("PATCH", "/drives/rootfs", &json!({ "drive_id": "rootfs", "rate_limiter": limiter }));
}

#[test]
fn a_field_or_path_of_a_later_version_is_unknown() {
    let bench = Bench::new(&json!({ "version": "1.7.0" }));
    let monitor = bench.start();
    let file = json!({ "backend_type": "File", "backend_path": "m" });
    let load = |field: &str, value: Value| {
        let mut load = json!({ "snapshot_path": "s", "mem_backend": file });
        load[field] = value;
        load
    };
    #[rustfmt::skip]
    let cases = [
        ("/serial", json!({}), "Invalid request method"),
        ("/pmem/p", json!({ "id": "p", "path_on_host": "rootfs.ext4" }), "Invalid request method"),
        ("/hotplug/memory", json!({ "total_size_mib": 128 }), "Invalid request method"),
        ("/balloon", json!({ "amount_mib": 1, "deflate_on_oom": true, "free_page_hinting": true }), "unknown field"),
        ("/network-interfaces/e", json!({ "iface_id": "e", "host_dev_name": "t", "mtu": 1400 }), "unknown field"),
        ("/mmds/config", json!({ "network_interfaces": ["e"], "imds_compat": true }), "unknown field"),
        ("/snapshot/load", load("network_overrides", json!([])), "unknown field"),
        ("/snapshot/load", load("vsock_override", json!({ "uds_path": "w.sock" })), "unknown field"),
        ("/snapshot/load", load("track_dirty_pages", json!(true)), "unknown field"),
        ("/snapshot/load", load("clock_realtime", json!(true)), "unknown field"),
        ("/logger", json!({ "log_path": "not-made" }), "No such file"),
    ];
    for (path, body, with) in cases {
        monitor.refuses("PUT", path, &body, with);
    }
    assert_eq!(monitor.get("/version")["firecracker_version"], "1.7.0");
    monitor.configure();
    monitor.act("InstanceStart");
    monitor.refuses("PUT", "/drives/rootfs", &rootfs(), "after starting");
}

#[test]
fn what_will_go_is_marked_and_what_is_too_large_is_refused() {
    let bench = Bench::new(&json!({}));
    let _monitor = bench.start();
    let socket = bench.path("api.sock");
    let vsock = json!({ "vsock_id": "1", "guest_cid": 3, "uds_path": "v.sock" }).to_string();
    let (status, head, _) = exchange(&socket, "PUT", "/vsock", Some(&vsock)).unwrap();
    assert!(status == 204 && head.contains("deprecation: true"), "{status} {head}");
    assert!(head.contains("server: firecracker api"), "{head}");
    let large = json!({ "a": "x".repeat(60_000) }).to_string();
    let (status, _, body) = exchange(&socket, "PUT", "/mmds", Some(&large)).unwrap();
    assert!(status == 400 && body.contains("\"error\""), "{status} {body}");
}

#[test]
fn the_command_line_is_held_against_what_is_known() {
    let bench = Bench::new(&json!({}));
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--nonsense"], 153, "wasn't expected"),
        (&["--api-sock"], 153, "requires a value"),
        (&["--api-sock", "a", "--api-sock", "b"], 153, "more than once"),
        (&["--no-api"], 153, "config-file"),
        (&["--no-seccomp"], 2, "must not turn seccomp off"),
        (&["--no-seccomp", "--seccomp-filter", "f"], 153, "cannot be used together"),
        (&["--id", "a_b"], 1, "Invalid instance ID"),
        (&["--level", "Loud"], 152, "logger level"),
        (&["--start-time-us", "now"], 1, "u64"),
    ];
    for (arguments, code, with) in cases {
        let (status, _, error) = bench.run(arguments);
        assert!(status == Some(code) && error.contains(with), "{arguments:?}: {status:?} {error}");
    }
    assert!(bench.run(&["--version"]).1.starts_with("Firecracker v1.16.1\n"));
    bench.set(&json!({ "version": "1.7.0" }));
    assert!(bench.run(&["--version"]).1.starts_with("Firecracker v1.7.0\n"));
    assert_eq!(bench.run(&["--enable-pci"]).0, Some(153));
    assert!(bench.run(&["--snapshot-version"]).1.starts_with("v1.0.0"));
    // A socket that is there, also one that nobody listens on, is not taken over.
    bench.set(&json!({ "faults": { "die_at_start": true } }));
    assert_eq!(bench.run(&["--api-sock", "a"]).0, Some(1));
    bench.set(&json!({}));
    drop(std::os::unix::net::UnixListener::bind(bench.path("api.sock")).unwrap());
    let (status, _, error) = bench.run(&["--api-sock", "api.sock"]);
    assert!(status == Some(1) && error.contains("api.sock"), "{error}");
}
