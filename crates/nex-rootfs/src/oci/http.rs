//! A small HTTP client for registries: GET, redirects, sizes and times bounded. TLS always, except to this machine itself.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pooled;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use url::Url;

use super::reference::is_this_machine;
use crate::RootfsError;

/// Redirects that are followed; registries hand blobs out from elsewhere.
const REDIRECTS: usize = 5;

/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// The client. It blocks whoever calls it.
pub(super) struct Http {
    runtime: Runtime,
    client: Pooled<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

/// An answer whose body is not read yet.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    url: Url,
    body: Incoming,
}

pub(super) fn failed(url: &Url, reason: impl Into<String>) -> RootfsError {
    // What is after the question mark may be a signature.
    let mut shown = url.clone();
    shown.set_query(None);
    RootfsError::Registry { url: shown.to_string(), reason: reason.into() }
}

impl Http {
    pub(super) fn start(url: &Url) -> Result<Self, RootfsError> {
        let broken = |what: &str| failed(url, format!("{what} cannot be set up on this machine"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| broken("TLS"))?;
        let tls = match tls.clone().with_native_roots() {
            Ok(tls) => tls.with_no_client_auth(),
            // A registry on this machine needs none; others will say what is wrong with their certificate.
            Err(_) => tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth(),
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(SILENCE));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        Ok(Self {
            runtime: runtime.map_err(|_| broken("the client"))?,
            client: Pooled::builder(TokioExecutor::new()).build(connector),
        })
    }

    /// Asks for something; follows redirects. The authorization goes to the host it is for, and no further.
    pub(super) fn get(&self, url: &Url, accept: &str, authorization: Option<&str>) -> Result<Answer, RootfsError> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS {
            let answer = self.once(&at, accept, authorization.filter(|_| at.origin() == url.origin()))?;
            if !answer.status.is_redirection() {
                return Ok(answer);
            }
            let to = answer.headers.get(LOCATION).and_then(|to| to.to_str().ok());
            at = to.and_then(|to| at.join(to).ok()).ok_or_else(|| failed(&at, "it redirects to nowhere"))?;
        }
        Err(failed(url, "it redirects without end"))
    }

    fn once(&self, url: &Url, accept: &str, authorization: Option<&str>) -> Result<Answer, RootfsError> {
        let host = url.host_str().unwrap_or_default();
        if url.scheme() != "https" && !(url.scheme() == "http" && is_this_machine(host)) {
            return Err(failed(url, "only https is used to reach another machine"));
        }
        let mut request = Request::get(url.as_str()).header(USER_AGENT, concat!("nex/", env!("CARGO_PKG_VERSION")));
        request = request.header(ACCEPT, accept);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::new()).map_err(|error| failed(url, error.to_string()))?;
        let answer = self.runtime.block_on(async { timeout(SILENCE, self.client.request(request)).await });
        let answer = answer.map_err(|_| failed(url, "the server does not answer"))?;
        let (head, body) = answer.map_err(|error| failed(url, deepest(&error)))?.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, url: url.clone(), body })
    }

    /// Hands a body on, at most so many bytes of it.
    pub(super) fn read(&self, answer: Answer, most: u64, to: &mut dyn Write) -> Result<(), RootfsError> {
        let Answer { url, mut body, .. } = answer;
        self.runtime.block_on(async {
            let mut left = most;
            loop {
                let frame = timeout(SILENCE, body.frame()).await.map_err(|_| failed(&url, "the server went silent"))?;
                let Some(frame) = frame else { return Ok(()) };
                let frame =
                    frame.map_err(|error| failed(&url, format!("the answer broke off: {}", deepest(&error))))?;
                let Ok(bytes) = frame.into_data() else { continue };
                left = left
                    .checked_sub(bytes.len() as u64)
                    .ok_or_else(|| failed(&url, format!("the answer has more than the {most} bytes it may have")))?;
                to.write_all(&bytes).map_err(|error| failed(&url, format!("it cannot be kept: {error}")))?;
            }
        })
    }
}

/// What is at the bottom of an error says most.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
