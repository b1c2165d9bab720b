//! How a message becomes a frame: its kind, a head in JSON, and the payload as it is.
//!
//! Knows no message: those of the link are in [`super::message`], those of the direct way in [`super::direct`].

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame::Frame;

/// A frame is no message of this direction.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The kind is not one of this direction.
    #[error("unknown message kind {0}")]
    UnknownKind(u8),
    /// The head is not the document this kind has.
    #[error("malformed head of message kind {kind}: {source}")]
    Head {
        /// Kind of the frame.
        kind: u8,
        /// What the decoder says.
        source: serde_json::Error,
    },
}

/// A message of one direction.
pub trait Message: Sized + Send + 'static {
    /// The frame that carries it.
    ///
    /// # Errors
    /// When the head cannot be represented as JSON.
    fn into_frame(self) -> Result<Frame, serde_json::Error>;

    /// The message a frame carries.
    ///
    /// # Errors
    /// [`MessageError`] when it carries none of this direction.
    fn from_frame(frame: Frame) -> Result<Self, MessageError>;
}

/// A frame with a JSON head.
///
/// # Errors
/// When the head cannot be represented as JSON.
pub fn frame<T: Serialize>(kind: u8, call: u64, head: &T, body: Bytes) -> Result<Frame, serde_json::Error> {
    Ok(Frame { kind, call, head: serde_json::to_vec(head)?.into(), body })
}

/// A frame that says all by its kind and number.
pub fn bare(kind: u8, call: u64) -> Frame {
    Frame { kind, call, head: Bytes::new(), body: Bytes::new() }
}

/// Reads the head of a frame.
///
/// # Errors
/// [`MessageError::Head`] when it is not such a document.
pub fn head<T: DeserializeOwned>(frame: &Frame) -> Result<T, MessageError> {
    serde_json::from_slice(&frame.head).map_err(|source| MessageError::Head { kind: frame.kind, source })
}
