//! The sending end: frames leave at once where they can, and by a task of their own where they cannot.
//!
//! ```text
//! send ── nothing waits, the stream takes it ──────────────> written, here and now
//!   └──── else ── queue ── write task, many at a time ─────> written
//! ```
//! A frame that is handed to another task first costs the waking of a thread, which is most of what a short message
//! costs. So whoever sends to a socket writes, as long as nobody is ahead of it: what waits in the queue, or was written
//! in part, goes first. Nobody waits for the stream but the write task, and the lock is held for one attempt to write,
//! never while waiting. Other streams than sockets cannot be tried, so there everything goes by the write task.

use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use nex_protocol::link::codec::Message;
use nex_protocol::link::frame::Frame;
use tokio::io::AsyncWrite;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::Closed;
use crate::socket::WriteHalf;

/// Messages that wait for the write task; beyond it senders wait.
const QUEUE: usize = 256;

/// Bodies up to this size are copied behind their head so that a frame leaves in one write; larger ones are written
/// from where they are.
pub(crate) const INLINE_BODY: usize = 16 << 10;

/// Stop gathering queued frames into one write at this size.
const GATHER: usize = 64 << 10;

/// Sends messages; clones share the link. The write half closes when the last clone is dropped.
#[derive(Debug)]
pub struct Sender<Out> {
    queue: mpsc::Sender<Frame>,
    line: Arc<Line>,
    message: PhantomData<fn(Out)>,
}

impl<Out> Clone for Sender<Out> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), line: Arc::clone(&self.line), message: PhantomData }
    }
}

/// What senders and the write task share.
struct Line {
    outlet: Mutex<Outlet>,
    /// Messages in the queue or on their way into it, and what was left unwritten. While there are any, nobody passes.
    ahead: AtomicUsize,
    /// Something was left for the write task.
    left: Notify,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("ahead", &self.ahead).finish_non_exhaustive()
    }
}

/// What is written to.
pub(crate) enum Stream {
    Socket(WriteHalf),
    Other(Box<dyn AsyncWrite + Send + Unpin>),
}

impl Stream {
    fn pin(&mut self) -> Pin<&mut (dyn AsyncWrite + Send + Unpin)> {
        match self {
            Stream::Socket(socket) => Pin::new(socket),
            Stream::Other(stream) => Pin::new(stream.as_mut()),
        }
    }
}

/// The stream and what it has not taken yet.
struct Outlet {
    /// None when the link has ended.
    stream: Option<Stream>,
    pending: BytesMut,
    /// Follows `pending`.
    body: Bytes,
    flushed: bool,
}

impl Outlet {
    /// Adds a frame behind what is pending, among which is no body: that would come before it.
    fn add(&mut self, frame: Frame) {
        if frame.is_secret() {
            frame.encode_lengths(&mut self.pending);
            self.body = frame.head;
        } else if frame.body.len() <= INLINE_BODY {
            frame.encode(&mut self.pending);
        } else {
            frame.encode_prefix(&mut self.pending);
            self.body = frame.body;
        }
        self.flushed = false;
    }

    /// Writes what is pending, as far as the stream takes it.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let mut stream = stream.pin();
        loop {
            let bytes: &[u8] = if self.pending.is_empty() { &self.body } else { &self.pending };
            if bytes.is_empty() {
                // Let go of at once: it may be a secret that zeroizes itself.
                self.body = Bytes::new();
                break;
            }
            let written = match stream.as_mut().poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            if self.pending.is_empty() {
                self.body.advance(written);
            } else {
                self.pending.advance(written);
            }
        }
        if !self.flushed {
            match stream.poll_flush(cx) {
                Poll::Ready(Ok(())) => self.flushed = true,
                other => return other,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes a frame before which nothing is pending, as far as there is room; whether all of it is written.
    fn try_write(&mut self, frame: Frame) -> io::Result<bool> {
        self.add(frame);
        let Some(Stream::Socket(socket)) = &self.stream else { return Ok(false) };
        while let Some(written) = socket.try_write(if self.pending.is_empty() { &self.body } else { &self.pending })? {
            if self.pending.is_empty() {
                self.body.advance(written);
            } else {
                self.pending.advance(written);
            }
            if self.pending.is_empty() && self.body.is_empty() {
                self.body = Bytes::new();
                self.flushed = true;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What became of an attempt to write at once.
enum Attempt {
    /// It is written, or left to the write task in part.
    Taken,
    /// Others are ahead of it.
    Queue(Frame),
    /// The link has ended.
    Closed,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Outlet> {
        self.outlet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a message if nobody is ahead of it.
    fn attempt<Out: Message>(&self, message: Out) -> Attempt {
        let Ok(frame) = message.into_frame() else {
            // The other side would miss it: what cannot be written ends the link.
            self.lock().stream = None;
            self.left.notify_one();
            return Attempt::Closed;
        };
        if self.ahead.load(Ordering::Acquire) != 0 {
            return Attempt::Queue(frame);
        }
        // Whoever holds it writes, so there is somebody ahead.
        let Ok(mut outlet) = self.outlet.try_lock() else { return Attempt::Queue(frame) };
        if self.ahead.load(Ordering::Acquire) != 0 {
            return Attempt::Queue(frame);
        }
        match &outlet.stream {
            Some(Stream::Socket(_)) => {}
            Some(Stream::Other(_)) => return Attempt::Queue(frame),
            None => return Attempt::Closed,
        }
        match outlet.try_write(frame) {
            Ok(true) => Attempt::Taken,
            Ok(false) => {
                self.ahead.fetch_add(1, Ordering::AcqRel);
                self.left.notify_one();
                Attempt::Taken
            }
            Err(_) => {
                outlet.stream = None;
                self.left.notify_one();
                Attempt::Closed
            }
        }
    }

    /// Writes everything that is pending, waiting for the stream.
    async fn drain(&self) -> io::Result<()> {
        poll_fn(|cx| self.lock().poll_drain(cx)).await
    }
}

/// A message that is on its way into the queue: counted, so that nothing passes it, and no longer when it is given up.
struct Ahead<'a>(&'a Line);

impl<'a> Ahead<'a> {
    fn of(line: &'a Line) -> Self {
        line.ahead.fetch_add(1, Ordering::AcqRel);
        Self(line)
    }

    /// It is in the queue; the write task counts it from here on.
    fn queued(self) {
        std::mem::forget(self);
    }
}

impl Drop for Ahead<'_> {
    fn drop(&mut self) {
        self.0.ahead.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<Out: Message> Sender<Out> {
    /// Sends a message, waiting for room.
    ///
    /// # Errors
    /// [`Closed`] when the other side is gone.
    pub async fn send(&self, message: Out) -> Result<(), Closed> {
        let frame = match self.line.attempt(message) {
            Attempt::Taken => return Ok(()),
            Attempt::Closed => return Err(Closed),
            Attempt::Queue(frame) => frame,
        };
        let ahead = Ahead::of(&self.line);
        self.queue.send(frame).await.map_err(|_| Closed)?;
        ahead.queued();
        Ok(())
    }

    /// Sends a message if there is room now; says whether it was.
    pub fn try_send(&self, message: Out) -> bool {
        let frame = match self.line.attempt(message) {
            Attempt::Taken => return true,
            Attempt::Closed => return false,
            Attempt::Queue(frame) => frame,
        };
        let ahead = Ahead::of(&self.line);
        let sent = self.queue.try_send(frame).is_ok();
        if sent {
            ahead.queued();
        }
        sent
    }

    /// Resolves when the link can carry nothing more.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }
}

/// Tells when everything that will ever be sent is written.
#[derive(Debug)]
pub struct Written(oneshot::Receiver<()>);

impl Written {
    /// Waits until the last sender is gone and all is written, or cannot be.
    pub async fn wait(self) {
        let _ = self.0.await;
    }
}

/// Makes the sending end of a stream. Must be called on a runtime.
pub(crate) fn open<Out: Message>(stream: Stream) -> (Sender<Out>, Written) {
    let (done, written) = oneshot::channel();
    let (queue, outgoing) = mpsc::channel(QUEUE);
    let outlet =
        Outlet { stream: Some(stream), pending: BytesMut::with_capacity(GATHER), body: Bytes::new(), flushed: true };
    let line = Arc::new(Line { outlet: Mutex::new(outlet), ahead: AtomicUsize::new(0), left: Notify::new() });
    let writing = Arc::clone(&line);
    tokio::spawn(async move {
        if let Err(error) = write_all(&writing, outgoing).await {
            // The reading side sees the end of the stream and reports it; here it is only of interest when debugging.
            tracing::debug!(%error, "link writer ended");
        }
        // Senders may outlive the link; what they hold is no longer it.
        writing.lock().stream = None;
        let _ = done.send(());
    });
    (Sender { queue, line, message: PhantomData }, Written(written))
}

/// Writes what is queued or was left until there are no more senders or the stream fails.
async fn write_all(line: &Line, mut outgoing: mpsc::Receiver<Frame>) -> io::Result<()> {
    loop {
        let (mut next, mut written) = tokio::select! {
            biased;
            () = line.left.notified() => (None, 1),
            frame = outgoing.recv() => match frame {
                Some(frame) => (Some(frame), 0),
                None => break,
            },
        };
        // What was left comes before what is queued.
        line.drain().await?;
        while let Some(frame) = next.take() {
            written += 1;
            let apart = frame.body.len() > INLINE_BODY || frame.is_secret();
            let gathered = {
                let mut outlet = line.lock();
                outlet.add(frame);
                outlet.pending.len()
            };
            if apart {
                line.drain().await?;
            }
            if gathered < GATHER {
                next = outgoing.try_recv().ok();
            }
        }
        line.drain().await?;
        line.ahead.fetch_sub(written, Ordering::AcqRel);
    }
    line.drain().await?;
    let mut stream = line.lock().stream.take();
    match &mut stream {
        Some(stream) => poll_fn(|cx| stream.pin().poll_shutdown(cx)).await,
        None => Ok(()),
    }
}
