//! Frames: a kind, a call number, a JSON head and a raw body.
//!
//! ```text
//! length: u32 | kind: u8 | call: u64 | head length: u32 | head: JSON | body: bytes        (big endian)
//! ```
//! `length` counts what follows it. A payload travels as body, untouched: it is neither escaped nor copied into the
//! head. Decoding is total and bounded: a length over the limit is an error before anything of that size is kept.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::message::frames::kind::START;

/// Bytes of a frame besides its head and body, without the length itself.
const FIXED: usize = 1 + 8 + 4;

/// Largest frame between a node and an agent: NATS' hard payload limit (64 MiB) and room for a head.
pub const MAX_LINK_FRAME: usize = 65 << 20;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which message this is.
    pub kind: u8,
    /// The call it belongs to; 0 when to none.
    pub call: u64,
    /// JSON document, empty when the message has no fields.
    pub head: Bytes,
    /// Payload.
    pub body: Bytes,
}

/// The bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than the limit.
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// Claimed length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Too short for what every frame has, or a head longer than its frame.
    #[error("a frame of {length} bytes cannot hold what it claims to")]
    Inconsistent {
        /// Claimed length.
        length: usize,
    },
}

impl Frame {
    /// Length of the encoded frame, with its length prefix.
    pub fn encoded_len(&self) -> usize {
        4 + FIXED + self.head.len() + self.body.len()
    }

    /// Whether there is an environment in clear in its head, and nothing behind it. Such a head zeroizes itself, and is
    /// to be written from where it is: a copy would not.
    pub fn is_secret(&self) -> bool {
        self.kind == START && self.body.is_empty()
    }

    /// Appends everything before the body, so that a body can be written without copying it.
    pub fn encode_prefix(&self, into: &mut BytesMut) {
        into.reserve(4 + FIXED + self.head.len());
        self.encode_lengths(into);
        into.put_slice(&self.head);
    }

    /// Appends everything before the head.
    pub fn encode_lengths(&self, into: &mut BytesMut) {
        let length = FIXED + self.head.len() + self.body.len();
        into.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        into.put_u8(self.kind);
        into.put_u64(self.call);
        into.put_u32(u32::try_from(self.head.len()).unwrap_or(u32::MAX));
    }

    /// Appends the frame.
    pub fn encode(&self, into: &mut BytesMut) {
        self.encode_prefix(into);
        into.put_slice(&self.body);
    }

    /// Takes one frame from the front, or none when it is not there whole.
    ///
    /// # Errors
    /// [`FrameError`]: what follows can never become a frame; the stream is of no further use.
    pub fn decode(from: &mut BytesMut, limit: usize) -> Result<Option<Frame>, FrameError> {
        let Some(prefix) = from.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        if length < FIXED {
            return Err(FrameError::Inconsistent { length });
        }
        if from.len() < 4 + length {
            // Reserve once: a large body then arrives without growing the buffer step by step.
            from.reserve(4 + length - from.len());
            return Ok(None);
        }
        from.advance(4);
        let mut frame = from.split_to(length);
        let (kind, call, head_length) = (frame.get_u8(), frame.get_u64(), frame.get_u32() as usize);
        if head_length > frame.len() {
            return Err(FrameError::Inconsistent { length });
        }
        let head = frame.split_to(head_length).freeze();
        Ok(Some(Frame { kind, call, head, body: frame.freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_decodes_wherever_the_stream_is_cut(
            kind: u8, call: u64, head: Vec<u8>, body: Vec<u8>, cut in 0usize..64,
        ) {
            let frame = Frame { kind, call, head: head.into(), body: body.into() };
            let mut whole = BytesMut::new();
            frame.encode(&mut whole);
            prop_assert_eq!(whole.len(), frame.encoded_len());
            let cut = cut.min(whole.len().saturating_sub(1));
            let mut stream = BytesMut::from(&whole[..cut]);
            prop_assert_eq!(Frame::decode(&mut stream, 1 << 20).unwrap(), None);
            stream.extend_from_slice(&whole[cut..]);
            prop_assert_eq!(Frame::decode(&mut stream, 1 << 20).unwrap(), Some(frame));
            prop_assert!(stream.is_empty());
        }

        #[test]
        fn any_bytes_are_a_frame_an_error_or_the_start_of_one(bytes: Vec<u8>) {
            let mut stream = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::decode(&mut stream, 1 << 16) {}
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_kept() {
        let mut stream = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(matches!(Frame::decode(&mut stream, 1024), Err(FrameError::TooLong { .. })));
        assert!(stream.capacity() < 1024);
    }
}
