//! An object on its way out: what a guest writes to the stream of an `outgoing-value`.
//!
//! ```text
//! made -> written to -> given to write-data -> written to -> finished: the upload's outcome is the answer
//! ```
//! Before it is given to a container its bytes wait here, up to what the function may have in memory; from then on they
//! go to the node as fast as it takes them, and the guest waits for that. A value that is never finished is never
//! stored: dropping it gives the upload up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nex_protocol::link::host::{HostError, HostReply, HostRequest, ObjectRequest};
use tokio::sync::{Notify, mpsc};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use super::{Services, told};

/// Bytes that may wait once they are on their way to the node.
const WAITING: usize = 256 << 10;

/// Most bytes a guest may write at once.
const PERMIT: usize = 64 << 10;

/// The resource.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings export it")]
pub struct OutgoingValue {
    pipe: Pipe,
    has_stream: bool,
    upload: Option<AbortOnDropJoinHandle<Result<HostReply, HostError>>>,
}

impl OutgoingValue {
    /// An empty value; before it is given to a container up to `room` bytes may wait.
    pub(crate) fn new(room: usize) -> Self {
        Self { pipe: Pipe::new(room), has_stream: false, upload: None }
    }

    /// Its stream, the first time.
    pub(crate) fn stream(&mut self) -> Option<Pipe> {
        (!std::mem::replace(&mut self.has_stream, true)).then(|| self.pipe.clone())
    }

    /// Stores what was written and will be written under a name. Once.
    pub(crate) fn write_to(&mut self, services: &Services, name: String) -> Result<(), String> {
        if self.upload.is_some() {
            return Err("objectStore.put: the value was given to a container already".to_owned());
        }
        self.pipe.lock().started = true;
        let (services, pipe) = (services.clone(), self.pipe.clone());
        self.upload = Some(spawn(async move {
            let (sender, pieces) = mpsc::channel(1);
            let request = HostRequest::ObjectStore(ObjectRequest::Put { name });
            let stored = services.host.upload(services.call, request, pieces);
            let mut stored = std::pin::pin!(stored);
            let stored = tokio::select! {
                biased;
                stored = &mut stored => stored,
                () = pipe.feed(sender) => stored.await,
            };
            pipe.close(stored.as_ref().err().map(told));
            stored
        }));
        Ok(())
    }

    /// Waits until everything is stored.
    pub(crate) async fn finish(self) -> Result<(), String> {
        let Some(upload) = self.upload else {
            return Err("objectStore.put: the value was given to no container: call write-data first".to_owned());
        };
        self.pipe.end();
        upload.await.map(drop).map_err(|error| told(&error))
    }
}

/// Bytes between a guest and its upload.
#[derive(Debug, Clone)]
pub(crate) struct Pipe {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    room: usize,
}

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    started: bool,
    /// Nothing comes any more.
    ended: bool,
    /// Nothing is taken any more, and why.
    closed: Option<Option<String>>,
}

impl Pipe {
    fn new(room: usize) -> Self {
        Self { state: Arc::default(), changed: Arc::new(Notify::new()), room }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_waiters();
    }

    fn close(&self, why: Option<String>) {
        self.lock().closed = Some(why);
        self.changed.notify_waiters();
    }

    /// Hands on what is written until its end, which is an empty piece.
    async fn feed(&self, sender: mpsc::Sender<Bytes>) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let next = {
                let mut state = self.lock();
                match state.pieces.pop_front() {
                    Some(piece) => {
                        state.bytes = state.bytes.saturating_sub(piece.len());
                        Some(piece)
                    }
                    None => state.ended.then(Bytes::new),
                }
            };
            let Some(piece) = next else {
                changed.await;
                continue;
            };
            self.changed.notify_waiters();
            let last = piece.is_empty();
            if sender.send(piece).await.is_err() || last {
                return;
            }
        }
    }

    /// Bytes that may be written now.
    fn writable(&self, state: &State) -> StreamResult<usize> {
        if let Some(why) = &state.closed {
            let failed = |why: &String| StreamError::LastOperationFailed(wasmtime::format_err!("{why}"));
            return Err(why.as_ref().map_or(StreamError::Closed, failed));
        }
        let limit = if state.started { WAITING } else { self.room };
        let left = limit.saturating_sub(state.bytes);
        if left == 0 && !state.started {
            let why = format!("objectStore.put: more than {limit} bytes wait: give the value to write-data first");
            return Err(StreamError::LastOperationFailed(wasmtime::format_err!("{why}")));
        }
        Ok(left.min(PERMIT))
    }
}

#[async_trait]
impl Pollable for Pipe {
    async fn ready(&mut self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if !matches!(self.writable(&self.lock()), Ok(0)) {
                return;
            }
            changed.await;
        }
    }
}

impl OutputStream for Pipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut state = self.lock();
        if bytes.len() > self.writable(&state)? {
            return Err(StreamError::Trap(wasmtime::format_err!("more was written than check-write allows")));
        }
        if !bytes.is_empty() {
            state.bytes = state.bytes.saturating_add(bytes.len());
            state.pieces.push_back(bytes);
            drop(state);
            self.changed.notify_waiters();
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        // What is stored is known when the value is finished.
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.writable(&self.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_arrives_in_order_and_the_guest_waits_when_it_is_ahead() {
        let mut pipe = Pipe::new(10);
        assert_eq!(pipe.check_write().unwrap(), 10);
        pipe.write(Bytes::from_static(b"0123456789")).unwrap();
        assert!(matches!(pipe.check_write(), Err(StreamError::LastOperationFailed(_))), "no room, and nobody reads");
        pipe.lock().started = true;
        pipe.write(Bytes::from(vec![1; PERMIT])).unwrap();
        while pipe.check_write().unwrap() > 0 {
            let room = pipe.check_write().unwrap();
            pipe.write(Bytes::from(vec![2; room])).unwrap();
        }
        let (sender, mut pieces) = mpsc::channel(1);
        let feeding = tokio::spawn({
            let pipe = pipe.clone();
            async move { pipe.feed(sender).await }
        });
        assert_eq!(pieces.recv().await.unwrap(), "0123456789");
        pipe.ready().await;
        assert!(pipe.check_write().unwrap() > 0);
        pipe.end();
        let mut sum = 0;
        while let Some(piece) = pieces.recv().await.filter(|piece| !piece.is_empty()) {
            sum += piece.len();
        }
        assert_eq!(sum, WAITING - 10);
        feeding.await.unwrap();
        pipe.close(Some("gone".into()));
        assert!(matches!(pipe.check_write(), Err(StreamError::LastOperationFailed(_))));
    }
}
