//! Messages on the link, and their frames.
//!
//! ```text
//! agent                      node
//!   Hello         ->                    once, first
//!                 <-  Welcome           once
//!                 <-  Artifact          any number, where agent and node share no files
//!                 <-  Compiled          any number, as well; see [`super::compiled`]
//!                 <-  Start             once
//!   Started | Rejected ->               once, answers Start
//!                 <-  Invoke(call)      functions, many in flight
//!   Outcome(call) ->                    exactly one for each Invoke
//!                 <-  Ping(call)
//!   Pong(call)    ->
//!   Log           ->                    any time
//!   Compiled … <-> CompiledMore         what the agent compiled; see [`super::compiled`]
//!   HostCall(n) … <-> HostReply(n)      host services; see [`super::host`]
//!   Direct, DirectWaits <-> the same    host calls of a worker past its agent; see [`super::direct`]
//!                 <-  Stop              once; afterwards the agent ends
//!   Exited        ->                    the workload ended, by itself or because of Stop
//! ```

use std::path::PathBuf;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::compiled::{Compiled, EngineName};
use super::direct::Waits;
use super::frame::Frame;
use super::host::answer::{answer_frame, answer_of};
use super::host::{HostError, HostReply, HostRequest, WatchEvent};
use crate::environment::{Environment, clear_json};
use crate::log::Level;
use crate::name::WorkloadType;

/// Message headers in the order they came; a name may stand several times.
pub type Headers = Vec<(String, String)>;

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

/// Limits an agent enforces on its workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of one function instance (Wasm linear memory and tables, JavaScript heap), bytes.
    pub memory_bytes: u64,
    /// Largest artifact of a JavaScript function, bytes.
    pub script_bytes: u64,
    /// Largest reply of a function, bytes.
    pub reply_bytes: u64,
    /// Calls of a function that run at the same time.
    pub concurrency: u32,
}

/// The node knows the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Version of the link the node speaks.
    pub version: u16,
    /// Id of the agent, which becomes the workload's id.
    pub agent_id: String,
    /// Folder of the agent's own: made by the node, removed by it when the agent is gone.
    pub work_dir: PathBuf,
    /// Folder for compiled artifacts, shared by the agents of a node and trusted by them. None in a machine, where compiled
    /// code comes and goes over the link.
    pub compiled_dir: Option<PathBuf>,
    /// Deno, for JavaScript functions.
    pub deno: Option<PathBuf>,
    /// Time the node gives a workload to start, milliseconds. An agent whose engine takes most of it says so in time.
    pub start_timeout_ms: u64,
    /// Whether Deno is started before there is a function for it.
    pub prestart: Option<Prestart>,
    /// Whether a JavaScript worker may call host services directly: agent and node share the agent's folder.
    pub direct: bool,
}

/// Start the engine of JavaScript functions before there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prestart {
    /// Memory of the function to come ([`Limits::memory_bytes`]); a function that has another one gets an engine of its own.
    pub memory_bytes: u64,
}

/// Run this workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Its name, for logs and as argument zero.
    pub name: String,
    /// Its namespace: for the function's context, never for authority.
    pub namespace: String,
    /// What it is.
    pub r#type: WorkloadType,
    /// Arguments of a service.
    pub argv: Vec<String>,
    /// Its environment, in clear: the link is private to the two processes.
    pub environment: Environment,
    /// The verified artifact; read-only to the agent. Empty when it was sent over the link, in [`ToAgent::Artifact`].
    pub artifact: PathBuf,
    /// SHA-256 of the artifact, hex.
    pub sha256: String,
    /// What it may use.
    pub limits: Limits,
    /// Whether a service must be linked statically (it must inside a sandbox).
    pub require_static: bool,
    /// Whether the deploy asked for host services: an artifact that cannot have them is refused.
    #[serde(default)]
    pub host_services: bool,
}

/// Run the function once; the body is the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoke {
    /// Subject of the message that triggered the call.
    pub subject: String,
    /// Its headers.
    pub headers: Headers,
    /// Milliseconds left until the deadline.
    pub timeout_ms: u64,
}

/// From the node to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToAgent {
    /// See [`Welcome`].
    Welcome(Welcome),
    /// The next piece of the artifact.
    Artifact(Bytes),
    /// The next piece of what an earlier agent compiled of this artifact.
    Compiled(Compiled),
    /// A piece of compiled code was taken; the next one is wanted.
    CompiledMore,
    /// See [`Start`].
    Start(Box<Start>),
    /// See [`Invoke`]; call number and payload beside it.
    Invoke(u64, Invoke, Bytes),
    /// End the workload: TERM, then KILL after so many milliseconds.
    Stop {
        /// Time between TERM and KILL.
        grace_ms: u64,
    },
    /// Are you there?
    Ping(u64),
    /// The end of a host call: number, answer, payload.
    HostReply(u64, Result<HostReply, HostError>, Bytes),
    /// A chunk of an object, or a change of a watched key, for a host call.
    HostData(u64, Option<WatchEvent>, Bytes),
    /// A chunk of an upload was taken.
    HostMore(u64),
    /// The pipes of that worker are open.
    Direct(u32),
    /// Whether that worker waits for the node.
    DirectWaits(u32, Waits),
}

/// The agent is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the link the agent speaks.
    pub version: u16,
    /// Version of nex.
    pub agent_version: String,
    /// Process id of the agent, where it runs.
    pub pid: u32,
}

/// Why a call failed; becomes the reply's `Nats-Service-Error-Code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The function threw, trapped or exited with a status that is not 0.
    Function,
    /// The deadline passed.
    Timeout,
    /// The function used more memory than it may.
    OutOfMemory,
    /// The reply is larger than it may be.
    ReplyTooLarge,
    /// The engine ended under the call, through no fault of this call.
    Killed,
    /// Beyond what runs and waits: refused at once or when its time had passed in the queue.
    Overloaded,
}

impl FailureKind {
    /// Status code in the manner of HTTP, as NATS services use them.
    pub fn status(self) -> u16 {
        match self {
            FailureKind::Function => 500,
            FailureKind::Timeout => 504,
            FailureKind::OutOfMemory => 507,
            FailureKind::ReplyTooLarge => 413,
            FailureKind::Killed | FailureKind::Overloaded => 503,
        }
    }
}

/// A call that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// Which way it failed.
    pub kind: FailureKind,
    /// One line for the caller.
    pub message: String,
}

impl Failure {
    /// A failure; line breaks in the text become spaces, for it travels in a header.
    pub fn new(kind: FailureKind, message: impl AsRef<str>) -> Self {
        let line: Vec<&str> = message.as_ref().split(['\r', '\n']).map(str::trim).filter(|s| !s.is_empty()).collect();
        Self { kind, message: line.join(" ") }
    }
}

/// Reply headers; the payload stands beside them.
pub type Outcome = Result<(Headers, Bytes), Failure>;

/// How a workload ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, when it exited.
    pub code: Option<i32>,
    /// Signal, when one ended it.
    pub signal: Option<i32>,
    /// Text for people.
    pub message: String,
}

/// Why a workload was not started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Text for people.
    pub message: String,
}

/// From an agent to its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToNode {
    /// See [`Hello`].
    Hello(Hello),
    /// The workload runs; the leader of its process group, when it has one.
    Started {
        /// Process group to end should the agent be lost.
        process_group: Option<u32>,
    },
    /// See [`Rejection`].
    Rejected(Rejection),
    /// Call number, time spent in the engine in nanoseconds, and what came of it.
    Outcome(u64, u64, Outcome),
    /// One line of the workload's output.
    Log {
        /// Severity.
        level: Level,
        /// The line.
        text: String,
    },
    /// See [`Exit`].
    Exited(Exit),
    /// Here.
    Pong(u64),
    /// A host call: number, the function's call it is part of (0 for none), request, payload.
    HostCall(u64, u64, HostRequest, Bytes),
    /// A chunk of an upload; an empty one is the last.
    HostData(u64, Bytes),
    /// A chunk of a download was taken.
    HostMore(u64),
    /// A host call is given up.
    HostCancel(u64),
    /// The next piece of what this agent compiled.
    Compiled(Compiled),
    /// The pipes of a worker are there: its process id, which is the agent's name for it.
    Direct(u32),
    /// Does that worker wait for the node?
    DirectWaits(u32),
}

pub(super) mod kind {
    pub(super) const WELCOME: u8 = 1;
    pub(in super::super) const START: u8 = 2;
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

/// A frame with a JSON head.
///
/// # Errors
/// When the head cannot be represented as JSON.
pub fn frame<T: Serialize>(kind: u8, call: u64, head: &T, body: Bytes) -> Result<Frame, serde_json::Error> {
    Ok(Frame { kind, call, head: serde_json::to_vec(head)?.into(), body })
}

/// Reads the head of a frame.
///
/// # Errors
/// [`MessageError::Head`] when it is not such a document.
pub fn head<T: DeserializeOwned>(frame: &Frame) -> Result<T, MessageError> {
    serde_json::from_slice(&frame.head).map_err(|source| MessageError::Head { kind: frame.kind, source })
}

fn compiled(kind: u8, Compiled { engine, size, piece }: Compiled) -> Result<Frame, serde_json::Error> {
    frame(kind, 0, &CompiledHead { engine, size }, piece)
}

fn from_compiled(frame: Frame) -> Result<Compiled, MessageError> {
    let CompiledHead { engine, size } = head(&frame)?;
    Ok(Compiled { engine, size, piece: frame.body })
}

fn bare(kind: u8, call: u64) -> Frame {
    Frame { kind, call, head: Bytes::new(), body: Bytes::new() }
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
