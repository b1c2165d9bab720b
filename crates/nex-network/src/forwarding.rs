//! That the host passes packets on between guests and everybody else, and between nobody else.
//!
//! The kernel asks the link at which a packet arrives whether packets of it are passed on. So where the host is no
//! router, passing on is turned on for the links that routes lead to, beside those of slots, and `ip_forward` stays
//! off: whoever comes later and needs it (Docker, libvirt) sees that it is off and turns it on, and what is ours to
//! turn off again is never theirs. Only the plugins of CNI turn `ip_forward` on themselves. A table of rules that all
//! nodes of the host share (`ip nex_forwarding`) keeps those links from being a way between anybody else, and says
//! which they are.
//!
//! States: not ours (the host is a router, no table); turned on (the table is there); given up (somebody else turned
//! `ip_forward` on meanwhile: the table is removed and the links stay on). The last node to leave turns off. All
//! looking and changing is under one lock of the host.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::{info, warn};

use crate::journal::Journal;
use crate::netlink::{Link, Netlink};
use crate::nft::Nft;
use crate::{NetworkError, builtin, host, sysctl};

/// The table that all nodes share. It does not begin as those of nodes do.
const TABLE: &str = "nex_forwarding";
/// In it: the links at which passing on was turned on.
const LINKS: &str = "links";
/// In it: this set is there when `ip_forward` was turned on.
const EVERYWHERE: &str = "everywhere";

/// What nodes of one host share, whatever their state directories.
const LOCKS: &str = "/run/nex";
const LOCK: &str = "/run/nex/forwarding.lock";

/// What nodes have turned on, and will turn off.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TurnedOn {
    /// At these links.
    links: BTreeSet<String>,
    /// `ip_forward`, as plugins do.
    everywhere: bool,
}

/// A node's part in it.
#[derive(Debug)]
pub(crate) struct Forwarding {
    nft: Arc<Nft>,
    journal: Arc<Journal>,
    /// Whether this node's networks are made by plugins.
    plugins: bool,
    /// As it was when last looked at.
    seen: Mutex<TurnedOn>,
}

impl Forwarding {
    pub(crate) fn new(nft: Arc<Nft>, journal: Arc<Journal>, plugins: bool) -> Self {
        Self { nft, journal, plugins, seen: Mutex::default() }
    }

    /// Turns on what is off, and keeps others from using it. The node's own table must be there: it tells the last
    /// node to leave that somebody stays.
    ///
    /// # Errors
    /// When the system refuses something. What was turned on until then is left to [`Self::turn_off`].
    pub(crate) fn turn_on(&self) -> Result<(), NetworkError> {
        let _lock = lock()?;
        let before = self.read()?;
        if is_router()? {
            if before.everywhere || before == TurnedOn::default() {
                return self.keep(before);
            }
            info!("somebody else has made the host a router (net.ipv4.ip_forward): that is not ours to turn off");
            self.forget()?;
            return self.keep(TurnedOn::default());
        }
        let links = links_to_turn_on(self.plugins)?;
        let mut after = before.clone();
        after.links.extend(links.iter().map(|link| link.name.clone()));
        after.everywhere |= self.plugins;
        self.keep(after.clone())?;
        if after == TurnedOn::default() {
            return Ok(());
        }
        // First, so that no packet of others is passed on.
        self.nft.apply("keep others from being passed on", &guard(&after, &bridges()?))?;
        for link in &links {
            warn!(
                link = link.name,
                "packets that arrive at this link are passed on from now on, to guests and as answers only, until the \
                 last node on this host ends"
            );
            sysctl::pass_on(&link.name, true)?;
        }
        if after.everywhere {
            warn!("the host is a router from now on (net.ipv4.ip_forward), as CNI plugins need it");
            sysctl::set(sysctl::IP_FORWARD, "1")?;
        }
        Ok(())
    }

    /// Turns it on at links that have come since, and gives it up when somebody else has turned it on.
    ///
    /// # Errors
    /// Those of [`Self::turn_on`].
    pub(crate) fn keep_up(&self) -> Result<(), NetworkError> {
        let stale = if is_router()? {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            !seen.everywhere && *seen != TurnedOn::default()
        } else {
            self.plugins || !links_to_turn_on(false)?.is_empty()
        };
        if stale { self.turn_on() } else { Ok(()) }
    }

    /// Removes the node's own table with what is given, and turns off what nodes have turned on if it was the last.
    ///
    /// # Errors
    /// When the system refuses something.
    pub(crate) fn turn_off(&self, remove_table: impl FnOnce() -> Result<(), NetworkError>) -> Result<(), NetworkError> {
        let _lock = lock()?;
        remove_table()?;
        let ours = self.read()?;
        if ours == TurnedOn::default() || !host::neighbours(&self.nft, self.journal.tag())?.is_empty() {
            return Ok(());
        }
        if !is_router()? {
            ours.links.iter().try_for_each(|link| sysctl::pass_on(link, false))?;
            info!("the host passes no packets on any more, as before");
        } else if ours.everywhere {
            self.turn_off_everywhere()?;
        }
        self.forget()
    }

    fn turn_off_everywhere(&self) -> Result<(), NetworkError> {
        let others: Vec<_> = host::chains(&self.nft, "forward")?
            .into_iter()
            .filter(|chain| chain.table != TABLE)
            .map(|chain| chain.name)
            .collect();
        if others.is_empty() {
            info!("the host is no router any more, as before");
            return sysctl::set(sysctl::IP_FORWARD, "0");
        }
        let chains = others.join(", ");
        warn!(
            chains,
            "the host stays a router: others have rules about what it passes on and may rely on it. If none does: sysctl \
             -w net.ipv4.ip_forward=0"
        );
        Ok(())
    }

    fn forget(&self) -> Result<(), NetworkError> {
        self.nft.apply("stop keeping others apart", &format!("table ip {TABLE}\ndelete table ip {TABLE}\n"))
    }

    fn keep(&self, state: TurnedOn) -> Result<(), NetworkError> {
        self.journal.write_host(&state)?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    /// What the table says; where there is none, for instance after `nft flush ruleset`, the journal.
    fn read(&self) -> Result<TurnedOn, NetworkError> {
        let tables = self.nft.list("list the host's tables", "tables")?;
        let is_it = |object: &Value| text(object.get("table"), "name") == Some(TABLE);
        if !tables.iter().any(is_it) {
            return Ok(self.journal.turned_on());
        }
        Ok(turned_on(&self.nft.list("list the host's sets", "sets")?))
    }
}

fn turned_on(sets: &[Value]) -> TurnedOn {
    let mut state = TurnedOn::default();
    for set in sets.iter().filter_map(|object| object.get("set")).filter(|set| text(Some(set), "table") == Some(TABLE))
    {
        match text(Some(set), "name") {
            Some(EVERYWHERE) => state.everywhere = true,
            Some(LINKS) => {
                let names = set.get("elem").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
                state.links = names.map(str::to_owned).collect();
            }
            _ => {}
        }
    }
    state
}

fn text<'a>(object: Option<&'a Value>, key: &str) -> Option<&'a str> {
    object?.get(key)?.as_str()
}

/// What arrives at a link of these is passed on only as part of a connection that began elsewhere, or was translated:
/// so answers to guests come through, and so do guests' and ports of whoever comes later.
fn guard(state: &TurnedOn, bridges: &BTreeSet<String>) -> String {
    let elements = |names: Vec<String>| match names.as_slice() {
        [] => String::new(),
        names => format!(" elements = {{ {} }};", names.join(", ")),
    };
    let links = elements(state.links.iter().map(|link| format!("\"{link}\"")).collect());
    // Frames that a bridge carries from port to port are shown to these rules as well, where br_netfilter is loaded.
    let carried = state.links.intersection(bridges).map(|link| format!("\"{link}\" . \"{link}\"")).collect();
    let carried = elements(carried);
    let mut sets =
        format!("  set {LINKS} {{ type ifname;{links} }}\n  set carried {{ type ifname . ifname;{carried} }}\n");
    if state.everywhere {
        let _ = writeln!(sets, "  set {EVERYWHERE} {{ type ifname; }}");
    }
    format!(
        r#"table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
{sets}  chain passed_on {{
    type filter hook forward priority filter; policy accept;
    iifname != @{LINKS} accept
    iifname . oifname @carried accept
    ct state established,related accept
    ct status dnat accept
    drop
  }}
}}
"#
    )
}

fn is_router() -> Result<bool, NetworkError> {
    Ok(sysctl::get(sysctl::IP_FORWARD)? != "0")
}

/// Links of the host, not of slots, that pass nothing on: those that routes or addresses are at, or all.
fn links_to_turn_on(all: bool) -> Result<Vec<Link>, NetworkError> {
    let (routes, links) = host::routing()?;
    let routed: BTreeSet<u32> = routes.iter().filter_map(|route| route.link).collect();
    let is_meant = |link: &Link| {
        (all || routed.contains(&link.index))
            && link.name != "lo"
            && !builtin::is_link_of_a_slot(&link.name)
            // It is written into rules.
            && link.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte))
            && !sysctl::passes_on(&link.name)
    };
    Ok(links.into_iter().filter(is_meant).collect())
}

fn bridges() -> Result<BTreeSet<String>, NetworkError> {
    let links = Netlink::open().and_then(|mut netlink| netlink.links());
    let links = links.map_err(NetworkError::system::<io::Error>("list the host's links"))?;
    Ok(links.into_iter().filter(|link| link.bridge).map(|link| link.name).collect())
}

/// The lock of all nodes on this host. It is held for as long as `nft` takes.
fn lock() -> Result<File, NetworkError> {
    let locked = || {
        DirBuilder::new().recursive(true).mode(0o755).create(Path::new(LOCKS))?;
        let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(nofollow);
        let file = options.open(LOCK)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    };
    locked().map_err(NetworkError::system::<io::Error>(format!("lock {LOCK}, which the nodes of a host share")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_turned_on_is_read_from_the_table() {
        let sets = [
            json!({"metainfo": {}}),
            json!({"set": {"table": "other", "name": "links", "elem": ["eth7"]}}),
            json!({"set": {"table": TABLE, "name": "links", "elem": ["eth0", "br0"]}}),
            json!({"set": {"table": TABLE, "name": "carried", "elem": [{"concat": ["br0", "br0"]}]}}),
        ];
        let links = BTreeSet::from(["br0".to_owned(), "eth0".to_owned()]);
        assert_eq!(turned_on(&sets), TurnedOn { links: links.clone(), everywhere: false });
        let everywhere = [json!({"set": {"table": TABLE, "name": "everywhere"}})];
        assert_eq!(turned_on(&everywhere), TurnedOn { links: BTreeSet::new(), everywhere: true });

        let rules =
            guard(&TurnedOn { links, everywhere: false }, &BTreeSet::from(["br0".to_owned(), "br1".to_owned()]));
        assert!(rules.contains(r#"elements = { "br0", "eth0" };"#), "{rules}");
        assert!(rules.contains(r#"elements = { "br0" . "br0" };"#), "{rules}");
    }
}
