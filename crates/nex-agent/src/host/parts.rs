//! Host calls that go or come in parts: objects on their way up and down, and watches.
//!
//! ```text
//! begun ──> parts up, at most a window ahead of the node ──> parts down, as they are taken ──> end
//!   └───────────── dropped at any time: the node is told ──────────────────────────────────────^
//! ```
//! Never holds more of an object than its window, unless all of it is asked for: then no more than the function may have.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use nex_protocol::link::host::{CHUNK, HostError, HostErrorCode, HostReply, HostRequest, WINDOW, WatchEvent};
use nex_protocol::link::message::ToNode;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Host, Open, lost};

/// Changes of watched keys that may wait for the function; a function that falls further behind loses its watch.
const WATCH_BACKLOG: usize = 1024;

/// What reaches an open call.
pub(super) enum Answer {
    Data(Option<WatchEvent>, Bytes),
    End(Result<HostReply, HostError>, Bytes),
}

/// The session's end of an open call.
pub(super) struct Far {
    answers: UnboundedSender<Answer>,
    /// Chunks that may be sent.
    window: Arc<Semaphore>,
}

impl Far {
    pub(super) fn heard(&self, answer: Answer) {
        let _ = self.answers.send(answer);
    }

    /// The node has taken a chunk.
    pub(super) fn taken(&self) {
        self.window.add_permits(1);
    }

    pub(super) fn close(&self) {
        self.window.close();
    }
}

/// A watch on keys; ends when dropped.
pub(crate) struct Watch {
    call: OpenCall,
}

/// An object on its way in; given up when dropped before its end.
pub(crate) struct Download {
    call: OpenCall,
    /// A chunk was handed out that the node has not been told of.
    owes: bool,
}

/// What comes of a download.
#[derive(Debug)]
pub(crate) enum Part {
    /// Bytes, never none.
    Chunk(Bytes),
    /// The end: what the object was, or that there is none.
    End(HostReply),
}

/// The bytes that go up with `objectStore.put`.
pub(super) enum Upload {
    /// All there are.
    Whole(Bytes),
    /// In pieces of any size; an empty one is the end. Closed before that, the upload was given up.
    Pieces(Receiver<Bytes>),
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download").field("number", &self.call.sender.number).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("number", &self.call.sender.number).finish_non_exhaustive()
    }
}

impl Host {
    /// Stores an object from pieces of any size, of which an empty one is the last. Given up, nothing is stored: when
    /// `pieces` closes before its end, and when the future is dropped.
    ///
    /// # Errors
    /// As [`Host::call`].
    pub(crate) async fn upload(
        &self,
        call: u64,
        request: HostRequest,
        pieces: Receiver<Bytes>,
    ) -> Result<HostReply, HostError> {
        let done = self.exchange(call, request, Bytes::new(), Some(Upload::Pieces(pieces))).await;
        done.map(|(reply, _)| reply)
    }

    /// Fetches an object, chunk by chunk.
    ///
    /// # Errors
    /// [`HostErrorCode::Unavailable`] when the link has ended.
    pub(crate) async fn download(&self, call: u64, request: HostRequest) -> Result<Download, HostError> {
        self.begin(call, request, Bytes::new()).await.map(|call| Download { call, owes: false })
    }

    /// Watches keys until the watch is dropped.
    ///
    /// # Errors
    /// [`HostErrorCode::Unavailable`] when the link has ended.
    pub(crate) async fn watch(&self, call: u64, request: HostRequest) -> Result<Watch, HostError> {
        self.begin(call, request, Bytes::new()).await.map(|call| Watch { call })
    }

    /// A call that may have parts, with all of them as one.
    pub(super) async fn exchange(
        &self,
        call: u64,
        request: HostRequest,
        first: Bytes,
        upload: Option<Upload>,
    ) -> Result<(HostReply, Bytes), HostError> {
        let mut open = self.begin(call, request, first).await?;
        let mut data = BytesMut::new();
        let mut sending = std::pin::pin!(async {
            match upload {
                Some(upload) => open.sender.upload(upload).await,
                None => true,
            }
        });
        let mut sent = false;
        loop {
            // An answer that comes before everything is sent is the answer: the rest is not wanted.
            let answer = tokio::select! {
                biased;
                answer = open.answers.recv() => answer,
                whole = &mut sending, if !sent => {
                    if !whole {
                        return Err(open.sender.given_up());
                    }
                    sent = true;
                    continue;
                }
            };
            match answer {
                None => return Err(open.sender.lost()),
                Some(Answer::End(Ok(reply), body)) => {
                    return Ok((reply, if data.is_empty() { body } else { data.freeze() }));
                }
                Some(Answer::End(Err(error), _)) => return Err(error),
                Some(Answer::Data(_, chunk)) if data.len() + chunk.len() > self.limit => {
                    let text = format!("it has more than the {} bytes the function may have", self.limit);
                    return Err(HostError::of(open.sender.what, HostErrorCode::TooLarge, text));
                }
                Some(Answer::Data(_, chunk)) => {
                    data.extend_from_slice(&chunk);
                    if !open.sender.took().await {
                        return Err(open.sender.lost());
                    }
                }
            }
        }
    }

    async fn begin(&self, call: u64, request: HostRequest, body: Bytes) -> Result<OpenCall, HostError> {
        let (answers, incoming) = unbounded_channel();
        let window = Arc::new(Semaphore::new(WINDOW));
        let what = request.name();
        let far = Far { answers, window: Arc::clone(&window) };
        let number = self.enter(Open::InParts(far)).ok_or_else(|| lost(what))?;
        // From here on dropping it closes the call again.
        let open = OpenCall { sender: CallSender { host: self.clone(), number, window, what }, answers: incoming };
        self.node.send(ToNode::HostCall(number, call, request, body)).await.map_err(|_| lost(what))?;
        Ok(open)
    }
}

/// An open call, as its caller holds it.
struct OpenCall {
    sender: CallSender,
    answers: UnboundedReceiver<Answer>,
}

/// The sending side of an open call; closes the call when dropped.
struct CallSender {
    host: Host,
    number: u64,
    window: Arc<Semaphore>,
    what: (&'static str, &'static str),
}

impl CallSender {
    /// Sends what there is to send; false when it was given up before its end.
    async fn upload(&self, upload: Upload) -> bool {
        match upload {
            Upload::Whole(mut body) => while self.chunk(body.split_to(body.len().min(CHUNK))).await {},
            Upload::Pieces(mut pieces) => loop {
                let Some(mut piece) = pieces.recv().await else { return false };
                if piece.is_empty() {
                    self.chunk(piece).await;
                    break;
                }
                while !piece.is_empty() {
                    if !self.chunk(piece.split_to(piece.len().min(CHUNK))).await {
                        return true;
                    }
                }
            },
        }
        true
    }

    /// Sends a chunk once the node has room for it; whether another may follow.
    async fn chunk(&self, chunk: Bytes) -> bool {
        let last = chunk.is_empty();
        // Closed when the link has ended.
        let Ok(permit) = self.window.acquire().await else { return false };
        permit.forget();
        self.host.node.send(ToNode::HostData(self.number, chunk)).await.is_ok() && !last
    }

    /// Says that a chunk of a download was taken; false when the link has ended.
    async fn took(&self) -> bool {
        self.host.node.send(ToNode::HostMore(self.number)).await.is_ok()
    }

    fn given_up(&self) -> HostError {
        HostError::of(self.what, HostErrorCode::Invalid, "the upload ended before its last piece")
    }

    fn lost(&self) -> HostError {
        lost(self.what)
    }
}

impl Drop for CallSender {
    fn drop(&mut self) {
        self.host.leave(self.number);
    }
}

impl Download {
    /// The next part; the last is its end. Cancel-safe.
    ///
    /// # Errors
    /// The node's, or [`HostErrorCode::Unavailable`] when the link has ended.
    pub(crate) async fn next(&mut self) -> Result<Part, HostError> {
        let OpenCall { sender, answers, .. } = &mut self.call;
        loop {
            if self.owes {
                if !sender.took().await {
                    return Err(sender.lost());
                }
                self.owes = false;
            }
            return match answers.recv().await {
                None => Err(sender.lost()),
                Some(Answer::End(answer, _)) => answer.map(Part::End),
                Some(Answer::Data(_, chunk)) => {
                    self.owes = true;
                    if chunk.is_empty() {
                        continue;
                    }
                    Ok(Part::Chunk(chunk))
                }
            };
        }
    }
}

impl Watch {
    /// The next change; none when the node has ended the watch.
    pub(crate) async fn next(&mut self) -> Option<Result<(WatchEvent, Bytes), HostError>> {
        let OpenCall { sender, answers, .. } = &mut self.call;
        if answers.len() > WATCH_BACKLOG {
            let text = format!("the function is more than {WATCH_BACKLOG} changes behind");
            answers.close();
            return Some(Err(HostError::of(sender.what, HostErrorCode::TooLarge, text)));
        }
        loop {
            return match answers.recv().await {
                None => None,
                Some(Answer::End(Ok(_), _)) => None,
                Some(Answer::End(Err(error), _)) => Some(Err(error)),
                Some(Answer::Data(Some(event), body)) => Some(Ok((event, body))),
                Some(Answer::Data(None, _)) => continue,
            };
        }
    }
}
