//! A native service that tries to get out of its sandbox, or to wear it down. Its arguments say what to try; each attempt
//! is a line of its output: `NAME: done …` or `NAME: refused …`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

fn main() {
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "say" => println!("{}", arguments.next().unwrap_or_default()),
            "flood" => (0..5000).for_each(|number| println!("flood {number} {}", "x".repeat(100))),
            "room" => {
                let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
                println!("room {}", text.split_whitespace().nth(1).unwrap_or_default());
            }
            "stay" => std::thread::sleep(Duration::from_secs(3600)),
            "exit" => std::process::exit(arguments.next().and_then(|code| code.parse().ok()).unwrap_or(0)),
            "who" => tell("who", fs::read_to_string("/proc/self/status").map(|text| identity(&text))),
            "environment" => {
                let names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
                println!("environment: done {}", names.join(","));
            }
            "root" => {
                for path in ["/dev/vda", "/sbin/nex-init", "/usr/libexec/nex-agent", "/etc/passwd"] {
                    tell(path, OpenOptions::new().write(true).open(path).map(|_| String::new()));
                }
            }
            "link" => {
                for entry in fs::read_dir("/dev").into_iter().flatten().flatten() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if name.starts_with("vport") || name.starts_with("hvc") {
                        tell("link", OpenOptions::new().read(true).write(true).open(entry.path()).map(|_| name));
                    }
                }
                tell(
                    "memory of the agent",
                    File::open(format!("/proc/{}/mem", std::os::unix::process::parent_id())).map(|_| String::new()),
                );
            }
            "network" => {
                for place in
                    ["10.0.2.2:4222", "169.254.169.254:80", "192.168.127.1:4222", "127.0.0.1:4222", "1.1.1.1:53"]
                {
                    let address: SocketAddr = place.parse().expect("an address");
                    tell(place, TcpStream::connect_timeout(&address, Duration::from_secs(2)).map(|_| String::new()));
                }
            }
            "connect" => {
                let place = arguments.next().unwrap_or_default();
                let address: SocketAddr = place.parse().expect("an address");
                tell(&place, TcpStream::connect_timeout(&address, Duration::from_secs(5)).map(|_| String::new()));
            }
            "address" => {
                let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
                println!("address: {}", text.split_whitespace().collect::<Vec<_>>().join(" "));
            }
            "vsock" => {
                // The host, this machine, and what would be others.
                for cid in [2, 1, 3, 4, 5] {
                    for port in [1024, 1025, 52] {
                        let connected = vsock::VsockStream::connect_with_cid_port(cid, port);
                        tell(&format!("vsock {cid}:{port}"), connected.map(|_| String::new()));
                    }
                }
            }
            "fill" => tell("fill", fill()),
            "fork" => tell("fork", fork()),
            "eat" => {
                let mut eaten: Vec<Vec<u8>> = Vec::new();
                loop {
                    eaten.push(vec![1; 1 << 20]);
                }
            }
            other => println!("{other}: unknown"),
        }
    }
}

fn tell(name: &str, result: std::io::Result<String>) {
    match result {
        Ok(what) => println!("{name}: done {what}"),
        Err(error) => println!("{name}: refused ({error})"),
    }
}

fn identity(status: &str) -> String {
    let wanted = |line: &&str| ["Uid:", "NoNewPrivs:", "CapEff:"].iter().any(|name| line.starts_with(name));
    status.lines().filter(wanted).map(|line| line.replace('\t', " ")).collect::<Vec<_>>().join("; ")
}

/// Writes until the space is used up.
fn fill() -> std::io::Result<String> {
    let mut file = File::create("filling")?;
    let block = vec![7; 1 << 20];
    for written in 0..1_000_000 {
        if let Err(error) = file.write_all(&block) {
            let _ = fs::remove_file("filling");
            return Ok(format!("stopped after {written} MiB: {error}"));
        }
    }
    Err(std::io::Error::other("there is no end of it"))
}

/// Starts copies of itself until the system has had enough.
fn fork() -> std::io::Result<String> {
    let own = std::env::current_exe()?;
    let mut children = Vec::new();
    let stopped = loop {
        match std::process::Command::new(&own).arg("stay").spawn() {
            Ok(child) => children.push(child),
            Err(error) => break error,
        }
        if children.len() == 100_000 {
            return Err(std::io::Error::other("there is no end of it"));
        }
    };
    let count = children.len();
    for mut child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
    Ok(format!("stopped after {count}: {stopped}"))
}
