//! `nex:messaging`: core NATS, with the same three methods that JavaScript has.
//!
//! `wasi:messaging` is not served: its drafts bear one version and differ in shape from each other, none of them
//! carries NATS headers as they are, and none lets answers be collected by count, stall or deadline.

use bytes::Bytes;
use nex_protocol::link::host::{HostError, HostErrorCode, HostReply, HostRequest, MessagingRequest};

use super::super::bindings::messaging::messaging::{Bounds, Error, ErrorCode, Headers, Host, Message};
use super::super::guest::Guest;
use super::{Services, unexpected};

impl Host for Guest {
    async fn publish(
        &mut self,
        subject: String,
        headers: Headers,
        payload: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let request = MessagingRequest::Publish { subject, headers };
        Ok(self.services.ask(HostRequest::Messaging(request), payload.into()).await.map(drop).map_err(Error::from))
    }

    async fn request(
        &mut self,
        subject: String,
        headers: Headers,
        payload: Vec<u8>,
        timeout_ms: Option<u64>,
    ) -> wasmtime::Result<Result<Message, Error>> {
        let request = MessagingRequest::Request { subject, headers, timeout_ms };
        let answers = self.services.collect(request, payload.into()).await.and_then(|mut answers| {
            // A request that got no answer is a failure already.
            answers.pop().ok_or_else(|| unexpected("messaging", "request"))
        });
        Ok(answers.map_err(Error::from))
    }

    async fn request_many(
        &mut self,
        subject: String,
        headers: Headers,
        payload: Vec<u8>,
        bounds: Bounds,
    ) -> wasmtime::Result<Result<Vec<Message>, Error>> {
        let Bounds { max_messages, stall_ms, timeout_ms } = bounds;
        let request = MessagingRequest::RequestMany { subject, headers, max_messages, stall_ms, timeout_ms };
        Ok(self.services.collect(request, payload.into()).await.map_err(Error::from))
    }
}

impl Services {
    async fn collect(&self, request: MessagingRequest, payload: Bytes) -> Result<Vec<Message>, HostError> {
        let (reply, mut bodies) = self.ask(HostRequest::Messaging(request), payload).await?;
        let HostReply::Messages { messages } = reply else { return Err(unexpected("messaging", "request")) };
        let split = |head: nex_protocol::link::host::MessageHead| {
            let payload = bodies.split_to(head.length.min(bodies.len())).to_vec();
            Message { headers: head.headers, payload }
        };
        Ok(messages.into_iter().map(split).collect())
    }
}

impl From<HostError> for Error {
    fn from(error: HostError) -> Self {
        let code = match error.code {
            HostErrorCode::Invalid | HostErrorCode::Conflict => ErrorCode::Invalid,
            HostErrorCode::Denied => ErrorCode::Denied,
            HostErrorCode::TooLarge => ErrorCode::TooLarge,
            HostErrorCode::Quota => ErrorCode::Quota,
            HostErrorCode::Timeout => ErrorCode::Timeout,
            HostErrorCode::NoResponders => ErrorCode::NoResponders,
            HostErrorCode::Unavailable => ErrorCode::Unavailable,
            HostErrorCode::Unsupported => ErrorCode::Unsupported,
        };
        Self { code, message: error.message, retry: error.retry }
    }
}
