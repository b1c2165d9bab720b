//! What can go wrong in a request, as data; its text says what to do next.

use std::time::Duration;

use nex_identity::{ClaimsError, SealError};
use nex_protocol::Code;
use nex_protocol::envelope::EnvelopeError;

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the subject of this node.
    #[error("no node answered on {server} as {node}: is it running there? `nex node ls` lists the nodes")]
    NoSuchNode {
        /// Server the request was sent to.
        server: String,
        /// Node it was meant for.
        node: String,
    },
    /// The node is there, or was, but did not answer in time.
    #[error(
        "node {node} did not answer {command} within {timeout:?}: try again with a longer --timeout, or look at its log"
    )]
    TimedOut {
        /// Node that was asked.
        node: String,
        /// The command.
        command: &'static str,
        /// How long it was waited.
        timeout: Duration,
    },
    /// The node said no.
    #[error("{message}{}", help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default())]
    Refused {
        /// Entry of the catalogue, when the node sent one that is known here.
        code: Option<Code>,
        /// The node's text.
        message: String,
        /// What to do.
        help: Option<String>,
    },
    /// The node's answer makes no sense.
    #[error(
        "the answer of node {node} cannot be read: {source} (do node and client have matching versions? `nex version`)"
    )]
    Reply {
        /// Node that answered.
        node: String,
        /// What is wrong with it.
        source: EnvelopeError,
    },
    /// The request is larger than the server lets through.
    #[error(
        "the request is too large for the NATS server: make the environment or the arguments smaller, or raise its max_payload"
    )]
    TooLarge,
    /// The environment could not be sealed for the node.
    #[error("cannot seal the environment for the node: {0}")]
    Seal(#[from] SealError),
    /// The claim could not be signed.
    #[error("cannot sign the request: {0}")]
    Claim(#[from] ClaimsError),
    /// No stream keeps what is asked for.
    #[error(
        "nothing from the past is kept of {subject}: {reason} (a JetStream stream on it keeps it: `nats stream add NEX \
         --subjects='$NEX.events.>,$NEX.logs.>' --defaults`)"
    )]
    NotStored {
        /// The subject.
        subject: String,
        /// What the server says.
        reason: String,
    },
    /// The server does not let this user subscribe.
    #[error("this user may not subscribe to {subject}: have it permitted, or choose another --namespace ({reason})")]
    Denied {
        /// The subject.
        subject: String,
        /// What the server says.
        reason: String,
    },
    /// NATS failed under us.
    #[error("NATS failed: cannot {doing}: {reason}")]
    Transport {
        /// What was being done.
        doing: &'static str,
        /// What the client library says.
        reason: String,
    },
}

impl ClientError {
    pub(crate) fn transport(doing: &'static str, reason: &dyn std::fmt::Display) -> Self {
        Self::Transport { doing, reason: reason.to_string() }
    }

    pub(crate) fn reply(node: &str, error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::Refused { code, message, help } => Self::Refused { code, message, help },
            source => Self::Reply { node: node.to_owned(), source },
        }
    }

    /// The catalogue's entry, when a node refused with one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => *code,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_the_nodes_text_and_its_help() {
        let refused = |help: Option<&str>| ClientError::Refused {
            code: Some(Code::NoSuchWorkload),
            message: "No such workload".into(),
            help: help.map(str::to_owned),
        };
        assert_eq!(refused(Some("look")).to_string(), "No such workload (look)");
        assert_eq!(refused(None).to_string(), "No such workload");
    }
}
