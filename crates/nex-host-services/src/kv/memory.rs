//! `kv` in memory: the twin that the NATS backend is held against. It forgets everything when it is dropped.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nex_protocol::link::host::WatchEvent;
use tokio::sync::broadcast;

use super::{Entry, Expect, KeyValue, conflicting, fits};
use crate::{Answer, Download, Failure, StoreSettings};

/// What a key costs beside its characters and its value, about as in a stream.
const OVERHEAD: usize = 64;

/// Changes a watch may be behind.
const BEHIND: usize = 1024;

/// Key-value buckets in memory.
pub struct MemoryKeyValue {
    settings: StoreSettings,
    buckets: Arc<Mutex<HashMap<String, Bucket>>>,
}

struct Bucket {
    /// A key that was removed keeps its revision, without a value.
    keys: BTreeMap<String, (u64, Option<Bytes>)>,
    revision: u64,
    changes: broadcast::Sender<(WatchEvent, Bytes)>,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), revision: 0, changes: broadcast::channel(BEHIND).0 }
    }
}

impl Bucket {
    fn put(&mut self, key: &str, value: Option<Bytes>) -> u64 {
        self.revision = self.revision.saturating_add(1);
        let revision = self.revision;
        let event = WatchEvent { key: key.to_owned(), revision, deleted: value.is_none() };
        self.keys.insert(key.to_owned(), (revision, value.clone()));
        // Nobody listening is no error.
        let _ = self.changes.send((event, value.unwrap_or_default()));
        revision
    }

    fn size(&self) -> usize {
        self.keys.iter().map(|(key, (_, value))| cost(key, value.as_ref().map_or(0, Bytes::len))).sum()
    }
}

fn cost(key: &str, value: usize) -> usize {
    OVERHEAD.saturating_add(key.len()).saturating_add(value)
}

impl MemoryKeyValue {
    /// No buckets yet.
    pub fn new(settings: StoreSettings) -> Self {
        Self { settings, buckets: Arc::default() }
    }

    fn with<T>(&self, bucket: &str, act: impl FnOnce(&mut Bucket) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut buckets = lock(&self.buckets);
        if !self.settings.jit_provision && !buckets.contains_key(bucket) {
            return Err(Failure::no_bucket());
        }
        act(buckets.entry(bucket.to_owned()).or_default())
    }

    fn put(&self, bucket: &str, key: &str, value: Bytes, expect: Expect) -> Result<u64, Failure> {
        self.with(bucket, |bucket| {
            let last = bucket.keys.get(key);
            let met = match expect {
                Expect::Any => true,
                Expect::Absent => last.is_none_or(|(_, value)| value.is_none()),
                Expect::Revision(revision) => last.is_some_and(|(last, _)| *last == revision),
            };
            if !met {
                return Err(conflicting(Failure::conflict("changed"), expect));
            }
            let before = last.map_or(0, |(_, value)| cost(key, value.as_ref().map_or(0, Bytes::len)));
            let after = bucket.size().saturating_sub(before).saturating_add(cost(key, value.len()));
            if usize::try_from(self.settings.max_bytes).is_ok_and(|max| max > 0 && after > max) {
                return Err(Failure::full(self.settings.max_bytes));
            }
            Ok(bucket.put(key, Some(value)))
        })
    }

    fn expire(&self, bucket: &str, key: &str, revision: u64, ttl: Duration) {
        let (buckets, bucket, key) = (Arc::downgrade(&self.buckets), bucket.to_owned(), key.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(ttl).await;
            let Some(buckets) = buckets.upgrade() else { return };
            if let Some(bucket) = lock(&buckets).get_mut(&bucket)
                && bucket.keys.get(&key).is_some_and(|(last, value)| *last == revision && value.is_some())
            {
                bucket.put(&key, None);
            }
        });
    }
}

impl KeyValue for MemoryKeyValue {
    fn get<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Option<Entry>> {
        Box::pin(async move {
            self.with(bucket, |bucket| {
                let last = bucket.keys.get(key);
                Ok(last.and_then(|(revision, value)| Some(Entry { value: value.clone()?, revision: *revision })))
            })
        })
    }

    fn set<'a>(
        &'a self,
        bucket: &'a str,
        key: &'a str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Answer<'a, u64> {
        Box::pin(async move {
            let revision = self.put(bucket, key, value, expect)?;
            if let Some(ttl) = ttl {
                self.expire(bucket, key, revision, ttl);
            }
            Ok(revision)
        })
    }

    fn delete<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.with(bucket, |bucket| {
                if bucket.keys.get(key).is_some_and(|(_, value)| value.is_some()) {
                    bucket.put(key, None);
                }
                Ok(())
            })
        })
    }

    fn keys<'a>(&'a self, bucket: &'a str) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            self.with(bucket, |bucket| {
                let there = bucket.keys.iter().filter(|(_, (_, value))| value.is_some());
                let keys: Vec<String> = there.map(|(key, _)| key.clone()).collect();
                fits(keys.len(), keys.iter().map(String::len).sum()).map(|()| keys)
            })
        })
    }

    fn provision<'a>(&'a self, bucket: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { self.with(bucket, |_| Ok(())) })
    }

    fn watch<'a>(&'a self, bucket: &'a str, pattern: &'a str, events: &'a Download) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut changes = self.with(bucket, |bucket| Ok(bucket.changes.subscribe()))?;
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = events.closed() => return Ok(()),
                };
                match change {
                    Ok((event, value)) if matches(pattern, &event.key) => events.event(event, value).await?,
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        return Err(Failure::unavailable("the watch fell too far behind"));
                    }
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                }
            }
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn matches(pattern: &str, key: &str) -> bool {
    let (mut pattern, mut key) = (pattern.split('.'), key.split('.'));
    loop {
        match (pattern.next(), key.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(a), Some(b)) if a == "*" || a == b => {}
            _ => return false,
        }
    }
}
