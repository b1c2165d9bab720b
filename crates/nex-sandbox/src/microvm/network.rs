//! What a machine's network is to its monitor: a namespace to run in and a tap in it.

use std::path::PathBuf;

use nex_network::Slot;
use nex_protocol::machine::GuestNetwork;
use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use tokio::process::Command;

/// A network that was made for one machine.
#[derive(Debug, Clone)]
pub(super) struct Attached {
    /// File of its namespace.
    pub(super) namespace: PathBuf,
    /// Name of its tap there.
    pub(super) tap: String,
    /// What the guest is told.
    pub(super) guest: GuestNetwork,
}

impl Attached {
    pub(super) fn of(slot: &Slot) -> Self {
        Self { namespace: slot.namespace().to_owned(), tap: slot.tap().to_owned(), guest: slot.guest().clone() }
    }
}

/// Has a program start where there is no network at all, as far as this process may: a monitor that is taken over by its
/// guest is not to have the host's.
pub(super) fn without(command: &mut Command) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // SAFETY: between fork and exec only async-signal-safe calls are allowed, and the child has one thread and shares no
    // table of descriptors. The closure makes one plain system call, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| Ok(unshare_unsafe(UnshareFlags::NEWNET)?));
    }
}

/// Has a program start in a network namespace.
pub(super) fn enter(command: &mut Command, namespace: PathBuf) {
    // Opened here and not after the fork, where nothing may be allocated.
    let opened = open(&namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes one plain system call,
    // allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || match &opened {
            Ok(namespace) => {
                Ok(move_into_link_name_space(std::os::fd::AsFd::as_fd(namespace), Some(LinkNameSpaceType::Network))?)
            }
            Err(error) => Err((*error).into()),
        });
    }
}
