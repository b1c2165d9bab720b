//! `kv`: the tenant's keys, each with one value.
//!
//! [`KeyValue`] is what a backend can do, on buckets that were named and keys that were checked; [`call`] is what
//! stands between it and a request.

mod memory;
mod nats;

use std::time::Duration;

use bytes::Bytes;
use nex_protocol::link::host::{HostErrorCode, HostReply, KvRequest};

pub use memory::MemoryKeyValue;
pub use nats::NatsKeyValue;

use crate::failure::quoted;
use crate::{Answer, Download, Failure};

/// Longest key, bytes.
pub const LONGEST_KEY: usize = 512;

/// Keys and their characters that one answer may hold.
const LARGEST_LISTING: usize = 4 << 20;

/// What a key has to be for a value to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// Not there.
    Absent,
    /// At this revision.
    Revision(u64),
}

/// A value and the revision it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Value.
    pub value: Bytes,
    /// Revision.
    pub revision: u64,
}

/// A key-value store of many buckets.
pub trait KeyValue: Send + Sync {
    /// The value of a key.
    fn get<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, Option<Entry>>;

    /// Sets a key; the new revision. With a time to live, the key is gone after it.
    fn set<'a>(
        &'a self,
        bucket: &'a str,
        key: &'a str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Answer<'a, u64>;

    /// Removes a key.
    fn delete<'a>(&'a self, bucket: &'a str, key: &'a str) -> Answer<'a, ()>;

    /// All keys, in any order.
    fn keys<'a>(&'a self, bucket: &'a str) -> Answer<'a, Vec<String>>;

    /// Makes a bucket that is not there, where buckets are made on first use.
    fn provision<'a>(&'a self, bucket: &'a str) -> Answer<'a, ()>;

    /// Passes on every change of the keys under a pattern, from now on, until it is dropped or nobody listens.
    fn watch<'a>(&'a self, bucket: &'a str, pattern: &'a str, events: &'a Download) -> Answer<'a, ()>;
}

/// Does what a request asks.
pub(crate) async fn call(
    store: &dyn KeyValue,
    bucket: &str,
    request: &KvRequest,
    value: Bytes,
    download: &Download,
) -> Result<(HostReply, Bytes), Failure> {
    let revision = |revision| (HostReply::Revision { revision }, Bytes::new());
    match request {
        KvRequest::Get { key } => Ok(match store.get(bucket, checked(key)?).await? {
            Some(entry) => (HostReply::Revision { revision: entry.revision }, entry.value),
            None => (HostReply::Missing, Bytes::new()),
        }),
        KvRequest::Set { key, ttl_ms } => {
            store.set(bucket, checked(key)?, value, Expect::Any, time_to_live(*ttl_ms)?).await.map(revision)
        }
        KvRequest::Create { key, ttl_ms } => {
            store.set(bucket, checked(key)?, value, Expect::Absent, time_to_live(*ttl_ms)?).await.map(revision)
        }
        KvRequest::Update { key, revision: seen } => {
            let expect = if *seen == 0 { Expect::Absent } else { Expect::Revision(*seen) };
            store.set(bucket, checked(key)?, value, expect, None).await.map(revision)
        }
        KvRequest::Delete { key } => {
            store.delete(bucket, checked(key)?).await?;
            Ok((HostReply::Done, Bytes::new()))
        }
        KvRequest::Exists { key } => {
            let value = store.get(bucket, checked(key)?).await?.is_some();
            Ok((HostReply::Flag { value }, Bytes::new()))
        }
        KvRequest::Keys => {
            let mut keys = store.keys(bucket).await?;
            keys.sort_unstable();
            keys.dedup();
            Ok((HostReply::Keys { keys }, Bytes::new()))
        }
        KvRequest::Watch { key } => {
            let pattern = key.as_deref().unwrap_or(">");
            store.watch(bucket, checked_pattern(pattern)?, download).await?;
            Ok((HostReply::Done, Bytes::new()))
        }
    }
}

/// A key as NATS takes it: letters, digits and `-/_=.`, no empty part between dots.
fn checked(key: &str) -> Result<&str, Failure> {
    let valid = |c: u8| c.is_ascii_alphanumeric() || b"-/_=.".contains(&c);
    check(key, valid, |_| true)
}

/// A key, or one with `*` for a part or `>` for the rest.
fn checked_pattern(pattern: &str) -> Result<&str, Failure> {
    let valid = |c: u8| c.is_ascii_alphanumeric() || b"-/_=.*>".contains(&c);
    let rest = pattern.strip_suffix('>').unwrap_or(pattern);
    check(pattern, valid, |part| (part == "*" || part == ">" || !part.contains(['*', '>'])) && !rest.contains('>'))
}

fn check(key: &str, valid: impl Fn(u8) -> bool, part: impl Fn(&str) -> bool) -> Result<&str, Failure> {
    if key.is_empty() || key.len() > LONGEST_KEY {
        return Err(Failure::invalid(format!("a key has 1 to {LONGEST_KEY} bytes")));
    }
    if !key.bytes().all(valid) || key.split('.').any(|text| text.is_empty() || !part(text)) {
        let allowed = "letters, digits and - / _ = . are allowed, with no dot first, last or after another";
        return Err(Failure::invalid(format!("{} is no key: {allowed}", quoted(key))));
    }
    Ok(key)
}

/// Servers count in seconds, so anything shorter is a second.
fn time_to_live(ttl_ms: Option<u64>) -> Result<Option<Duration>, Failure> {
    match ttl_ms {
        Some(0) => Err(Failure::invalid("a ttl is at least a millisecond")),
        ttl => Ok(ttl.map(|ttl| Duration::from_secs(ttl.div_ceil(1000)))),
    }
}

/// Refuses a listing that no longer fits an answer.
fn fits(keys: usize, bytes: usize) -> Result<(), Failure> {
    if bytes.saturating_add(keys.saturating_mul(4)) > LARGEST_LISTING {
        return Err(Failure::too_large("the keys are too many for one answer; use watch, or fewer keys"));
    }
    Ok(())
}

/// A conflict, in the words of who expected something.
fn conflicting(failure: Failure, expect: Expect) -> Failure {
    match (failure.code, expect) {
        (HostErrorCode::Conflict, Expect::Absent) => Failure::conflict("the key exists already"),
        (HostErrorCode::Conflict, Expect::Revision(revision)) => {
            Failure::conflict(format!("the key is not at revision {revision}"))
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_nats() {
        for good in ["a", "a.b", "a/b", "A-Z_0=9", "$x".trim_start_matches('$'), "-"] {
            assert_eq!(checked(good), Ok(good));
        }
        for bad in ["", ".", ".a", "a.", "a..b", "a b", "a*", "*", ">", "a.>", "é", "a\n", "\0", "$KV", "a\\b", "{}"] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
        assert!(checked(&"k".repeat(LONGEST_KEY + 1)).is_err());
    }

    #[test]
    fn patterns_have_whole_wildcards() {
        for good in [">", "*", "a.*", "a.>", "*.b.>", "a"] {
            assert_eq!(checked_pattern(good), Ok(good));
        }
        for bad in ["", "a*", ">.a", "a.>.b", "a>", ">>", "a.*b", ".>", "a..>"] {
            assert!(checked_pattern(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_ttl_is_in_whole_seconds() {
        assert_eq!(time_to_live(Some(1)), Ok(Some(Duration::from_secs(1))));
        assert_eq!(time_to_live(Some(1001)), Ok(Some(Duration::from_secs(2))));
        assert_eq!(time_to_live(None), Ok(None));
        assert!(time_to_live(Some(0)).is_err());
    }
}
