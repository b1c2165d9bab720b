//! Standard output and error of a guest.
//!
//! Output of a command is the reply: gathered, up to the limit, beyond which the guest is ended. Everything else is the
//! log: cut into lines that go to the node as they come; a guest that writes faster than the node reads waits.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use nex_link::Sender;
use nex_protocol::link::message::ToNode;
use nex_protocol::log::Level;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::lines::Lines;

/// Most bytes a guest may write to its log at once.
const LOG_PERMIT: usize = 16 << 10;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Gathered {
    bytes: BytesMut,
    too_large: bool,
}

/// Gathers the reply.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    gathered: Arc<Mutex<Gathered>>,
    limit: usize,
}

impl Reply {
    /// A reply of up to so many bytes.
    pub(crate) fn new(limit: u64) -> Self {
        Self { gathered: Arc::default(), limit: usize::try_from(limit).unwrap_or(usize::MAX) }
    }

    /// Everything written; none when it was too much.
    pub(crate) fn take(&self) -> Option<Bytes> {
        let mut gathered = locked(&self.gathered);
        (!gathered.too_large).then(|| std::mem::take(&mut gathered.bytes).freeze())
    }

    fn append(&self, bytes: &[u8]) -> bool {
        let mut gathered = locked(&self.gathered);
        if gathered.bytes.len() + bytes.len() > self.limit {
            gathered.too_large = true;
            gathered.bytes = BytesMut::new();
        }
        if !gathered.too_large {
            gathered.bytes.extend_from_slice(bytes);
        }
        !gathered.too_large
    }
}

#[async_trait]
impl Pollable for Reply {
    async fn ready(&mut self) {}
}

impl OutputStream for Reply {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        // A trap, not an error the guest could ignore and go on with.
        self.append(&bytes).then_some(()).ok_or_else(|| StreamError::Trap(wasmtime::format_err!("reply too large")))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(1 << 20)
    }
}

impl AsyncWrite for Reply {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.append(bytes).then_some(bytes.len());
        Poll::Ready(written.ok_or_else(|| io::ErrorKind::FileTooLarge.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug, Default)]
struct Spoken {
    lines: Lines,
    waiting: VecDeque<String>,
    last: Option<String>,
}

/// Sends what the guest writes as log lines.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    level: Level,
    spoken: Arc<Mutex<Spoken>>,
    node: Sender<ToNode>,
}

impl Log {
    /// Logs to this node, at this level.
    pub(crate) fn new(level: Level, node: Sender<ToNode>) -> Self {
        Self { level, spoken: Arc::default(), node }
    }

    /// The last line with anything in it, whole or not.
    pub(crate) fn last_line(&self) -> Option<String> {
        let mut spoken = locked(&self.spoken);
        let Spoken { lines, waiting, last } = &mut *spoken;
        // The guest has ended: what it left without an end is a line now.
        if let Some(text) = lines.finish() {
            remember(last, &text);
            waiting.push_back(text);
        }
        last.clone()
    }

    /// Delivers what has not been delivered yet.
    pub(crate) async fn deliver(&self) {
        let _ = self.last_line();
        self.drain().await;
    }

    fn append(&self, bytes: &[u8]) {
        let mut spoken = locked(&self.spoken);
        let Spoken { lines, waiting, last } = &mut *spoken;
        lines.push(bytes, |text| {
            remember(last, &text);
            let sent = waiting.is_empty() && self.node.try_send(ToNode::Log { level: self.level, text: text.clone() });
            if !sent {
                waiting.push_back(text);
            }
        });
    }

    async fn drain(&self) {
        loop {
            let Some(text) = locked(&self.spoken).waiting.front().cloned() else { return };
            // A closed link swallows the rest; it is about to end the guest.
            let _ = self.node.send(ToNode::Log { level: self.level, text }).await;
            // Only now: a guest that is ended while it waits here leaves the line for `deliver`.
            locked(&self.spoken).waiting.pop_front();
        }
    }
}

fn remember(last: &mut Option<String>, text: &str) {
    if !text.trim().is_empty() {
        *last = Some(text.to_owned());
    }
}

#[async_trait]
impl Pollable for Log {
    async fn ready(&mut self) {
        self.drain().await;
    }
}

impl OutputStream for Log {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.append(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        // No permit while lines wait for the link: the guest waits in `ready`.
        Ok(if locked(&self.spoken).waiting.is_empty() { LOG_PERMIT } else { 0 })
    }
}

impl AsyncWrite for Log {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.append(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

macro_rules! stdio {
    ($stream:ty) => {
        impl IsTerminal for $stream {
            fn is_terminal(&self) -> bool {
                false
            }
        }

        impl StdoutStream for $stream {
            fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
                Box::new(self.clone())
            }

            fn p2_stream(&self) -> Box<dyn OutputStream> {
                Box::new(self.clone())
            }
        }
    };
}

stdio!(Reply);
stdio!(Log);
