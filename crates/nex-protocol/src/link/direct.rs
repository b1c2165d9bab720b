//! The direct way: short host calls of a JavaScript worker, past its agent.
//!
//! ```text
//! worker            node             agent
//!                        <- Direct(w)          over the link: the pipes of worker w are there
//!                           Direct(w)       -> the node has opened them; the agent closes its ends and tells the worker
//!   Ask(n)       ->                            on the pipe ASKS. One that blocks the worker: nothing else until it is answered
//!                <- Answer(n)                  on the pipe ANSWERS when the worker is blocked, else on the socket PROMISES
//!                        <- DirectWaits(w)     over the link: does it wait for the node?
//!                           DirectWaits(w)  ->
//! ```
//! The pipes are named ones in the agent's folder, which makes them, where agent and node share their files. The socket is
//! there too; the worker has made it, unless its path were too long, and the node connects to it when it opens the pipes. An
//! end that closes is the end of the direct way, whoever closed it; the way through the agent remains.
//!
//! Nothing on the pipes is to be believed, for a function shares its process with the worker: it may name any call and
//! ask for anything. Whose keys and subjects are meant is known from the agent's link, and by nothing here.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::codec::{Message, MessageError, frame, head};
use super::frame::Frame;
use super::host::answer::{answer_frame, answer_of};
use super::host::{HostError, HostReply, HostRequest};

/// Name of the pipe from the worker to the node, in the agent's folder.
pub const ASKS: &str = "direct-asks";

/// Name of the pipe from the node to the worker.
pub const ANSWERS: &str = "direct-answers";

/// Name of the socket on which promises are answered.
pub const PROMISES: &str = "direct-promises";

/// Most promises that a worker may have open.
pub const OPEN_PROMISES: usize = 64;

/// Largest frame of an [`Ask`], as its length counts: whole, it fits into an empty pipe, so that no worker waits for
/// room. Whoever has more to say goes through the agent.
pub const LARGEST: usize = 60 << 10;

/// Longest request to a host service that a worker may write, without its payload: keys, subjects, URLs, headers.
const REQUEST: usize = 64 << 10;

/// Kinds of the frames; those that the same things have between agent and worker.
mod kind {
    pub(super) const ASK: u8 = 71;
    pub(super) const ANSWER: u8 = 4;
}

/// A worker asks for a host service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The worker's number for it.
    pub number: u64,
    /// The function's call it is part of; 0 for none.
    pub call: u64,
    /// Whether a promise waits for the answer; if not, the worker does nothing else until it is there.
    pub promise: bool,
    /// What is asked for, or why it is no request.
    pub request: Result<HostRequest, String>,
    /// The payload.
    pub body: Bytes,
}

/// What comes of an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The number it had.
    pub number: u64,
    /// The answer.
    pub answer: Result<HostReply, HostError>,
    /// The payload.
    pub body: Bytes,
}

/// Whether a worker waits for its node, and since when it does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// Milliseconds that are left to the call it waits for; none when it waits for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
    /// Milliseconds since the node answered it last; none when it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ago_ms: Option<u64>,
}

/// What a worker asks for.
///
/// # Errors
/// Why it is no request; for whoever made it, and no reason to end anything.
pub fn request(text: &RawValue) -> Result<HostRequest, String> {
    let text = text.get();
    if text.len() > REQUEST {
        return Err(format!("the request has {} bytes beside its payload, {REQUEST} are allowed", text.len()));
    }
    serde_json::from_str(text).map_err(|error| format!("no request: {error}"))
}

#[derive(Serialize, Deserialize)]
struct AskHead<R> {
    call: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    promise: bool,
    request: R,
}

impl Message for Ask {
    fn into_frame(self) -> Result<Frame, serde_json::Error> {
        let request = match self.request {
            Ok(request) => serde_json::value::to_raw_value(&request)?,
            Err(text) => serde_json::value::to_raw_value(&text)?,
        };
        frame(kind::ASK, self.number, &AskHead { call: self.call, promise: self.promise, request }, self.body)
    }

    fn from_frame(frame: Frame) -> Result<Self, MessageError> {
        if frame.kind != kind::ASK {
            return Err(MessageError::UnknownKind(frame.kind));
        }
        // In one pass, as almost all are; a second one finds out what is wrong with the request alone.
        let (call, promise, request) = match head(&frame) {
            Ok(AskHead { call, promise, request }) if frame.head.len() <= REQUEST => (call, promise, Ok(request)),
            _ => {
                let AskHead::<Box<RawValue>> { call, promise, request: text } = head(&frame)?;
                (call, promise, request(&text))
            }
        };
        Ok(Self { number: frame.call, call, promise, request, body: frame.body })
    }
}

impl Message for Answer {
    fn into_frame(self) -> Result<Frame, serde_json::Error> {
        answer_frame(kind::ANSWER, self.number, self.answer, self.body)
    }

    fn from_frame(frame: Frame) -> Result<Self, MessageError> {
        if frame.kind != kind::ANSWER {
            return Err(MessageError::UnknownKind(frame.kind));
        }
        Ok(Self { number: frame.call, answer: answer_of(&frame)?, body: frame.body })
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::{HostErrorCode, KvRequest};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn questions_and_answers_survive_their_frames() {
        let request = HostRequest::Kv(KvRequest::Get { key: "k".into() });
        let error = HostError::new(&request, HostErrorCode::Timeout, "late".to_owned());
        let body = Bytes::from_static(b"\xff");
        for promise in [false, true] {
            let ask = Ask { number: 1 << 40, call: 3, promise, request: Ok(request.clone()), body: body.clone() };
            assert_eq!(Ask::from_frame(ask.clone().into_frame().unwrap()).unwrap(), ask);
        }
        for answer in [Ok(HostReply::Missing), Err(error)] {
            let answer = Answer { number: 7, answer, body: Bytes::from_static(b"\x00") };
            assert_eq!(Answer::from_frame(answer.clone().into_frame().unwrap()).unwrap(), answer);
        }
    }

    #[test]
    fn a_request_that_cannot_be_read_is_still_a_question() {
        let long = format!(r#"{{"service":"kv","method":"get","key":"{}"}}"#, "x".repeat(REQUEST));
        for request in [r#"{"service":"kv","method":"drop"}"#, "3", long.as_str()] {
            let head = format!(r#"{{"call":1,"request":{request}}}"#);
            let frame = Frame { kind: kind::ASK, call: 1, head: head.into(), body: Bytes::new() };
            assert!(Ask::from_frame(frame).unwrap().request.is_err(), "{request}");
        }
    }

    proptest! {
        #[test]
        fn any_frame_is_a_question_or_an_error(kind: u8, call: u64, head: Vec<u8>) {
            let frame = Frame { kind, call, head: head.into(), body: Bytes::new() };
            let _ = Ask::from_frame(frame.clone());
            let _ = Answer::from_frame(frame);
        }
    }
}
