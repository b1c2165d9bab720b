//! A small world for tests: a host in a network namespace of the test's own, and an Internet in another, so that the
//! machine that runs the tests is never touched.
//!
//! ```text
//! guest -- slot -- host (10.9.0.2, also 5.5.5.5) -- eth0 ==== internet (10.9.0.1, and all of INTERNET)
//! ```
//! The Internet knows no way to the networks of slots: what comes back was masqueraded.
#![allow(dead_code, unreachable_pub, reason = "each test file takes its part")]

pub mod guest;
pub mod services;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nex_network::{EgressPolicy, Mode, NetworkSettings};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use services::Services;

/// An address of somebody public.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
/// The host's address towards the Internet.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// Another address of the host, a public one.
pub const HOST_PUBLIC: Ipv4Addr = Ipv4Addr::new(5, 5, 5, 5);
/// The host's nameserver.
pub const NAMESERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 53);
/// Where clouds have their credentials.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Everybody beyond the host.
pub const INTERNET: [Ipv4Addr; 9] = [
    PUBLIC,
    NAMESERVER,
    METADATA,
    Ipv4Addr::new(10, 8, 0, 5),
    Ipv4Addr::new(172, 16, 9, 9),
    Ipv4Addr::new(192, 168, 9, 9),
    Ipv4Addr::new(100, 64, 1, 1),
    Ipv4Addr::new(169, 254, 7, 7),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// The ports that everybody answers at.
pub const PORTS: [u16; 4] = [7, 53, 80, 4222];

pub struct World {
    pub internet: Services,
    pub host: Services,
    pub folder: tempfile::TempDir,
}

/// Runs a test in a world of its own. It is skipped where there are no namespaces to be had.
pub fn world<T>(test: impl FnOnce(World) -> T + Send + 'static) {
    let missing = ["ip", "nft"].into_iter().find(|program| Command::new(program).arg("-V").output().is_err());
    if let Some(program) = missing {
        return eprintln!("SKIPPED: there is no program {program}");
    }
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: it takes root to make network namespaces");
    }
    let thread = std::thread::spawn(move || {
        // SAFETY: the thread leaves namespaces only; it shares its files and memory as before.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWNET) }.unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        for folder in ["/run", "/etc/cni", "/var/lib/cni"].map(Path::new).iter().filter(|folder| folder.exists()) {
            mount("tmpfs", *folder, "tmpfs", MountFlags::empty(), None).unwrap();
        }
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        shell("ip netns add internet && ip link set lo up");
        shell("ip link add eth0 mtu 1460 type veth peer name eth0 netns internet");
        shell("ip addr add 10.9.0.2/24 dev eth0 && ip addr add 5.5.5.5/32 dev eth0 && ip link set eth0 up");
        shell("ip route add default via 10.9.0.1");
        inside("ip link set lo up; ip addr add 10.9.0.1/24 dev eth0; ip link set eth0 up");
        for address in INTERNET {
            let device = if address == NAMESERVER { "eth0" } else { "lo" };
            inside(&format!("ip addr add {address}/32 dev {device}"));
        }
        let internet = Services::start(Some("/run/netns/internet"), &INTERNET, &PORTS);
        let host = Services::start(None, &[Ipv4Addr::UNSPECIFIED], &PORTS);
        let folder = tempfile::tempdir().unwrap();
        test(World { internet, host, folder });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl World {
    /// Settings of a node with the built-in networks.
    pub fn settings(&self, egress: &str) -> NetworkSettings {
        self.node("node", "192.168.127.0/24", egress)
    }

    /// Settings of a node of this name and network.
    pub fn node(&self, name: &str, subnet: &str, egress: &str) -> NetworkSettings {
        builtin(self.folder.path().join(name), subnet, egress)
    }
}

/// Settings of a node with this journal.
pub fn builtin(journal_dir: PathBuf, subnet: &str, egress: &str) -> NetworkSettings {
    let egress: EgressPolicy = serde_json::from_str(egress).unwrap();
    let mode = Mode::Builtin { subnet: subnet.parse().unwrap() };
    NetworkSettings { journal_dir, mode, egress, nameservers: vec![NAMESERVER] }
}

/// Runs something to its end, on a runtime whose threads are in the world.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// What a command prints on the host. It must succeed.
pub fn shell(script: &str) -> String {
    let output = Command::new("/bin/sh").args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command prints in the Internet.
pub fn inside(script: &str) -> String {
    shell(&format!("ip netns exec internet sh -c '{script}'"))
}

/// Whether somebody at that address answers who is asked from a namespace.
pub fn is_answered(namespace: &str, address: Ipv4Addr) -> bool {
    let namespace = fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    let asked = std::thread::spawn(move || {
        use std::os::fd::AsFd;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), None).unwrap();
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
        socket.send_to(b"anybody?", (address, 7)).unwrap();
        socket.recv(&mut [0; 64]).is_ok()
    });
    asked.join().unwrap()
}

/// Another network at the host, in a namespace of this name: who it is in there, and how it answers.
pub fn another_network(name: &str, third: u8) -> (Ipv4Addr, Services) {
    shell(&format!(
        "ip netns add {name} && ip link add {name} type veth peer name eth0 netns {name} && ip addr add 10.5.{third}.1/24 \
         dev {name} && ip link set {name} up && ip netns exec {name} sh -c 'ip link set lo up; ip addr add \
         10.5.{third}.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.5.{third}.1'"
    ));
    let address = Ipv4Addr::new(10, 5, third, 2);
    (address, Services::start(Some(&format!("/run/netns/{name}")), &[address], &PORTS))
}

/// Names to a test program, run once more, the folder of the node that it is to be until it is killed.
pub const KILLED: &str = "NEX_TEST_NODE_THAT_IS_KILLED";

/// Runs the program's test `the_node_that_is_killed` as a node, and kills it when it says that it has made its networks.
pub fn kill_a_node(folder: &Path) {
    let mut node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_node_that_is_killed", "--nocapture"])
        .env(KILLED, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(node.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line.contains(KILLED)), "it has made its networks");
    node.kill().unwrap();
    node.wait().unwrap();
}

/// Everything on the host that a node could have left.
pub fn left() -> String {
    let links = shell("ip -o link show | sed 's/@.*//; s/^[0-9]*: //'");
    format!(
        "links {}\ntables {}\nnamespaces {}\nroutes {}\nrouter {}\npassing on {}",
        links.split_whitespace().filter(|word| word.starts_with("nx") || word.starts_with("veth")).collect::<String>(),
        shell("nft list tables").trim(),
        shell("ls /run/netns").trim(),
        shell("ip route").trim(),
        shell("cat /proc/sys/net/ipv4/ip_forward").trim(),
        shell("cat /proc/sys/net/ipv4/conf/eth0/forwarding").trim(),
    )
}
