//! The async ends of a link: a [`Sender`] and a [`Receiver`] of typed messages over any byte stream.
//!
//! Owns: buffering, the write task, and the bounds on both. Used by the node and the agent for the agent link, and by
//! the agent to drive its JavaScript worker, which speaks the same frames.
//!
//! Promises: messages leave in the order they were sent; one task writes, so frames never interleave; a sender waits
//! when the other side does not read (back-pressure, bounded memory); receiving is cancel-safe; the first error ends
//! the link for good. Nothing is retried here.

use std::marker::PhantomData;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use nex_protocol::link::frame::{Frame, FrameError};
use nex_protocol::link::message::{Message, MessageError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Messages that wait for the write task; beyond it senders wait.
const QUEUE: usize = 256;

/// Bodies up to this size are copied behind their head so that a frame leaves in one write; larger ones are written
/// from where they are.
const INLINE_BODY: usize = 16 << 10;

/// Stop gathering queued frames into one write at this size.
const GATHER: usize = 64 << 10;

/// What ended a link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The stream failed.
    #[error("link failed: {0}")]
    Io(#[from] std::io::Error),
    /// The other side sent something that is no frame.
    #[error("link protocol broken: {0}")]
    Frame(#[from] FrameError),
    /// The other side sent something that is no message.
    #[error("link protocol broken: {0}")]
    Message(#[from] MessageError),
    /// The other side ended in the middle of a frame.
    #[error("link ended in the middle of a frame")]
    Truncated,
}

/// The link is gone: nothing can be sent any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the link is closed")]
pub struct Closed;

/// Sends messages; clones share the link. The write half closes when the last clone is dropped.
#[derive(Debug)]
pub struct Sender<Out> {
    queue: mpsc::Sender<Out>,
}

impl<Out> Clone for Sender<Out> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

impl<Out: Message> Sender<Out> {
    /// Queues a message, waiting for room.
    ///
    /// # Errors
    /// [`Closed`] when the other side is gone.
    pub async fn send(&self, message: Out) -> Result<(), Closed> {
        self.queue.send(message).await.map_err(|_| Closed)
    }

    /// Queues a message if there is room now; says whether it was.
    pub fn try_send(&self, message: Out) -> bool {
        self.queue.try_send(message).is_ok()
    }

    /// Resolves when the link can carry nothing more.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }
}

/// Receives messages.
pub struct Receiver<In> {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    limit: usize,
    message: PhantomData<fn() -> In>,
}

impl<In> std::fmt::Debug for Receiver<In> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl<In: Message> Receiver<In> {
    /// The next message; none when the other side has ended in good order. Cancel-safe.
    ///
    /// # Errors
    /// [`LinkError`]; the link is of no further use then.
    pub async fn receive(&mut self) -> Result<Option<In>, LinkError> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer, self.limit)? {
                return Ok(Some(In::from_frame(frame)?));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(LinkError::Truncated) };
            }
        }
    }
}

/// Opens a link over the two halves of a stream. Frames longer than `limit` end it. Must be called on a runtime.
pub fn open<In: Message, Out: Message>(
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
    limit: usize,
) -> (Sender<Out>, Receiver<In>) {
    let (queue, outgoing) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        if let Err(error) = write_all(write, outgoing).await {
            // The reading side sees the end of the stream and reports it; here it is only of interest when debugging.
            tracing::debug!(%error, "link writer ended");
        }
    });
    let receiver =
        Receiver { stream: Box::new(read), buffer: BytesMut::with_capacity(8 << 10), limit, message: PhantomData };
    (Sender { queue }, receiver)
}

/// Takes the first step of a future here and now, and gives the rest, to be spawned.
///
/// Tasks do not begin in the order they are spawned. Where the first step is to put something on a link, taking it before
/// spawning keeps the order in which things were asked for.
pub fn begun<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let mut future = Box::pin(future);
    let mut first = match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    };
    async move {
        match first.take() {
            Some(output) => output,
            // Polled again at once by its task, which registers that task's waker.
            None => future.await,
        }
    }
}

/// Writes messages until there are no more senders or the stream fails.
async fn write_all<Out: Message>(
    mut stream: impl AsyncWrite + Unpin,
    mut outgoing: mpsc::Receiver<Out>,
) -> std::io::Result<()> {
    let mut gathered = BytesMut::with_capacity(GATHER);
    while let Some(message) = outgoing.recv().await {
        let mut next = Some(message);
        while let Some(message) = next.take() {
            let frame = message.into_frame().map_err(std::io::Error::other)?;
            if frame.body.len() <= INLINE_BODY {
                frame.encode(&mut gathered);
            } else {
                frame.encode_prefix(&mut gathered);
                stream.write_all(&gathered).await?;
                gathered.clear();
                stream.write_all(&frame.body).await?;
            }
            if gathered.len() < GATHER {
                next = outgoing.try_recv().ok();
            }
        }
        stream.write_all(&gathered).await?;
        gathered.clear();
        stream.flush().await?;
    }
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use nex_protocol::link::frame::MAX_LINK_FRAME;
    use nex_protocol::link::message::{Invoke, ToAgent, ToNode};

    type Ends<Out, In> = (Sender<Out>, Receiver<In>);

    fn pair() -> (Ends<ToAgent, ToNode>, Ends<ToNode, ToAgent>) {
        let (a, b) = tokio::io::duplex(4096);
        let (ar, aw) = tokio::io::split(a);
        let (br, bw) = tokio::io::split(b);
        (open(ar, aw, MAX_LINK_FRAME), open(br, bw, MAX_LINK_FRAME))
    }

    #[tokio::test]
    async fn messages_arrive_whole_and_in_order_whatever_their_size() {
        let ((node, _from_agent), (_agent, mut from_node)) = pair();
        let sizes = [0, 1, 4096, INLINE_BODY + 1, 1 << 20, 3];
        tokio::spawn(async move {
            for (call, size) in (1u64..).zip(sizes) {
                let invoke = Invoke { subject: "s".into(), headers: vec![], timeout_ms: 1 };
                node.send(ToAgent::Invoke(call, invoke, Bytes::from(vec![7; size]))).await.unwrap();
            }
        });
        for (expected, size) in (1u64..).zip(sizes) {
            let Some(ToAgent::Invoke(call, _, body)) = from_node.receive().await.unwrap() else { panic!("no invoke") };
            assert_eq!((call, body.len()), (expected, size));
        }
        assert!(from_node.receive().await.unwrap().is_none(), "ends when the last sender is gone");
    }

    #[tokio::test]
    async fn what_was_begun_before_it_is_spawned_keeps_its_order() {
        let (queue, mut taken) = mpsc::channel(100);
        for number in 0..100 {
            let queue = queue.clone();
            tokio::spawn(begun(async move { queue.send(number).await.unwrap() }));
        }
        for number in 0..100 {
            assert_eq!(taken.recv().await, Some(number));
        }
    }

    #[tokio::test]
    async fn garbage_ends_the_link_with_an_error() {
        let (mut bad, stream) = tokio::io::duplex(4096);
        let (read, write) = tokio::io::split(stream);
        let (_sender, mut receiver) = open::<ToNode, ToAgent>(read, write, 1024);
        bad.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(matches!(receiver.receive().await, Err(LinkError::Frame(_))));
    }

    #[tokio::test]
    async fn a_sender_learns_that_the_other_side_is_gone() {
        let ((node, _), agent) = pair();
        drop(agent);
        node.closed_after_use().await;
    }

    impl Sender<ToAgent> {
        async fn closed_after_use(&self) {
            while self.send(ToAgent::Ping(1)).await.is_ok() {
                tokio::task::yield_now().await;
            }
        }
    }
}
