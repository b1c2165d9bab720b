//! The nameservers that a guest can ask when the configuration names none: those that the host really asks.
//!
//! A host with a resolver of its own (systemd-resolved, dnsmasq) names a loopback address in `resolv.conf`, which
//! means the guest itself inside a guest. Where such a resolver writes down whom it asks in turn, that is taken.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use tracing::warn;

/// Where resolvers of the host write down whom they ask.
const UPSTREAM: [&str; 2] = ["run/systemd/resolve/resolv.conf", "run/NetworkManager/no-stub-resolv.conf"];

/// More than this many no resolver library asks.
const MOST: usize = 3;

/// Nameservers of the host below `root`, without those that only the host reaches.
pub(crate) fn of_host(root: &Path) -> Vec<Ipv4Addr> {
    let read = |path: &str| named_in(&fs::read_to_string(root.join(path)).unwrap_or_default());
    let named = read("etc/resolv.conf");
    let reachable = |address: &Ipv4Addr| !address.is_loopback() && !address.is_unspecified();
    let only = |addresses: Vec<Ipv4Addr>| addresses.into_iter().filter(reachable).take(MOST).collect::<Vec<_>>();
    if named.iter().all(reachable) {
        return only(named);
    }
    let upstream = UPSTREAM.into_iter().map(|path| only(read(path))).find(|upstream| !upstream.is_empty());
    let found = upstream.unwrap_or_else(|| only(named));
    if found.is_empty() {
        warn!("the host's nameserver answers the host only: guests resolve no names until cni.nameservers names one");
    }
    found
}

fn named_in(text: &str) -> Vec<Ipv4Addr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver").and_then(|_| words.next()?.parse().ok())
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> Vec<Ipv4Addr> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        of_host(root.path())
    }

    #[test]
    fn the_hosts_nameservers_are_taken() {
        let text =
            "# nameserver 9.9.9.9\nsearch example.org\nnameserver 10.0.0.2\nnameserver fd00::1\n nameserver 1.1.1.1\n";
        assert_eq!(host(&[("etc/resolv.conf", text)]), [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(1, 1, 1, 1)]);
        assert!(host(&[]).is_empty());
    }

    #[test]
    fn a_resolver_on_the_host_is_replaced_by_whom_it_asks() {
        let stub = ("etc/resolv.conf", "nameserver 127.0.0.53\noptions edns0\n");
        assert_eq!(host(&[stub, (UPSTREAM[0], "nameserver 10.0.0.2\n")]), [Ipv4Addr::new(10, 0, 0, 2)]);
        assert_eq!(host(&[stub, (UPSTREAM[1], "nameserver 10.0.0.3\n")]), [Ipv4Addr::new(10, 0, 0, 3)]);
        assert!(host(&[stub]).is_empty(), "an address that no guest can ask is not told to one");
        let both = ("etc/resolv.conf", "nameserver 127.0.0.1\nnameserver 10.0.0.4\n");
        assert_eq!(host(&[both]), [Ipv4Addr::new(10, 0, 0, 4)]);
    }
}
