//! An object on its way in: all of it, or the bytes between two offsets.
//!
//! It is asked for when it is consumed, and comes no faster than the guest reads. An object that turns out to be damaged
//! is an error at its end, where it is known. Dropping the stream ends the download.

use bytes::{Bytes, BytesMut};
use nex_protocol::link::host::{HostErrorCode, HostReply, HostRequest, ObjectRequest};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError, StreamResult};

use super::{Services, told};
use crate::host::{Download, Part};

/// The resource: an object that was found, and which of its bytes are meant.
#[derive(Debug, Clone)]
#[expect(unreachable_pub, reason = "the generated bindings export it")]
pub struct IncomingValue {
    name: String,
    /// Bytes before the first that is meant.
    skip: u64,
    /// Bytes that are meant.
    length: u64,
    /// Whether they are the last of the object.
    to_end: bool,
}

impl IncomingValue {
    /// The bytes of an object of `size` bytes from `start` to `end`, both among them.
    pub(crate) fn new(name: String, size: u64, start: u64, end: u64) -> Self {
        let after = end.saturating_add(1).min(size);
        let length = after.saturating_sub(start);
        Self { name, skip: start, length, to_end: after == size }
    }

    /// Bytes that are meant.
    pub(crate) fn size(&self) -> u64 {
        self.length
    }

    /// All of them at once.
    pub(crate) async fn collect(self, services: &Services) -> Result<Vec<u8>, String> {
        if self.length > u64::try_from(services.memory).unwrap_or(u64::MAX) {
            let limit = services.memory;
            return Err(format!(
                "objectStore.get: it has more than the {limit} bytes the function may have (too-large)"
            ));
        }
        let mut stream = self.stream(services).await?;
        let mut bytes = BytesMut::new();
        loop {
            match stream.next().await {
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                Ok(None) => return Ok(bytes.into()),
                Err(why) => return Err(why),
            }
        }
    }

    /// A stream of them.
    pub(crate) async fn stream(self, services: &Services) -> Result<ObjectStream, String> {
        let request = HostRequest::ObjectStore(ObjectRequest::Get { name: self.name });
        let download = services.host.download(services.call, request).await.map_err(|error| told(&error))?;
        let Self { skip, length, to_end, .. } = self;
        Ok(ObjectStream { download: Some(download), skip, left: length, to_end, ready: None })
    }
}

/// The bytes of an object as they come.
#[derive(Debug)]
pub(crate) struct ObjectStream {
    /// None once everything that is wanted was there.
    download: Option<Download>,
    skip: u64,
    left: u64,
    to_end: bool,
    /// What the last wait brought: bytes, the end, or what went wrong.
    ready: Option<Result<Option<Bytes>, String>>,
}

impl ObjectStream {
    /// The next bytes, never none; nothing at the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            // A range that ends before the object does needs no more of it.
            if self.left == 0 && !self.to_end {
                self.download = None;
            }
            let Some(download) = &mut self.download else { return Ok(None) };
            match download.next().await {
                Ok(Part::Chunk(mut chunk)) => {
                    let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
                    let _ = chunk.split_to(skipped);
                    self.skip = self.skip.saturating_sub(u64::try_from(skipped).unwrap_or(u64::MAX));
                    chunk.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                    self.left = self.left.saturating_sub(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
                    if !chunk.is_empty() {
                        return Ok(Some(chunk));
                    }
                }
                Ok(Part::End(reply)) => {
                    self.download = None;
                    let complete = matches!(reply, HostReply::Object { .. }) && self.left == 0;
                    let why = || {
                        let code = HostErrorCode::Unavailable.as_str();
                        format!(
                            "objectStore.get: the object was changed while it was read ({code}, a retry may succeed)"
                        )
                    };
                    return if complete { Ok(None) } else { Err(why()) };
                }
                Err(error) => {
                    self.download = None;
                    return Err(told(&error));
                }
            }
        }
    }
}

#[async_trait]
impl Pollable for ObjectStream {
    async fn ready(&mut self) {
        if self.ready.is_none() {
            self.ready = Some(self.next().await);
        }
    }
}

#[async_trait]
impl InputStream for ObjectStream {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        match self.ready.take() {
            None => Ok(Bytes::new()),
            Some(Ok(Some(mut piece))) => {
                let read = piece.split_to(size.min(piece.len()));
                if !piece.is_empty() {
                    self.ready = Some(Ok(Some(piece)));
                }
                Ok(read)
            }
            Some(Ok(None)) => {
                self.ready = Some(Ok(None));
                Err(StreamError::Closed)
            }
            Some(Err(why)) => {
                self.ready = Some(Ok(None));
                Err(StreamError::LastOperationFailed(wasmtime::format_err!("{why}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_inclusive_and_clamped_to_the_object() {
        let range = |size, start, end| {
            let value = IncomingValue::new("o".into(), size, start, end);
            (value.skip, value.length, value.to_end)
        };
        assert_eq!(range(10, 0, u64::MAX), (0, 10, true));
        assert_eq!(range(10, 0, 9), (0, 10, true));
        assert_eq!(range(10, 0, 10), (0, 10, true));
        assert_eq!(range(10, 2, 4), (2, 3, false));
        assert_eq!(range(10, 10, 20), (10, 0, true));
        assert_eq!(range(10, 5, 4), (5, 0, false));
        assert_eq!(range(0, 0, 0), (0, 0, true));
    }
}
