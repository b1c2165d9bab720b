//! A stand-in that runs, and an HTTP client that is as plain as a driver's may be.

#![allow(dead_code)] // each test binary uses its part

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with the program, its settings, a kernel and an image.
pub(crate) struct Bench {
    folder: TempDir,
}

impl Bench {
    pub(crate) fn new(settings: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let bench = Self { folder };
        let program = env!("CARGO_BIN_EXE_firecracker-stand-in");
        if std::fs::hard_link(program, bench.program()).is_err() {
            std::fs::copy(program, bench.program()).unwrap();
        }
        bench.set(settings);
        let mut kernel = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        kernel.resize(64, 0);
        kernel[18] = 62;
        std::fs::write(bench.path("vmlinux"), kernel).unwrap();
        let mut image = vec![0; 4096];
        image[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        std::fs::write(bench.path("rootfs.ext4"), image).unwrap();
        bench
    }

    pub(crate) fn set(&self, settings: &Value) {
        std::fs::write(self.path("stand-in.json"), settings.to_string()).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.path("firecracker-stand-in")
    }

    /// A script in the place of the agent.
    pub(crate) fn agent(&self, script: &str) -> PathBuf {
        let path = self.path("fake-agent");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    /// Runs it with these arguments; code, standard output, standard error.
    pub(crate) fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(self.program())
            .args(arguments)
            .current_dir(self.folder())
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// Starts a monitor whose current folder this is.
    pub(crate) fn start(&self) -> Monitor {
        self.start_in(self.folder(), &[])
    }

    pub(crate) fn start_in(&self, folder: &Path, more: &[&str]) -> Monitor {
        let mut command = Command::new(self.program());
        command.args(["--api-sock", "api.sock", "--id", "test"]).args(more).current_dir(folder).env_clear();
        Monitor::started(command, folder)
    }
}

/// A monitor that answers.
pub(crate) struct Monitor {
    child: Child,
    lines: BufReader<ChildStdout>,
    folder: PathBuf,
    pub(crate) seen: Vec<String>,
}

impl Monitor {
    pub(crate) fn started(mut command: Command, folder: &Path) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut monitor = Self { child, lines, folder: folder.to_owned(), seen: Vec::new() };
        monitor.wait_for_line("API server started.");
        monitor
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads its output up to a line with this in it.
    pub(crate) fn wait_for_line(&mut self, text: &str) {
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "no '{text}' in {:#?}", self.seen);
            self.seen.push(line.trim_end().to_owned());
            if line.contains(text) {
                return;
            }
        }
    }

    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub(crate) fn try_request(&self, method: &str, path: &str, body: Option<&str>) -> std::io::Result<(u16, Value)> {
        let (status, _, body) = exchange(&self.folder.join("api.sock"), method, path, body)?;
        Ok((status, serde_json::from_str(&body).unwrap_or(Value::Null)))
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, body) = self.try_request("GET", path, None).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub(crate) fn does(&self, method: &str, path: &str, body: &Value) {
        let (status, answer) = self.try_request(method, path, Some(&body.to_string())).unwrap();
        assert_eq!(status, 204, "{method} {path} {body}: {answer}");
    }

    pub(crate) fn put(&self, path: &str, body: &Value) {
        self.does("PUT", path, body);
    }

    /// Sends what must be refused with 400 and this in the message.
    pub(crate) fn refuses(&self, method: &str, path: &str, body: &Value, with: &str) {
        let (status, answer) = self.try_request(method, path, Some(&body.to_string())).unwrap();
        let message = answer["fault_message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(with), "{method} {path} {body}: {status} {answer}, not '{with}'");
    }

    /// Up to a machine that could be started.
    pub(crate) fn configure(&self) {
        self.put("/machine-config", &json!({ "vcpu_count": 1, "mem_size_mib": 64 }));
        self.put(
            "/boot-source",
            &json!({ "kernel_image_path": "vmlinux", "boot_args": "console=ttyS0 reboot=k panic=1" }),
        );
        self.put("/drives/rootfs", &rootfs());
        self.put("/vsock", &json!({ "guest_cid": 3, "uds_path": "v.sock" }));
    }

    pub(crate) fn act(&self, action: &str) {
        self.put("/actions", &json!({ "action_type": action }));
    }

    pub(crate) fn set_state(&self, state: &str) {
        self.does("PATCH", "/vm", &json!({ "state": state }));
    }

    /// Connects to the guest's port; the answer to the request, empty when the connection was closed.
    pub(crate) fn connect(&self, socket: &str, request: &str) -> (UnixStream, String) {
        let mut stream = UnixStream::connect(self.folder.join(socket)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let answer = line(&mut stream);
        (stream, answer)
    }

    /// The link, after the birth message; with what it was answered.
    pub(crate) fn link(&self, socket: &str, birth: &Value) -> (UnixStream, String) {
        let (mut stream, ok) = self.connect(socket, "CONNECT 1024\n");
        assert!(ok.starts_with("OK 1073741824"), "{ok:?}");
        stream.write_all(format!("{birth}\n").as_bytes()).unwrap();
        let answer = line(&mut stream);
        (stream, answer)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn rootfs() -> Value {
    json!({ "drive_id": "rootfs", "path_on_host": "rootfs.ext4", "is_root_device": true, "is_read_only": true })
}

/// A birth message with entropy made of this digit and others.
pub(crate) fn birth(digit: char) -> Value {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let entropy = format!("{digit}123456789abcdef").repeat(4);
    json!({
        "clock_unix_ms": u64::try_from(now).unwrap(), "entropy": entropy, "name": "machine",
        "network": null,
    })
}

/// A line without reading beyond it; what there was when the connection ended before.
pub(crate) fn line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while let Ok(1) = stream.read(&mut byte) {
        if byte == *b"\n" {
            break;
        }
        line.extend(byte);
    }
    String::from_utf8_lossy(&line).into_owned()
}

/// One request on one connection: status, head, body.
pub(crate) fn exchange(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> std::io::Result<(u16, String, String)> {
    let mut stream = UnixStream::connect(socket)?;
    let body = body.unwrap_or_default();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, head.to_lowercase(), body.to_owned()))
}
