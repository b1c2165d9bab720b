//! One network: owned, and removed when it is released or dropped.

use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use crate::network::Shared;
use crate::{GuestNetwork, NetworkError, namespace, tap};

/// The network of one microVM. Its VMM must have ended before it is released.
#[derive(Debug)]
pub struct Slot {
    shared: Option<Arc<Shared>>,
    number: u32,
    namespace: PathBuf,
    tap: String,
    guest: GuestNetwork,
    address: Ipv4Addr,
}

impl Slot {
    pub(crate) fn new(
        shared: Arc<Shared>,
        number: u32,
        namespace: PathBuf,
        tap: String,
        guest: GuestNetwork,
        address: Ipv4Addr,
    ) -> Self {
        Self { shared: Some(shared), number, namespace, tap, guest, address }
    }

    /// The network namespace that the VMM is to run in.
    pub fn namespace(&self) -> &Path {
        &self.namespace
    }

    /// The tap in the namespace, the guest's device.
    pub fn tap(&self) -> &str {
        &self.tap
    }

    /// Opens the tap, for a VMM that is given a descriptor. It runs wherever it likes then.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or somebody has the tap open.
    pub fn open_tap(&self) -> Result<OwnedFd, NetworkError> {
        let failed = || NetworkError::system::<io::Error>(format!("open the tap {} of a microVM", self.tap));
        namespace::within(&self.namespace, || tap::open(&self.tap).map(OwnedFd::from).map_err(failed()))
    }

    /// What the guest has to set up.
    pub fn guest(&self) -> &GuestNetwork {
        &self.guest
    }

    /// The guest's address as the host sees it. Processes of the host reach the guest there, and nobody else does.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Removes it, and waits until its address is free.
    ///
    /// # Errors
    /// When something cannot be removed. It is tried again at the next start with the same journal.
    pub async fn release(mut self) -> Result<(), NetworkError> {
        let Some(shared) = mem::take(&mut self.shared) else { return Ok(()) };
        let number = self.number;
        let removed = spawn_blocking(move || shared.unmake(number)).await;
        removed.map_err(|error| NetworkError::System {
            what: "remove the network of a microVM".into(),
            source: error.into(),
        })?
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            Shared::leave(shared, self.number);
        }
    }
}
