//! One call of a function to a service: the request, its data on the way in and out, and until when.

use bytes::Bytes;
use nex_protocol::link::host::{HostRequest, WatchEvent};
use nex_protocol::{Namespace, WorkloadName};
use tokio::sync::mpsc;

/// Whose keys, objects and calls are meant. Known from the link a call arrives on, never from what the guest says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tenant {
    /// Namespace.
    pub namespace: Namespace,
    /// Workload.
    pub workload: WorkloadName,
}

/// A call.
pub struct HostCall {
    /// What is asked.
    pub request: HostRequest,
    /// The value, message or body.
    pub body: Bytes,
    /// The object's bytes, with `objectStore.put`.
    pub upload: Option<Upload>,
    /// Takes an object's bytes and the events of a watch, in chunks.
    pub download: mpsc::Sender<(Option<WatchEvent>, Bytes)>,
    /// When it is over, answered or not.
    pub deadline: tokio::time::Instant,
}

/// Bytes on their way in.
pub struct Upload {
    /// The chunks; an empty one ends the upload. Closed before that, it was given up and nothing is stored.
    pub chunks: mpsc::Receiver<Bytes>,
    /// Called after each chunk was taken.
    pub taken: Box<dyn Fn() + Send>,
}
