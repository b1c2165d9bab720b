//! The envelope around every reply of the control interface: `{type, data?, error?}`.
//!
//! Success carries `data` and no `error` key. Failure carries `data: ""` (Go Nex marshals an empty byte slice) and
//! `error`, to which we add `code` and `help`. A reader must look at `error` first: only then is `data` meaningful.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::catalogue::{Code, Fault};

/// Type ids of the replies.
pub mod kind {
    /// Reply to AUCTION.
    pub const AUCTION: &str = "io.nats.nex.v1.auction_response";
    /// Reply to PING and WPING.
    pub const PING: &str = "io.nats.nex.v1.ping_response";
    /// Reply to INFO.
    pub const INFO: &str = "io.nats.nex.v1.info_response";
    /// Reply to DEPLOY.
    pub const RUN: &str = "io.nats.nex.v1.run_response";
    /// Reply to STOP.
    pub const STOP: &str = "io.nats.nex.v1.stop_response";
    /// Reply to LAMEDUCK.
    pub const LAMEDUCK: &str = "io.nats.nex.v1.lameduck_response";
}

#[derive(Serialize)]
struct Success<'a, T> {
    r#type: &'a str,
    data: &'a T,
}

#[derive(Serialize)]
struct Failure<'a> {
    r#type: &'a str,
    data: &'a str,
    error: &'a str,
    code: u16,
    help: &'a str,
}

#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<serde_json::Value>,
    #[serde(default)]
    code: Option<u16>,
    #[serde(default)]
    help: Option<String>,
}

/// What a reply was not: a success.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The bytes are no envelope, or its data is not of the expected shape.
    #[error("the reply is not a {expected} envelope: {source}")]
    Malformed {
        /// Type id that was expected.
        expected: String,
        /// What the decoder says.
        source: serde_json::Error,
    },
    /// An envelope of another type.
    #[error("the reply is of type {got}, expected {expected}")]
    WrongType {
        /// Type id that was expected.
        expected: String,
        /// Type id that came.
        got: String,
    },
    /// The node refused.
    #[error("{message}")]
    Refused {
        /// Entry of the catalogue, when the node sent one that we know.
        code: Option<Code>,
        /// The node's text.
        message: String,
        /// What to do, from the node or from our own catalogue.
        help: Option<String>,
    },
}

/// Encodes a successful reply.
///
/// # Errors
/// When `data` cannot be represented as JSON, which no type of this crate causes.
pub fn success<T: Serialize>(kind: &str, data: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Success { r#type: kind, data })
}

/// Encodes a refusal.
pub fn failure(kind: &str, fault: &Fault) -> Vec<u8> {
    let failure =
        Failure { r#type: kind, data: "", error: &fault.message, code: fault.code.number(), help: fault.code.help() };
    // Strings and a number cannot fail to serialize; an empty body would still be an answer.
    serde_json::to_vec(&failure).unwrap_or_default()
}

/// Decodes a reply of the given type.
///
/// # Errors
/// [`EnvelopeError::Refused`] when the node refused; the others when the bytes are not such a reply.
pub fn open<T: DeserializeOwned>(expected: &str, bytes: &[u8]) -> Result<T, EnvelopeError> {
    let malformed = |source| EnvelopeError::Malformed { expected: expected.to_owned(), source };
    let incoming: Incoming<'_> = serde_json::from_slice(bytes).map_err(malformed)?;
    match incoming.error {
        None | Some(serde_json::Value::Null) => {}
        Some(error) => {
            let message = match error {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            let code = incoming.code.and_then(Code::from_number);
            let help = incoming.help.or_else(|| code.map(|c| c.help().to_owned()));
            return Err(EnvelopeError::Refused { code, message, help });
        }
    }
    if let Some(got) = incoming.r#type.filter(|got| got != expected) {
        return Err(EnvelopeError::WrongType { expected: expected.to_owned(), got });
    }
    let data = incoming.data.map_or("null", RawValue::get);
    serde_json::from_str(data).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_an_empty_string_as_data_and_reads_back() {
        let bytes = failure(kind::STOP, &Fault::new(Code::NoSuchWorkload, "No such workload"));
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(
            text.starts_with(
                r#"{"type":"io.nats.nex.v1.stop_response","data":"","error":"No such workload","code":1023,"#
            ),
            "{text}"
        );
        let error = open::<serde_json::Value>(kind::STOP, &bytes).unwrap_err();
        assert!(matches!(error, EnvelopeError::Refused { code: Some(Code::NoSuchWorkload), .. }));
    }

    #[test]
    fn a_go_failure_without_code_reads_as_refused() {
        let error = open::<serde_json::Value>(kind::RUN, br#"{"type":"x","data":"","error":"nope"}"#).unwrap_err();
        assert!(matches!(error, EnvelopeError::Refused { code: None, ref message, .. } if message == "nope"));
    }

    #[test]
    fn garbage_and_other_types_are_errors() {
        for bytes in [&b""[..], b"null", b"[]", b"\xff", b"{\"type\":\"io.nats.nex.v1.ping_response\",\"data\":{}}"] {
            assert!(open::<Vec<u8>>(kind::RUN, bytes).is_err());
        }
    }
}
