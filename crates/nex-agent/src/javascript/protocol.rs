//! Messages between the agent and its JavaScript worker, in the frames of the agent link.
//!
//! ```text
//! agent                     worker (worker/*.js)
//!               <-  Ready                once, first: it waits for a source
//!   Load        ->                   once, first; the body is the source
//!               <-  Loaded | Refused
//!   Call(call)  ->                   the body is the payload
//!               <-  Yielded(call)    the function gave way before it was done; at most once, before its Outcome
//!               <-  Outcome(call)
//!   Ping(n)     ->
//!               <-  Pong(n)          answered when no JavaScript runs; also to a Call that has a ping, as it begins
//!               <-  Log              any time
//!               <-  HostCall(n)      a host service is asked for; n is the worker's
//!   HostReply(n) ->                  its end; on standard input when the call blocks the worker
//!               <-  HostMore(n)      the next change of a watch is wanted
//!   HostEvent(n) ->                  a change of a watched key; where the HostReply would go
//!               <-  HostCancel(n)    the worker gives the call up; no HostReply follows
//!   Direct      ->                   short synchronous calls may go to the node, past the agent; see [`direct`]
//! ```
//!
//! The function shares a process with the worker's own code and can write whatever it likes to this stream. So nothing
//! here is believed: what is no message ends the worker, and what is one is checked again where it is used.

use bytes::Bytes;
use nex_protocol::link::codec::{Message, MessageError, bare, frame, head};
use nex_protocol::link::direct;
use nex_protocol::link::frame::Frame;
use nex_protocol::link::host::answer::{answer_frame, answer_of};
use nex_protocol::link::host::{HostError, HostReply, HostRequest, WatchEvent};
use nex_protocol::link::message::{Failure, Headers, Outcome};
use nex_protocol::log::Level;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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
    /// Largest payload of a host call.
    pub(crate) host_bytes: u64,
}

/// A host service is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The function's call it is part of; 0 for none.
    pub(crate) call: u64,
    /// Whether the worker does nothing else until the answer is there.
    pub(crate) sync: bool,
    /// What is asked for, or why it is no request.
    pub(crate) request: Result<HostRequest, String>,
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
    /// Number of a pong to send just before it begins; as text, for JSON's numbers are not that exact everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ping: Option<String>,
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
    /// The end of a host call; its number in the worker, payload beside it.
    HostReply(u64, Result<HostReply, HostError>, Bytes),
    /// A change of a watched key.
    HostEvent(u64, WatchEvent, Bytes),
    /// The direct way is open.
    Direct,
}

/// From the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FromWorker {
    /// The worker's own code has run; it waits for a source.
    Ready,
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
    /// See [`Ask`]; the worker's number for it, and the payload.
    HostCall(u64, Box<Ask>, Bytes),
    /// The host call is given up.
    HostCancel(u64),
    /// The next change of a watch is wanted.
    HostMore(u64),
}

mod kind {
    pub(super) const LOAD: u8 = 1;
    pub(super) const CALL: u8 = 2;
    pub(super) const PING: u8 = 3;
    pub(super) const HOST_REPLY: u8 = 4;
    pub(super) const HOST_EVENT: u8 = 5;
    pub(super) const DIRECT: u8 = 6;
    pub(super) const LOADED: u8 = 65;
    pub(super) const REFUSED: u8 = 66;
    pub(super) const OUTCOME: u8 = 67;
    pub(super) const YIELDED: u8 = 68;
    pub(super) const PONG: u8 = 69;
    pub(super) const LOG: u8 = 70;
    pub(super) const HOST_CALL: u8 = 71;
    pub(super) const HOST_CANCEL: u8 = 72;
    pub(super) const HOST_MORE: u8 = 73;
    pub(super) const READY: u8 = 74;
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

#[derive(Serialize, Deserialize)]
struct HostCallHead {
    call: u64,
    sync: bool,
    request: Box<RawValue>,
}

impl HostCallHead {
    /// A request that cannot be read is the business of whoever made it, and no reason to end the worker.
    fn read(self) -> Ask {
        Ask { call: self.call, sync: self.sync, request: direct::request(&self.request) }
    }
}

impl Message for ToWorker {
    fn into_frame(self) -> Result<Frame, serde_json::Error> {
        match self {
            ToWorker::Load(load, source) => frame(kind::LOAD, 0, &load, source),
            ToWorker::Call(call, head, payload) => frame(kind::CALL, call, &head, payload),
            ToWorker::Ping(number) => Ok(bare(kind::PING, number)),
            ToWorker::HostReply(number, answer, body) => answer_frame(kind::HOST_REPLY, number, answer, body),
            ToWorker::HostEvent(number, event, body) => frame(kind::HOST_EVENT, number, &event, body),
            ToWorker::Direct => Ok(bare(kind::DIRECT, 0)),
        }
    }

    fn from_frame(frame: Frame) -> Result<Self, MessageError> {
        Ok(match frame.kind {
            kind::LOAD => ToWorker::Load(head(&frame)?, frame.body),
            kind::CALL => ToWorker::Call(frame.call, head(&frame)?, frame.body),
            kind::PING => ToWorker::Ping(frame.call),
            kind::HOST_REPLY => ToWorker::HostReply(frame.call, answer_of(&frame)?, frame.body),
            kind::HOST_EVENT => ToWorker::HostEvent(frame.call, head(&frame)?, frame.body),
            kind::DIRECT => ToWorker::Direct,
            other => return Err(MessageError::UnknownKind(other)),
        })
    }
}

impl Message for FromWorker {
    fn into_frame(self) -> Result<Frame, serde_json::Error> {
        match self {
            FromWorker::Ready => Ok(bare(kind::READY, 0)),
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
            FromWorker::HostCall(number, ask, body) => {
                let Ask { call, sync, request } = *ask;
                let request = match request {
                    Ok(request) => serde_json::value::to_raw_value(&request)?,
                    Err(text) => serde_json::value::to_raw_value(&text)?,
                };
                frame(kind::HOST_CALL, number, &HostCallHead { call, sync, request }, body)
            }
            FromWorker::HostCancel(number) => Ok(bare(kind::HOST_CANCEL, number)),
            FromWorker::HostMore(number) => Ok(bare(kind::HOST_MORE, number)),
        }
    }

    fn from_frame(frame: Frame) -> Result<Self, MessageError> {
        Ok(match frame.kind {
            kind::READY => FromWorker::Ready,
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
            kind::HOST_CALL => {
                let ask = head::<HostCallHead>(&frame)?.read();
                FromWorker::HostCall(frame.call, Box::new(ask), frame.body)
            }
            kind::HOST_CANCEL => FromWorker::HostCancel(frame.call),
            kind::HOST_MORE => FromWorker::HostMore(frame.call),
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
        let request = Ok(HostRequest::Kv(nex_protocol::link::host::KvRequest::Keys));
        let ask = FromWorker::HostCall(5, Box::new(Ask { call: 3, sync: true, request }), Bytes::from_static(b"x"));
        for message in
            [FromWorker::Ready, FromWorker::Loaded, FromWorker::Yielded(9), FromWorker::Pong(1), failed, done, ask]
        {
            assert_eq!(FromWorker::from_frame(message.clone().into_frame().unwrap()).unwrap(), message);
        }
    }

    #[test]
    fn a_request_that_cannot_be_read_is_no_reason_to_end_the_worker() {
        let long = format!(r#"{{"service":"kv","method":"get","key":"{}"}}"#, "x".repeat(64 << 10));
        for request in [r#"{"service":"kv","method":"drop"}"#, "3", long.as_str()] {
            let head = format!(r#"{{"call":1,"sync":false,"request":{request}}}"#);
            let frame = Frame { kind: kind::HOST_CALL, call: 1, head: head.into(), body: Bytes::new() };
            let FromWorker::HostCall(1, ask, _) = FromWorker::from_frame(frame).unwrap() else { panic!("{request}") };
            assert!(ask.request.is_err(), "{ask:?}");
        }
    }

    proptest! {
        #[test]
        fn any_frame_is_a_message_or_an_error(kind: u8, call: u64, head: Vec<u8>) {
            let _ = FromWorker::from_frame(Frame { kind, call, head: head.into(), body: Bytes::new() });
        }
    }
}
