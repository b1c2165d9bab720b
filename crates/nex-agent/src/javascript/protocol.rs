//! Messages between the agent and its JavaScript worker, in the frames of the agent link.
//!
//! ```text
//! agent                     worker (worker.js)
//!   Load        ->                   once, first; the body is the source
//!               <-  Loaded | Refused
//!   Call(call)  ->                   the body is the payload
//!               <-  Yielded(call)    the function gave way before it was done; at most once, before its Outcome
//!               <-  Outcome(call)
//!   Ping(n)     ->
//!               <-  Pong(n)          answered when no JavaScript runs
//!               <-  Log              any time
//! ```
//!
//! The function shares a process with the worker's own code and can write whatever it likes to this stream. So nothing
//! here is believed: what is no message ends the worker, and what is one is checked again where it is used.

use bytes::Bytes;
use nex_protocol::link::frame::Frame;
use nex_protocol::link::message::{Failure, Headers, Message, MessageError, Outcome, frame, head};
use nex_protocol::log::Level;
use serde::{Deserialize, Serialize};

/// Take this source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Name of the workload; names the source in stack traces too.
    pub(crate) name: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its environment.
    pub(crate) env: nex_protocol::Environment,
    /// Largest reply.
    pub(crate) reply_bytes: u64,
}

/// Run the function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CallHead {
    /// Subject of the message that triggered it.
    pub(crate) subject: String,
    /// Its headers.
    pub(crate) headers: Headers,
    /// Milliseconds since the epoch by which it must be done.
    pub(crate) deadline: u64,
}

/// To the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToWorker {
    /// See [`Load`]; source beside it.
    Load(Box<Load>, Bytes),
    /// See [`CallHead`]; call number and payload beside it.
    Call(u64, CallHead, Bytes),
    /// Does JavaScript give way?
    Ping(u64),
}

/// From the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FromWorker {
    /// The source is loaded and is a function.
    Loaded,
    /// It is not; text for people.
    Refused(String),
    /// What came of a call.
    Outcome(u64, Outcome),
    /// The call waits for something; another may start.
    Yielded(u64),
    /// JavaScript gave way.
    Pong(u64),
    /// Output of the function, possibly of several lines.
    Log(Level, String),
}

mod kind {
    pub(super) const LOAD: u8 = 1;
    pub(super) const CALL: u8 = 2;
    pub(super) const PING: u8 = 3;
    pub(super) const LOADED: u8 = 65;
    pub(super) const REFUSED: u8 = 66;
    pub(super) const OUTCOME: u8 = 67;
    pub(super) const YIELDED: u8 = 68;
    pub(super) const PONG: u8 = 69;
    pub(super) const LOG: u8 = 70;
}

#[derive(Serialize, Deserialize)]
struct RefusedHead {
    message: String,
}

#[derive(Serialize, Deserialize)]
struct OutcomeHead {
    #[serde(default)]
    headers: Headers,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Serialize, Deserialize)]
struct LogHead {
    level: Level,
    text: String,
}

fn bare(kind: u8, call: u64) -> Frame {
    Frame { kind, call, head: Bytes::new(), body: Bytes::new() }
}

impl Message for ToWorker {
    fn into_frame(self) -> Result<Frame, serde_json::Error> {
        match self {
            ToWorker::Load(load, source) => frame(kind::LOAD, 0, &load, source),
            ToWorker::Call(call, head, payload) => frame(kind::CALL, call, &head, payload),
            ToWorker::Ping(number) => Ok(bare(kind::PING, number)),
        }
    }

    fn from_frame(frame: Frame) -> Result<Self, MessageError> {
        Ok(match frame.kind {
            kind::LOAD => ToWorker::Load(head(&frame)?, frame.body),
            kind::CALL => ToWorker::Call(frame.call, head(&frame)?, frame.body),
            kind::PING => ToWorker::Ping(frame.call),
            other => return Err(MessageError::UnknownKind(other)),
        })
    }
}

impl Message for FromWorker {
    fn into_frame(self) -> Result<Frame, serde_json::Error> {
        match self {
            FromWorker::Loaded => Ok(bare(kind::LOADED, 0)),
            FromWorker::Refused(message) => frame(kind::REFUSED, 0, &RefusedHead { message }, Bytes::new()),
            FromWorker::Outcome(call, Ok((headers, body))) => {
                frame(kind::OUTCOME, call, &OutcomeHead { headers, failure: None }, body)
            }
            FromWorker::Outcome(call, Err(failure)) => {
                let head = OutcomeHead { headers: Headers::new(), failure: Some(failure) };
                frame(kind::OUTCOME, call, &head, Bytes::new())
            }
            FromWorker::Yielded(call) => Ok(bare(kind::YIELDED, call)),
            FromWorker::Pong(number) => Ok(bare(kind::PONG, number)),
            FromWorker::Log(level, text) => frame(kind::LOG, 0, &LogHead { level, text }, Bytes::new()),
        }
    }

    fn from_frame(frame: Frame) -> Result<Self, MessageError> {
        Ok(match frame.kind {
            kind::LOADED => FromWorker::Loaded,
            kind::REFUSED => FromWorker::Refused(head::<RefusedHead>(&frame)?.message),
            kind::OUTCOME => {
                let OutcomeHead { headers, failure } = head(&frame)?;
                // `Failure::new` once more: the text is the worker's, and it is to be one line.
                let outcome = match failure {
                    Some(Failure { kind, message }) => Err(Failure::new(kind, message)),
                    None => Ok((headers, frame.body)),
                };
                FromWorker::Outcome(frame.call, outcome)
            }
            kind::YIELDED => FromWorker::Yielded(frame.call),
            kind::PONG => FromWorker::Pong(frame.call),
            kind::LOG => {
                let LogHead { level, text } = head(&frame)?;
                FromWorker::Log(level, text)
            }
            other => return Err(MessageError::UnknownKind(other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nex_protocol::link::message::FailureKind;
    use proptest::prelude::*;

    #[test]
    fn messages_survive_their_frames() {
        let failed = FromWorker::Outcome(3, Err(Failure::new(FailureKind::Function, "Error: no")));
        let done = FromWorker::Outcome(4, Ok((vec![("A".into(), "b".into())], Bytes::from_static(b"\xff"))));
        for message in [FromWorker::Loaded, FromWorker::Yielded(9), FromWorker::Pong(1), failed, done] {
            assert_eq!(FromWorker::from_frame(message.clone().into_frame().unwrap()).unwrap(), message);
        }
    }

    proptest! {
        #[test]
        fn any_frame_is_a_message_or_an_error(kind: u8, call: u64, head: Vec<u8>) {
            let _ = FromWorker::from_frame(Frame { kind, call, head: head.into(), body: Bytes::new() });
        }
    }
}
