//! The node's ends of a worker's direct way.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use nex_protocol::link::codec::Message;
use nex_protocol::link::direct::{ANSWERS, ASKS, Answer, Ask, PROMISES};
use nex_protocol::link::frame::Frame;
use nex_protocol::link::host::{HostError, HostReply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// See the module. Dropped, all are closed.
pub(crate) struct DirectEnds {
    /// The worker they are of.
    pub(crate) worker: u32,
    asks: pipe::Receiver,
    answers: pipe::Sender,
    /// None when the worker has made no socket.
    pub(crate) promises: Option<UnixStream>,
    buffer: BytesMut,
}

impl DirectEnds {
    /// Opens the pipes that the agent has made, and connects to the worker's socket.
    pub(crate) async fn open(worker: u32, folder: &Path) -> Self {
        Self {
            promises: UnixStream::connect(folder.join(PROMISES)).await.ok(),
            worker,
            asks: pipe::OpenOptions::new().open_receiver(folder.join(ASKS)).unwrap(),
            answers: pipe::OpenOptions::new().open_sender(folder.join(ANSWERS)).unwrap(),
            buffer: BytesMut::new(),
        }
    }

    /// The next question; none when the worker has closed its end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Ask> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer, usize::MAX >> 1).unwrap() {
                return Some(Ask::from_frame(frame).unwrap());
            }
            if self.asks.read_buf(&mut self.buffer).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// Whatever the worker writes.
    pub(crate) async fn bytes(&mut self) -> Vec<u8> {
        self.asks.read_buf(&mut self.buffer).await.unwrap();
        self.buffer.split().to_vec()
    }

    pub(crate) async fn answer(&mut self, number: u64, answer: Result<HostReply, HostError>, body: impl Into<Bytes>) {
        self.write(&bytes(number, answer, body.into())).await;
    }

    /// Answers a promise.
    pub(crate) async fn resolve(&mut self, number: u64, answer: Result<HostReply, HostError>, body: impl Into<Bytes>) {
        let socket = self.promises.as_mut().expect("the worker has a socket");
        socket.write_all(&bytes(number, answer, body.into())).await.unwrap();
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.answers.write_all(bytes).await.unwrap();
    }
}

fn bytes(number: u64, answer: Result<HostReply, HostError>, body: Bytes) -> BytesMut {
    let mut bytes = BytesMut::new();
    Answer { number, answer, body }.into_frame().unwrap().encode(&mut bytes);
    bytes
}
