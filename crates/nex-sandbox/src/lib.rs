//! Isolated places for agents, and the warm pool of them.
//!
//! A [`Sandbox`] prepares an [`Agent`]: a place of its own (a child process or a microVM) in which an agent has
//! shaken hands and waits for its one workload. The [`Pool`] keeps some of them ready and hands each over once.
//!
//! Promises: what is handed over is owned by the taker alone and is ready; dropping or destroying an agent ends
//! everything that ran in its place; nothing is ever returned to the pool. An in-memory twin
//! ([`memory::MemorySandbox`]) stands in for a real place in tests of what is built on top.

pub mod agent;
pub mod backoff;
pub mod cgroup;
mod child;
pub mod memory;
pub mod microvm;
pub mod pool;
pub mod process;

use std::future::Future;

pub use agent::{Agent, Place};
pub use backoff::Backoff;
pub use cgroup::{Cgroups, Resources};
pub use microvm::{MachineSandbox, MachineSettings, Monitor};
pub use pool::{Pool, PoolExhausted, PoolSettings, PoolStatus};
pub use process::{ProcessSandbox, ProcessSettings};

/// An agent could not be brought to readiness.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Its folder, socket or process could not be made.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It did not shake hands in time.
    #[error("the agent did not shake hands within {} ms", .0.as_millis())]
    HandshakeTimeout(std::time::Duration),
    /// It ended, or broke the protocol, before it was ready.
    #[error("the agent ended before it shook hands: {0}")]
    Ended(String),
    /// The machine it was to be in did not come up.
    #[error("{error}; the machine's last words: {console}")]
    Machine {
        /// What was seen of it.
        error: String,
        /// The last lines of its console.
        console: String,
    },
    /// Its monitor took all the memory that it may have on the host, and was killed.
    #[error(
        "its monitor was killed: it took more memory than the {mib} MiB that a machine of this size may take on the host; \
         {error}"
    )]
    OutOfMemory {
        /// What was seen of it.
        error: String,
        /// What it may take, MiB.
        mib: u64,
    },
    /// Its network could not be made.
    #[error(transparent)]
    Network(#[from] nex_network::NetworkError),
    /// Its monitor refused what it was told.
    #[error("Firecracker refused {request}: {fault}{}{help}", if help.is_empty() { "" } else { ". To mend it: " })]
    Refused {
        /// Method and path of the request.
        request: String,
        /// What it says.
        fault: String,
        /// What to do about it; empty when that is not known.
        help: &'static str,
    },
    /// It is of another release.
    #[error("the agent speaks version {agent} of the link, this node speaks {node}: install both from one release")]
    Version {
        /// What the agent speaks.
        agent: u16,
        /// What this node speaks.
        node: u16,
    },
}

/// Makes places for agents.
pub trait Sandbox: Send + Sync + 'static {
    /// Prepares one place and the agent in it, up to the handshake. Cancelling it leaves nothing behind.
    fn prepare(&self) -> impl Future<Output = Result<Agent, PrepareError>> + Send;

    /// Waits until nothing is left of places that were given up. Comes last.
    fn close(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}
