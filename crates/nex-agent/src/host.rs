//! Host calls: what a function asks of its node, over the link.
//!
//! [`Host`] is what runtimes call; [`Answers`] is what the session feeds with the node's answers. Each open call has a
//! number and a queue of its own, so that a slow one holds up neither the link nor the others.
//!
//! Promises: a call has one answer, or none because it was dropped, and then the node is told; when the link ends, all
//! open calls fail; what is collected of what the node sends is bounded by the function's memory limit, and what is
//! not collected comes no faster than it is taken.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use nex_link::Sender;
use nex_protocol::link::host::{
    CHUNK, HostError, HostErrorCode, HostReply, HostRequest, ObjectRequest, WINDOW, WatchEvent,
};
use nex_protocol::link::message::ToNode;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Changes of watched keys that may wait for the function; a function that falls further behind loses its watch.
const WATCH_BACKLOG: usize = 1024;

/// What reaches an open call.
enum Answer {
    Data(Option<WatchEvent>, Bytes),
    End(Result<HostReply, HostError>, Bytes),
}

/// An open call, as the session sees it.
struct Open {
    answers: UnboundedSender<Answer>,
    /// Chunks that may be sent.
    window: Arc<Semaphore>,
}

type Table = Mutex<Option<HashMap<u64, Open>>>;

/// The way to the node's host services; clones share it.
#[derive(Clone)]
pub(crate) struct Host {
    node: Sender<ToNode>,
    next: Arc<AtomicU64>,
    open: Arc<Table>,
    limit: usize,
}

/// Where the session puts the node's answers.
#[derive(Clone)]
pub(crate) struct Answers {
    open: Arc<Table>,
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
enum Upload {
    /// All there are.
    Whole(Bytes),
    /// In pieces of any size; an empty one is the end. Closed before that, the upload was given up.
    Pieces(Receiver<Bytes>),
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download").field("number", &self.call.number).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("number", &self.call.number).finish_non_exhaustive()
    }
}

fn locked(table: &Table) -> MutexGuard<'_, Option<HashMap<u64, Open>>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both ends; what one call may bring back is bounded by `limit` bytes.
pub(crate) fn connect(node: Sender<ToNode>, limit: u64) -> (Host, Answers) {
    let open = Arc::new(Mutex::new(Some(HashMap::new())));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    (Host { node, next: Arc::new(AtomicU64::new(1)), open: Arc::clone(&open), limit }, Answers { open })
}

impl Answers {
    /// The end of a call.
    pub(crate) fn reply(&self, number: u64, answer: Result<HostReply, HostError>, body: Bytes) {
        let open = locked(&self.open).as_mut().and_then(|open| open.remove(&number));
        if let Some(open) = open {
            let _ = open.answers.send(Answer::End(answer, body));
        }
    }

    /// A part of an answer.
    pub(crate) fn data(&self, number: u64, event: Option<WatchEvent>, body: Bytes) {
        if let Some(open) = locked(&self.open).as_ref().and_then(|open| open.get(&number)) {
            let _ = open.answers.send(Answer::Data(event, body));
        }
    }

    /// The node has taken a chunk.
    pub(crate) fn more(&self, number: u64) {
        if let Some(open) = locked(&self.open).as_ref().and_then(|open| open.get(&number)) {
            open.window.add_permits(1);
        }
    }

    /// The link has ended: every open call fails, and no new one begins.
    pub(crate) fn close(&self) {
        for open in locked(&self.open).take().into_iter().flatten().map(|(_, open)| open) {
            open.window.close();
        }
    }
}

impl Host {
    /// One host call for the function's call `call`, 0 for none. The body of `objectStore.put` goes as chunks, that of
    /// `objectStore.get` comes as chunks; both are whole here. Dropping the future cancels the call at the node.
    ///
    /// # Errors
    /// The node's, or [`HostErrorCode::Unavailable`] when the link has ended.
    pub(crate) async fn call(
        &self,
        call: u64,
        request: HostRequest,
        body: Bytes,
    ) -> Result<(HostReply, Bytes), HostError> {
        let is_upload = matches!(request, HostRequest::ObjectStore(ObjectRequest::Put { .. }));
        let (first, upload) = if is_upload { (Bytes::new(), Some(Upload::Whole(body))) } else { (body, None) };
        self.exchange(call, request, first, upload).await
    }

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

    async fn exchange(
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
                    return Err(HostError::new(&open.sender.request, HostErrorCode::TooLarge, text));
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

    /// Watches keys until the watch is dropped.
    ///
    /// # Errors
    /// [`HostErrorCode::Unavailable`] when the link has ended.
    pub(crate) async fn watch(&self, call: u64, request: HostRequest) -> Result<Watch, HostError> {
        self.begin(call, request, Bytes::new()).await.map(|call| Watch { call })
    }

    async fn begin(&self, call: u64, request: HostRequest, body: Bytes) -> Result<OpenCall, HostError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (answers, incoming) = unbounded_channel();
        let window = Arc::new(Semaphore::new(WINDOW));
        let opened = Open { answers, window: Arc::clone(&window) };
        let is_open = locked(&self.open).as_mut().map(|open| open.insert(number, opened)).is_some();
        // From here on dropping it closes the call again.
        let sender = CallSender { host: self.clone(), number, window, request };
        let open = OpenCall { number, sender, answers: incoming };
        let request = open.sender.request.clone();
        if !is_open || self.node.send(ToNode::HostCall(number, call, request, body)).await.is_err() {
            return Err(open.sender.lost());
        }
        Ok(open)
    }
}

/// An open call, as its caller holds it.
struct OpenCall {
    number: u64,
    sender: CallSender,
    answers: UnboundedReceiver<Answer>,
}

/// The sending side of an open call; closes the call when dropped.
struct CallSender {
    host: Host,
    number: u64,
    window: Arc<Semaphore>,
    request: HostRequest,
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
        HostError::new(&self.request, HostErrorCode::Invalid, "the upload ended before its last piece")
    }

    fn lost(&self) -> HostError {
        HostError::new(&self.request, HostErrorCode::Unavailable, "the link to the node has ended")
    }
}

impl Drop for CallSender {
    fn drop(&mut self) {
        let was_open = locked(&self.host.open).as_mut().and_then(|open| open.remove(&self.number)).is_some();
        if !was_open {
            return;
        }
        // It had no answer yet: the node need not go on. With a full link the message waits in a task of its own.
        let message = ToNode::HostCancel(self.number);
        if !self.host.node.try_send(message)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (node, number) = (self.host.node.clone(), self.number);
            runtime.spawn(async move {
                let _ = node.send(ToNode::HostCancel(number)).await;
            });
        }
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
            return Some(Err(HostError::new(&sender.request, HostErrorCode::TooLarge, text)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use nex_link::{Receiver, open};
    use nex_protocol::link::frame::MAX_LINK_FRAME;
    use nex_protocol::link::host::{KvRequest, ObjectInfo};
    use nex_protocol::link::message::ToAgent;

    struct Fixture {
        host: Host,
        answers: Answers,
        node: Receiver<ToNode>,
        _far: Sender<ToAgent>,
    }

    fn fixture(limit: u64) -> Fixture {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (near_read, near_write) = tokio::io::split(near);
        let (far_read, far_write) = tokio::io::split(far);
        let (sender, _receiver) = open::<ToAgent, ToNode>(near_read, near_write, MAX_LINK_FRAME);
        let (_far, node) = open::<ToNode, ToAgent>(far_read, far_write, MAX_LINK_FRAME);
        let (host, answers) = connect(sender, limit);
        Fixture { host, answers, node, _far }
    }

    fn get(key: &str) -> HostRequest {
        HostRequest::Kv(KvRequest::Get { key: key.to_owned() })
    }

    async fn number(node: &mut Receiver<ToNode>) -> u64 {
        match node.receive().await.unwrap().unwrap() {
            ToNode::HostCall(number, 7, ..) => number,
            other => panic!("{other:?}"),
        }
    }

    fn start(host: &Host, request: HostRequest) -> tokio::task::JoinHandle<Result<(HostReply, Bytes), HostError>> {
        let host = host.clone();
        tokio::spawn(async move { host.call(7, request, Bytes::new()).await })
    }

    #[tokio::test]
    async fn answers_find_their_calls_in_any_order_and_others_are_ignored() {
        let mut f = fixture(100);
        let (first, second) = (start(&f.host, get("a")), start(&f.host, get("b")));
        let (one, two) = (number(&mut f.node).await, number(&mut f.node).await);
        f.answers.reply(two, Ok(HostReply::Missing), Bytes::new());
        f.answers.reply(two, Ok(HostReply::Done), Bytes::new());
        f.answers.reply(99, Ok(HostReply::Done), Bytes::new());
        f.answers.reply(one, Ok(HostReply::Revision { revision: 3 }), Bytes::from_static(b"v"));
        let mut got = [first.await.unwrap().unwrap(), second.await.unwrap().unwrap()];
        got.sort_by_key(|(reply, _)| matches!(reply, HostReply::Missing));
        assert_eq!(got[0], (HostReply::Revision { revision: 3 }, Bytes::from_static(b"v")));
        assert_eq!(got[1].0, HostReply::Missing);
    }

    #[tokio::test]
    async fn a_dropped_call_is_cancelled_at_the_node() {
        let mut f = fixture(100);
        let call = start(&f.host, get("a"));
        let one = number(&mut f.node).await;
        call.abort();
        assert_eq!(f.node.receive().await.unwrap(), Some(ToNode::HostCancel(one)));
    }

    #[tokio::test]
    async fn an_upload_goes_no_further_than_its_window_until_the_node_takes_it() {
        let mut f = fixture(100);
        let host = f.host.clone();
        let request = HostRequest::ObjectStore(ObjectRequest::Put { name: "o".into() });
        let call = tokio::spawn(async move { host.call(7, request, Bytes::from(vec![1; CHUNK * 6])).await });
        let one = number(&mut f.node).await;
        for _ in 0..WINDOW {
            assert!(matches!(f.node.receive().await.unwrap(), Some(ToNode::HostData(..))));
        }
        let more = tokio::time::timeout(std::time::Duration::from_millis(50), f.node.receive()).await;
        assert!(more.is_err(), "{more:?}");
        for _ in 0..3 {
            f.answers.more(one);
        }
        let sizes = [f.node.receive().await, f.node.receive().await, f.node.receive().await].map(|data| match data {
            Ok(Some(ToNode::HostData(_, chunk))) => chunk.len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(sizes, [CHUNK, CHUNK, 0], "an empty chunk ends it");
        let info = ObjectInfo { name: "o".into(), size: 0, digest: None, modified: None };
        f.answers.reply(one, Ok(HostReply::Object { info }), Bytes::new());
        assert!(call.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_download_over_the_limit_fails_and_the_end_of_the_link_fails_what_is_open() {
        let mut f = fixture(10);
        let call = start(&f.host, get("a"));
        let one = number(&mut f.node).await;
        f.answers.data(one, None, Bytes::from_static(b"0123456"));
        f.answers.data(one, None, Bytes::from_static(b"0123456"));
        assert_eq!(call.await.unwrap().unwrap_err().code, HostErrorCode::TooLarge);
        assert_eq!(f.node.receive().await.unwrap(), Some(ToNode::HostMore(one)), "the first was taken");
        assert_eq!(f.node.receive().await.unwrap(), Some(ToNode::HostCancel(one)));
        let open = start(&f.host, get("b"));
        number(&mut f.node).await;
        f.answers.close();
        assert_eq!(open.await.unwrap().unwrap_err().code, HostErrorCode::Unavailable);
        assert_eq!(f.host.call(7, get("c"), Bytes::new()).await.unwrap_err().code, HostErrorCode::Unavailable);
    }

    #[tokio::test]
    async fn an_upload_in_pieces_is_whole_or_given_up() {
        let mut f = fixture(100);
        let put = || HostRequest::ObjectStore(ObjectRequest::Put { name: "o".into() });
        let upload = |pieces| {
            let host = f.host.clone();
            tokio::spawn(async move { host.upload(7, put(), pieces).await })
        };
        let (sender, pieces) = tokio::sync::mpsc::channel(4);
        let call = upload(pieces);
        let one = number(&mut f.node).await;
        for piece in [vec![1; CHUNK + 5], vec![]] {
            sender.send(Bytes::from(piece)).await.unwrap();
        }
        for size in [CHUNK, 5, 0] {
            let sent = f.node.receive().await.unwrap();
            assert!(matches!(&sent, Some(ToNode::HostData(_, chunk)) if chunk.len() == size), "{size}");
        }
        f.answers.reply(one, Ok(HostReply::Done), Bytes::new());
        assert_eq!(call.await.unwrap().unwrap(), HostReply::Done);

        let (sender, pieces) = tokio::sync::mpsc::channel(4);
        let call = upload(pieces);
        let two = number(&mut f.node).await;
        drop(sender);
        assert_eq!(call.await.unwrap().unwrap_err().code, HostErrorCode::Invalid);
        assert_eq!(f.node.receive().await.unwrap(), Some(ToNode::HostCancel(two)));
    }

    #[tokio::test]
    async fn a_download_is_asked_for_as_it_is_read_and_cancelled_when_dropped() {
        let mut f = fixture(10);
        let request = HostRequest::ObjectStore(ObjectRequest::Get { name: "o".into() });
        let mut download = f.host.download(7, request.clone()).await.unwrap();
        let one = number(&mut f.node).await;
        for chunk in ["larger than", "the limit"] {
            f.answers.data(one, None, chunk.into());
        }
        assert!(matches!(download.next().await, Ok(Part::Chunk(chunk)) if chunk == "larger than"));
        assert!(matches!(download.next().await, Ok(Part::Chunk(chunk)) if chunk == "the limit"));
        assert_eq!(f.node.receive().await.unwrap(), Some(ToNode::HostMore(one)), "not before the next is asked for");
        f.answers.reply(one, Ok(HostReply::Done), Bytes::new());
        assert!(matches!(download.next().await, Ok(Part::End(HostReply::Done))));
        assert_eq!(f.node.receive().await.unwrap(), Some(ToNode::HostMore(one)));

        let download = f.host.download(7, request).await.unwrap();
        let two = number(&mut f.node).await;
        drop(download);
        assert_eq!(f.node.receive().await.unwrap(), Some(ToNode::HostCancel(two)));
    }
}
