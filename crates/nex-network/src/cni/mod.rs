//! A slot that CNI plugins make: a namespace is given to them, and they put link, address and tap into it.
//!
//! The tap of `tc-redirect-tap` is joined to the link below IP: no rule of the namespace sees its packets, one at the
//! link's egress hook neither. So the policy is enforced where they come out, at the host's end of the link, which has
//! to be a link of this slot alone. That is why the first plugin must be `ptp`.

mod conflist;
mod plugin;
mod result;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::settings::Owner;
use crate::{GuestNetwork, NetworkError, namespace};
use conflist::Conflist;
use plugin::Call;

/// A network of plugins that can be used.
#[derive(Debug)]
pub(crate) struct CniNetwork {
    conflist: Conflist,
    bin_paths: Vec<PathBuf>,
    interface: String,
}

/// What plugins have been asked to make, and all that is needed to have them remove it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Attachment {
    conflist: Conflist,
    bin_paths: Vec<PathBuf>,
    container: String,
    interface: String,
    arguments: String,
    /// What they said, once they have.
    result: Option<Value>,
}

/// What plugins have made.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) tap: String,
    pub(crate) guest: GuestNetwork,
    /// The host's end of the link.
    pub(crate) link: String,
}

/// Whether the plugins and the configuration that this network takes are there.
///
/// # Errors
/// With what is missing.
pub fn ready(bin_paths: &[PathBuf], conf_dir: &Path, network_name: &str) -> Result<(), NetworkError> {
    let conflist = Conflist::find(conf_dir, network_name)?;
    conflist.programs().try_for_each(|plugin| plugin::program(plugin, bin_paths).map(|_| ()))
}

impl CniNetwork {
    /// Reads the configuration, and looks for the plugins that it names.
    ///
    /// # Errors
    /// With what is missing or cannot be used.
    pub(crate) fn new(
        bin_paths: Vec<PathBuf>,
        conf_dir: &Path,
        name: &str,
        interface: String,
    ) -> Result<Self, NetworkError> {
        ready(&bin_paths, conf_dir, name)?;
        Ok(Self { conflist: Conflist::find(conf_dir, name)?, bin_paths, interface })
    }

    /// What is going to be asked of plugins for this slot, so that it can be written down.
    pub(crate) fn plan(&self, container: &str, owner: Option<Owner>) -> Attachment {
        let mut arguments = "IgnoreUnknown=1".to_owned();
        if let Some(Owner { uid, gid }) = owner {
            arguments = format!("{arguments};TC_REDIRECT_TAP_UID={uid};TC_REDIRECT_TAP_GID={gid}");
        }
        Attachment {
            conflist: self.conflist.clone(),
            bin_paths: self.bin_paths.clone(),
            container: container.to_owned(),
            interface: self.interface.clone(),
            arguments,
            result: None,
        }
    }
}

impl Attachment {
    /// Has plugins make it in the namespace, and keeps what they say.
    ///
    /// # Errors
    /// When one fails, or what they made is no network for a microVM.
    pub(crate) fn add(&mut self, namespace: &Path) -> Result<Attached, NetworkError> {
        for plugin in self.conflist.plugins() {
            let program = plugin::program(plugin.kind(), &self.bin_paths)?;
            let config = plugin.configuration(&self.conflist, self.result.as_ref());
            let output = self.call(&program, plugin.kind(), namespace).run("ADD", &config)?;
            self.result = Some(serde_json::from_slice(&output).map_err(|error| NetworkError::Plugin {
                plugin: plugin.kind().to_owned(),
                command: "ADD",
                message: format!("its result is no JSON: {error}"),
            })?);
        }
        let unusable = |why| NetworkError::Unusable { name: self.conflist.name().to_owned(), why };
        let said = self.result.clone().unwrap_or_default();
        let result = result::read(said, &self.container, namespace).map_err(unusable)?;
        let tap = result.tap.clone();
        let mtu = namespace::within(namespace, || {
            let link = crate::netlink::Netlink::open().and_then(|mut netlink| netlink.link(&tap));
            link.map(|link| link.mtu).map_err(NetworkError::system(format!("find the tap {tap}")))
        })?;
        let guest = GuestNetwork { mtu: u16::try_from(mtu).unwrap_or(u16::MAX), ..result.guest };
        Ok(Attached { tap: result.tap, guest, link: result.link })
    }

    /// What plugins said they made, when they have: the host's end of the link, and the guest.
    pub(crate) fn made(&self, namespace: &Path) -> Option<(String, GuestNetwork)> {
        let result = result::read(self.result.clone()?, &self.container, namespace).ok()?;
        Some((result.link, result.guest))
    }

    /// Has plugins remove it, the last one first. All are asked, also when one fails.
    ///
    /// # Errors
    /// The first failure.
    pub(crate) fn remove(&self, namespace: &Path) -> Result<(), NetworkError> {
        let mut outcome = Ok(());
        for plugin in self.conflist.plugins().rev() {
            let removed = plugin::program(plugin.kind(), &self.bin_paths).and_then(|program| {
                let config = plugin.configuration(&self.conflist, self.result.as_ref());
                self.call(&program, plugin.kind(), namespace).run("DEL", &config)
            });
            outcome = outcome.and(removed.map(|_| ()));
        }
        outcome
    }

    fn call<'a>(&'a self, program: &'a Path, plugin: &'a str, namespace: &'a Path) -> Call<'a> {
        Call {
            program,
            plugin,
            container: &self.container,
            namespace,
            interface: &self.interface,
            arguments: &self.arguments,
            bin_paths: &self.bin_paths,
        }
    }
}
