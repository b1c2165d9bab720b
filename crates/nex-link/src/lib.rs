//! The async ends of a link: a [`Sender`] and a [`Receiver`] of typed messages over any byte stream.
//!
//! Owns: buffering, the write task, and the bounds on both; see [`writer`] for how a message leaves. Used by the node and the agent for the agent link, and by
//! the agent to drive its JavaScript worker, which speaks the same frames.
//!
//! Promises: messages leave in the order they were sent; one at a time writes, so frames never interleave; a sender waits
//! when the other side does not read (back-pressure, bounded memory); receiving is cancel-safe; the first error ends
//! the link for good. Nothing is retried here.

mod socket;
mod writer;

use std::io;
use std::marker::PhantomData;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use nex_protocol::link::codec::{Message, MessageError};
use nex_protocol::link::frame::{Frame, FrameError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use writer::Stream;
pub use writer::{Sender, Written};

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
    fn new(stream: impl AsyncRead + Send + Unpin + 'static, limit: usize) -> Self {
        Self { stream: Box::new(stream), buffer: BytesMut::with_capacity(8 << 10), limit, message: PhantomData }
    }

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

/// Opens a link over a socket. Frames longer than `limit` end it. Must be called on a runtime.
///
/// # Errors
/// When the runtime cannot watch the socket.
pub fn over_socket<In: Message, Out: Message>(
    socket: UnixStream,
    limit: usize,
) -> io::Result<(Sender<Out>, Receiver<In>, Written)> {
    let (read, write) = socket::split(socket)?;
    let (sender, written) = writer::open(Stream::Socket(write));
    Ok((sender, Receiver::new(read, limit), written))
}

/// Opens the sending end of a link alone, over a socket of which nothing is read. Must be called on a runtime.
pub fn to_socket<Out: Message>(socket: UnixStream) -> Sender<Out> {
    let (sender, _written) = writer::open(Stream::Socket(socket::write_half(socket)));
    sender
}

/// Opens a link over the two halves of any stream. Frames longer than `limit` end it. Must be called on a runtime.
pub fn open<In: Message, Out: Message>(
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
    limit: usize,
) -> (Sender<Out>, Receiver<In>) {
    let (sender, _written) = writer::open(Stream::Other(Box::new(write)));
    (sender, Receiver::new(read, limit))
}

/// Takes the first step of a future here and now, and gives the rest, to be spawned.
///
/// Tasks do not begin in the order they are spawned. Where the first step is to put something on a link, taking it before
/// spawning keeps the order in which things were asked for.
pub fn begun<F>(future: F) -> Pin<Box<dyn Future<Output = F::Output> + Send>>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let mut future = Box::pin(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Box::pin(std::future::ready(output)),
        // Polled again at once by its task, which registers that task's waker.
        Poll::Pending => future,
    }
}

#[cfg(test)]
mod tests {
    use super::writer::INLINE_BODY;
    use super::*;
    use bytes::Bytes;
    use nex_protocol::link::frame::MAX_LINK_FRAME;
    use nex_protocol::link::message::{Invoke, Limits, Start, ToAgent, ToNode};
    use tokio::io::AsyncWriteExt;
    use tokio::sync::mpsc;

    type Ends<Out, In> = (Sender<Out>, Receiver<In>);

    fn pair() -> (Ends<ToAgent, ToNode>, Ends<ToNode, ToAgent>) {
        let (a, b) = UnixStream::pair().unwrap();
        let (sender, receiver, _) = over_socket(a, MAX_LINK_FRAME).unwrap();
        let (far_sender, far_receiver, _) = over_socket(b, MAX_LINK_FRAME).unwrap();
        ((sender, receiver), (far_sender, far_receiver))
    }

    /// Over streams that cannot be tried.
    fn plain_pair() -> (Ends<ToAgent, ToNode>, Ends<ToNode, ToAgent>) {
        let (a, b) = tokio::io::duplex(4096);
        let (ar, aw) = tokio::io::split(a);
        let (br, bw) = tokio::io::split(b);
        (open(ar, aw, MAX_LINK_FRAME), open(br, bw, MAX_LINK_FRAME))
    }

    #[tokio::test]
    async fn messages_arrive_whole_and_in_order_whatever_their_size() {
        for pair in [pair, plain_pair] {
            arrive_whole_and_in_order(pair()).await;
        }
    }

    async fn arrive_whole_and_in_order(ends: (Ends<ToAgent, ToNode>, Ends<ToNode, ToAgent>)) {
        let ((node, _from_agent), (_agent, mut from_node)) = ends;
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
    async fn a_start_which_is_not_copied_keeps_its_place_among_others() {
        for ends in [pair(), plain_pair()] {
            let ((node, _from_agent), (_agent, mut from_node)) = ends;
            let sizes = [1, 1 << 20, 300];
            tokio::spawn(async move {
                for (number, size) in (0u64..).zip(sizes) {
                    node.send(ToAgent::Ping(number)).await.unwrap();
                    node.send(ToAgent::Start(Box::new(start("x".repeat(size))))).await.unwrap();
                }
            });
            for (number, size) in (0u64..).zip(sizes) {
                assert_eq!(from_node.receive().await.unwrap(), Some(ToAgent::Ping(number)));
                let expected = ToAgent::Start(Box::new(start("x".repeat(size))));
                assert_eq!(from_node.receive().await.unwrap(), Some(expected));
            }
            assert!(from_node.receive().await.unwrap().is_none());
        }
    }

    fn start(secret: String) -> Start {
        Start {
            name: "n".into(),
            namespace: "d".into(),
            r#type: nex_protocol::WorkloadType::Native,
            argv: vec![],
            environment: [("SECRET", secret)].into_iter().collect(),
            artifact: "/a".into(),
            sha256: String::new(),
            limits: Limits { memory_bytes: 1, script_bytes: 1, reply_bytes: 1, concurrency: 1 },
            require_static: false,
            host_services: false,
        }
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn each_senders_messages_keep_their_order_however_many_send_at_once() {
        // More than the socket takes: messages are written at once, in part, and by the write task.
        let ((node, _from_agent), (_agent, mut from_node)) = pair();
        let (senders, each) = (8, 2000);
        for sender in 0..senders {
            let node = node.clone();
            tokio::spawn(async move {
                for number in 0..each {
                    let invoke = Invoke { subject: sender.to_string(), headers: vec![], timeout_ms: number };
                    let size = usize::try_from((number * 37 + sender) % 3).unwrap() * 700;
                    let size = if number % 97 == 0 { INLINE_BODY + 5 } else { size };
                    node.send(ToAgent::Invoke(number, invoke, Bytes::from(vec![1; size]))).await.unwrap();
                }
            });
        }
        drop(node);
        let mut next = vec![0; usize::try_from(senders).unwrap()];
        while let Some(message) = from_node.receive().await.unwrap() {
            let ToAgent::Invoke(number, invoke, body) = message else { panic!("no invoke") };
            let sender: usize = invoke.subject.parse().unwrap();
            assert_eq!((number, invoke.timeout_ms), (next[sender], number), "of sender {sender}");
            assert!(body.iter().all(|byte| *byte == 1));
            next[sender] += 1;
        }
        assert!(next.iter().all(|count| *count == each), "{next:?}");
    }

    #[tokio::test]
    async fn a_sender_waits_while_the_other_side_does_not_read_and_loses_nothing_when_it_gives_up() {
        let ((node, _from_agent), (_agent, mut from_node)) = pair();
        let mut sent = 0;
        while tokio::time::timeout(std::time::Duration::from_millis(50), node.send(ToAgent::Ping(sent))).await.is_ok() {
            sent += 1;
        }
        assert!(!node.try_send(ToAgent::Ping(u64::MAX)));
        // The one that was given up is not sent, and those behind it are.
        for expected in 0..sent {
            assert_eq!(from_node.receive().await.unwrap(), Some(ToAgent::Ping(expected)));
        }
        node.send(ToAgent::Ping(sent + 1)).await.unwrap();
        assert_eq!(from_node.receive().await.unwrap(), Some(ToAgent::Ping(sent + 1)));
    }
}
