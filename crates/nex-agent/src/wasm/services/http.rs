//! `wasi:http`, outgoing: each request is a host call, under the node's rules.
//!
//! A guest sees the responses that servers send: redirects are not followed for it. A body is collected before it goes
//! to the node and arrives whole; while it is unread it counts as an open exchange, of which an instance has few.
//! Where the error codes of `wasi:http` have no room for the reason, it is in the workload's log.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use nex_protocol::link::host::{HostError, HostErrorCode, HostReply, HostRequest, HttpRequest, Redirect};
use nex_protocol::link::message::{Headers, ToNode};
use nex_protocol::log::Level;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use super::super::guest::Guest;
use super::{ONE_PIECE, Services, told, unexpected};

/// Exchanges of one instance that may be under way or unread.
const OPEN: usize = 16;

/// A response with its headers, and what ends with it; as `wasi:http` hands it out.
type Sent = (http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

/// What an instance needs to send requests.
#[derive(Debug)]
pub(crate) struct Outgoing {
    services: Services,
    open: Arc<Semaphore>,
}

impl Outgoing {
    /// Nothing open yet.
    pub(crate) fn new(services: Services) -> Self {
        Self { services, open: Arc::new(Semaphore::new(OPEN)) }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let table = wasmtime_wasi::WasiView::ctx(&mut self.wasi).table;
        WasiHttpCtxView { hooks: &mut self.outgoing, table, ctx: &mut self.http }
    }
}

impl WasiHttpHooks for Outgoing {
    fn set_host_header(&mut self) -> bool {
        // The node's client sets it, from the URL.
        false
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let slot = Arc::clone(&self.open).try_acquire_owned();
        let services = self.services.clone();
        Box::new(async move {
            let slot = slot.map_err(|_| Error::ConnectionLimitReached)?;
            services.exchange(request, options, slot).await
        })
    }
}

/// A response's body, which holds its place among the open exchanges until it is read or dropped.
struct Held {
    body: Bytes,
    _slot: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Services {
    async fn exchange(
        &self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        slot: OwnedSemaphorePermit,
    ) -> Result<Sent, Error> {
        let (head, body) = request.into_parts();
        let body = collect(body, ONE_PIECE.min(self.memory)).await?;
        let options = options.unwrap_or_default();
        // Connecting and answering are one thing to the node; between bytes nothing is waited for here.
        let timeout = match (options.connect_timeout, options.first_byte_timeout) {
            (None, None) => None,
            (connect, answer) => Some(connect.unwrap_or_default().saturating_add(answer.unwrap_or_default())),
        };
        let asked = HostRequest::Http(HttpRequest {
            method: head.method.as_str().to_owned(),
            url: head.uri.to_string(),
            headers: texts(&head.headers)?,
            timeout_ms: timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            redirect: Redirect::Manual,
        });
        let (reply, body) = self.ask(asked, body).await.map_err(|error| self.failed(&error))?;
        let HostReply::Http { status, headers, .. } = reply else {
            return Err(self.failed(&unexpected("http", "send")));
        };
        let body = if body.is_empty() { body } else { Bytes::from_owner(Held { body, _slot: slot }) };
        let body = Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync();
        let mut response = http::Response::new(body);
        *response.status_mut() = http::StatusCode::from_u16(status).map_err(|_| Error::HttpProtocolError)?;
        for (name, value) in headers {
            let name = http::HeaderName::from_bytes(name.as_bytes()).map_err(|_| Error::HttpProtocolError)?;
            let value = http::HeaderValue::from_str(&value).map_err(|_| Error::HttpProtocolError)?;
            response.headers_mut().append(name, value);
        }
        Ok((response, Box::new(std::future::ready(Ok(())))))
    }

    /// What is wrong, as far as `wasi:http` can say it; all of it in the log.
    fn failed(&self, error: &HostError) -> Error {
        // A log that is full is a log of a guest that floods it: nothing is waited for.
        let _ = self.node.try_send(ToNode::Log { level: Level::Warn, text: told(error) });
        match error.code {
            HostErrorCode::Denied => Error::HttpRequestDenied,
            HostErrorCode::TooLarge => Error::HttpResponseBodySize(None),
            HostErrorCode::Quota => Error::ConnectionLimitReached,
            HostErrorCode::Timeout => Error::HttpResponseTimeout,
            HostErrorCode::Unavailable => Error::DestinationUnavailable,
            HostErrorCode::Unsupported => Error::ConfigurationError,
            HostErrorCode::Invalid | HostErrorCode::Conflict | HostErrorCode::NoResponders => {
                Error::InternalError(Some(told(error)))
            }
        }
    }
}

/// A whole body of up to so many bytes.
async fn collect(mut body: WasiBody, limit: usize) -> Result<Bytes, Error> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers are left out: HTTP/1.1 servers hardly know them.
        let Ok(piece) = frame?.into_data() else { continue };
        if whole.len().saturating_add(piece.len()) > limit {
            return Err(Error::HttpRequestBodySize(u64::try_from(limit).ok()));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

fn texts(headers: &http::HeaderMap) -> Result<Headers, Error> {
    let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        let value = std::str::from_utf8(value.as_bytes()).map_err(|_| {
            Error::InternalError(Some(format!("http.send: the value of header {name} is no UTF-8 text")))
        })?;
        Ok((name.as_str().to_owned(), value.to_owned()))
    };
    headers.iter().map(pair).collect()
}
