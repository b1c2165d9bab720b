//! The real client: HTTP/1.1 over TCP and TLS, connections used again, certificates always verified.
//!
//! Nothing is read from the process's environment: no proxy, no switch that weakens TLS.

use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::decode::Body;
use super::dial::Dialer;
use super::{Exchange, Http, Resolve, Response, SystemResolver};
use crate::egress::Egress;
use crate::{Answer, Failure, HttpSettings};

/// How long a connection waits for the next request.
const IDLE: Duration = Duration::from_secs(30);

/// Connections to one server that wait.
const IDLE_PER_HOST: usize = 16;

/// What encodings are understood.
const ENCODINGS: HeaderValue = HeaderValue::from_static("gzip, deflate, br");

type Pooled = Client<HttpsConnector<Dialer>, Full<bytes::Bytes>>;

/// An HTTP client under the rules of a node.
pub struct WebClient {
    dialer: Dialer,
    max_body_bytes: usize,
    client: OnceLock<Result<Pooled, Failure>>,
}

impl WebClient {
    /// A client that resolves names as the system does.
    pub fn new(settings: &HttpSettings) -> Self {
        Self::with_resolver(settings, Arc::new(SystemResolver))
    }

    /// A client with a resolver of its own.
    pub fn with_resolver(settings: &HttpSettings, resolver: Arc<dyn Resolve>) -> Self {
        let egress = Arc::new(Egress::new(settings.allow.clone(), settings.deny.clone(), settings.allow_only));
        Self { dialer: Dialer { egress, resolver }, max_body_bytes: settings.max_body_bytes, client: OnceLock::new() }
    }

    /// The client, made when the first request needs it: reading the system's certificates takes a while.
    fn client(&self) -> Result<&Pooled, Failure> {
        self.client.get_or_init(|| pooled(self.dialer.clone())).as_ref().map_err(Clone::clone)
    }

    async fn send(&self, exchange: Exchange) -> Result<Response, Failure> {
        let Exchange { method, url, mut headers, body, room } = exchange;
        let decode = method != Method::HEAD && !headers.contains_key(header::ACCEPT_ENCODING);
        if decode {
            headers.insert(header::ACCEPT_ENCODING, ENCODINGS);
        }
        let with_body = !body.is_empty() || matches!(method, Method::POST | Method::PUT | Method::PATCH);
        if with_body {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = url.as_str().parse().map_err(|_| Failure::invalid("the URL cannot be sent"))?;
        *request.headers_mut() = headers;
        let response = self.client()?.request(request).await.map_err(|error| failure(&error))?;
        let (head, mut incoming) = response.into_parts();
        let mut headers = head.headers;
        let mut body = Body::new(&headers, self.max_body_bytes, decode);
        let mut counted = 0;
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|_| Failure::unavailable("the server ended in the middle of its response"))?;
            if let Some(bytes) = frame.data_ref() {
                body.take(bytes)?;
                let collected = body.len();
                room.take(collected.saturating_sub(counted))?;
                counted = collected;
            }
        }
        let body = body.finish(&mut headers)?;
        Ok(Response { status: head.status, headers, body })
    }
}

impl Http for WebClient {
    fn exchange(&self, exchange: Exchange) -> Answer<'_, Response> {
        Box::pin(self.send(exchange))
    }
}

fn pooled(dialer: Dialer) -> Result<Pooled, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| Failure::unavailable("TLS cannot be set up on this node"))?;
    let tls = match tls.clone().with_native_roots() {
        Ok(tls) => tls.with_no_client_auth(),
        Err(error) => {
            // Without any certificate authority every https request fails its verification, and plain http still works.
            tracing::warn!(%error, "this node has no certificates of authorities: https is not possible");
            tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
        }
    };
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .build(connector.wrap_connector(dialer)))
}

/// What an error means: the dialer's own words when it is the dialer's, else which step failed.
fn failure(error: &hyper_util::client::legacy::Error) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return failure.clone();
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            tracing::debug!(error = %tls, "TLS with a server failed");
            return match tls {
                rustls::Error::InvalidCertificate(_) => {
                    Failure::unavailable("the server's certificate is not valid for its name on this node")
                }
                _ => Failure::unavailable("TLS with the server failed"),
            };
        }
        // An I/O error does not count the error it wraps as its source.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    tracing::debug!(%error, "an HTTP request failed");
    if error.is_connect() {
        return Failure::unavailable("the server cannot be connected to");
    }
    Failure::unavailable("the server did not answer as HTTP wants it")
}
