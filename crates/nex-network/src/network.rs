//! All networks of a node: what they have in common, which numbers are free, and the making and removing of each.
//!
//! A number is free, taken (written down, being made, or owned by a [`Slot`]), and free again only when nothing is
//! left of it. The order is always the same: written down, made; removed, struck out.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::thread::{CapabilitySet, capabilities};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};

use crate::builtin::{self, Plan};
use crate::cni::{Attached, Attachment, CniNetwork};
use crate::firewall::{Rules, table};
use crate::host::{self, Host};
use crate::journal::{Journal, Written};
use crate::netlink::Netlink;
use crate::nft::Nft;
use crate::settings::Owner;
use crate::slot::Slot;
use crate::subnet::MOST_SLOTS;
use crate::{GuestNetwork, Ipv4Subnet, Mode, NetworkError, NetworkSettings, nameservers, namespace, tap};

/// The networks of a node's microVMs.
///
/// What its slots share on the host goes when it and the last of its slots are gone.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
    warnings: Vec<String>,
}

/// What slots share.
#[derive(Debug)]
pub(crate) struct Shared {
    maker: Maker,
    rules: Rules,
    mtu: u16,
    numbers: Mutex<Numbers>,
    /// Slots that are being removed without anybody waiting for it.
    leaving: watch::Sender<usize>,
    // Dropped after everything else, and in this order.
    host: Host,
    nft: Arc<Nft>,
    journal: Arc<Journal>,
}

#[derive(Debug)]
enum Maker {
    Builtin(Ipv4Subnet),
    Cni(CniNetwork),
}

#[derive(Debug)]
struct Numbers {
    taken: BTreeSet<u32>,
    next: u32,
    limit: u32,
}

impl Network {
    /// Looks whether networks can be made here, removes what the journal names, and makes what slots share. Blocks,
    /// for tenths of a second when there is much to remove.
    ///
    /// # Errors
    /// When something is missing or in the way, with what to do about it.
    pub fn new(settings: NetworkSettings) -> Result<Self, NetworkError> {
        may_make_networks()?;
        let nft = Arc::new(Nft::find()?);
        let journal = Arc::new(Journal::open(&settings.journal_dir)?);
        let taken = reclaim(&journal)?;
        let (maker, subnet, limit) = match settings.mode {
            Mode::Builtin { subnet } => {
                is_suitable(subnet)?;
                (Maker::Builtin(subnet), Some(subnet), subnet.slots())
            }
            Mode::Cni { bin_paths, conf_dir, network_name, interface_name } => {
                let network = CniNetwork::new(bin_paths, &conf_dir, &network_name, interface_name)?;
                (Maker::Cni(network), None, MOST_SLOTS)
            }
        };
        let mut asked = settings.nameservers;
        // Where only what is allowed may, a nameserver that nobody named may not: names carry data out.
        if asked.is_empty() && !settings.egress.deny_all {
            asked = nameservers::of_host(Path::new("/"));
        }
        let rules = Rules { policy: settings.egress, nameservers: asked, subnet };
        let warnings = warnings(&nft, &rules, journal.tag())?;
        let mtu = host::mtu()?;
        let host = Host::make(Arc::clone(&journal), Arc::clone(&nft), &rules)?;
        let numbers = Mutex::new(Numbers { taken, next: 0, limit });
        let leaving = watch::Sender::new(0);
        let shared = Shared { maker, rules, mtu, numbers, leaving, host, nft, journal };
        Ok(Self { shared: Arc::new(shared), warnings })
    }

    /// What will hinder guests though it could not be mended here, for a person. It was logged already.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Makes a slot, whose tap the owner may open.
    ///
    /// # Errors
    /// When all are taken, or the system or a plugin refuses something. Nothing is left then.
    pub async fn slot(&self, owner: Option<(u32, u32)>) -> Result<Slot, NetworkError> {
        let shared = Arc::clone(&self.shared);
        let owner = owner.map(Owner::from);
        // Dropping this future drops the slot that the thread makes, which removes it.
        spawn_blocking(move || Shared::make(&shared, owner)).await.map_err(|error| NetworkError::System {
            what: "make the network of a microVM".into(),
            source: error.into(),
        })?
    }

    /// Waits until the slots that were dropped are removed, and removes what they shared, unless there is one yet.
    pub async fn close(self) {
        let mut leaving = self.shared.leaving.subscribe();
        let _ = leaving.wait_for(|leaving| *leaving == 0).await;
        let _ = spawn_blocking(move || drop(self)).await;
    }
}

impl Shared {
    fn make(shared: &Arc<Self>, owner: Option<Owner>) -> Result<Slot, NetworkError> {
        shared.host.keep_up()?;
        let number = shared.take_number()?;
        let made = match &shared.maker {
            Maker::Builtin(subnet) => shared.make_builtin(number, *subnet, owner),
            Maker::Cni(network) => shared.make_cni(number, network, owner),
        };
        match made {
            Ok((tap, guest, end)) => {
                let namespace = namespace::path(&shared.namespace(number));
                Ok(Slot::new(Arc::clone(shared), number, namespace, tap, guest, end))
            }
            Err(error) => {
                if let Err(error) = shared.unmake(number) {
                    warn!(number, %error, "a network made in part cannot be removed; the node's next start tries again");
                }
                Err(error)
            }
        }
    }

    fn make_builtin(&self, number: u32, subnet: Ipv4Subnet, owner: Option<Owner>) -> Result<Made, NetworkError> {
        let (host_end, end) = subnet.pair(number).ok_or(NetworkError::Exhausted { subnet })?;
        self.journal.write_slot(number, None)?;
        let link = builtin::link(self.journal.tag(), number);
        let namespace = self.namespace(number);
        let plan = Plan { namespace: &namespace, link: &link, host_end, end, mtu: self.mtu, owner };
        builtin::make(&plan, &self.rules, &self.nft)?;
        let guest = GuestNetwork {
            address: builtin::GUEST,
            prefix: builtin::PREFIX,
            gateway: builtin::GATEWAY,
            mac: builtin::GUEST_MAC,
            nameservers: self.rules.nameservers.clone(),
            mtu: self.mtu,
        };
        Ok((builtin::TAP.to_owned(), guest, end))
    }

    fn make_cni(&self, number: u32, network: &CniNetwork, owner: Option<Owner>) -> Result<Made, NetworkError> {
        let namespace = self.namespace(number);
        let mut attachment = network.plan(&namespace, owner);
        self.journal.write_slot(number, Some(attachment.clone()))?;
        namespace::make(&namespace, || Ok(()))?;
        let attached = attachment.add(&namespace::path(&namespace));
        // Plugins remove better what they are told of having made; also when only some have made something.
        self.journal.write_slot(number, Some(attachment))?;
        let Attached { tap, guest, link } = attached?;
        let elements = elements("add", &table(self.journal.tag()), &link, &guest);
        self.nft.apply("make the rules of a microVM's network", &elements)?;
        let address = guest.address;
        let nameservers = self.rules.nameservers.clone();
        Ok((tap, GuestNetwork { nameservers, ..guest }, address))
    }

    /// Removes a slot, and frees its number when nothing is left.
    pub(crate) fn unmake(&self, number: u32) -> Result<(), NetworkError> {
        let cni = self.journal.slot(number).and_then(|record| record.cni);
        unmake(&self.journal, number, cni.as_ref())?;
        // Only now: as long as the link is there, it is the rules that keep its guest in bounds.
        let namespace = namespace::path(&self.namespace(number));
        if let Some((link, guest)) = cni.and_then(|attachment| attachment.made(&namespace)) {
            let elements = elements("delete", &table(self.journal.tag()), &link, &guest);
            if let Err(error) = self.nft.apply("remove the rules of a microVM's network", &elements) {
                // They were never added, or somebody flushed the rules.
                debug!(number, %error, "there are no rules of this network");
            }
        }
        self.numbers().taken.remove(&number);
        Ok(())
    }

    /// Removes a slot though nobody waits for it.
    pub(crate) fn leave(shared: Arc<Self>, number: u32) {
        let leaving = Leaving::new(shared);
        let leave = move || {
            let removed = leaving.shared.as_ref().map_or(Ok(()), |shared| shared.unmake(number));
            if let Err(error) = removed {
                warn!(number, %error, "the network of a microVM cannot be removed; the node's next start tries again");
            }
        };
        // Whoever drops it may be a worker that must not block.
        if let Err(error) = std::thread::Builder::new().name("nex-netns".into()).spawn(leave) {
            warn!(number, %error, "the network of a microVM is not removed; the node's next start does it");
        }
    }

    fn namespace(&self, number: u32) -> String {
        namespace_name(self.journal.tag(), number)
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_number(&self) -> Result<u32, NetworkError> {
        let taken = self.numbers().take();
        taken.ok_or(match self.rules.subnet {
            Some(subnet) => NetworkError::Exhausted { subnet },
            None => NetworkError::TooMany,
        })
    }
}

/// A removal that nobody waits for but [`Network::close`].
struct Leaving {
    shared: Option<Arc<Shared>>,
    count: watch::Sender<usize>,
}

impl Leaving {
    fn new(shared: Arc<Shared>) -> Self {
        let count = shared.leaving.clone();
        count.send_modify(|leaving| *leaving = leaving.saturating_add(1));
        Self { shared: Some(shared), count }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        // First, as it may be the last to have it: what is shared is removed then, and that is waited for too.
        drop(self.shared.take());
        self.count.send_modify(|leaving| *leaving = leaving.saturating_sub(1));
    }
}

/// The tap, what the guest is told, and its address as the host sees it.
type Made = (String, GuestNetwork, std::net::Ipv4Addr);

impl Numbers {
    /// The next free one. The one that became free last comes last: what is still under way for it finds nobody.
    fn take(&mut self) -> Option<u32> {
        let free = |number: &u32| !self.taken.contains(number);
        let number = (self.next..self.limit).find(free).or_else(|| (0..self.next.min(self.limit)).find(free))?;
        self.taken.insert(number);
        self.next = number.saturating_add(1);
        Some(number)
    }
}

/// What the host's table knows of a guest of plugins.
fn elements(verb: &str, table: &str, link: &str, guest: &GuestNetwork) -> String {
    let GuestNetwork { address, gateway, .. } = guest;
    format!(
        "{verb} element inet {table} guests {{ \"{link}\" . {address} }}\n\
         {verb} element inet {table} gateways {{ \"{link}\" . {gateway} }}\n\
         {verb} element inet {table} links {{ \"{link}\" }}\n"
    )
}

fn namespace_name(tag: &str, number: u32) -> String {
    format!("nex-{tag}-{number}")
}

/// Removes what there is of a slot, and strikes it out.
fn unmake(journal: &Journal, number: u32, cni: Option<&Attachment>) -> Result<(), NetworkError> {
    let namespace = namespace_name(journal.tag(), number);
    let removed = cni.map_or(Ok(()), |attachment| attachment.remove(&namespace::path(&namespace)));
    builtin::unmake(&namespace, &builtin::link(journal.tag(), number))?;
    removed?;
    journal.remove_slot(number)
}

/// Removes all slots that a process before this one has left. Those that cannot be removed stay taken.
fn reclaim(journal: &Journal) -> Result<BTreeSet<u32>, NetworkError> {
    let mut left = BTreeSet::new();
    for (number, written) in journal.slots()? {
        let record = match written {
            Written::Ours(record) => record,
            // A power cut leaves files without content, and of what they were about nothing.
            Written::Unreadable if !exists(journal.tag(), number)? => {
                warn!(number, "striking out a record of networks that cannot be read: there is nothing of that name");
                journal.remove_slot(number)?;
                continue;
            }
            Written::Unreadable | Written::Foreign => {
                left.insert(number);
                continue;
            }
        };
        info!(number, "removing the network of a microVM that was left behind");
        if let Err(error) = unmake(journal, number, record.cni.as_ref()) {
            warn!(number, %error, "the network of a microVM that was left behind cannot be removed");
            left.insert(number);
        }
    }
    Ok(left)
}

/// Whether anything of a slot is there.
fn exists(tag: &str, number: u32) -> Result<bool, NetworkError> {
    let link = builtin::link(tag, number);
    let links = Netlink::open().and_then(|mut netlink| netlink.links());
    let links = links.map_err(NetworkError::system::<std::io::Error>("list the host's links"))?;
    Ok(namespace::path(&namespace_name(tag, number)).exists() || links.iter().any(|other| other.name == link))
}

fn may_make_networks() -> Result<(), NetworkError> {
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN;
    let has = capabilities(None).map_err(NetworkError::system("read the process's capabilities"))?;
    if !has.effective.contains(needed) {
        return Err(NetworkError::NotPermitted);
    }
    std::fs::File::open(tap::DEVICE).map_err(NetworkError::NoTap)?;
    host::settings_are_writable()
}

fn is_suitable(subnet: Ipv4Subnet) -> Result<(), NetworkError> {
    let why = match subnet.address().octets() {
        _ if subnet.slots() == 0 => "a microVM's network takes a /31 of it at least",
        [0, ..] | [127, ..] => "its addresses mean the machine itself",
        [224..=255, ..] => "its addresses are no machine's",
        [169, 254, ..] => "its addresses are those of links and metadata services",
        _ if subnet.contains(builtin::GATEWAY) => "guests have addresses of it on their side",
        _ => return Ok(()),
    };
    Err(NetworkError::Unsuitable { subnet, why })
}

fn warnings(nft: &Nft, rules: &Rules, tag: &str) -> Result<Vec<String>, NetworkError> {
    let links = match rules.subnet {
        Some(_) => format!("{}*", builtin::links(tag)),
        None => "veth*".to_owned(),
    };
    let mut warnings = Vec::new();
    for chain in host::refusing_chains(nft, "forward")? {
        warnings.push(format!(
            "the host's firewall drops what it passes on ({chain}): unless it allows the links {links}, guests reach \
             nothing. See docs/networks.md, Firewalls of the host"
        ));
    }
    if rules.policy.opens_host() {
        for chain in host::refusing_chains(nft, "input")? {
            warnings.push(format!(
                "egress.allow opens the host to guests, but its firewall drops what arrives ({chain}): allow the links \
                 {links} there"
            ));
        }
    }
    warnings.iter().for_each(|warning| warn!("{warning}"));
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_became_free_is_taken_again_last() {
        let mut numbers = Numbers { taken: BTreeSet::from([1]), next: 0, limit: 4 };
        assert_eq!((numbers.take(), numbers.take()), (Some(0), Some(2)));
        numbers.taken.remove(&0);
        assert_eq!((numbers.take(), numbers.take(), numbers.take()), (Some(3), Some(0), None));
        numbers.taken.remove(&2);
        assert_eq!(numbers.take(), Some(2));
    }

    #[test]
    fn networks_that_guests_cannot_have_are_refused() {
        for bad in [
            "10.0.0.0/32",
            "127.0.0.0/24",
            "0.0.0.0/0",
            "169.254.0.0/24",
            "224.0.0.0/24",
            "255.0.0.0/24",
            "192.0.0.0/24",
        ] {
            assert!(is_suitable(bad.parse().unwrap()).is_err(), "{bad}");
        }
        for good in ["192.168.127.0/24", "10.0.0.0/8", "10.0.0.0/31"] {
            assert!(is_suitable(good.parse().unwrap()).is_ok(), "{good}");
        }
    }
}
