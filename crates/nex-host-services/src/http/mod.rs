//! `http`: requests to elsewhere, by the node's rules.
//!
//! [`Http`] is one exchange with one server, at an address the rules permit; [`Browser`] follows redirects, each hop
//! under the same rules, keeps the time and checks what a function may say. Responses arrive decoded and bounded.

mod client;
mod decode;
mod dial;
mod headers;
mod memory;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use nex_protocol::link::host::{HostReply, HttpRequest, Redirect};
use nex_protocol::link::message::Headers;
use url::Url;

pub use client::WebClient;
pub use dial::{Resolve, SystemResolver};
pub use memory::{MemoryWeb, Served};

use crate::failure::quoted;
use crate::{Answer, Failure, HttpSettings, Room};

/// Longest URL, bytes.
const LONGEST_URL: usize = 16 << 10;

/// One request to one server.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Method.
    pub method: Method,
    /// Where: `http` or `https`, with a host, without a user and a fragment.
    pub url: Url,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Where the response's body is counted while it is collected.
    pub room: Room,
}

/// What the server answered, decoded.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// Something that makes an exchange.
pub trait Http: Send + Sync {
    /// Makes an exchange with a server whose address the rules permit.
    fn exchange(&self, exchange: Exchange) -> Answer<'_, Response>;
}

/// What stands between a request and the servers.
#[derive(Debug, Clone)]
pub struct Browser {
    settings: HttpSettings,
}

impl Browser {
    /// Bounded by the settings.
    pub fn new(settings: HttpSettings) -> Self {
        Self { settings }
    }

    /// Does what a request asks.
    pub(crate) async fn call(
        &self,
        http: &dyn Http,
        request: &HttpRequest,
        body: Bytes,
        room: &Room,
    ) -> Result<(HostReply, Bytes), Failure> {
        let exchange = self.first(request, body, room.clone())?;
        let timeout = request.timeout_ms.map_or(self.settings.timeout, Duration::from_millis);
        let timeout = timeout.min(self.settings.timeout);
        let (response, url) = tokio::time::timeout(timeout, self.follow(http, exchange, request.redirect))
            .await
            .map_err(|_| Failure::timeout(format!("no whole response within {} ms", timeout.as_millis())))??;
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers: Headers =
            response.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        Ok((HostReply::Http { status: response.status.as_u16(), headers, url: url.into() }, response.body))
    }

    fn first(&self, request: &HttpRequest, body: Bytes, room: Room) -> Result<Exchange, Failure> {
        let method = match request.method.as_str() {
            "GET" => Method::GET,
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            "DELETE" => Method::DELETE,
            "HEAD" => Method::HEAD,
            "OPTIONS" => Method::OPTIONS,
            other => {
                let known = "GET, POST, PUT, PATCH, DELETE, HEAD and OPTIONS";
                return Err(Failure::invalid(format!("{} is no method of {known}", quoted(other))));
            }
        };
        if body.len() > self.settings.max_body_bytes {
            return Err(Failure::too_large(format!("a body has at most {} bytes", self.settings.max_body_bytes)));
        }
        if request.url.len() > LONGEST_URL {
            return Err(Failure::invalid(format!("a URL has at most {LONGEST_URL} bytes")));
        }
        let url = Url::parse(&request.url)
            .map_err(|why| Failure::invalid(format!("{} is no URL: {why}", quoted(&request.url))))?;
        Ok(Exchange { method, url: checked(url)?, headers: headers::outgoing(&request.headers)?, body, room })
    }

    async fn follow(
        &self,
        http: &dyn Http,
        mut exchange: Exchange,
        redirect: Redirect,
    ) -> Result<(Response, Url), Failure> {
        let follows = redirect == Redirect::Follow && self.settings.max_redirects > 0;
        let mut hops = 0_usize;
        loop {
            let mut sent = exchange.clone();
            sent.url.set_fragment(None);
            let response = http.exchange(sent).await?;
            let Some(location) = location(&response).filter(|_| follows) else {
                return Ok((response, exchange.url));
            };
            if hops >= self.settings.max_redirects {
                return Err(Failure::denied(format!("more than {} redirects", self.settings.max_redirects)));
            }
            hops = hops.saturating_add(1);
            exchange = redirected(exchange, response.status, location)?;
        }
    }
}

fn location(response: &Response) -> Option<&str> {
    let redirects = matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    response.headers.get(header::LOCATION).filter(|_| redirects)?.to_str().ok()
}

fn redirected(mut exchange: Exchange, status: StatusCode, location: &str) -> Result<Exchange, Failure> {
    let mut url = exchange
        .url
        .join(location)
        .map_err(|_| Failure::unavailable("the server redirects to something that is no URL"))?;
    if url.fragment().is_none() {
        url.set_fragment(exchange.url.fragment());
    }
    let url = checked(url)?;
    // As browsers do: a form that was sent is not sent again elsewhere unless the server says so.
    let becomes_get = match status.as_u16() {
        303 => exchange.method != Method::HEAD,
        301 | 302 => exchange.method == Method::POST,
        _ => false,
    };
    if becomes_get {
        exchange.method = Method::GET;
        exchange.body = Bytes::new();
        headers::without_body(&mut exchange.headers);
    }
    if url.origin() != exchange.url.origin() {
        headers::for_strangers(&mut exchange.headers);
    }
    exchange.url = url;
    Ok(exchange)
}

fn checked(url: Url) -> Result<Url, Failure> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Failure::invalid(format!("{} is neither http nor https", quoted(url.scheme()))));
    }
    if url.host().is_none() {
        return Err(Failure::invalid("a URL has a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Failure::invalid("a URL has no user and password here: use the authorization header"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(method: Method, url: &str) -> Exchange {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "cookie", "content-type", "x-api-key", "accept"] {
            headers.insert(name, "x".parse().unwrap());
        }
        Exchange {
            method,
            url: url.parse().unwrap(),
            headers,
            body: Bytes::from_static(b"form"),
            room: Room::unbounded(),
        }
    }

    #[test]
    fn secrets_stay_with_their_origin() {
        for to in ["http://b.example/", "https://a.example/", "http://a.example:81/", "//b.example/x"] {
            let next = redirected(exchange(Method::GET, "http://a.example/"), StatusCode::FOUND, to).unwrap();
            assert!(next.headers.get("authorization").is_none() && next.headers.get("cookie").is_none(), "{to}");
            assert!(next.headers.get("accept").is_some());
        }
        let same = redirected(exchange(Method::GET, "http://a.example/x?y"), StatusCode::FOUND, "/z?q=1").unwrap();
        assert_eq!(same.url.as_str(), "http://a.example/z?q=1");
        assert!(same.headers.get("authorization").is_some());
    }

    #[test]
    fn a_redirect_keeps_or_drops_the_body_as_its_status_says() {
        let go = |method: Method, status: u16| {
            redirected(exchange(method, "http://a/"), StatusCode::from_u16(status).unwrap(), "/b").unwrap()
        };
        let get = go(Method::POST, 302);
        assert!(get.method == Method::GET && get.body.is_empty() && get.headers.get("content-type").is_none());
        let put = go(Method::PUT, 302);
        assert!(put.method == Method::PUT && !put.body.is_empty());
        let post = go(Method::POST, 307);
        assert!(post.method == Method::POST && !post.body.is_empty());
        assert_eq!(go(Method::HEAD, 303).method, Method::HEAD);
    }

    #[test]
    fn a_redirect_cannot_leave_http() {
        for to in ["file:///etc/passwd", "ftp://a/", "javascript:1", "http://u:p@b/", "gopher://x"] {
            assert!(redirected(exchange(Method::GET, "http://a/"), StatusCode::FOUND, to).is_err(), "{to}");
        }
    }
}
