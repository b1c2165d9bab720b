//! `wasi:keyvalue`: store, atomics and batch, in both drafts that components are built for.
//!
//! There is one store, the workload's bucket, under the names `default` and the empty one. Keys are those of `kv`
//! elsewhere, so that JavaScript and other NATS clients see the same. Counters are decimal texts.

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use nex_protocol::link::host::{HostError, HostErrorCode, HostReply, HostRequest, KvRequest};
use wasmtime::component::Resource;

use super::super::bindings::wasi::{keyvalue0_2_0_draft as draft, keyvalue0_2_0_draft2 as draft2};
use super::super::guest::Guest;
use super::{Services, told, unexpected};

/// Keys of a batch that are asked for at the same time.
const AT_ONCE: usize = 16;

/// Keys in one page of a listing.
const PAGE: usize = 1000;

/// The workload's bucket.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings export it")]
pub struct Bucket;

/// A key as it was when it was looked at: what a swap relies on.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings export it")]
pub struct Cas {
    key: String,
    seen: Option<(u64, Bytes)>,
}

fn is_default(identifier: &str) -> bool {
    matches!(identifier, "" | "default")
}

/// Why a number was not added to a key.
enum NotAdded {
    Failed(HostError),
    /// The value, or the sum, is no number of the kind that is asked for.
    NoNumber(String),
}

impl Services {
    async fn kv(&self, request: KvRequest, value: Bytes) -> Result<(HostReply, Bytes), HostError> {
        self.ask(HostRequest::Kv(request), value).await
    }

    async fn kv_get(&self, key: &str) -> Result<Option<(u64, Bytes)>, HostError> {
        match self.kv(KvRequest::Get { key: key.to_owned() }, Bytes::new()).await? {
            (HostReply::Revision { revision }, value) => Ok(Some((revision, value))),
            (HostReply::Missing, _) => Ok(None),
            _ => Err(unexpected("kv", "get")),
        }
    }

    async fn kv_set(&self, key: String, value: Bytes) -> Result<(), HostError> {
        self.kv(KvRequest::Set { key, ttl_ms: None }, value).await.map(drop)
    }

    async fn kv_delete(&self, key: String) -> Result<(), HostError> {
        self.kv(KvRequest::Delete { key }, Bytes::new()).await.map(drop)
    }

    async fn kv_exists(&self, key: String) -> Result<bool, HostError> {
        match self.kv(KvRequest::Exists { key }, Bytes::new()).await? {
            (HostReply::Flag { value }, _) => Ok(value),
            _ => Err(unexpected("kv", "exists")),
        }
    }

    async fn kv_keys(&self) -> Result<Vec<String>, HostError> {
        match self.kv(KvRequest::Keys, Bytes::new()).await? {
            (HostReply::Keys { keys }, _) => Ok(keys),
            _ => Err(unexpected("kv", "keys")),
        }
    }

    /// Sets a key that is still as it was seen.
    async fn kv_swap(&self, key: &str, seen: Option<u64>, value: Bytes) -> Result<(), HostError> {
        let key = key.to_owned();
        let request = match seen {
            Some(revision) => KvRequest::Update { key, revision },
            None => KvRequest::Create { key, ttl_ms: None },
        };
        self.kv(request, value).await.map(drop)
    }

    /// Adds to a number, again and again until nobody else was faster.
    async fn kv_add<N>(&self, key: &str, delta: impl Into<i128>) -> Result<N, NotAdded>
    where
        N: TryFrom<i128>,
    {
        let delta = delta.into();
        loop {
            let seen = self.kv_get(key).await.map_err(NotAdded::Failed)?;
            let (revision, before) = match &seen {
                None => (None, 0),
                Some((revision, value)) => {
                    let number = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<i128>().ok());
                    let number = number.ok_or_else(|| NotAdded::NoNumber("the value is no decimal number".into()))?;
                    (Some(*revision), number)
                }
            };
            let sum = before.checked_add(delta).unwrap_or(i128::MAX);
            let told = N::try_from(sum).map_err(|_| NotAdded::NoNumber(format!("{sum} is out of range")))?;
            match self.kv_swap(key, revision, sum.to_string().into()).await {
                Ok(()) => return Ok(told),
                Err(error) if error.code == HostErrorCode::Conflict => {}
                Err(error) => return Err(NotAdded::Failed(error)),
            }
        }
    }

    async fn kv_get_many(&self, keys: Vec<String>) -> Result<Vec<(String, Option<Vec<u8>>)>, HostError> {
        let get = |key: String| async move {
            let value = self.kv_get(&key).await?.map(|(_, value)| value.to_vec());
            Ok((key, value))
        };
        stream::iter(keys).map(get).buffered(AT_ONCE).try_collect().await
    }

    async fn kv_set_many(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), HostError> {
        let set = |(key, value): (String, Vec<u8>)| self.kv_set(key, value.into());
        stream::iter(pairs).map(set).buffered(AT_ONCE).try_collect().await
    }

    async fn kv_delete_many(&self, keys: Vec<String>) -> Result<(), HostError> {
        stream::iter(keys).map(|key| self.kv_delete(key)).buffered(AT_ONCE).try_collect().await
    }
}

/// One page of sorted keys, beginning with the number `from`, and the number of the first that is not in it.
fn page(keys: Vec<String>, from: usize) -> (Vec<String>, Option<usize>) {
    let next = from.saturating_add(PAGE);
    let more = keys.len() > next;
    (keys.into_iter().skip(from).take(PAGE).collect(), more.then_some(next))
}

/// What the two drafts have in common, which is all but their numbers and cursors.
macro_rules! store {
    ($draft:ident, $cursor:ty, $decode:expr, $encode:expr) => {
        impl From<HostError> for $draft::store::Error {
            fn from(error: HostError) -> Self {
                Self::Other(told(&error))
            }
        }

        impl $draft::store::Host for Guest {
            async fn open(
                &mut self,
                identifier: String,
            ) -> wasmtime::Result<Result<Resource<Bucket>, $draft::store::Error>> {
                if !is_default(&identifier) {
                    return Ok(Err($draft::store::Error::NoSuchStore));
                }
                Ok(Ok(self.table().push(Bucket)?))
            }
        }

        impl $draft::store::HostBucket for Guest {
            async fn get(
                &mut self,
                _: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<Option<Vec<u8>>, $draft::store::Error>> {
                let found = self.services.kv_get(&key).await;
                Ok(found.map(|found| found.map(|(_, value)| value.into())).map_err(Into::into))
            }

            async fn set(
                &mut self,
                _: Resource<Bucket>,
                key: String,
                value: Vec<u8>,
            ) -> wasmtime::Result<Result<(), $draft::store::Error>> {
                Ok(self.services.kv_set(key, value.into()).await.map_err(Into::into))
            }

            async fn delete(
                &mut self,
                _: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<(), $draft::store::Error>> {
                Ok(self.services.kv_delete(key).await.map_err(Into::into))
            }

            async fn exists(
                &mut self,
                _: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<bool, $draft::store::Error>> {
                Ok(self.services.kv_exists(key).await.map_err(Into::into))
            }

            async fn list_keys(
                &mut self,
                _: Resource<Bucket>,
                cursor: Option<$cursor>,
            ) -> wasmtime::Result<Result<$draft::store::KeyResponse, $draft::store::Error>> {
                let Some(from) = cursor.map_or(Some(0), $decode) else {
                    return Ok(Err($draft::store::Error::Other("kv.keys: the cursor is none of this host".to_owned())));
                };
                let keys = self.services.kv_keys().await.map_err($draft::store::Error::from);
                Ok(keys.map(|keys| {
                    let (keys, next) = page(keys, from);
                    $draft::store::KeyResponse { keys, cursor: next.map($encode) }
                }))
            }

            async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
                self.table().delete(bucket)?;
                Ok(())
            }
        }

        impl $draft::batch::Host for Guest {
            async fn get_many(
                &mut self,
                _: Resource<Bucket>,
                keys: Vec<String>,
            ) -> wasmtime::Result<Result<Vec<Many!($draft)>, $draft::store::Error>> {
                let found = self.services.kv_get_many(keys).await;
                Ok(found.map(|found| found.into_iter().map(Many!($draft, shape)).collect()).map_err(Into::into))
            }

            async fn set_many(
                &mut self,
                _: Resource<Bucket>,
                pairs: Vec<(String, Vec<u8>)>,
            ) -> wasmtime::Result<Result<(), $draft::store::Error>> {
                Ok(self.services.kv_set_many(pairs).await.map_err(Into::into))
            }

            async fn delete_many(
                &mut self,
                _: Resource<Bucket>,
                keys: Vec<String>,
            ) -> wasmtime::Result<Result<(), $draft::store::Error>> {
                Ok(self.services.kv_delete_many(keys).await.map_err(Into::into))
            }
        }

        impl From<NotAdded> for $draft::store::Error {
            fn from(why: NotAdded) -> Self {
                match why {
                    NotAdded::Failed(error) => error.into(),
                    NotAdded::NoNumber(text) => Self::Other(format!("kv.increment: {text}")),
                }
            }
        }
    };
}

/// What a batch answers for each key.
macro_rules! Many {
    (draft) => { Option<(String, Vec<u8>)> };
    (draft2) => { (String, Option<Vec<u8>>) };
    (draft, shape) => { |(key, value): (String, Option<Vec<u8>>)| value.map(|value| (key, value)) };
    (draft2, shape) => { std::convert::identity };
}

store!(draft, u64, |cursor: u64| usize::try_from(cursor).ok(), |next: usize| u64::try_from(next).unwrap_or(u64::MAX));
store!(draft2, String, |cursor: String| cursor.parse::<usize>().ok(), |next: usize| next.to_string());

impl draft::atomics::Host for Guest {
    async fn increment(
        &mut self,
        _: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> wasmtime::Result<Result<u64, draft::store::Error>> {
        Ok(self.services.kv_add(&key, delta).await.map_err(Into::into))
    }
}

impl draft2::atomics::Host for Guest {
    async fn increment(
        &mut self,
        _: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> wasmtime::Result<Result<i64, draft2::store::Error>> {
        Ok(self.services.kv_add(&key, delta).await.map_err(Into::into))
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), draft2::atomics::CasError>> {
        use draft2::atomics::CasError;
        let Cas { key, seen } = self.table().delete(cas)?;
        let revision = seen.map(|(revision, _)| revision);
        let error = match self.services.kv_swap(&key, revision, value.into()).await {
            Ok(()) => return Ok(Ok(())),
            Err(error) => error,
        };
        if error.code != HostErrorCode::Conflict {
            return Ok(Err(CasError::StoreError(error.into())));
        }
        // The handle that comes back knows the key as it is now.
        match self.services.kv_get(&key).await {
            Ok(seen) => Ok(Err(CasError::CasFailed(self.table().push(Cas { key, seen })?))),
            Err(error) => Ok(Err(CasError::StoreError(error.into()))),
        }
    }
}

impl draft2::atomics::HostCas for Guest {
    async fn new(
        &mut self,
        _: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Resource<Cas>, draft2::store::Error>> {
        match self.services.kv_get(&key).await {
            Ok(seen) => Ok(Ok(self.table().push(Cas { key, seen })?)),
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn current(&mut self, cas: Resource<Cas>) -> wasmtime::Result<Result<Option<Vec<u8>>, draft2::store::Error>> {
        let seen = &self.table().get(&cas)?.seen;
        Ok(Ok(seen.as_ref().map(|(_, value)| value.to_vec())))
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.table().delete(cas)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let keys: Vec<String> = (0..2500).map(|n| format!("{n:04}")).collect();
        let (mut from, mut seen) = (0, vec![]);
        loop {
            let (part, next) = page(keys.clone(), from);
            seen.extend(part);
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_eq!(seen, keys);
        assert_eq!(page(keys, 9999), (vec![], None));
        assert_eq!(page(vec!["a".into(); PAGE], 0).1, None);
    }
}
