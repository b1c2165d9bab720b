//! The way out for an object's bytes and for the events of a watch: in chunks, never faster than they are taken.

use std::sync::Arc;

use bytes::Bytes;
use nex_protocol::Namespace;
use nex_protocol::link::host::{CHUNK, HostErrorCode, WatchEvent};
use tokio::sync::mpsc;

use crate::Failure;
use crate::quota::Quota;

/// Where a service puts what belongs before the reply.
pub struct Download {
    chunks: mpsc::Sender<(Option<WatchEvent>, Bytes)>,
    quota: Arc<Quota>,
    namespace: Namespace,
}

impl Download {
    pub(crate) fn new(
        chunks: mpsc::Sender<(Option<WatchEvent>, Bytes)>,
        quota: Arc<Quota>,
        namespace: Namespace,
    ) -> Self {
        Self { chunks, quota, namespace }
    }

    /// Passes bytes on, cut into chunks of the link's size, waiting for room.
    pub async fn bytes(&self, mut bytes: Bytes) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK));
            self.quota.charge_bytes(&self.namespace, chunk.len());
            self.put(None, chunk).await?;
        }
        Ok(())
    }

    /// Passes an event on. A watch has no end of its own, so it ends here when its namespace is over its quota.
    pub async fn event(&self, event: WatchEvent, value: Bytes) -> Result<(), Failure> {
        let length = event.key.len().saturating_add(value.len());
        if !self.quota.has_bytes(&self.namespace) {
            return Err(Failure::new(HostErrorCode::Quota, "the namespace is over its bytes per second"));
        }
        self.quota.charge_bytes(&self.namespace, length);
        self.put(Some(event), value).await
    }

    /// Ends once nobody takes chunks any more.
    pub async fn closed(&self) {
        self.chunks.closed().await;
    }

    async fn put(&self, event: Option<WatchEvent>, chunk: Bytes) -> Result<(), Failure> {
        self.chunks.send((event, chunk)).await.map_err(|_| Failure::unavailable("nobody takes the answer any more"))
    }
}
