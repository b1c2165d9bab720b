//! The API: HTTP/1.1 over a Unix socket, a request to an [`Action`], the machine's answer to a response.
//!
//! Never decides about the machine; that is [`crate::machine`]'s.

pub(crate) mod body;
mod newer;
mod route;
mod server;

pub(crate) use route::Action;
pub(crate) use server::serve;

/// A request that is refused, as it goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) message: String,
}

impl Refusal {
    /// With 400.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into() }
    }

    /// The body is not understood.
    pub(crate) fn body(what: impl std::fmt::Display) -> Self {
        Self::new(format!("An error occurred when deserializing the json body of a request: {what}."))
    }
}

/// What a request is answered with.
#[derive(Debug)]
pub(crate) enum Answer {
    /// 204.
    Done,
    /// 200.
    Json(serde_json::Value),
}
