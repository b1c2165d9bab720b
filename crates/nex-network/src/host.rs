//! What all slots of a node share on the host: its table of rules, and that the host passes packets on.
//!
//! States: made (by [`Host::make`]) and removed (when dropped, with the last slot). A node that has its table counts
//! for the others of the host: nobody takes its addresses, and nobody turns passing on off under it.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tracing::warn;

use crate::firewall::{Rules, SUBNET, TABLES, table};
use crate::forwarding::Forwarding;
use crate::journal::Journal;
use crate::netlink::{Link, Netlink, Route};
use crate::nft::Nft;
use crate::{Ipv4Subnet, NetworkError};

/// A route with a shorter prefix leads to no network but to the Internet: a default route, or its halves.
const DEFAULT_ROUTE: u8 = 8;

/// The largest packet where nothing else is known, and the largest that guests are told of.
const MTU: u16 = 1500;

/// What is there on the host.
#[derive(Debug)]
pub(crate) struct Host {
    journal: Arc<Journal>,
    nft: Arc<Nft>,
    forwarding: Forwarding,
}

/// Another node on this host.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Neighbour {
    table: String,
    subnet: Option<Ipv4Subnet>,
}

impl Host {
    /// Makes it, unless the network is taken.
    ///
    /// # Errors
    /// When it is, or the system refuses something.
    pub(crate) fn make(journal: Arc<Journal>, nft: Arc<Nft>, rules: &Rules) -> Result<Self, NetworkError> {
        let forwarding = Forwarding::new(Arc::clone(&nft), Arc::clone(&journal), rules.subnet.is_none());
        // From here on whatever fails is removed again.
        let host = Self { journal, nft, forwarding };
        host.nft.apply("make the rules of the host", &rules.host(host.journal.tag()))?;
        if let Some(subnet) = rules.subnet {
            // Only now: of two nodes that start at once at least one sees the other.
            host.collides_with_nodes(subnet)?;
            collides_with_routes(subnet)?;
        }
        host.forwarding.turn_on()?;
        Ok(host)
    }

    /// Has the host pass on what is to reach guests, also by links that it did not have before.
    ///
    /// # Errors
    /// When the system refuses it.
    pub(crate) fn keep_up(&self) -> Result<(), NetworkError> {
        self.forwarding.keep_up()
    }

    fn collides_with_nodes(&self, subnet: Ipv4Subnet) -> Result<(), NetworkError> {
        for node in neighbours(&self.nft, self.journal.tag())? {
            if let Some(taken) = node.subnet.filter(|taken| taken.overlaps(&subnet)) {
                return Err(NetworkError::Neighbour { subnet, taken, table: node.table });
            }
        }
        Ok(())
    }

    fn remove(&self) -> Result<(), NetworkError> {
        // Made first, in case it is not there.
        let table = table(self.journal.tag());
        let rules = format!("table inet {table}\ndelete table inet {table}\n");
        self.forwarding.turn_off(|| self.nft.apply("remove the rules of the host", &rules))?;
        self.journal.remove_host()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            warn!(%error, "what microVMs' networks share stays on the host until the node's next start");
        }
    }
}

/// The other nodes.
///
/// # Errors
/// When nft does not list their tables.
pub(crate) fn neighbours(nft: &Nft, tag: &str) -> Result<Vec<Neighbour>, NetworkError> {
    let mut found = nodes(&nft.list("list the host's tables", "tables")?, &nft.list("list the host's sets", "sets")?);
    found.retain(|node| node.table != table(tag));
    Ok(found)
}

fn nodes(tables: &[Value], sets: &[Value]) -> Vec<Neighbour> {
    let text = |object: &Value, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let names = tables.iter().filter_map(|object| text(object.get("table")?, "name"));
    let of_table = |name: String| {
        let mut node = Neighbour { table: name, ..Neighbour::default() };
        for set in sets.iter().filter_map(|object| object.get("set")) {
            if text(set, "table").as_ref() != Some(&node.table) {
                continue;
            }
            if text(set, "name").as_deref() == Some(SUBNET) {
                node.subnet = set.get("elem").and_then(|elements| network_of(elements.get(0)?));
            }
        }
        node
    };
    names.filter(|name| name.starts_with(TABLES)).map(of_table).collect()
}

fn network_of(element: &Value) -> Option<Ipv4Subnet> {
    let Some(prefix) = element.get("prefix") else { return Ipv4Subnet::new(element.as_str()?.parse().ok()?, 32) };
    let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
    Ipv4Subnet::new(prefix.get("addr")?.as_str()?.parse().ok()?, length)
}

fn collides_with_routes(subnet: Ipv4Subnet) -> Result<(), NetworkError> {
    let (routes, links) = routing()?;
    let collides = |route: &&Route| route.destination.prefix() >= DEFAULT_ROUTE && route.destination.overlaps(&subnet);
    let Some(route) = routes.iter().find(collides) else { return Ok(()) };
    let link = links.iter().find(|link| Some(link.index) == route.link);
    let link = link.map_or_else(|| "no link".to_owned(), |link| link.name.clone());
    Err(NetworkError::Collision { subnet, route: route.destination, link })
}

/// The largest packet on the host's way out.
///
/// # Errors
/// When the system does not tell its routes.
pub(crate) fn mtu() -> Result<u16, NetworkError> {
    let (routes, links) = routing()?;
    let out = routes.iter().filter(|route| route.destination.prefix() == 0).filter_map(|route| route.link);
    let mtus = out.filter_map(|index| links.iter().find(|link| link.index == index).map(|link| link.mtu));
    Ok(mtus.filter_map(|mtu| u16::try_from(mtu).ok()).min().unwrap_or(MTU).clamp(576, MTU))
}

/// The host's routes and links.
///
/// # Errors
/// When the system does not tell them.
pub(crate) fn routing() -> Result<(Vec<Route>, Vec<Link>), NetworkError> {
    let read = || {
        let mut netlink = Netlink::open()?;
        Ok((netlink.routes()?, netlink.links()?))
    };
    read().map_err(NetworkError::system::<std::io::Error>("read the host's routes"))
}

/// A chain of rules about packets of IPv4.
#[derive(Debug)]
pub(crate) struct Chain {
    /// As a person would look for it.
    pub(crate) name: String,
    pub(crate) table: String,
    refuses: bool,
}

/// Rules of the host that refuse what guests send, though we let it through: the names of their chains.
///
/// # Errors
/// When nft does not list them.
pub(crate) fn refusing_chains(nft: &Nft, hook: &str) -> Result<Vec<String>, NetworkError> {
    Ok(chains(nft, hook)?.into_iter().filter(|chain| chain.refuses).map(|chain| chain.name).collect())
}

/// The chains at a hook.
///
/// # Errors
/// When nft does not list them.
pub(crate) fn chains(nft: &Nft, hook: &str) -> Result<Vec<Chain>, NetworkError> {
    let chains = nft.list("list the host's chains", "chains")?;
    let text = |chain: &Value, key: &str| chain.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_there = |chain: &&Value| text(chain, "hook") == hook && ["ip", "inet"].contains(&&*text(chain, "family"));
    let chains = chains.iter().filter_map(|object| object.get("chain")).filter(is_there);
    let chain = |chain: &Value| Chain {
        name: ["family", "table", "name"].map(|key| text(chain, key)).join(" "),
        table: text(chain, "table"),
        refuses: text(chain, "policy") == "drop",
    };
    Ok(chains.map(chain).collect())
}

/// Whether the kernel's settings can be changed at all: in containers they often cannot.
///
/// # Errors
/// When they cannot.
pub(crate) fn settings_are_writable() -> Result<(), NetworkError> {
    let path = Path::new("/proc/sys/net/ipv4/ip_forward");
    let writable = rustix::fs::access(path, rustix::fs::Access::WRITE_OK);
    writable.map_err(NetworkError::system("change the kernel's settings: /proc/sys is mounted for reading only"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn other_nodes_are_read_from_their_tables() {
        let tables = [
            json!({"metainfo": {}}),
            json!({"table": {"family": "ip", "name": "filter"}}),
            json!({"table": {"family": "inet", "name": "nex-aaaaaa"}}),
            json!({"table": {"family": "inet", "name": "nex-bbbbbb"}}),
        ];
        let sets = [
            json!({"set": {"table": "filter", "name": "subnet", "elem": ["10.0.0.1"]}}),
            json!({"set": {"table": "nex-aaaaaa", "name": "subnet",
                "elem": [{"prefix": {"addr": "192.168.127.0", "len": 24}}]}}),
        ];
        let [one, other] = nodes(&tables, &sets).try_into().unwrap();
        assert_eq!(one.subnet, Some("192.168.127.0/24".parse().unwrap()));
        assert!(other.subnet.is_none());
    }
}
