//! The jailer: what it refuses, and the jail that it makes. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

mod monitor;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Output};

use monitor::{Bench, Monitor, birth, line};
use serde_json::{Value, json};

/// A user that nobody is.
const NOBODY: u32 = 65_534;

struct Yard {
    bench: Bench,
}

impl Yard {
    fn new(settings: &Value) -> Self {
        let bench = Bench::new(settings);
        let jailer = env!("CARGO_BIN_EXE_jailer-stand-in");
        if std::fs::hard_link(jailer, bench.path("jailer-stand-in")).is_err() {
            std::fs::copy(jailer, bench.path("jailer-stand-in")).unwrap();
        }
        std::fs::create_dir(bench.path("jails")).unwrap();
        // What a driver puts into a jail before it starts the jailer.
        Self { bench }
    }

    fn jail(&self, id: &str) -> PathBuf {
        self.bench.path("jails/firecracker-stand-in").join(id).join("root")
    }

    /// With everything that is needed, and changed by what is given.
    fn command(&self, changes: &[(&str, &str)], more: &[&str]) -> Command {
        let (program, jails) = (self.bench.program(), self.bench.path("jails"));
        let mut given = vec![
            ("--id", "a-1"),
            ("--exec-file", program.to_str().unwrap()),
            ("--uid", "65534"),
            ("--gid", "65534"),
            ("--chroot-base-dir", jails.to_str().unwrap()),
        ];
        for (name, value) in changes {
            given.retain(|(other, _)| other != name);
            given.push((name, value));
        }
        let mut command = Command::new(self.bench.path("jailer-stand-in"));
        given.iter().filter(|(_, value)| !value.is_empty()).for_each(|(name, value)| {
            command.args([name, value]);
        });
        command.args(more).current_dir("/").env_clear();
        command
    }

    fn output(&self, changes: &[(&str, &str)], more: &[&str]) -> Output {
        self.command(changes, more).output().unwrap()
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: a jail can only be made by root");
    }
    root
}

#[test]
fn a_command_line_that_is_wrong_starts_nothing() {
    let yard = Yard::new(&json!({}));
    std::fs::copy("/bin/true", yard.bench.path("vmm")).unwrap();
    let vmm = yard.bench.path("vmm");
    #[rustfmt::skip]
    let cases: [(&str, &str, &str); 17] = [
        ("--id", "", "'id' required"),
        ("--id", "a_1", "Invalid instance ID"),
        ("--id", "../a", "Invalid instance ID"),
        ("--exec-file", "", "'exec-file' required"),
        ("--exec-file", "bin/firecracker", "relative"),
        ("--exec-file", "/nowhere/firecracker", "canonicalize"),
        ("--exec-file", "/tmp", "not a file"),
        ("--uid", "nobody", "Invalid uid"),
        ("--gid", "-5", "Invalid gid"),
        ("--chroot-base-dir", "/nowhere", "canonicalize"),
        ("--parent-cgroup", "../up", "Parent cgroup"),
        ("--cgroup-version", "x", "cgroup version"),
        ("--cgroup", "cpu.max", "Invalid format for cgroups"),
        ("--resource-limit", "cpu=1", "Invalid resource argument"),
        ("--resource-limit", "fsize", "Invalid format for resources"),
        ("--resource-limit", "no-file=x", "Invalid limit value"),
        ("--api-sock", "a", "wasn't expected"),
    ];
    for (name, value, with) in cases {
        let output = yard.output(&[(name, value)], &[]);
        let error = String::from_utf8_lossy(&output.stderr);
        // A host without the hierarchy of version 1 says so first.
        let hierarchy = name == "--cgroup" && error.contains("Hierarchy not found");
        assert!(output.status.code() == Some(1) && (error.contains(with) || hierarchy), "{name} {value}: {error}");
    }
    assert_eq!(std::fs::read_dir(yard.bench.path("jails")).unwrap().count(), 0);
    // Early versions want the name in the program's name.
    yard.bench.set(&json!({ "version": "1.7.0" }));
    let output = yard.output(&[("--exec-file", vmm.to_str().unwrap())], &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("must contain"), "{output:?}");
    let version = Command::new(yard.bench.path("jailer-stand-in")).arg("--version").output().unwrap();
    assert!(version.stdout.starts_with(b"Jailer v1.7.0"), "{version:?}");
}

#[test]
fn a_machine_in_a_jail_is_another_user_and_knows_nothing_above_it() {
    if !is_root() {
        return;
    }
    let yard = Yard::new(&json!({}));
    let agent =
        yard.bench.agent("exec 3<&0; echo \"$(id -u) $(pwd) $(touch artifact && echo wrote)\" >&3; exec cat <&3 >&3");
    yard.bench.set(&json!({ "agent": agent }));
    let jail = yard.jail("a-1");
    std::fs::create_dir_all(&jail).unwrap();
    for file in ["vmlinux", "rootfs.ext4"] {
        std::fs::hard_link(yard.bench.path(file), jail.join(file)).unwrap();
    }
    let command = yard.command(&[], &["--", "--api-sock", "api.sock"]);
    let monitor = Monitor::started(command, &jail);
    for folder in ["", "dev", "dev/net", "run"] {
        let meta = std::fs::metadata(jail.join(folder)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (NOBODY, NOBODY, 0o700), "{folder}");
    }
    // Without a process id namespace the jailer becomes the program.
    let pid = std::fs::read_to_string(jail.join("firecracker-stand-in.pid")).unwrap();
    assert_eq!(pid, monitor.pid().to_string());
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    assert!(limits.lines().any(|line| line.starts_with("Max open files            2048")), "{limits}");
    assert_eq!(monitor.get("/")["id"], "a-1");
    // A file that is root's can be read and not be written.
    let mut writable = monitor::rootfs();
    writable["is_read_only"] = json!(false);
    monitor.refuses("PUT", "/drives/rootfs", &writable, "Permission denied");
    monitor.configure();
    monitor.act("InstanceStart");
    let mut monitor = monitor;
    monitor.wait_for_line("nex-init: ready");
    let (mut link, _) = monitor.link("v.sock", &birth('a'));
    assert_eq!(line(&mut link), "65534 /var/lib/nex wrote");
    drop(monitor);
    assert!(!std::path::Path::new("/var/lib/nex/artifact").exists());

    // A jail is made once.
    let output = yard.output(&[], &["--", "--version"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("mknod") || error.contains(".pid"), "{error}");
}

#[test]
fn with_a_process_id_namespace_the_jailer_ends_and_the_file_names_the_machine() {
    if !is_root() {
        return;
    }
    let yard = Yard::new(&json!({}));
    let jail = yard.jail("a-1");
    let output = yard.output(&[], &["--new-pid-ns", "--daemonize", "--", "--api-sock", "api.sock"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let pid = std::fs::read_to_string(jail.join("firecracker-stand-in.pid")).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{status}");
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_program_in_the_jail_that_has_another_name_is_not_written_to() {
    if !is_root() {
        return;
    }
    let yard = Yard::new(&json!({}));
    let jail = yard.jail("a-1");
    std::fs::create_dir_all(&jail).unwrap();
    std::fs::write(yard.bench.path("precious"), "as it was").unwrap();
    std::fs::hard_link(yard.bench.path("precious"), jail.join("firecracker-stand-in")).unwrap();
    let output = yard.output(&[], &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("hard link"), "{output:?}");
    assert_eq!(std::fs::read_to_string(yard.bench.path("precious")).unwrap(), "as it was");
}

#[test]
fn a_user_without_access_to_what_a_machine_needs_is_told_by_the_kernel() {
    if !is_root() {
        return;
    }
    let yard = Yard::new(&json!({}));
    let closed = yard.bench.path("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    let program = closed.join("firecracker-stand-in");
    std::fs::hard_link(yard.bench.program(), &program).unwrap();
    chown(&closed, Some(0), Some(0)).unwrap();
    let output = yard.output(&[("--exec-file", program.to_str().unwrap())], &["--", "--version"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"), "{output:?}");
}

#[test]
fn a_network_namespace_that_is_not_there_is_refused() {
    if !is_root() {
        return;
    }
    let yard = Yard::new(&json!({}));
    let output = yard.output(&[("--netns", "/run/netns/nex-no-such")], &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("nex-no-such"), "{output:?}");
}

/// A network namespace with a tap that belongs to the jail's user; gone with this.
struct Namespace(String);

impl Namespace {
    fn new() -> Option<Self> {
        let namespace = Self(format!("nex-stand-in-{}", std::process::id()));
        let name = namespace.0.as_str();
        let made = ip(&["netns", "add", name])
            && ip(&["-n", name, "tuntap", "add", "tap0", "mode", "tap", "user", "65534", "vnet_hdr"])
            && ip(&["-n", name, "tuntap", "add", "tap1", "mode", "tap", "user", "1", "vnet_hdr"]);
        if !made {
            eprintln!("skipped: no network namespace with taps can be made here (it takes root and `ip`)");
        }
        made.then_some(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "delete", &self.0]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).status().is_ok_and(|status| status.success())
}

#[test]
fn a_tap_is_taken_from_the_namespace_that_was_named_and_by_its_owner_only() {
    if !is_root() {
        return;
    }
    let Some(namespace) = Namespace::new() else { return };
    let yard = Yard::new(&json!({}));
    let netns = format!("/run/netns/{}", namespace.0);
    let start = |id: &str| {
        let command = yard.command(&[("--id", id), ("--netns", &netns)], &["--", "--api-sock", "api.sock"]);
        Monitor::started(command, &yard.jail(id))
    };
    let network = |tap: &str| json!({ "iface_id": "eth0", "host_dev_name": tap, "guest_mac": "06:00:ac:10:00:02" });
    let first = start("a-1");
    first.refuses("PUT", "/network-interfaces/eth0", &network("tap1"), "Operation not permitted");
    first.refuses("PUT", "/network-interfaces/eth0", &network("tap2"), "Operation not permitted");
    first.put("/network-interfaces/eth0", &network("tap0"));
    // The same machine may say it again, another one finds it taken.
    first.put("/network-interfaces/eth0", &network("tap0"));
    first.put("/mmds/config", &json!({ "version": "V2", "network_interfaces": ["eth0"] }));
    let second = start("a-2");
    second.refuses("PUT", "/network-interfaces/eth0", &network("tap0"), "busy");
    let mut same = network("tap0");
    same["iface_id"] = json!("eth1");
    first.refuses("PUT", "/network-interfaces/eth1", &same, "already in use");
}
