//! Headers: which ones a function may send, and which ones a redirect takes with it.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use nex_protocol::link::message::Headers;

use crate::Failure;
use crate::failure::quoted;

/// Bytes all names and values may have.
const LARGEST: usize = 64 << 10;

/// What says who is asking, and stays where it was meant to go.
const SECRET: [&str; 8] = [
    "authorization",
    "cookie",
    "cookie2",
    "proxy-authorization",
    "www-authenticate",
    "x-api-key",
    "x-auth-token",
    "x-csrf-token",
];

/// What belongs to the connection, which is the node's.
const OF_THE_CONNECTION: [&str; 11] = [
    "connection",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// The headers of a request, with those every request has.
pub(super) fn outgoing(headers: &Headers) -> Result<HeaderMap, Failure> {
    let size: usize = headers.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
    if size > LARGEST || headers.len() > 256 {
        return Err(Failure::too_large(format!("there are at most 256 headers with {LARGEST} bytes together")));
    }
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let parsed: HeaderName =
            name.parse().map_err(|_| Failure::invalid(format!("{} is no header", quoted(name))))?;
        if OF_THE_CONNECTION.contains(&parsed.as_str()) {
            return Err(Failure::invalid(format!("the header {parsed} is the node's to send")));
        }
        // The length is that of the body, whatever is said.
        if parsed == header::CONTENT_LENGTH {
            continue;
        }
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| Failure::invalid(format!("the value of header {parsed} has a line break")))?;
        map.append(parsed, value);
    }
    let default = |map: &mut HeaderMap, name, value| {
        map.entry(name).or_insert(HeaderValue::from_static(value));
    };
    default(&mut map, header::USER_AGENT, concat!("nex/", env!("CARGO_PKG_VERSION")));
    default(&mut map, header::ACCEPT, "*/*");
    Ok(map)
}

/// Takes out what says something about a body that is no longer sent.
pub(super) fn without_body(headers: &mut HeaderMap) {
    for name in [
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_LOCATION,
        header::CONTENT_RANGE,
    ] {
        headers.remove(name);
    }
}

/// Takes out what another origin must not see.
pub(super) fn for_strangers(headers: &mut HeaderMap) {
    for name in SECRET {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Result<HeaderMap, Failure> {
        outgoing(&vec![(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn headers_cannot_smuggle() {
        for (name, value) in [
            ("Host", "internal"),
            ("Transfer-Encoding", "chunked"),
            ("connection", "x"),
            ("X", "a\r\nHost: b"),
            ("a b", "c"),
            ("", "x"),
            ("Proxy-Authorization", "x"),
            ("x:", "y"),
            ("a\n", "b"),
            ("Upgrade", "h2c"),
        ] {
            assert!(one(name, value).is_err(), "{name}: {value}");
        }
        assert!(one("Content-Length", "99").unwrap().get("content-length").is_none());
        assert_eq!(one("X-Ünï", "v").unwrap_err().code, nex_protocol::link::host::HostErrorCode::Invalid);
        assert!(one("x-text", "ü").is_ok());
    }
}
