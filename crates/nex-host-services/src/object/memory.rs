//! `objectStore` in memory: the twin that the NATS backend is held against. Here objects are in memory, of course.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use nex_protocol::link::host::ObjectInfo;
use sha2::{Digest, Sha256};

use super::{ObjectStore, Source, digest_text, fits, now};
use crate::{Answer, Download, Failure, StoreSettings};

type Bucket = BTreeMap<String, (ObjectInfo, Bytes)>;

/// Object buckets in memory.
pub struct MemoryObjectStore {
    settings: StoreSettings,
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl MemoryObjectStore {
    /// No buckets yet.
    pub fn new(settings: StoreSettings) -> Self {
        Self { settings, buckets: Mutex::default() }
    }

    fn with<T>(&self, bucket: &str, act: impl FnOnce(&mut Bucket) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.settings.jit_provision && !buckets.contains_key(bucket) {
            return Err(Failure::no_bucket());
        }
        act(buckets.entry(bucket.to_owned()).or_default())
    }

    fn room(&self, bucket: &Bucket, more: usize) -> Result<(), Failure> {
        let used = bucket.values().fold(more, |sum, (_, bytes)| sum.saturating_add(bytes.len()));
        if usize::try_from(self.settings.max_bytes).is_ok_and(|max| max > 0 && used > max) {
            return Err(Failure::full(self.settings.max_bytes));
        }
        Ok(())
    }
}

impl ObjectStore for MemoryObjectStore {
    fn put<'a>(&'a self, bucket: &'a str, name: &'a str, mut source: Source) -> Answer<'a, ObjectInfo> {
        Box::pin(async move {
            let mut bytes = BytesMut::new();
            while let Some(chunk) = source.next().await? {
                self.with(bucket, |bucket| self.room(bucket, bytes.len().saturating_add(chunk.len())))?;
                bytes.extend_from_slice(&chunk);
            }
            let info = ObjectInfo {
                name: name.to_owned(),
                size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                digest: Some(digest_text(&Sha256::digest(&bytes))),
                modified: now(),
            };
            self.with(bucket, |bucket| {
                self.room(bucket, bytes.len())?;
                bucket.insert(name.to_owned(), (info.clone(), bytes.freeze()));
                Ok(info)
            })
        })
    }

    fn get<'a>(&'a self, bucket: &'a str, name: &'a str, sink: &'a Download) -> Answer<'a, Option<ObjectInfo>> {
        Box::pin(async move {
            let Some((info, bytes)) = self.with(bucket, |bucket| Ok(bucket.get(name).cloned()))? else {
                return Ok(None);
            };
            sink.bytes(bytes).await?;
            Ok(Some(info))
        })
    }

    fn delete<'a>(&'a self, bucket: &'a str, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.with(bucket, |bucket| {
                bucket.remove(name);
                Ok(())
            })
        })
    }

    fn info<'a>(&'a self, bucket: &'a str, name: &'a str) -> Answer<'a, Option<ObjectInfo>> {
        Box::pin(async move { self.with(bucket, |bucket| Ok(bucket.get(name).map(|(info, _)| info.clone()))) })
    }

    fn provision<'a>(&'a self, bucket: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { self.with(bucket, |_| Ok(())) })
    }

    fn list<'a>(&'a self, bucket: &'a str) -> Answer<'a, Vec<ObjectInfo>> {
        Box::pin(async move {
            self.with(bucket, |bucket| {
                fits(bucket.len())?;
                Ok(bucket.values().map(|(info, _)| info.clone()).collect())
            })
        })
    }
}
