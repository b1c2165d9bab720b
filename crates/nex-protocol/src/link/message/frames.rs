//! The frames of the link's messages: which kind each has, and what stands in its head.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Failure, Headers, ToAgent, ToNode};
use crate::environment::clear_json;
use crate::link::codec::{Message, MessageError, bare, frame, head};
use crate::link::compiled::{Compiled, EngineName};
use crate::link::direct::Waits;
use crate::link::frame::Frame;
use crate::link::host::answer::{answer_frame, answer_of};
use crate::link::host::{HostRequest, WatchEvent};
use crate::log::Level;

/// Kinds below 64 go to the agent, those above to the node.
pub(in crate::link) mod kind {
    pub(super) const WELCOME: u8 = 1;
    pub(in crate::link) const START: u8 = 2;
    pub(super) const INVOKE: u8 = 3;
    pub(super) const STOP: u8 = 4;
    pub(super) const PING: u8 = 5;
    pub(super) const HOST_REPLY: u8 = 6;
    pub(super) const HOST_DATA: u8 = 7;
    pub(super) const HOST_MORE: u8 = 8;
    pub(super) const ARTIFACT: u8 = 9;
    pub(super) const KEPT_CODE: u8 = 10;
    pub(super) const COMPILED_MORE: u8 = 11;
    pub(super) const DIRECT_OPEN: u8 = 12;
    pub(super) const DIRECT_WAITS: u8 = 13;
    pub(super) const HELLO: u8 = 65;
    pub(super) const STARTED: u8 = 66;
    pub(super) const REJECTED: u8 = 67;
    pub(super) const OUTCOME: u8 = 68;
    pub(super) const LOG: u8 = 69;
    pub(super) const EXITED: u8 = 70;
    pub(super) const PONG: u8 = 71;
    pub(super) const HOST_CALL: u8 = 72;
    pub(super) const HOST_UPLOAD: u8 = 73;
    pub(super) const HOST_CANCEL: u8 = 74;
    pub(super) const HOST_TAKEN: u8 = 75;
    pub(super) const COMPILED: u8 = 76;
    pub(super) const DIRECT: u8 = 77;
    pub(super) const DIRECT_ASKED: u8 = 78;
}

#[derive(Serialize, Deserialize)]
struct StopHead {
    grace_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct StartedHead {
    process_group: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct OutcomeHead {
    elapsed_ns: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Headers,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
}

#[derive(Serialize, Deserialize)]
struct LogHead {
    level: Level,
    text: String,
}

#[derive(Serialize, Deserialize)]
struct CompiledHead {
    engine: EngineName,
    size: u64,
}

#[derive(Serialize, Deserialize)]
struct HostCallHead {
    call: u64,
    request: HostRequest,
}

#[derive(Serialize, Deserialize)]
struct HostDataHead {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<WatchEvent>,
}

#[derive(Serialize, Deserialize)]
struct DirectHead {
    worker: u32,
    #[serde(flatten)]
    waits: Waits,
}

impl DirectHead {
    fn of(worker: u32) -> Self {
        Self { worker, waits: Waits::default() }
    }
}

fn compiled(kind: u8, Compiled { engine, size, piece }: Compiled) -> Result<Frame, serde_json::Error> {
    frame(kind, 0, &CompiledHead { engine, size }, piece)
}

fn from_compiled(frame: Frame) -> Result<Compiled, MessageError> {
    let CompiledHead { engine, size } = head(&frame)?;
    Ok(Compiled { engine, size, piece: frame.body })
}

impl Message for ToAgent {
    fn into_frame(self) -> Result<Frame, serde_json::Error> {
        match self {
            ToAgent::Welcome(welcome) => frame(kind::WELCOME, 0, &welcome, Bytes::new()),
            ToAgent::Start(start) => {
                let head = Bytes::from_owner(clear_json(&start)?);
                Ok(Frame { kind: kind::START, call: 0, head, body: Bytes::new() })
            }
            ToAgent::Artifact(body) => Ok(Frame { kind: kind::ARTIFACT, call: 0, head: Bytes::new(), body }),
            ToAgent::Compiled(piece) => compiled(kind::KEPT_CODE, piece),
            ToAgent::CompiledMore => Ok(bare(kind::COMPILED_MORE, 0)),
            ToAgent::Invoke(call, invoke, payload) => frame(kind::INVOKE, call, &invoke, payload),
            ToAgent::Stop { grace_ms } => frame(kind::STOP, 0, &StopHead { grace_ms }, Bytes::new()),
            ToAgent::Ping(call) => Ok(bare(kind::PING, call)),
            ToAgent::HostReply(number, answer, body) => answer_frame(kind::HOST_REPLY, number, answer, body),
            ToAgent::HostData(number, event, body) => frame(kind::HOST_DATA, number, &HostDataHead { event }, body),
            ToAgent::HostMore(number) => Ok(bare(kind::HOST_MORE, number)),
            ToAgent::Direct(worker) => frame(kind::DIRECT_OPEN, 0, &DirectHead::of(worker), Bytes::new()),
            ToAgent::DirectWaits(worker, waits) => {
                frame(kind::DIRECT_WAITS, 0, &DirectHead { worker, waits }, Bytes::new())
            }
        }
    }

    fn from_frame(frame: Frame) -> Result<Self, MessageError> {
        Ok(match frame.kind {
            kind::WELCOME => ToAgent::Welcome(head(&frame)?),
            kind::START => ToAgent::Start(head(&frame)?),
            kind::ARTIFACT => ToAgent::Artifact(frame.body),
            kind::KEPT_CODE => ToAgent::Compiled(from_compiled(frame)?),
            kind::COMPILED_MORE => ToAgent::CompiledMore,
            kind::INVOKE => ToAgent::Invoke(frame.call, head(&frame)?, frame.body),
            kind::STOP => ToAgent::Stop { grace_ms: head::<StopHead>(&frame)?.grace_ms },
            kind::PING => ToAgent::Ping(frame.call),
            kind::HOST_REPLY => ToAgent::HostReply(frame.call, answer_of(&frame)?, frame.body),
            kind::HOST_DATA => ToAgent::HostData(frame.call, head::<HostDataHead>(&frame)?.event, frame.body),
            kind::HOST_MORE => ToAgent::HostMore(frame.call),
            kind::DIRECT_OPEN => ToAgent::Direct(head::<DirectHead>(&frame)?.worker),
            kind::DIRECT_WAITS => {
                let DirectHead { worker, waits } = head(&frame)?;
                ToAgent::DirectWaits(worker, waits)
            }
            other => return Err(MessageError::UnknownKind(other)),
        })
    }
}

impl Message for ToNode {
    fn into_frame(self) -> Result<Frame, serde_json::Error> {
        match self {
            ToNode::Hello(hello) => frame(kind::HELLO, 0, &hello, Bytes::new()),
            ToNode::Started { process_group } => frame(kind::STARTED, 0, &StartedHead { process_group }, Bytes::new()),
            ToNode::Rejected(rejection) => frame(kind::REJECTED, 0, &rejection, Bytes::new()),
            ToNode::Outcome(call, elapsed_ns, Ok((headers, body))) => {
                frame(kind::OUTCOME, call, &OutcomeHead { elapsed_ns, headers, failure: None }, body)
            }
            ToNode::Outcome(call, elapsed_ns, Err(failure)) => {
                let head = OutcomeHead { elapsed_ns, headers: Headers::new(), failure: Some(failure) };
                frame(kind::OUTCOME, call, &head, Bytes::new())
            }
            ToNode::Log { level, text } => frame(kind::LOG, 0, &LogHead { level, text }, Bytes::new()),
            ToNode::Exited(exit) => frame(kind::EXITED, 0, &exit, Bytes::new()),
            ToNode::Pong(call) => Ok(bare(kind::PONG, call)),
            ToNode::HostCall(number, call, request, body) => {
                frame(kind::HOST_CALL, number, &HostCallHead { call, request }, body)
            }
            ToNode::HostData(number, body) => {
                Ok(Frame { kind: kind::HOST_UPLOAD, call: number, head: Bytes::new(), body })
            }
            ToNode::HostMore(number) => Ok(bare(kind::HOST_TAKEN, number)),
            ToNode::HostCancel(number) => Ok(bare(kind::HOST_CANCEL, number)),
            ToNode::Compiled(piece) => compiled(kind::COMPILED, piece),
            ToNode::Direct(worker) => frame(kind::DIRECT, 0, &DirectHead::of(worker), Bytes::new()),
            ToNode::DirectWaits(worker) => frame(kind::DIRECT_ASKED, 0, &DirectHead::of(worker), Bytes::new()),
        }
    }

    fn from_frame(frame: Frame) -> Result<Self, MessageError> {
        Ok(match frame.kind {
            kind::HELLO => ToNode::Hello(head(&frame)?),
            kind::STARTED => ToNode::Started { process_group: head::<StartedHead>(&frame)?.process_group },
            kind::REJECTED => ToNode::Rejected(head(&frame)?),
            kind::OUTCOME => {
                let OutcomeHead { elapsed_ns, headers, failure } = head(&frame)?;
                ToNode::Outcome(frame.call, elapsed_ns, failure.map_or(Ok((headers, frame.body)), Err))
            }
            kind::LOG => {
                let LogHead { level, text } = head(&frame)?;
                ToNode::Log { level, text }
            }
            kind::EXITED => ToNode::Exited(head(&frame)?),
            kind::PONG => ToNode::Pong(frame.call),
            kind::HOST_CALL => {
                let HostCallHead { call, request } = head(&frame)?;
                ToNode::HostCall(frame.call, call, request, frame.body)
            }
            kind::HOST_UPLOAD => ToNode::HostData(frame.call, frame.body),
            kind::HOST_TAKEN => ToNode::HostMore(frame.call),
            kind::HOST_CANCEL => ToNode::HostCancel(frame.call),
            kind::COMPILED => ToNode::Compiled(from_compiled(frame)?),
            kind::DIRECT => ToNode::Direct(head::<DirectHead>(&frame)?.worker),
            kind::DIRECT_ASKED => ToNode::DirectWaits(head::<DirectHead>(&frame)?.worker),
            other => return Err(MessageError::UnknownKind(other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::message::FailureKind;
    use proptest::prelude::*;

    #[test]
    fn messages_survive_their_frames() {
        let out = ToNode::Outcome(7, 12, Ok((vec![("A".into(), "1".into())], Bytes::from_static(b"\xff\x00"))));
        assert_eq!(ToNode::from_frame(out.clone().into_frame().unwrap()).unwrap(), out);
        let failed = ToNode::Outcome(8, 1, Err(Failure::new(FailureKind::Timeout, "a\r\n  b\n")));
        assert_eq!(ToNode::from_frame(failed.clone().into_frame().unwrap()).unwrap(), failed);
        let ToNode::Outcome(_, _, Err(failure)) = failed else { unreachable!() };
        assert_eq!(failure.message, "a b");
    }

    #[test]
    fn compiled_code_survives_its_frames_and_names_an_engine() {
        let piece = Compiled { engine: [7; 16].into(), size: 1 << 20, piece: Bytes::from_static(b"\x7fELF\xff") };
        let up = ToNode::Compiled(piece.clone());
        let down = ToAgent::Compiled(piece);
        let mut frame = up.clone().into_frame().unwrap();
        assert_eq!(ToNode::from_frame(frame.clone()).unwrap(), up);
        assert_eq!(ToAgent::from_frame(down.clone().into_frame().unwrap()).unwrap(), down);
        let more = ToAgent::CompiledMore.into_frame().unwrap();
        assert_eq!(ToAgent::from_frame(more).unwrap(), ToAgent::CompiledMore);
        frame.head = Bytes::from_static(br#"{"engine":"../../../../../../../etc/passwd.","size":1}"#);
        assert!(matches!(ToNode::from_frame(frame), Err(MessageError::Head { .. })));
    }

    #[test]
    fn the_words_about_the_direct_way_survive_their_frames() {
        for message in [ToNode::Direct(7), ToNode::DirectWaits(u32::MAX)] {
            assert_eq!(ToNode::from_frame(message.clone().into_frame().unwrap()).unwrap(), message);
        }
        let waits = Waits { left_ms: Some(2000), ago_ms: None };
        for message in [ToAgent::Direct(7), ToAgent::DirectWaits(7, waits), ToAgent::DirectWaits(7, Waits::default())] {
            assert_eq!(ToAgent::from_frame(message.clone().into_frame().unwrap()).unwrap(), message);
        }
    }

    proptest! {
        #[test]
        fn any_frame_is_a_message_or_an_error(kind: u8, call: u64, head: Vec<u8>) {
            let frame = Frame { kind, call, head: head.into(), body: Bytes::new() };
            let _ = ToNode::from_frame(frame.clone());
            let _ = ToAgent::from_frame(frame);
        }
    }
}
