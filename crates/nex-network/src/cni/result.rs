//! What plugins say they made, read as `tc-redirect-tap` writes it: the tap is the link whose sandbox is the
//! namespace; the guest's device is one more link of the same name, which does not exist, whose sandbox is the
//! container's id; the guest's address belongs to that one. The link that has no sandbox is the host's end.

use std::net::Ipv4Addr;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::GuestNetwork;

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Address>,
    #[serde(default)]
    dns: Dns,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    mac: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Address {
    interface: Option<usize>,
    address: String,
    #[serde(default)]
    gateway: Option<Ipv4Addr>,
}

#[derive(Deserialize, Default)]
struct Dns {
    #[serde(default)]
    nameservers: Vec<String>,
}

/// What is taken of it. The largest packet is not in it, and is zero.
#[derive(Debug)]
pub(super) struct Understood {
    pub(super) tap: String,
    pub(super) guest: GuestNetwork,
    pub(super) link: String,
}

/// Reads a result.
///
/// # Errors
/// With what is missing.
pub(super) fn read(said: Value, container: &str, namespace: &Path) -> Result<Understood, String> {
    let said: Said = serde_json::from_value(said).map_err(|error| format!("its result cannot be read: {error}"))?;
    let mut devices = said.interfaces.iter().enumerate().filter(|(_, interface)| interface.sandbox == container);
    let (index, device) = devices.next().ok_or("no plugin made a tap: tc-redirect-tap has to be the last one")?;
    if devices.next().is_some() {
        return Err("it has more than one tap".into());
    }
    let is_tap = |interface: &&Interface| interface.name == device.name && Path::new(&interface.sandbox) == namespace;
    let tap = said.interfaces.iter().find(is_tap).ok_or_else(|| format!("the tap {} is not in it", device.name))?;
    let on_host: Vec<_> = said.interfaces.iter().filter(|interface| interface.sandbox.is_empty()).collect();
    let [link] = on_host.as_slice() else { return Err("the link has no one end on the host".into()) };
    for name in [&tap.name, &link.name] {
        // They are written into rules of the firewall.
        if !is_link_name(name) {
            return Err(format!("'{name}' is no name of a link"));
        }
    }
    let four = |address: &&Address| address.interface == Some(index) && !address.address.contains("::");
    let ip = said.ips.iter().find(four).ok_or("the guest has no address of IPv4")?;
    let (address, prefix) = ip.address.split_once('/').ok_or_else(|| format!("'{}' has no prefix", ip.address))?;
    let odd = || format!("'{}' is no address", ip.address);
    let address = address.parse().map_err(|_| odd())?;
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or_else(odd)?;
    let gateway = ip.gateway.ok_or("the guest has no gateway")?;
    let mac = mac_of(&device.mac).ok_or_else(|| format!("'{}' is no hardware address", device.mac))?;
    let nameservers = said.dns.nameservers.iter().filter_map(|text| text.parse().ok()).collect();
    let guest = GuestNetwork { address, prefix, gateway, mac, nameservers, mtu: 0 };
    Ok(Understood { tap: tap.name.clone(), guest, link: link.name.clone() })
}

fn is_link_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    (1..=15).contains(&name.len()) && name.bytes().all(letter)
}

fn mac_of(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next().filter(|part| part.len() == 2)?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said() -> Value {
        json!({
            "cniVersion": "0.4.0",
            "interfaces": [
                {"name": "veth12ab", "mac": "aa:aa:aa:aa:aa:aa"},
                {"name": "veth0", "mac": "bb:bb:bb:bb:bb:bb", "sandbox": "/run/netns/n"},
                {"name": "tap0", "mac": "cc:cc:cc:cc:cc:cc", "sandbox": "/run/netns/n"},
                {"name": "tap0", "mac": "bb:bb:bb:bb:bb:bb", "sandbox": "id"}
            ],
            "ips": [
                {"interface": 1, "address": "10.1.0.7/24", "gateway": "10.1.0.1"},
                {"interface": 3, "address": "10.1.0.7/24", "gateway": "10.1.0.1"}
            ],
            "dns": {"nameservers": ["10.0.0.2", "fd00::1"]}
        })
    }

    fn understood(said: Value) -> Result<Understood, String> {
        read(said, "id", Path::new("/run/netns/n"))
    }

    #[test]
    fn tap_address_and_link_are_told_apart() {
        let read = understood(said()).unwrap();
        assert_eq!((read.tap.as_str(), read.link.as_str()), ("tap0", "veth12ab"));
        assert_eq!(read.guest.mac, [0xbb; 6]);
        assert_eq!((read.guest.address, read.guest.prefix), (Ipv4Addr::new(10, 1, 0, 7), 24));
        assert_eq!(read.guest.gateway, Ipv4Addr::new(10, 1, 0, 1));
        assert_eq!(read.guest.nameservers, [Ipv4Addr::new(10, 0, 0, 2)]);
    }

    #[test]
    fn a_result_without_a_tap_or_with_an_odd_name_is_refused() {
        let without = |pointer: &str, value: Value| {
            let mut said = said();
            *said.pointer_mut(pointer).unwrap() = value;
            understood(said).err().unwrap()
        };
        assert!(without("/interfaces/3/sandbox", json!("other")).contains("tc-redirect-tap"));
        assert!(without("/interfaces/2/sandbox", json!("/run/netns/m")).contains("tap0"));
        assert!(without("/interfaces/0/name", json!("x\" } ; y")).contains("no name of a link"));
        assert!(without("/ips/1/address", json!("10.1.0.7")).contains("prefix"));
        assert!(without("/ips/1/interface", json!(1)).contains("no address"));
        assert!(without("/interfaces/3/mac", json!("bb:bb")).contains("hardware address"));
        assert!(understood(json!([])).is_err());
    }
}
