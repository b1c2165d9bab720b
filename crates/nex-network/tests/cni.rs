//! Networks that CNI plugins make: the real `ptp` and `host-local`, and the real `tc-redirect-tap` where it is
//! installed. Elsewhere a script takes its place that joins a tap to the link with the same filters and says the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod world;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nex_network::{Mode, Network, NetworkError, NetworkSettings, cni_is_ready};
use world::guest::{Fate, Guest};
use world::{
    HOST, HOST_PUBLIC, INTERNET, KILLED, METADATA, NAMESERVER, PUBLIC, another_network, block_on, inside, is_answered,
    kill_a_node, left, shell, world,
};

/// Names a folder in which `tc-redirect-tap` is.
const REDIRECT: &str = "NEX_TEST_CNI_BIN";

const STAND_IN: &str = r#"#!/usr/bin/env python3
import json, os, subprocess, sys
environ, config = os.environ, json.load(sys.stdin)
link = environ["CNI_IFNAME"]
def inside(command):
    return subprocess.run(["nsenter", "--net=" + environ["CNI_NETNS"]] + command.split(), check=True, capture_output=True, text=True).stdout
if environ["CNI_COMMAND"] == "ADD":
    words = dict(pair.split("=") for pair in environ["CNI_ARGS"].split(";"))
    owner = " user %s group %s" % (words["TC_REDIRECT_TAP_UID"], words["TC_REDIRECT_TAP_GID"]) if "TC_REDIRECT_TAP_UID" in words else ""
    inside("ip tuntap add tap0 mode tap vnet_hdr" + owner)
    inside("ip link set tap0 up")
    for one, other in (("tap0", link), (link, "tap0")):
        inside(f"tc qdisc add dev {one} ingress")
        inside(f"tc filter add dev {one} parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev {other}")
    result = config["prevResult"]
    mac = {device["ifname"]: device["address"] for device in json.loads(inside("ip -j link"))}
    result["interfaces"] += [{"name": "tap0", "mac": mac["tap0"], "sandbox": environ["CNI_NETNS"]},
                             {"name": "tap0", "mac": mac[link], "sandbox": environ["CNI_CONTAINERID"]}]
    result["ips"] += [dict(result["ips"][0], interface=len(result["interfaces"]) - 1)]
    json.dump(result, sys.stdout)
"#;

struct Cni {
    bin_paths: Vec<PathBuf>,
    conf_dir: PathBuf,
    leases: PathBuf,
}

impl Cni {
    /// Writes the configuration into a folder. None, and a word about it, where there are no plugins.
    fn new(folder: &Path, version: &str) -> Option<Self> {
        let folders = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"].map(PathBuf::from);
        let mut bin_paths: Vec<_> = std::env::var_os(REDIRECT).map(PathBuf::from).into_iter().chain(folders).collect();
        let has = |bin_paths: &[PathBuf], plugin: &str| bin_paths.iter().any(|folder| folder.join(plugin).exists());
        for plugin in ["ptp", "host-local"] {
            if !has(&bin_paths, plugin) {
                eprintln!("SKIPPED: there is no CNI plugin {plugin} (apt-get install containernetworking-plugins)");
                return None;
            }
        }
        if !has(&bin_paths, "tc-redirect-tap") {
            eprintln!("there is no tc-redirect-tap, which {REDIRECT} can name the folder of: a script takes its place");
            let stand_in = folder.join("bin/tc-redirect-tap");
            fs::create_dir_all(stand_in.parent().unwrap()).unwrap();
            fs::write(&stand_in, STAND_IN).unwrap();
            fs::set_permissions(&stand_in, fs::Permissions::from_mode(0o755)).unwrap();
            bin_paths.push(folder.join("bin"));
        }
        let (conf_dir, leases) = (folder.join("conf"), folder.join("leases"));
        fs::create_dir_all(&conf_dir).unwrap();
        let list = serde_json::json!({
            "name": "fcnet",
            "cniVersion": version,
            "plugins": [
                {"type": "ptp", "ipMasq": true, "ipam": {
                    "type": "host-local", "subnet": "192.168.127.0/24", "dataDir": leases,
                    "routes": [{"dst": "0.0.0.0/0"}]}},
                {"type": "tc-redirect-tap"}
            ]
        });
        fs::write(conf_dir.join("fcnet.conflist"), list.to_string()).unwrap();
        Some(Self { bin_paths, conf_dir, leases })
    }

    fn settings(&self, journal_dir: PathBuf, egress: &str) -> NetworkSettings {
        let mode = Mode::Cni {
            bin_paths: self.bin_paths.clone(),
            conf_dir: self.conf_dir.clone(),
            network_name: "fcnet".into(),
            interface_name: "veth0".into(),
        };
        let egress = serde_json::from_str(egress).unwrap();
        NetworkSettings { journal_dir, mode, egress, nameservers: vec![NAMESERVER] }
    }

    /// The addresses that are given out.
    fn leases(&self) -> Vec<String> {
        let names = fs::read_dir(self.leases.join("fcnet")).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("192.")).collect()
    }
}

#[test]
fn plugins_make_a_network_in_which_the_policy_holds() {
    for version in ["0.4.0", "1.0.0"] {
        world(move |world| {
            let Some(cni) = Cni::new(world.folder.path(), version) else { return };
            let before = left();
            let started = Instant::now();
            let settings = cni.settings(world.folder.path().join("node"), r#"{"allow": ["host:4222", "10.8.0.5:80"]}"#);
            let network = Network::new(settings).unwrap();
            let slot = block_on(network.slot(Some((12345, 12345)))).unwrap();
            eprintln!("a network by CNI {version} in {:?}", started.elapsed());
            let other = block_on(network.slot(None)).unwrap();
            assert_eq!(slot.address(), slot.guest().address);
            assert_eq!((slot.guest().prefix, slot.guest().gateway), (24, Ipv4Addr::new(192, 168, 127, 1)));
            assert_ne!(slot.guest().address, other.guest().address);
            assert_eq!(cni.leases().len(), 2);

            let (guest, neighbour) = (Guest::new(&slot), Guest::new(&other));
            let (fate, payload) = guest.probe(PUBLIC, 80);
            assert_eq!(fate, Fate::Answered);
            assert_eq!(world.internet.sender_of(&payload).unwrap().ip(), HOST);
            assert!(neighbour.connects(PUBLIC, 80) && neighbour.reaches(NAMESERVER, 53));
            let payload = guest.is_answered(slot.guest().gateway, 4222);
            assert_eq!(world.host.sender_of(&payload).unwrap().ip(), slot.address());
            assert!(guest.reaches(Ipv4Addr::new(10, 8, 0, 5), 80));

            let mut nobody: Vec<_> = INTERNET
                .into_iter()
                .filter(|address| ![PUBLIC, NAMESERVER].contains(address))
                .map(|at| (at, 7))
                .collect();
            let gateway = slot.guest().gateway;
            nobody.extend([(HOST, 4222), (HOST_PUBLIC, 4222), (gateway, 80), (other.address(), 80)]);
            for (address, port) in nobody {
                let (fate, payload) = guest.probe(address, port);
                assert_ne!(fate, Fate::Answered, "{address}");
                assert!(world.host.sender_of(&payload).is_none(), "{address} is the host");
                assert!(world.internet.sender_of(&payload).is_none(), "{address} is beyond the host");
            }
            assert_eq!(neighbour.probe(METADATA, 80).0, Fate::Refused);
            for source in [other.address(), HOST, PUBLIC] {
                let payload = guest.payload();
                guest.udp(source, PUBLIC, 80, &payload);
                assert_eq!(guest.fate(PUBLIC, &payload), Fate::Silence);
                assert!(world.internet.sender_of(&payload).is_none(), "{source}");
            }

            let known = |address: Ipv4Addr| shell("nft list sets").contains(&format!(" . {address}"));
            let (address, others) = (slot.address(), other.address());
            assert!(known(address) && known(others) && known(gateway));
            block_on(slot.release()).unwrap();
            assert!(!known(address) && known(others), "the rules forget a guest that is gone");
            assert!(neighbour.reaches(PUBLIC, 80));
            block_on(other.release()).unwrap();
            assert!(!known(others) && !known(gateway), "{}", shell("nft list sets"));
            block_on(network.close());
            assert!(cni.leases().is_empty(), "the addresses are given back");
            // What the plugins' own masquerading leaves are empty tables of iptables.
            let tables = |text: &str| text.replace("\ntable ip nat", "").replace("table ip nat", "");
            assert_eq!(tables(&left()), tables(&before));
        });
    }
}

#[test]
fn a_router_for_plugins_is_none_for_others_and_stays_one_where_others_have_rules() {
    world(|world| {
        let Some(cni) = Cni::new(world.folder.path(), "0.4.0") else { return };
        let (inner, _inner) = another_network("inner", 1);
        inside("ip route add 10.5.0.0/16 via 10.9.0.2");
        for others in [false, true] {
            let network = Network::new(cni.settings(world.folder.path().join("node"), "{}")).unwrap();
            let slot = block_on(network.slot(None)).unwrap();
            assert!(Guest::new(&slot).reaches(PUBLIC, 80));
            assert!(left().contains("router 1"), "ptp makes it one");
            assert!(!is_answered("internet", inner) && !is_answered("inner", PUBLIC));
            if others {
                shell("nft 'add table ip x; add chain ip x y { type filter hook forward priority 0; policy accept; }'");
            }
            block_on(async {
                slot.release().await.unwrap();
                network.close().await;
            });
            assert_eq!(left().contains("router 1"), others);
            assert!(!left().contains("nex"), "{}", left());
        }
    });
}

#[test]
fn plugins_remove_what_a_killed_node_had_them_make() {
    world(|world| {
        let Some(cni) = Cni::new(world.folder.path(), "0.4.0") else { return };
        kill_a_node(world.folder.path());
        assert_eq!(cni.leases().len(), 2);
        let network = Network::new(cni.settings(world.folder.path().join("node"), "{}")).unwrap();
        assert!(cni.leases().is_empty());
        assert!(!left().contains("veth"), "{}", left());
        let slot = block_on(network.slot(None)).unwrap();
        assert!(Guest::new(&slot).reaches(PUBLIC, 80));
    });
}

/// Its variable names the folder of a node that is to be killed.
#[test]
fn the_node_that_is_killed() {
    let Some(folder) = std::env::var_os(KILLED).map(PathBuf::from) else { return };
    let cni = Cni::new(&folder, "0.4.0").unwrap();
    let network = Network::new(cni.settings(folder.join("node"), "{}")).unwrap();
    let slots = block_on(async { [network.slot(None).await.unwrap(), network.slot(None).await.unwrap()] });
    println!("{KILLED}");
    std::thread::park();
    drop(slots);
}

#[test]
fn what_plugins_lack_is_told_and_what_fails_leaves_nothing() {
    world(|world| {
        let Some(cni) = Cni::new(world.folder.path(), "0.4.0") else { return };
        let before = left();
        cni_is_ready(&cni.bin_paths, &cni.conf_dir, "fcnet").unwrap();
        let error = cni_is_ready(&cni.bin_paths, &cni.conf_dir, "other").unwrap_err().to_string();
        assert!(error.contains("no *.conflist") && error.contains("builtin"), "{error}");
        let error = cni_is_ready(&["/nowhere".into()], &cni.conf_dir, "fcnet").unwrap_err();
        assert!(matches!(&error, NetworkError::NoPlugin { plugin, .. } if plugin == "ptp"), "{error}");

        // The second plugin fails when the first has made a link and taken an address.
        let bin = world.folder.path().join("failing");
        fs::create_dir(&bin).unwrap();
        let failing =
            "#!/bin/sh\n[ $CNI_COMMAND = DEL ] || { echo '{\"code\": 7, \"msg\": \"no such luck\"}'; exit 1; }\n";
        fs::write(bin.join("tc-redirect-tap"), failing).unwrap();
        fs::set_permissions(bin.join("tc-redirect-tap"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut settings = cni.settings(world.folder.path().join("node"), "{}");
        if let Mode::Cni { bin_paths, .. } = &mut settings.mode {
            bin_paths.insert(0, bin);
        }
        let network = Network::new(settings).unwrap();
        let error = block_on(network.slot(None)).unwrap_err().to_string();
        assert!(error.contains("tc-redirect-tap failed at ADD: no such luck"), "{error}");
        assert!(cni.leases().is_empty());
        block_on(network.close());
        let tables = |text: &str| text.replace("\ntable ip nat", "").replace("table ip nat", "");
        assert_eq!(tables(&left()), tables(&before));
        shell("test -z \"$(ls /run/netns | grep nex-)\"");
    });
}
