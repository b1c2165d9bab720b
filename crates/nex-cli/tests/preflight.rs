//! `nex node preflight`: looks, asks nobody, installs, and says by its exit status how it is.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails should say where; the exemption for tests does not reach their shared functions"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A machine as far as `nex` looks: a home, a folder of downloads, and a manifest that means them.
struct Machine {
    folder: tempfile::TempDir,
    /// In the folder, so that what lies beside it is the test's.
    nex: PathBuf,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nex = folder.path().join("nex");
        // The same file where that is possible: it is large.
        let built = env!("CARGO_BIN_EXE_nex");
        if std::fs::hard_link(built, &nex).is_err() {
            std::fs::copy(built, &nex).unwrap();
        }
        Self { folder, nex }
    }

    /// One whose downloads are all there: Firecracker, its jailer and a kernel; and whose root image can be built.
    fn with_downloads() -> Self {
        let machine = Self::new();
        std::fs::create_dir(machine.path("downloads")).unwrap();
        std::fs::create_dir(machine.path("guest")).unwrap();
        for name in ["nex-agent", "nex-init"] {
            std::fs::write(machine.path("guest").join(name), elf()).unwrap();
        }
        let archive = tar_gz(&[
            ("r/firecracker", "#!/bin/sh\necho Firecracker v1.16.1\n"),
            ("r/jailer", "#!/bin/sh\necho Jailer v1.16.1\n"),
        ]);
        let members = json!({ "firecracker": "r/firecracker", "jailer": "r/jailer" });
        let pieces = json!({
            "firecracker": machine.offer("fc.tgz", &archive, &json!({ "kind": "tar-gz", "members": members })),
            "kernel": machine.offer("vmlinux-1", &kernel(), &json!({ "kind": "file" })),
        });
        machine.file("manifest.json", &json!({ "pieces": pieces }).to_string());
        let resources = machine.path("resources");
        let config = json!({
            "default_resource_dir": resources, "bin_path": [resources.join("bin")], "state_dir": machine.path("state"),
            "machine_template": { "memsize_mib": 32 }, "workload_types": ["native", "wasm"],
        });
        machine.file("config.json", &config.to_string());
        machine
    }

    fn offer(&self, name: &str, content: &[u8], holds: &Value) -> Value {
        std::fs::write(self.path("downloads").join(name), content).unwrap();
        let source = json!({
            "url": format!("http://127.0.0.1:9/{name}"), "sha256": hex::encode(Sha256::digest(content)),
            "bytes": content.len(), "holds": holds,
        });
        json!({ "version": "9.9", "sources": { std::env::consts::ARCH: source } })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.nex);
        command.env_clear().env("HOME", self.folder.path()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.current_dir(self.folder.path()).args(["node", "preflight"]).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Exit status, standard output, and the one line of standard error.
    fn outcome(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.run(arguments);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(stderr.lines().count() <= 1, "{arguments:?}: {stderr}");
        (output.status.code().unwrap(), stdout, stderr)
    }

    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let (code, stdout, _) = self.outcome(arguments);
        (code, serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}")))
    }
}

/// What a check says of itself.
fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let found = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// The smallest program there is: an ELF header for this machine and no more.
fn elf() -> Vec<u8> {
    let mut header = vec![0u8; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header[16] = 2;
    header[18] = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    header[20] = 1;
    header[52] = 64;
    header[54] = 56;
    header
}

fn kernel() -> Vec<u8> {
    let mut content = elf();
    if cfg!(target_arch = "aarch64") {
        content[..4].copy_from_slice(b"\0\0\0\0");
        content[0x38..0x3c].copy_from_slice(b"ARM\x64");
    }
    content
}

fn tar_gz(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

fn tools() -> bool {
    let found = Path::new("/usr/sbin/mke2fs").exists() || Path::new("/sbin/mke2fs").exists();
    if !found {
        eprintln!("SKIPPED: no root image was built: there is no mke2fs");
    }
    found
}

#[test]
fn init_writes_a_configuration_once_and_never_over_one() {
    let machine = Machine::new();
    let (_, stdout, _) = machine.outcome(&["--init", "nosandbox", "--check"]);
    assert!(stdout.contains("Configuration config.json written"), "{stdout}");
    let written = std::fs::read_to_string(machine.path("config.json")).unwrap();
    assert!(written.contains("\"no_sandbox\": true"), "{written}");
    let (_, stdout, _) = machine.outcome(&["--init", "sandbox", "--check"]);
    assert!(stdout.contains("is there already and was not changed"), "{stdout}");
    assert_eq!(std::fs::read_to_string(machine.path("config.json")).unwrap(), written);
    machine.outcome(&["--init", "sandbox", "--config", "other.json", "--check"]);
    let other: Value = serde_json::from_str(&std::fs::read_to_string(machine.path("other.json")).unwrap()).unwrap();
    assert_eq!(other["machine_pool_size"], 1, "{other}");
}

#[test]
fn the_exit_status_of_a_check_says_whether_all_is_well() {
    let machine = Machine::new();
    machine.file("config.json", &json!({ "no_sandbox": true, "state_dir": machine.path("state") }).to_string());
    let (code, stdout, stderr) = machine.outcome(&["--check"]);
    assert_eq!(code, 1, "{stdout}");
    assert!(stdout.contains("Dependency Missing - ") && stdout.contains("nex agent"), "{stdout}");
    assert!(stderr.contains("not ready for a node: nex-agent"), "{stderr}");
    assert!(
        !stdout.contains("firecracker") && !stdout.contains("kvm"),
        "a node without a sandbox needs none: {stdout}"
    );

    std::fs::write(machine.path("nex-agent"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(machine.path("nex-agent"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (code, stdout, stderr) = machine.outcome(&["--check"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.contains("Validating - Required binaries"), "{stdout}");
}

#[test]
fn a_check_installs_nothing_whatever_else_is_said() {
    let machine = Machine::with_downloads();
    let (code, report) =
        machine.json(&["--check", "--yes", "--manifest", "manifest.json", "--from", "downloads", "--json"]);
    assert_eq!((code, &report["ok"]), (1, &json!(false)));
    assert_eq!(check(&report, "firecracker")["state"], "missing");
    assert_eq!(check(&report, "firecracker")["installs"], true);
    assert_eq!(report["plan"][0]["what"], "firecracker 9.9", "{report}");
    assert!(!machine.path("resources").exists());
}

#[test]
fn nobody_is_asked_where_there_is_no_terminal_and_nothing_is_installed() {
    let machine = Machine::with_downloads();
    let mut command = machine.command(&["--manifest", "manifest.json", "--from", "downloads"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // An answer nobody asked for.
    let _ = child.stdin.take().unwrap().write_all(b"y\n");
    let output = child.wait_with_output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stdout.contains("To be installed") && !stdout.contains("[y/N]"), "{stdout}");
    assert!(stderr.contains("nothing was installed") && stderr.contains("--yes"), "{stderr}");
    assert!(!machine.path("resources").exists());
}

#[test]
fn what_is_missing_is_installed_from_a_folder_and_the_checklist_is_gone_through_again() {
    if !tools() {
        return;
    }
    let machine = Machine::with_downloads();
    let arguments = ["--yes", "--manifest", "manifest.json", "--from", "downloads", "--json"];
    let (_, report) = machine.json(&arguments);
    assert_eq!(report["installed"].as_array().unwrap().len(), 4, "{report}");
    for name in ["firecracker", "jailer", "kernel", "root_image"] {
        assert_eq!(check(&report, name)["state"], "ok", "{name}: {report}");
    }
    let mut left: Vec<_> = walk(&machine.path("resources"));
    left.sort();
    assert_eq!(left, ["firecracker", "jailer", "rootfs.ext4", "vmlinux"]);
    // Again: there is nothing to do.
    let (_, report) = machine.json(&arguments);
    assert_eq!((&report["installed"], &report["plan"]), (&json!([]), &json!([])));
}

#[test]
fn a_mirror_that_lacks_a_file_leaves_what_was_installed_before_and_half_of_nothing() {
    let machine = Machine::with_downloads();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/nex", listener.local_addr().unwrap());
    let archive = std::fs::read(machine.path("downloads/fc.tgz")).unwrap();
    let server = std::thread::spawn(move || {
        let bodies = [("200 OK", archive), ("404 Not Found", Vec::new())];
        bodies.map(|(status, body)| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
            first
        })
    });
    let (code, _, stderr) = machine.outcome(&["-y", "--manifest", "manifest.json", "--mirror", &url]);
    assert_eq!(code, 1);
    assert!(stderr.contains("404") && stderr.contains("/nex/vmlinux-1") && stderr.contains("--from"), "{stderr}");
    assert_eq!(server.join().unwrap(), ["GET /nex/fc.tgz HTTP/1.1", "GET /nex/vmlinux-1 HTTP/1.1"]);
    let mut left = walk(&machine.path("resources"));
    left.sort();
    assert_eq!(left, ["firecracker", "jailer"]);
}

#[test]
fn the_proxy_of_the_environment_is_asked_for_what_comes_by_tls() {
    let machine = Machine::with_downloads();
    let manifest = std::fs::read_to_string(machine.path("manifest.json")).unwrap();
    machine.file("manifest.json", &manifest.replace("http://127.0.0.1:9/", "https://maker.invalid/"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut first = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut first).unwrap();
        stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").unwrap();
        first
    });
    let output = machine.command(&["-y", "--manifest", "manifest.json"]).env("HTTPS_PROXY", &proxy).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("cannot be reached: by the proxy"), "{stderr}");
    assert!(server.join().unwrap().starts_with("CONNECT maker.invalid:443 "));
    assert!(walk(&machine.path("resources")).is_empty());
}

#[test]
fn a_manifest_or_configuration_that_cannot_be_used_is_said_in_one_line() {
    let machine = Machine::with_downloads();
    machine.file("manifest.json", "{}");
    let (code, _, stderr) = machine.outcome(&["--check", "--manifest", "manifest.json"]);
    assert!(code == 1 && stderr.contains("manifest.json") && stderr.contains("pieces"), "{stderr}");
    let (code, _, stderr) = machine.outcome(&["--check", "--config", "none.json"]);
    assert!(code == 1 && stderr.contains("none.json"), "{stderr}");
}

/// Names of all files below.
fn walk(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let below = |path: PathBuf| {
        if path.is_dir() { walk(&path) } else { vec![path.file_name().unwrap().to_string_lossy().into_owned()] }
    };
    entries.flat_map(|entry| below(entry.unwrap().path())).collect()
}
