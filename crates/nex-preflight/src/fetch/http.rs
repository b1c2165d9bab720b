//! One GET: redirections followed, the rest of a file asked for, a proxy used where the environment names one.
//!
//! `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are honoured for https; http goes straight to its server. Certificates are
//! always verified, with the authorities of the machine (`SSL_CERT_FILE`, `SSL_CERT_DIR`).

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pooled;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use tokio::time::timeout;
use url::Url;

use super::{FetchError, Patience};

/// Redirections in a row that are followed.
const REDIRECTS: usize = 10;

/// From where a file is to be continued.
#[derive(Clone, Copy)]
pub(super) struct Resume<'a> {
    pub(super) at: u64,
    /// The version of the file that is continued.
    pub(super) validator: Option<&'a str>,
}

/// A file that begins to come.
pub(super) struct Begun {
    pub(super) body: Body,
    /// Where in the file it begins.
    pub(super) offset: u64,
    /// What the server calls this version of the file.
    pub(super) validator: Option<String>,
    /// Bytes that are to come.
    pub(super) length: Option<u64>,
}

/// The rest of a file.
pub(super) struct Body(Incoming);

impl Body {
    /// The next piece; none at the end.
    pub(super) async fn next(&mut self, url: &Url, stall: Duration, have: u64) -> Result<Option<Bytes>, FetchError> {
        loop {
            let frame = timeout(stall, self.0.frame()).await;
            let stalled = |_| FetchError::Stalled { url: url.clone(), seconds: stall.as_secs(), have };
            let Some(frame) = frame.map_err(stalled)? else { return Ok(None) };
            let frame = frame.map_err(|_| FetchError::CutOff { url: url.clone(), have })?;
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }
}

/// Asks servers for files.
pub(super) struct Client {
    patience: Patience,
    proxies: Matcher,
}

impl Client {
    pub(super) fn new(patience: Patience) -> Self {
        Self { patience, proxies: Matcher::from_env() }
    }

    /// Asks for a file, or for the rest of one.
    pub(super) async fn get(&self, url: &Url, resume: Option<Resume<'_>>) -> Result<Begun, FetchError> {
        let response = self.follow(url, resume).await?;
        // What is here is longer than the file there, or the server goes on from somewhere else.
        let useless = match (response.status(), resume) {
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => true,
            (StatusCode::PARTIAL_CONTENT, Some(resume)) => first_byte(response.headers()) != Some(resume.at),
            _ => false,
        };
        if useless { begun(url, self.follow(url, None).await?) } else { begun(url, response) }
    }

    async fn follow(&self, first: &Url, resume: Option<Resume<'_>>) -> Result<Response<Incoming>, FetchError> {
        let mut url = first.clone();
        for _ in 0..=REDIRECTS {
            let response = self.ask(&url, resume).await?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok(response);
            }
            url = next(&url, response.headers())
                .map_err(|reason| FetchError::Redirect { url: first.clone(), reason: reason.to_owned() })?;
        }
        Err(FetchError::Redirect { url: first.clone(), reason: "is redirected again and again".to_owned() })
    }

    async fn ask(&self, url: &Url, resume: Option<Resume<'_>>) -> Result<Response<Incoming>, FetchError> {
        let failed = |reason: String| FetchError::Unreachable { url: url.clone(), reason };
        let request = request(url, resume).map_err(|error| failed(error.to_string()))?;
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(self.patience.connect));
        let proxy = if url.scheme() == "https" { self.proxies.intercept(request.uri()) } else { None };
        let answer = async {
            match proxy {
                None => pooled(connector, url)?.request(request).await.map_err(|error| causes(&error)),
                Some(proxy) if proxy.uri().scheme_str() == Some("http") => {
                    let mut tunnel = Tunnel::new(proxy.uri().clone(), connector);
                    if let Some(auth) = proxy.basic_auth() {
                        tunnel = tunnel.with_auth(auth.clone());
                    }
                    let through = |error| format!("by the proxy {}: {}", proxy.uri(), causes(&error));
                    pooled(tunnel, url)?.request(request).await.map_err(through)
                }
                Some(proxy) => Err(format!("the proxy {} is not spoken to: only http proxies are", proxy.uri())),
            }
        };
        // A connection, its TLS and the server's first words.
        let wait = self.patience.connect + self.patience.stall;
        match timeout(wait, answer).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(failed(format!("no answer came within {} s", wait.as_secs()))),
        }
    }
}

type Https<C> = Pooled<HttpsConnector<C>, Empty<Bytes>>;

/// A client for one request: redirections lead to other servers, and proxies differ by address.
fn pooled<C>(connector: C, url: &Url) -> Result<Https<C>, String>
where
    HttpsConnector<C>: Connect + Clone,
{
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let tls = if url.scheme() == "https" {
        tls.with_native_roots().map_err(|error| format!("this machine has no certificates of authorities: {error}"))?
    } else {
        tls.with_root_certificates(rustls::RootCertStore::empty())
    };
    let https = HttpsConnectorBuilder::new().with_tls_config(tls.with_no_client_auth()).https_or_http().enable_http1();
    Ok(Pooled::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(https.wrap_connector(connector)))
}

fn request(url: &Url, resume: Option<Resume<'_>>) -> Result<Request<Empty<Bytes>>, http::Error> {
    let mut request = Request::get(url.as_str())
        .header(header::USER_AGENT, concat!("nex/", env!("CARGO_PKG_VERSION")))
        // The digest is that of the file as it is.
        .header(header::ACCEPT_ENCODING, "identity");
    if let Some(Resume { at, validator }) = resume {
        request = request.header(header::RANGE, format!("bytes={at}-"));
        if let Some(validator) = validator {
            request = request.header(header::IF_RANGE, validator);
        }
    }
    request.body(Empty::new())
}

/// Where a redirection leads.
fn next(url: &Url, headers: &HeaderMap) -> Result<Url, &'static str> {
    let text = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let next = url.join(text.ok_or("is redirected nowhere")?).map_err(|_| "is redirected to what is no address")?;
    match (url.scheme(), next.scheme()) {
        ("https", "https") | ("http", "http" | "https") => Ok(next),
        _ => Err("is redirected to an address without TLS, which is not followed"),
    }
}

fn begun(url: &Url, response: Response<Incoming>) -> Result<Begun, FetchError> {
    let status = response.status();
    let headers = response.headers();
    let offset = match status {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT => {
            first_byte(headers).ok_or_else(|| FetchError::Status { url: url.clone(), status })?
        }
        _ => return Err(FetchError::Status { url: url.clone(), status }),
    };
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    // A weak tag says that two versions are good for the same use, not that their bytes are the same.
    let tag = headers.get(header::ETAG).and_then(text).filter(|tag| !tag.starts_with("W/"));
    let validator = tag.or_else(|| headers.get(header::LAST_MODIFIED).and_then(text));
    let length = headers.get(header::CONTENT_LENGTH).and_then(text).and_then(|text| text.parse().ok());
    Ok(Begun { offset, validator, length, body: Body(response.into_body()) })
}

/// The first byte of a `Content-Range`.
fn first_byte(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// What went wrong, down to its cause.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_do_not_lead_out_of_tls() {
        let to = |from: &str, to: &'static str| {
            let headers = [(header::LOCATION, HeaderValue::from_static(to))].into_iter().collect();
            next(&from.parse().unwrap(), &headers).map(|url| url.to_string())
        };
        assert_eq!(to("https://a/x/y", "/z").unwrap(), "https://a/z");
        assert_eq!(to("https://a/x", "https://b/c").unwrap(), "https://b/c");
        assert_eq!(to("http://a/x", "https://b/c").unwrap(), "https://b/c");
        for bad in ["http://b/c", "file:///etc/passwd", "ftp://b/c"] {
            assert!(to("https://a/x", bad).is_err(), "{bad}");
        }
        assert!(next(&"https://a".parse().unwrap(), &HeaderMap::new()).is_err());
    }

    #[test]
    fn the_first_byte_of_a_range_is_read() {
        let of = |text: &'static str| {
            first_byte(&[(header::CONTENT_RANGE, HeaderValue::from_static(text))].into_iter().collect())
        };
        assert_eq!(of("bytes 10-19/20"), Some(10));
        for bad in ["bytes */20", "items 1-2/3", "10-19/20", ""] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
