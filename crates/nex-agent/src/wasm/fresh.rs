//! Code that was compiled here and goes to the node, where it outlives this machine.
//!
//! It goes after the function has started, beside its calls and behind their replies: one piece at a time, the next when
//! the node has taken the one before. A node that asks no more, or a function that ends, ends it; then it is lost, which
//! costs the next machine a compilation.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nex_link::Sender;
use nex_protocol::link::compiled::{Compiled, EngineName, PIECE, limit};
use nex_protocol::link::message::ToNode;
use tokio::sync::Notify;
use tokio::time::timeout;
use wasmtime::Module;
use wasmtime::component::Component;

/// Time the node has to ask for the next piece: what is to be sent takes memory.
const ASKED: Duration = Duration::from_secs(60);

/// Compiled code.
pub(crate) enum Code {
    Module(Module),
    Component(Component),
}

impl Code {
    /// As it is kept.
    pub(crate) fn serialize(&self) -> wasmtime::Result<Vec<u8>> {
        match self {
            Code::Module(module) => module.serialize(),
            Code::Component(component) => component.serialize(),
        }
    }
}

/// Compiled code that the node does not have.
pub(crate) struct Fresh {
    /// The code.
    pub(crate) code: Code,
    /// Who compiled it.
    pub(crate) engine: EngineName,
    /// Size of what it was compiled from.
    pub(crate) artifact_bytes: u64,
}

impl Fresh {
    /// Sends it; `taken` tells that the node has taken a piece.
    pub(crate) async fn send(self, node: &Sender<ToNode>, taken: &Notify) {
        let Fresh { code, engine, artifact_bytes } = self;
        // Some megabytes are copied, which is not for the thread of the link.
        let Ok(Ok(bytes)) = tokio::task::spawn_blocking(move || code.serialize()).await else { return };
        let size = bytes.len() as u64;
        if size > limit(artifact_bytes) {
            tracing::debug!(size, "compiled code is too large to be kept");
            return;
        }
        let mut rest = Bytes::from(bytes);
        loop {
            let piece = rest.split_to(rest.len().min(PIECE));
            if node.send(ToNode::Compiled(Compiled { engine, size, piece })).await.is_err() {
                return;
            }
            if rest.is_empty() || timeout(ASKED, taken.notified()).await.is_err() {
                return;
            }
        }
    }
}

/// How compiled code comes and goes where agent and node share no files.
#[derive(Debug)]
pub(crate) struct OverLink {
    /// What came with the artifact.
    pub(crate) given: Option<super::given::Whole>,
    /// The node has taken a piece.
    pub(crate) taken: Arc<Notify>,
}
