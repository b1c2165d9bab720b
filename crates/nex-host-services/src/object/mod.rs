//! `objectStore`: the tenant's objects, streamed in chunks.
//!
//! [`ObjectStore`] is what a backend can do; [`call`] is what stands between it and a request. An object is stored
//! whole or not at all, and no more than a few chunks of it are ever in memory. A name is any text: it never becomes a
//! path or a subject without being encoded.

mod memory;
mod nats;

use std::sync::Arc;

use bytes::Bytes;
use nex_protocol::Namespace;
use nex_protocol::link::host::{HostReply, ObjectInfo, ObjectRequest};

pub use memory::MemoryObjectStore;
pub use nats::NatsObjectStore;

use crate::quota::Quota;
use crate::{Answer, Download, Failure, Upload};

/// Longest name, bytes.
pub const LONGEST_NAME: usize = 1024;

/// Objects one listing may hold.
const LONGEST_LISTING: usize = 50_000;

/// An object store of many buckets.
pub trait ObjectStore: Send + Sync {
    /// Stores an object from chunks, in the place of one with that name.
    fn put<'a>(&'a self, bucket: &'a str, name: &'a str, source: Source) -> Answer<'a, ObjectInfo>;

    /// Passes an object's bytes on; fails when they are not those that were stored.
    fn get<'a>(&'a self, bucket: &'a str, name: &'a str, sink: &'a Download) -> Answer<'a, Option<ObjectInfo>>;

    /// Removes an object.
    fn delete<'a>(&'a self, bucket: &'a str, name: &'a str) -> Answer<'a, ()>;

    /// What is known of an object.
    fn info<'a>(&'a self, bucket: &'a str, name: &'a str) -> Answer<'a, Option<ObjectInfo>>;

    /// What is known of all objects, in any order.
    fn list<'a>(&'a self, bucket: &'a str) -> Answer<'a, Vec<ObjectInfo>>;

    /// Makes a bucket that is not there, where buckets are made on first use.
    fn provision<'a>(&'a self, bucket: &'a str) -> Answer<'a, ()>;
}

/// The bytes of an object that is being stored.
pub struct Source {
    first: Option<Bytes>,
    upload: Option<Upload>,
    quota: Arc<Quota>,
    namespace: Namespace,
}

impl Source {
    pub(crate) fn new(body: Bytes, upload: Option<Upload>, quota: Arc<Quota>, namespace: Namespace) -> Self {
        Self { first: Some(body).filter(|body| !body.is_empty()), upload, quota, namespace }
    }

    /// What came beside the request, which for everything but an upload is all there is.
    pub(crate) fn into_body(self) -> Bytes {
        self.first.unwrap_or_default()
    }

    /// The next chunk, never empty; `None` at the end. An upload that was given up is a failure.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let Some(upload) = &mut self.upload else { return Ok(None) };
        let chunk =
            upload.chunks.recv().await.ok_or_else(|| Failure::invalid("the upload ended before its last chunk"))?;
        (upload.taken)();
        self.quota.charge_bytes(&self.namespace, chunk.len());
        if chunk.is_empty() {
            self.upload = None;
            return Ok(None);
        }
        Ok(Some(chunk))
    }
}

/// Does what a request asks.
pub(crate) async fn call(
    store: &dyn ObjectStore,
    bucket: &str,
    request: &ObjectRequest,
    source: Source,
    download: &Download,
) -> Result<(HostReply, Bytes), Failure> {
    let found = |info: Option<ObjectInfo>| info.map_or(HostReply::Missing, |info| HostReply::Object { info });
    let reply = match request {
        ObjectRequest::Put { name } => HostReply::Object { info: store.put(bucket, checked(name)?, source).await? },
        ObjectRequest::Get { name } => found(store.get(bucket, checked(name)?, download).await?),
        ObjectRequest::Info { name } => found(store.info(bucket, checked(name)?).await?),
        ObjectRequest::Delete { name } => {
            store.delete(bucket, checked(name)?).await?;
            HostReply::Done
        }
        ObjectRequest::List => {
            let mut objects = store.list(bucket).await?;
            objects.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            HostReply::Objects { objects }
        }
    };
    Ok((reply, Bytes::new()))
}

fn checked(name: &str) -> Result<&str, Failure> {
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(Failure::invalid(format!("an object's name has 1 to {LONGEST_NAME} bytes")));
    }
    Ok(name)
}

/// Refuses a listing that no longer fits an answer.
fn fits(objects: usize) -> Result<(), Failure> {
    if objects > LONGEST_LISTING {
        return Err(Failure::too_large(format!("there are more than {LONGEST_LISTING} objects")));
    }
    Ok(())
}

/// A digest as object stores write it.
fn digest_text(digest: &[u8]) -> String {
    use base64::Engine as _;
    format!("SHA-256={}", base64::engine::general_purpose::URL_SAFE.encode(digest))
}

/// The time, RFC 3339.
fn now() -> Option<String> {
    time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).ok()
}
