//! Messages on the link; their frames are in [`frames`].
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

pub(super) mod frames;

use std::path::PathBuf;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::compiled::Compiled;
use super::direct::Waits;
use super::host::{HostError, HostReply, HostRequest, WatchEvent};
use crate::environment::Environment;
use crate::log::Level;
use crate::name::WorkloadType;

/// Message headers in the order they came; a name may stand several times.
pub type Headers = Vec<(String, String)>;

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
