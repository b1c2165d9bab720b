//! Frames and messages of the link, as a stream that comes in pieces. The first byte says how long these are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use nex_link::LinkError;
use nex_protocol::link::codec::Message;
use nex_protocol::link::direct::{Answer, Ask};
use nex_protocol::link::frame::Frame;
use nex_protocol::link::message::{ToAgent, ToNode};
use tokio::io::{AsyncRead, ReadBuf};

/// Longest frame.
const LIMIT: usize = 1 << 16;

/// Frames are the bytes they were made of, messages survive their frames, and a receiver gives what the decoder gives,
/// wherever the stream is cut.
pub fn check(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    frames(bytes);
    let piece = usize::from(*piece).max(1);
    received::<ToNode>(bytes, piece);
    received::<ToAgent>(bytes, piece);
}

fn frames(bytes: &[u8]) {
    let mut stream = BytesMut::from(bytes);
    loop {
        let before = stream.clone();
        let Ok(Some(frame)) = Frame::decode(&mut stream, LIMIT) else { break };
        let mut again = BytesMut::new();
        frame.encode(&mut again);
        assert_eq!(again.len(), frame.encoded_len());
        assert!(before.starts_with(&again) && before.len() == again.len() + stream.len());
        survives::<ToNode>(frame.clone());
        survives::<ToAgent>(frame.clone());
        survives::<Answer>(frame.clone());
        asked(frame);
    }
    assert!(stream.capacity() <= LIMIT * 2 + bytes.len(), "room was made for more than a frame may have");
}

fn survives<M: Message + Clone + PartialEq + std::fmt::Debug>(frame: Frame) {
    let Ok(message) = M::from_frame(frame) else { return };
    let again = message.clone().into_frame().expect("a message can be written");
    assert_eq!(M::from_frame(again).expect("what was written reads"), message);
}

/// What a worker writes to its node: a question with a request survives; one without is a question all the same.
fn asked(frame: Frame) {
    if Ask::from_frame(frame.clone()).is_ok_and(|ask| ask.request.is_ok()) {
        survives::<Ask>(frame);
    }
}

fn received<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8], piece: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let stream = Pieces { bytes: Bytes::copy_from_slice(bytes), piece };
        let (_sender, mut receiver) = nex_link::open::<M, ToNode>(stream, tokio::io::sink(), LIMIT);
        let mut whole = BytesMut::from(bytes);
        loop {
            let expected = Frame::decode(&mut whole, LIMIT).map(|frame| frame.map(M::from_frame));
            match (receiver.receive().await, expected) {
                (Ok(Some(got)), Ok(Some(Ok(wanted)))) => assert_eq!(got, wanted),
                (Ok(None), Ok(None)) => return assert!(whole.is_empty()),
                (Err(LinkError::Truncated), Ok(None)) => return assert!(!whole.is_empty()),
                (Err(LinkError::Frame(got)), Err(wanted)) => return assert_eq!(got, wanted),
                (Err(LinkError::Message(_)), Ok(Some(Err(_)))) => return,
                (got, wanted) => panic!("received {got:?}, the decoder says {wanted:?}"),
            }
        }
    });
}

/// A stream that gives no more than a piece at a time.
struct Pieces {
    bytes: Bytes,
    piece: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let length = self.piece.min(self.bytes.len()).min(into.remaining());
        into.put_slice(&self.bytes.split_to(length));
        Poll::Ready(Ok(()))
    }
}
