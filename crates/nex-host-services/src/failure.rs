//! Why a service did not do what it was asked: a code and one line, before it is known which request it belongs to.
//!
//! The texts are ours: nothing a server says about itself, and no credential, ever gets into one.

use futures_util::future::BoxFuture;
use nex_protocol::link::host::HostErrorCode;

/// What a service promises to answer.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Failure>>;

/// A failure of a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Which way it failed.
    pub code: HostErrorCode,
    /// The cause, one line.
    pub message: String,
}

impl Failure {
    /// A failure. Characters that would break the line are replaced.
    pub fn new(code: HostErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.contains(char::is_control) {
            message = message.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        }
        Self { code, message }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(HostErrorCode::Invalid, message)
    }

    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(HostErrorCode::Denied, message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(HostErrorCode::TooLarge, message)
    }

    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::new(HostErrorCode::Timeout, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(HostErrorCode::Unavailable, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(HostErrorCode::Unsupported, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(HostErrorCode::Conflict, message)
    }

    /// A bucket that has no room for more.
    pub(crate) fn full(max_bytes: i64) -> Self {
        Self::too_large(format!("the bucket is full: max_bytes is {max_bytes}"))
    }

    /// A bucket that is not there and is not made.
    pub(crate) fn no_bucket() -> Self {
        Self::unavailable("the workload's bucket does not exist, and jit_provision is off")
    }
}

/// A guest's text for an error message: quoted, and cut where it is long.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}
