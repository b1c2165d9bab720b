//! The end of a host call in a frame, the same for the link, the direct way and the protocol of workers: a short head
//! where the reply has one, else JSON, and the payload as it is.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::codec::{MessageError, frame, head};
use super::super::frame::Frame;
use super::{HostError, HostReply, short};

#[derive(Serialize, Deserialize)]
struct HostReplyHead {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply: Option<HostReply>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<HostError>,
}

/// A frame with the end of a host call.
///
/// # Errors
/// When the head cannot be represented as JSON.
pub fn answer_frame(
    kind: u8,
    number: u64,
    answer: Result<HostReply, HostError>,
    body: Bytes,
) -> Result<Frame, serde_json::Error> {
    let short = answer.as_ref().ok().and_then(|reply| short::head(reply, body.len()));
    if let Some(head) = short {
        return Ok(Frame { kind, call: number, head, body });
    }
    let (reply, error) = match answer {
        Ok(reply) => (Some(reply), None),
        Err(error) => (None, Some(error)),
    };
    frame(kind, number, &HostReplyHead { reply, error }, body)
}

/// Reads the end of a host call.
///
/// # Errors
/// [`MessageError::Head`] when the frame has none.
pub fn answer_of(frame: &Frame) -> Result<Result<HostReply, HostError>, MessageError> {
    if let Some(reply) = short::reply(&frame.head, frame.body.len()) {
        return Ok(Ok(reply));
    }
    let HostReplyHead { reply, error } = head(frame)?;
    Ok(error.map_or(Ok(reply.unwrap_or(HostReply::Done)), Err))
}
