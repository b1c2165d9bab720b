//! Host services on the link: what a function asks of its node, and the answers.
//!
//! ```text
//! agent                          node
//!   HostCall(n, request, body) ->
//!   HostData(n, chunk)…        ->          uploads: at most WINDOW chunks ahead of the node's HostMore
//!                              <- HostMore(n)          one for each chunk that was taken
//!                              <- HostData(n, chunk)…  downloads: at most WINDOW chunks ahead of the agent's HostMore
//!   HostMore(n)                ->                       one for each chunk that was taken
//!                              <- HostData(n, change)… the changes of a watch, as they come
//!                              <- HostReply(n, reply, body)   exactly one, ends the call
//!   HostCancel(n)              ->          the agent gives the call up; no reply is owed any more
//! ```
//! `n` is chosen by the agent and is unique among its open host calls; it is no call number of a function. Nothing in
//! a request names a tenant: whose keys, objects and subjects are meant is known from the link.

pub mod answer;
mod read;
pub(super) mod short;

use serde::{Deserialize, Serialize};

use super::message::Headers;

/// Chunks that may be on their way before the node has taken the first.
pub const WINDOW: usize = 4;

/// Largest chunk, bytes.
pub const CHUNK: usize = 64 << 10;

/// A request to a host service. Payloads (values, objects, messages, bodies) stand beside it. Read in `host/read.rs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "service", rename_all = "camelCase")]
pub enum HostRequest {
    /// The function's key-value bucket.
    Kv(KvRequest),
    /// The function's object store.
    ObjectStore(ObjectRequest),
    /// Core NATS.
    Messaging(MessagingRequest),
    /// HTTP to elsewhere.
    Http(HttpRequest),
}

impl HostRequest {
    /// Service and method as a function's author writes them.
    pub fn name(&self) -> (&'static str, &'static str) {
        match self {
            HostRequest::Kv(request) => ("kv", request.method()),
            HostRequest::ObjectStore(request) => ("objectStore", request.method()),
            HostRequest::Messaging(request) => ("messaging", request.method()),
            HostRequest::Http(_) => ("http", "send"),
        }
    }
}

/// Methods of `kv`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "method", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum KvRequest {
    /// The value of a key.
    Get {
        /// Key.
        key: String,
    },
    /// Sets a key to the payload.
    Set {
        /// Key.
        key: String,
        /// Milliseconds after which the key is gone, where the server supports it.
        #[serde(skip_serializing_if = "Option::is_none")]
        ttl_ms: Option<u64>,
    },
    /// Sets a key that must not exist.
    Create {
        /// Key.
        key: String,
        /// As in `Set`.
        #[serde(skip_serializing_if = "Option::is_none")]
        ttl_ms: Option<u64>,
    },
    /// Sets a key that must be at this revision.
    Update {
        /// Key.
        key: String,
        /// Revision the caller has seen.
        revision: u64,
    },
    /// Removes a key; no error when there is none.
    Delete {
        /// Key.
        key: String,
    },
    /// Whether a key exists.
    Exists {
        /// Key.
        key: String,
    },
    /// All keys.
    Keys,
    /// Changes from now on, as [`WatchEvent`] chunks, until cancelled.
    Watch {
        /// Key or pattern; all keys when none.
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
}

impl KvRequest {
    fn method(&self) -> &'static str {
        match self {
            KvRequest::Get { .. } => "get",
            KvRequest::Set { .. } => "set",
            KvRequest::Create { .. } => "create",
            KvRequest::Update { .. } => "update",
            KvRequest::Delete { .. } => "delete",
            KvRequest::Exists { .. } => "exists",
            KvRequest::Keys => "keys",
            KvRequest::Watch { .. } => "watch",
        }
    }
}

/// Methods of `objectStore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "method", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ObjectRequest {
    /// Stores an object; its bytes follow as chunks, the last one empty.
    Put {
        /// Name.
        name: String,
    },
    /// An object; its bytes come as chunks before the reply.
    Get {
        /// Name.
        name: String,
    },
    /// Removes an object; no error when there is none.
    Delete {
        /// Name.
        name: String,
    },
    /// What is known of all objects.
    List,
    /// What is known of an object.
    Info {
        /// Name.
        name: String,
    },
}

impl ObjectRequest {
    fn method(&self) -> &'static str {
        match self {
            ObjectRequest::Put { .. } => "put",
            ObjectRequest::Get { .. } => "get",
            ObjectRequest::Delete { .. } => "delete",
            ObjectRequest::List => "list",
            ObjectRequest::Info { .. } => "info",
        }
    }
}

/// Methods of `messaging`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "method", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum MessagingRequest {
    /// Publishes the payload.
    Publish {
        /// Subject.
        subject: String,
        /// Headers.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        headers: Headers,
    },
    /// Publishes the payload and waits for one answer.
    Request {
        /// Subject.
        subject: String,
        /// Headers.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        headers: Headers,
        /// Longest wait; the call's own deadline bounds it too.
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
    /// Publishes the payload and collects answers until one of the bounds is met.
    RequestMany {
        /// Subject.
        subject: String,
        /// Headers.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        headers: Headers,
        /// Ends after so many answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        max_messages: Option<u32>,
        /// Ends when so long after an answer no other came.
        #[serde(skip_serializing_if = "Option::is_none")]
        stall_ms: Option<u64>,
        /// Ends after so long.
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
}

impl MessagingRequest {
    fn method(&self) -> &'static str {
        match self {
            MessagingRequest::Publish { .. } => "publish",
            MessagingRequest::Request { .. } => "request",
            MessagingRequest::RequestMany { .. } => "requestMany",
        }
    }
}

/// An HTTP request; the payload is its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRequest {
    /// Method, upper case.
    pub method: String,
    /// Absolute URL, `http` or `https`.
    pub url: String,
    /// Headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Headers,
    /// Longest wait; the call's own deadline bounds it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What a response that points elsewhere means.
    #[serde(skip_serializing_if = "Redirect::is_follow")]
    pub redirect: Redirect,
}

/// What is done with a response that points elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Redirect {
    /// It is followed, as far as the node follows.
    #[default]
    Follow,
    /// It is the answer.
    Manual,
}

impl Redirect {
    fn is_follow(&self) -> bool {
        *self == Self::Follow
    }
}

/// The answer to a request that was done. Payloads stand beside it. Read in `host/read.rs` and `host/short.rs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum HostReply {
    /// It is done; nothing to say.
    Done,
    /// There is no such key or object.
    Missing,
    /// The key's revision; on `get` its value is the payload.
    Revision {
        /// Revision.
        revision: u64,
    },
    /// An answer to a question.
    Flag {
        /// Yes or no.
        value: bool,
    },
    /// Keys, sorted.
    Keys {
        /// Keys.
        keys: Vec<String>,
    },
    /// What is known of an object; on `get` its bytes came before.
    Object {
        /// What is known.
        info: ObjectInfo,
    },
    /// What is known of all objects, sorted by name.
    Objects {
        /// What is known.
        objects: Vec<ObjectInfo>,
    },
    /// Answers to a request, in the order they came; their bodies, one after the other, are the payload.
    Messages {
        /// Headers and length of each.
        messages: Vec<MessageHead>,
    },
    /// An HTTP response; the payload is its body.
    Http {
        /// Status.
        status: u16,
        /// Headers.
        headers: Headers,
        /// URL that answered, after redirects.
        url: String,
    },
}

/// Headers and length of one message among several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageHead {
    /// Headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Headers,
    /// Bytes of its body.
    pub length: usize,
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectInfo {
    /// Name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// `SHA-256=` and base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// When it was stored, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<String>,
}

/// A change of a key; on a set the value is the chunk's payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchEvent {
    /// Key.
    pub key: String,
    /// Revision.
    pub revision: u64,
    /// Whether the key was removed.
    pub deleted: bool,
}

/// Why a host call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostErrorCode {
    /// The arguments cannot be meant: a bad key, subject, URL, header.
    Invalid,
    /// The node or its operator does not allow it.
    Denied,
    /// The key exists already, or is at another revision.
    Conflict,
    /// A value, object, message or body is larger than it may be, or the bucket is full.
    TooLarge,
    /// More calls or bytes than the namespace may use.
    Quota,
    /// No answer in time.
    Timeout,
    /// Nobody listens on the subject.
    NoResponders,
    /// NATS or the HTTP server cannot be reached, or failed.
    Unavailable,
    /// This node does not provide it.
    Unsupported,
}

/// A host call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{service}.{method}: {message}")]
pub struct HostError {
    /// Service.
    pub service: String,
    /// Method.
    pub method: String,
    /// Which way it failed.
    pub code: HostErrorCode,
    /// The cause, one line.
    pub message: String,
    /// Whether the same call may succeed later.
    pub retry: bool,
}

impl HostErrorCode {
    /// The spelling on the link and in texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Denied => "denied",
            Self::Conflict => "conflict",
            Self::TooLarge => "too-large",
            Self::Quota => "quota",
            Self::Timeout => "timeout",
            Self::NoResponders => "no-responders",
            Self::Unavailable => "unavailable",
            Self::Unsupported => "unsupported",
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Quota | Self::Timeout | Self::NoResponders | Self::Unavailable)
    }
}

impl HostError {
    /// An error of a request.
    pub fn new(request: &HostRequest, code: HostErrorCode, message: impl Into<String>) -> Self {
        Self::of(request.name(), code, message)
    }

    /// The same, with the [`HostRequest::name`] of what was asked for.
    pub fn of((service, method): (&str, &str), code: HostErrorCode, message: impl Into<String>) -> Self {
        Self {
            service: service.to_owned(),
            method: method.to_owned(),
            code,
            message: message.into(),
            retry: code.is_transient(),
        }
    }

    /// What a function hears that asks for something that is no request; with what is wrong with it.
    pub fn no_request(message: String) -> Self {
        let (service, method) = ("host".to_owned(), "call".to_owned());
        Self { service, method, code: HostErrorCode::Invalid, message, retry: false }
    }

    /// It asks while none of its calls runs, or for one that is over.
    pub fn without_call(request: &HostRequest) -> Self {
        let text = "host services work only while the function's call runs that asks for them";
        Self::new(request, HostErrorCode::Invalid, text)
    }

    /// Its call had its outcome first; with the [`HostRequest::name`] of what it asked for.
    pub fn call_ended(what: (&str, &str)) -> Self {
        Self::of(what, HostErrorCode::Invalid, "the function's call ended before the answer came: await it")
    }

    /// Its call must end now; with the [`HostRequest::name`] of what it asked for.
    pub fn call_out_of_time(what: (&str, &str)) -> Self {
        Self::of(what, HostErrorCode::Timeout, "the function's call has no time left")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_as_service_and_method() {
        let request = HostRequest::Kv(KvRequest::Update { key: "a".into(), revision: 3 });
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"service":"kv","method":"update","key":"a","revision":3}"#);
        assert_eq!(serde_json::from_str::<HostRequest>(&text).unwrap(), request);
        let http = r#"{"service":"http","method":"GET","url":"http://a/"}"#;
        assert!(matches!(serde_json::from_str(http).unwrap(), HostRequest::Http(_)));
    }
}
