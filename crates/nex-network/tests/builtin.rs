//! The built-in networks, seen from a guest, from the host and from beyond it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod world;

use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::time::Instant;

use nex_network::{Network, NetworkError};
use world::guest::{Fate, Guest};
use world::{
    HOST, HOST_PUBLIC, INTERNET, KILLED, METADATA, NAMESERVER, PUBLIC, another_network, block_on, builtin, inside,
    is_answered, kill_a_node, left, shell, world,
};

#[test]
fn a_guest_reaches_the_internet_under_the_hosts_address() {
    world(|world| {
        let network = Network::new(world.settings("{}")).unwrap();
        let slot = block_on(network.slot(Some((12345, 12345)))).unwrap();
        assert_eq!(slot.guest().mtu, 1460, "as the host's way out has it");
        let tap = shell(&format!("nsenter --net={} ip -d link show tap0", slot.namespace().display()));
        assert!(["vnet_hdr on", "persist on", "user 12345 group 12345"].iter().all(|said| tap.contains(said)), "{tap}");
        let guest = Guest::new(&slot);
        let (fate, payload) = guest.probe(PUBLIC, 80);
        assert_eq!(fate, Fate::Answered);
        assert_eq!(world.internet.sender_of(&payload).unwrap().ip(), HOST);
        assert!(guest.connects(PUBLIC, 80));
        assert!(guest.reaches(NAMESERVER, 53), "names are resolved though the nameserver is in a private network");
        assert!(guest.connects(NAMESERVER, 53));
        assert!(!guest.reaches(NAMESERVER, 80) && !guest.connects(NAMESERVER, 80), "it is nothing but a nameserver");
    });
}

#[test]
fn a_guest_reaches_neither_the_host_nor_its_neighbours() {
    world(|world| {
        let network = Network::new(world.settings("{}")).unwrap();
        let (slot, other) = block_on(async { (network.slot(None).await.unwrap(), network.slot(None).await.unwrap()) });
        let (guest, neighbour) = (Guest::new(&slot), Guest::new(&other));
        assert!(guest.reaches(PUBLIC, 80) && neighbour.reaches(PUBLIC, 80));
        let mut nobody: Vec<_> =
            INTERNET.into_iter().filter(|address| ![PUBLIC, NAMESERVER].contains(address)).collect();
        nobody.extend([HOST, HOST_PUBLIC, slot.guest().gateway, other.address(), slot.address()]);
        let (host_end, other_end) = (before(slot.address()), before(other.address()));
        nobody.extend([host_end, other_end, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)]);
        for address in nobody {
            let (fate, payload) = guest.probe(address, 80);
            assert_ne!(fate, Fate::Answered, "{address}");
            assert!(world.host.sender_of(&payload).is_none(), "{address} is the host");
            assert!(world.internet.sender_of(&payload).is_none(), "{address} is beyond the host");
        }
        // The other one asks: a kernel tells only so much to one address at a time.
        for refused in [METADATA, HOST, HOST_PUBLIC] {
            assert_eq!(neighbour.probe(refused, 80).0, Fate::Refused, "it is told at once");
            assert!(!neighbour.connects(refused, 80));
        }
    });
}

#[test]
fn rules_open_what_they_say_and_nothing_else() {
    world(|world| {
        let egress = r#"{"allow": ["host:4222", "10.8.0.5:4222", "172.16.0.0/12", "169.254.0.0/16", "0.0.0.0/0:7"],
            "deny": ["9.9.9.9:80"]}"#;
        let network = Network::new(world.settings(egress)).unwrap();
        let slot = block_on(network.slot(None)).unwrap();
        let (guest, gateway) = (Guest::new(&slot), slot.guest().gateway);
        let payload = guest.is_answered(gateway, 4222);
        assert_eq!(world.host.sender_of(&payload).unwrap().ip(), slot.address());
        assert!(guest.connects(gateway, 4222));
        let private = |last: [u8; 4]| Ipv4Addr::from(last);
        for (address, port, open) in [
            (gateway, 80, false),
            (before(slot.address()), 4222, false),
            (HOST, 4222, false),
            (HOST, 7, false),
            (private([10, 8, 0, 5]), 4222, true),
            (private([10, 8, 0, 5]), 80, false),
            (private([10, 8, 0, 5]), 7, true),
            (private([172, 16, 9, 9]), 80, true),
            (private([169, 254, 7, 7]), 80, true),
            (METADATA, 80, false),
            (METADATA, 7, false),
            (private([192, 0, 0, 192]), 7, false),
            (private([192, 168, 9, 9]), 80, false),
            (PUBLIC, 4222, true),
            (PUBLIC, 80, false),
        ] {
            assert_eq!(guest.reaches(address, port), open, "{address}:{port}");
        }
    });
}

#[test]
fn one_address_opens_metadata_and_the_host() {
    world(|world| {
        let network =
            Network::new(world.settings(r#"{"allow": ["169.254.169.254:80", "10.9.0.2:80", "host"]}"#)).unwrap();
        let slot = block_on(network.slot(None)).unwrap();
        let guest = Guest::new(&slot);
        assert!(guest.reaches(METADATA, 80) && !guest.reaches(METADATA, 4222));
        assert!(guest.connects(HOST, 80) && !guest.connects(HOST, 4222));
        assert!(guest.connects(slot.guest().gateway, 53));
        guest.is_answered(slot.guest().gateway, 80);
    });
}

#[test]
fn where_all_is_denied_only_what_is_allowed_is_reached() {
    world(|world| {
        let network =
            Network::new(world.settings(r#"{"deny_all": true, "allow": ["9.9.9.9:7", "10.8.0.0/16:80"]}"#)).unwrap();
        let slot = block_on(network.slot(None)).unwrap();
        let guest = Guest::new(&slot);
        assert!(guest.reaches(PUBLIC, 7) && guest.reaches(Ipv4Addr::new(10, 8, 0, 5), 80));
        assert!(guest.reaches(NAMESERVER, 53), "the nameserver was named");
        assert_eq!(guest.probe(PUBLIC, 80).0, Fate::Refused);
        assert!(!guest.connects(PUBLIC, 80));
    });
}

#[test]
fn what_does_not_bear_the_guests_addresses_is_dropped() {
    world(|world| {
        let network = Network::new(world.settings("{}")).unwrap();
        let slot = block_on(network.slot(None)).unwrap();
        let guest = Guest::new(&slot);
        for source in [Ipv4Addr::new(192, 0, 0, 3), slot.address(), HOST, PUBLIC, Ipv4Addr::new(1, 2, 3, 4)] {
            let payload = guest.payload();
            guest.udp(source, PUBLIC, 80, &payload);
            assert_eq!(guest.fate(PUBLIC, &payload), Fate::Silence);
            assert!(world.internet.sender_of(&payload).is_none(), "{source}");
        }
        guest.claim_mac([2, 0, 0, 0, 0, 9]);
        let payload = guest.payload();
        guest.udp(slot.guest().address, PUBLIC, 80, &payload);
        guest.claim_mac(slot.guest().mac);
        assert_eq!(guest.fate(PUBLIC, &payload), Fate::Silence);
        assert!(world.internet.sender_of(&payload).is_none(), "another hardware address");
        let six = shell(&format!("nsenter --net={} ip -6 addr", slot.namespace().display()));
        assert!(six.trim().is_empty(), "nobody there speaks IPv6: {six}");
    });
}

#[test]
fn the_host_reaches_a_guest_and_nobody_beyond_it_does() {
    world(|world| {
        let network = Network::new(world.settings("{}")).unwrap();
        let slot = block_on(network.slot(None)).unwrap();
        let guest = Guest::new(&slot);
        // Somebody beyond who knows the way.
        inside("ip route add 192.168.127.0/24 via 10.9.0.2");
        let to = (slot.address(), 9000);
        let beyond = std::thread::spawn(move || {
            let namespace = std::fs::File::open("/run/netns/internet").unwrap();
            use std::os::fd::AsFd;
            rustix::thread::move_into_link_name_space(namespace.as_fd(), None).unwrap();
            UdpSocket::bind("10.9.0.1:0").unwrap().send_to(b"from beyond", to).unwrap();
        });
        beyond.join().unwrap();
        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"from the host", to).unwrap();
        let packet = guest.packet();
        assert_eq!(String::from_utf8_lossy(&packet.body[8..]), "from the host");
        assert_eq!(packet.from, before(slot.address()));
    });
}

#[test]
fn nothing_is_left_on_the_host() {
    world(|world| {
        let before = left();
        assert!(before.contains("router 0") && before.contains("passing on 0"));
        let network = Network::new(world.settings("{}")).unwrap();
        let (released, dropped) =
            block_on(async { (network.slot(None).await.unwrap(), network.slot(None).await.unwrap()) });
        assert!(left().contains("router 0") && left().contains("passing on 1"));
        let path = released.namespace().to_owned();
        assert!(path.exists());
        block_on(released.release()).unwrap();
        assert!(!path.exists());
        drop(dropped);
        block_on(network.close());
        assert_eq!(left(), before);
        let journal = std::fs::read_dir(world.folder.path().join("node")).unwrap().flatten();
        assert_eq!(journal.map(|entry| entry.file_name()).collect::<Vec<_>>(), ["lock"]);
    });
}

#[test]
fn nodes_on_one_host_do_not_disturb_each_other() {
    world(|world| {
        let before = left();
        let one = Network::new(world.node("one", "192.168.127.0/25", "{}")).unwrap();
        let error = Network::new(world.node("two", "192.168.127.64/26", "{}")).unwrap_err();
        assert!(matches!(error, NetworkError::Neighbour { .. }), "{error}");
        let error = Network::new(world.node("one", "192.168.128.0/25", "{}")).unwrap_err();
        assert!(matches!(error, NetworkError::InUse(_)), "{error}");
        let two = Network::new(world.node("two", "192.168.127.128/25", "{}")).unwrap();
        let (slot, other) = block_on(async { (one.slot(None).await.unwrap(), two.slot(None).await.unwrap()) });
        let (guest, neighbour) = (Guest::new(&slot), Guest::new(&other));
        assert!(guest.reaches(PUBLIC, 80) && neighbour.reaches(PUBLIC, 80));
        assert!(!guest.reaches(other.address(), 80));
        block_on(async {
            slot.release().await.unwrap();
            one.close().await;
        });
        assert!(left().contains("passing on 1"), "the first node found it off, and the other one needs it");
        assert!(neighbour.reaches(PUBLIC, 80));
        block_on(async {
            other.release().await.unwrap();
            two.close().await;
        });
        assert_eq!(left(), before);
    });
}

#[test]
fn a_host_that_was_no_router_is_none_for_others() {
    world(|world| {
        let (inner, _inner) = another_network("inner", 1);
        inside("ip route add 10.5.0.0/16 via 10.9.0.2");
        let router = |on: u8| std::fs::write("/proc/sys/net/ipv4/ip_forward", on.to_string()).unwrap();
        router(1);
        assert!(is_answered("internet", inner) && is_answered("inner", PUBLIC), "the way is there");
        router(0);
        let before = left();

        let network = Network::new(world.settings(r#"{"allow": ["10.5.0.0/16"]}"#)).unwrap();
        let slot = block_on(network.slot(None)).unwrap();
        let guest = Guest::new(&slot);
        assert!(guest.reaches(PUBLIC, 80) && guest.connects(inner, 80));
        assert!(!is_answered("internet", inner), "nobody comes in by the host");
        assert!(!is_answered("inner", PUBLIC), "nobody gets out by it");

        // A link that came later.
        let (later, _later) = another_network("later", 2);
        assert_eq!(shell("cat /proc/sys/net/ipv4/conf/later/forwarding").trim(), "0");
        let other = block_on(network.slot(None)).unwrap();
        // The next network has seen it.
        guest.is_answered(later, 80);
        assert!(!is_answered("internet", later) && !is_answered("later", inner));

        block_on(async {
            slot.release().await.unwrap();
            other.release().await.unwrap();
            network.close().await;
        });
        shell("ip link del later && ip netns del later");
        assert_eq!(left(), before);
    });
}

#[test]
fn a_host_that_somebody_else_makes_a_router_stays_one() {
    world(|world| {
        let (inner, _inner) = another_network("inner", 1);
        inside("ip route add 10.5.0.0/16 via 10.9.0.2");
        let network = Network::new(world.settings("{}")).unwrap();
        let slot = block_on(network.slot(None)).unwrap();
        // As Docker does: it looks whether the host is a router, makes it one, and has a link of its own.
        assert_eq!(shell("cat /proc/sys/net/ipv4/ip_forward").trim(), "0");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let (container, _container) = another_network("docker0", 3);
        assert!(is_answered("docker0", PUBLIC), "what comes later has its way out at once");
        assert!(!is_answered("internet", inner) && !is_answered("internet", container));
        let other = block_on(network.slot(None)).unwrap();
        assert!(is_answered("internet", inner), "with the next network it is the other's to say who may");
        assert!(Guest::new(&slot).reaches(PUBLIC, 80) && Guest::new(&other).reaches(PUBLIC, 80));
        drop((slot, other));
        block_on(network.close());
        assert!(left().contains("router 1") && left().contains("passing on 1"));
        assert!(is_answered("docker0", PUBLIC) && shell("nft list tables").is_empty());
    });
}

#[test]
fn a_node_that_comes_while_the_last_one_leaves_has_its_way_out() {
    world(|world| {
        let before = left();
        let mut last = Network::new(world.node("0", "192.168.100.0/24", "{}")).unwrap();
        for round in 1..15 {
            let settings = world.node(&round.to_string(), &format!("192.168.{}.0/24", 100 + round), "{}");
            let coming = std::thread::spawn(move || Network::new(settings).unwrap());
            block_on(last.close());
            last = coming.join().unwrap();
            assert!(left().contains("passing on 1"), "round {round}");
        }
        let slot = block_on(last.slot(None)).unwrap();
        assert!(Guest::new(&slot).reaches(PUBLIC, 80));
        drop(slot);
        block_on(last.close());
        assert_eq!(left(), before);
    });
}

#[test]
fn nodes_come_and_leave_one_after_the_other() {
    world(|world| {
        let first = Network::new(world.node("first", "192.168.100.0/24", "{}")).unwrap();
        let lock = std::fs::File::options().write(true).open("/run/nex/forwarding.lock").unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let (ended, end) = std::sync::mpsc::channel();
        let settings = world.node("second", "192.168.101.0/24", "{}");
        let coming = std::thread::spawn({
            let ended = ended.clone();
            move || {
                let second = Network::new(settings).unwrap();
                ended.send("came").unwrap();
                second
            }
        });
        let leaving = std::thread::spawn(move || {
            block_on(first.close());
            ended.send("left").unwrap();
        });
        let waits = std::time::Duration::from_millis(500);
        assert!(end.recv_timeout(waits).is_err(), "another node is looking, and may be changing what these look at");
        drop(lock);
        let second = coming.join().unwrap();
        leaving.join().unwrap();
        assert!(left().contains("passing on 1"));
        block_on(second.close());
        assert!(left().contains("passing on 0"));
    });
}

#[test]
fn a_record_without_content_takes_no_network_away() {
    world(|world| {
        let journal = world.folder.path().join("node");
        let first = Network::new(world.node("node", "192.168.127.0/30", "{}")).unwrap();
        let slot = block_on(first.slot(None)).unwrap();
        let name = slot.namespace().file_name().unwrap().to_str().unwrap().to_owned();
        block_on(async {
            slot.release().await.unwrap();
            first.close().await;
        });
        // What a power cut leaves. Of the second there is something yet.
        std::fs::write(journal.join("slot-0.json"), "").unwrap();
        std::fs::write(journal.join("slot-1.json"), "").unwrap();
        let second = format!("{}-1", name.rsplit_once('-').unwrap().0);
        shell(&format!("ip netns add {second}"));
        let network = Network::new(world.node("node", "192.168.127.0/30", "{}")).unwrap();
        block_on(async {
            let slot = network.slot(None).await.unwrap();
            assert!(slot.namespace().ends_with(&name));
            let error = network.slot(None).await.unwrap_err();
            assert!(matches!(error, NetworkError::Exhausted { .. }), "{error}");
            drop(slot);
            network.close().await;
        });
        assert!(!journal.join("slot-0.json").exists() && journal.join("slot-1.json").exists());
        shell(&format!("ip netns del {second}"));
    });
}

#[test]
fn a_network_that_is_in_use_or_too_small_is_told_of() {
    world(|world| {
        let before = left();
        let error = Network::new(world.node("node", "10.9.0.0/25", "{}")).unwrap_err().to_string();
        assert!(error.contains("10.9.0.0/24 (eth0)") && error.contains("cni.subnet"), "{error}");
        let error = Network::new(world.node("node", "10.0.0.0/8", "{}")).unwrap_err();
        assert!(matches!(error, NetworkError::Collision { .. }), "{error}");
        assert_eq!(left(), before, "what was refused leaves nothing");

        let network = Network::new(world.node("node", "192.168.127.0/30", "{}")).unwrap();
        block_on(async {
            let (one, two) = (network.slot(None).await.unwrap(), network.slot(None).await.unwrap());
            let error = network.slot(None).await.unwrap_err().to_string();
            assert!(error.contains("all 2 networks") && error.contains("a /29 holds 4"), "{error}");
            let address = one.address();
            one.release().await.unwrap();
            let three = network.slot(None).await.unwrap();
            assert_eq!(three.address(), address);
            drop((two, three));
            network.close().await;
        });
        assert_eq!(left(), before);
    });
}

#[test]
fn a_firewall_that_passes_nothing_on_is_warned_of() {
    world(|world| {
        shell(
            "nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'",
        );
        let network = Network::new(world.settings("{}")).unwrap();
        let [warning] = network.warnings() else { panic!("{:?}", network.warnings()) };
        assert!(warning.contains("ip filter FORWARD") && warning.contains("nx"), "{warning}");
        // What the documentation says to do.
        let links = warning.split_whitespace().find(|word| word.starts_with("nx")).unwrap().trim_end_matches(',');
        shell(&format!("nft 'add rule ip filter FORWARD iifname \"{links}\" accept'"));
        shell(&format!("nft 'add rule ip filter FORWARD oifname \"{links}\" ct state established,related accept'"));
        let slot = block_on(network.slot(None)).unwrap();
        assert!(Guest::new(&slot).reaches(PUBLIC, 80));
    });
}

#[test]
fn what_a_killed_node_left_is_removed_by_the_next() {
    world(|world| {
        let before = left();
        let other = Network::new(world.node("other", "192.168.126.0/24", "{}")).unwrap();
        let theirs = block_on(other.slot(None)).unwrap();
        let guest = Guest::new(&theirs);
        let journal = world.folder.path().join("node");
        // A namespace and a table that are nobody's.
        shell("ip netns add nex-stranger; ip link add veth-stranger type veth peer name veth-other");

        kill_a_node(&journal);
        let made = |text: &str| text.matches("nex-").count();
        assert!(made(&left()) >= made(&before) + 5, "{}", left());

        // A machine that was killed in the middle has written down what it had not made yet.
        let record = std::fs::read_to_string(journal.join("slot-0.json")).unwrap();
        std::fs::write(journal.join("slot-77.json"), &record).unwrap();
        // Another one had made no more than the name of a namespace.
        let tag = record.split('"').nth(3).unwrap();
        std::fs::write(format!("/run/netns/nex-{tag}-78"), "").unwrap();
        std::fs::write(journal.join("slot-78.json"), &record).unwrap();

        let network = Network::new(builtin(journal, "192.168.127.0/24", "{}")).unwrap();
        assert_eq!(shell("ls /run/netns | grep -c nex-").trim(), "2", "theirs, and the stranger's");
        assert!(guest.reaches(PUBLIC, 80), "nobody else is disturbed");
        let slot = block_on(network.slot(None)).unwrap();
        assert!(Guest::new(&slot).reaches(PUBLIC, 80));
        shell("ip netns del nex-stranger; ip link del veth-stranger");
        block_on(async {
            slot.release().await.unwrap();
            theirs.release().await.unwrap();
            network.close().await;
            other.close().await;
        });
        assert_eq!(left(), before, "also that the host passes nothing on, which the killed node had changed");
    });
}

/// Its variable names the journal of a node that is to be killed.
#[test]
fn the_node_that_is_killed() {
    let Some(journal) = std::env::var_os(KILLED) else { return };
    let network = Network::new(builtin(PathBuf::from(journal), "192.168.127.0/24", "{}")).unwrap();
    let slots = block_on(async {
        let mut slots = Vec::new();
        for _ in 0..3 {
            slots.push(network.slot(None).await.unwrap());
        }
        slots
    });
    println!("{KILLED}");
    std::thread::park();
    drop(slots);
}

#[test]
fn many_are_made_at_once() {
    world(|world| {
        let before = left();
        let network = std::sync::Arc::new(Network::new(world.settings("{}")).unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let started = Instant::now();
        let slots = runtime.block_on(async {
            let mut making = tokio::task::JoinSet::new();
            for _ in 0..20 {
                let network = std::sync::Arc::clone(&network);
                making.spawn(async move { network.slot(None).await.unwrap() });
            }
            making.join_all().await
        });
        eprintln!("20 networks in {:?}", started.elapsed());
        assert!(slots.iter().all(|slot| slot.guest() == slots[0].guest()), "a guest fits into any of them");
        let addresses: std::collections::BTreeSet<_> = slots.iter().map(|slot| slot.address()).collect();
        assert_eq!(addresses.len(), 20);
        let started = Instant::now();
        drop(slots);
        runtime.block_on(std::sync::Arc::into_inner(network).unwrap().close());
        eprintln!("removed in {:?}", started.elapsed());
        assert_eq!(left(), before);
        let network = Network::new(world.settings("{}")).unwrap();
        let started = Instant::now();
        let slot = runtime.block_on(network.slot(None)).unwrap();
        eprintln!("one network in {:?}", started.elapsed());
        drop(slot);
    });
}

/// The host's end of a slot's link.
fn before(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() - 1)
}
