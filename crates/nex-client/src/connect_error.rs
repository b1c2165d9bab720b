//! Why there is no connection, as data; its text says what to do next.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::ConnectErrorKind;

/// No connection, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A server's address cannot be read.
    #[error("'{server}' is no NATS server address: {reason} (write it as nats://host:port)")]
    Address {
        /// What was given, without user and password.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody listens there, or the name is unknown.
    #[error("cannot reach {servers}: {reason} (is a NATS server running there? set --server or NATS_URL)")]
    Unreachable {
        /// The servers tried.
        servers: String,
        /// What the system says.
        reason: String,
    },
    /// Somebody may be there but said nothing in time.
    #[error(
        "cannot reach {servers}: no answer within {timeout:?} (is it a NATS server? set --server or NATS_URL, or a longer --timeout)"
    )]
    TimedOut {
        /// The servers tried.
        servers: String,
        /// How long it was waited.
        timeout: Duration,
    },
    /// The server does not let us in.
    #[error(
        "{servers} refused the connection: {reason} (check --user and --password, --creds, --nkey or the NATS context)"
    )]
    Unauthorized {
        /// The servers tried.
        servers: String,
        /// What the server says.
        reason: String,
    },
    /// TLS could not be agreed on.
    #[error("no TLS connection to {servers}: {reason} (check --tlsca, --tlscert, --tlskey and --tlsfirst)")]
    Tls {
        /// The servers tried.
        servers: String,
        /// What went wrong.
        reason: String,
    },
    /// A file with credentials or certificates cannot be used.
    #[error("{what} {}: {reason}", path.display())]
    File {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The settings contradict each other.
    #[error("{0}")]
    Settings(&'static str),
}

/// Turns the library's error into ours: what happened, and where to look.
pub(crate) fn explain(error: &async_nats::ConnectError, servers: String, timeout: Duration) -> ConnectError {
    let mut cause: &dyn std::error::Error = error;
    let mut refused = false;
    while let Some(source) = cause.source() {
        cause = source;
        refused |=
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    }
    let reason = if refused { "connection refused".to_owned() } else { cause.to_string() };
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            ConnectError::Unauthorized { servers, reason }
        }
        ConnectErrorKind::TimedOut => ConnectError::TimedOut { servers, timeout },
        ConnectErrorKind::Tls => ConnectError::Tls { servers, reason },
        // rustls reports bad certificates as plain I/O errors.
        ConnectErrorKind::Io if reason.contains("certificate") => ConnectError::Tls { servers, reason },
        _ => ConnectError::Unreachable { servers, reason },
    }
}
