//! A server that answers as it is told, and a machine of which everything is known.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nex_preflight::{
    Cni, Fetcher, Finding, GuestPrograms, Machines, Manifest, Monitor, Network, Origin, Patience, Plan, Program,
    Progress, Wanted, examine,
};
use sha2::{Digest, Sha256};

/// What a server says to one request.
pub enum Say {
    /// These bytes, and closes.
    Bytes(Vec<u8>),
    /// These bytes, and then nothing until the client goes away.
    Stall(Vec<u8>),
}

/// A server for as many requests as it has answers.
pub struct Server {
    port: u16,
    heard: Receiver<String>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(answers: Vec<Say>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, heard) = channel();
        let thread = std::thread::spawn(move || {
            for say in answers {
                let (stream, _) = listener.accept().unwrap();
                let _ = tell.send(request(&stream));
                answer(stream, say);
            }
        });
        Self { port, heard, thread: Some(thread) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The requests, once all answers were given.
    pub fn requests(mut self) -> Vec<String> {
        self.thread.take().unwrap().join().unwrap();
        self.heard.try_iter().collect()
    }

    /// The requests so far.
    pub fn heard(&self) -> usize {
        self.heard.try_iter().count()
    }
}

fn request(stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).map(|line| format!("{}\n", line.to_ascii_lowercase())).collect()
}

fn answer(mut stream: TcpStream, say: Say) {
    let (Say::Bytes(bytes) | Say::Stall(bytes)) = &say;
    // A client that has seen enough may be gone.
    let _ = stream.write_all(bytes);
    if matches!(say, Say::Stall(_)) {
        let _ = BufReader::new(stream).read_line(&mut String::new());
    }
}

/// A response with a head of these lines.
pub fn response(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

/// All of a file.
pub fn whole(content: &[u8]) -> Say {
    Say::Bytes(response("200 OK", &[&format!("Content-Length: {}", content.len()), "ETag: \"v1\""], content))
}

/// The beginning of a file, and the end of the connection.
pub fn cut(content: &[u8], at: usize) -> Say {
    let length = format!("Content-Length: {}", content.len());
    Say::Bytes(response("200 OK", &[&length, "ETag: \"v1\""], &content[..at]))
}

/// The rest of a file.
pub fn rest(content: &[u8], from: usize, until: usize) -> Say {
    let last = content.len() - 1;
    let length = format!("Content-Length: {}", content.len() - from);
    let range = format!("Content-Range: bytes {from}-{last}/{}", content.len());
    Say::Bytes(response("206 Partial Content", &[&length, &range, "ETag: \"v1\""], &content[from..until]))
}

pub fn sha256(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// Something that passes for a kernel of this machine.
pub fn kernel() -> Vec<u8> {
    let mut content: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    content[..4].copy_from_slice(b"\x7fELF");
    content[18] = 62;
    content[0x38..0x3c].copy_from_slice(b"ARM\x64");
    content
}

/// A manifest with one piece.
pub fn manifest(piece: &str, url: &str, sha256: &str, bytes: usize, holds: &str) -> Manifest {
    let arch = std::env::consts::ARCH;
    Manifest::parse(&format!(
        r#"{{"pieces":{{"{piece}":{{"version":"9.9","sources":{{"{arch}":
           {{"url":"{url}","sha256":"{sha256}","bytes":{bytes},"holds":{holds}}}}}}}}}}}"#
    ))
    .unwrap()
}

pub fn program(folder: &Path, name: &'static str) -> Program {
    Program { name, key: "key", configured: None, search: vec![folder.to_owned()], install_dir: folder.to_owned() }
}

pub fn write_program(path: &Path, says: &str) {
    std::fs::write(path, format!("#!/bin/sh\necho {says}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A machine with folders of its own.
pub struct Machine {
    pub folder: tempfile::TempDir,
    pub wanted: Wanted,
}

impl Machine {
    /// One that has Firecracker and its jailer, and no kernel.
    pub fn without_a_kernel() -> Self {
        let machine = Self::empty();
        write_program(&machine.path("bin/firecracker"), "Firecracker v1.16.1");
        write_program(&machine.path("bin/jailer"), "Jailer v1.16.1");
        machine
    }

    /// One that has a kernel, and no Firecracker.
    pub fn without_firecracker() -> Self {
        let machine = Self::empty();
        std::fs::write(machine.path("vmlinux"), kernel()).unwrap();
        machine
    }

    fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let machines = Machines {
            monitor: Monitor::Firecracker {
                firecracker: program(&bin, "firecracker"),
                jailer: program(&bin, "jailer"),
                // These tests are nobody's in particular.
                jailed: rustix::process::geteuid().is_root(),
                shared_users: Vec::new(),
            },
            kernel: folder.path().join("vmlinux"),
            initrd: None,
            root_image: folder.path().join("rootfs.ext4"),
            guest_programs: None,
            memory_mib: 32,
            scratch_mib: 0,
            network: Network::None,
        };
        let wanted = Wanted {
            machines: Some(machines),
            agent: program(&bin, "nex-agent"),
            pool_size: 1,
            javascript: false,
            deno: program(&bin, "deno"),
            own_nats: false,
            nats_server: program(&bin, "nats-server"),
            state_dir: folder.path().join("state"),
        };
        Self { folder, wanted }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn machines(&mut self) -> &mut Machines {
        self.wanted.machines.as_mut().unwrap()
    }

    pub fn guest_programs(&mut self, programs: GuestPrograms) {
        self.machines().guest_programs = Some(programs);
    }

    pub fn cni(&mut self, folder: &Path) {
        self.machines().network = Network::Cni(Cni {
            search: vec![folder.to_owned()],
            install_dir: folder.to_owned(),
            conf_dir: folder.join("conf"),
            network_name: "fcnet".to_owned(),
            subnet: "192.168.127.0/24".to_owned(),
            nameservers: Vec::new(),
        });
    }

    pub fn finding(&self, manifest: &Manifest, name: &str) -> Finding {
        examine(&self.wanted, manifest).into_iter().find(|finding| finding.name == name).unwrap()
    }

    pub fn plan(&self, manifest: &Manifest) -> Plan {
        Plan::new(&self.wanted, manifest, &examine(&self.wanted, manifest), &[], false)
    }

    /// Carries out what is to be done; the error's text, when there is one.
    pub fn mend(&self, manifest: &Manifest, origin: Origin) -> Result<Vec<PathBuf>, String> {
        let patience = Patience { connect: Duration::from_secs(5), stall: Duration::from_millis(500) };
        let fetcher = Fetcher::new(origin, patience, &Silent);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(self.plan(manifest).carry_out(&fetcher)).map_err(|error| error.to_string())
    }

    /// Everything in the machine's folder, hidden files too, without the folders of programs.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = [self.folder.path().to_owned(), self.path("bin")]
            .iter()
            .flat_map(|folder| std::fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "bin")
            .collect();
        names.sort();
        names
    }
}

struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64, _: Option<u64>) {}
    fn reached(&self, _: u64) {}
    fn end(&self) {}
}
