//! The cases of `http`.

use std::sync::Arc;

use bytes::Bytes;
use nex_protocol::link::host::{HostErrorCode, HostReply};

use crate::common::{Done, World, response};

fn code(done: Done) -> HostErrorCode {
    done.unwrap_err().code
}

fn answer(done: Done) -> (u16, Vec<(String, String)>, String, Bytes) {
    match done.unwrap() {
        (HostReply::Http { status, headers, url }, body) => (status, headers, url, body),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn http_is_intact(world: &World) {
    let url = world
        .serve(Arc::new(|exchange| {
            let seen = exchange.headers.get("x-mine").map_or("", |value| value.to_str().unwrap()).to_owned();
            let target = &exchange.url[url::Position::BeforePath..];
            let text = format!("{} {target} {}", exchange.method, String::from_utf8_lossy(&exchange.body));
            response(201, &[("x-seen", &seen), ("set-cookie", "a"), ("set-cookie", "b")], text.as_bytes())
        }))
        .await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let body: &[u8] = if method == "GET" { b"" } else { b"body" };
        let to = format!("{url}/a//b%20c?q=1&r=%26#frag");
        let (status, headers, from, text) = answer(world.http(method, &to, &[("X-Mine", "v")], body).await);
        assert_eq!(status, 201);
        let expected = format!("{method} /a//b%20c?q=1&r=%26 {}", String::from_utf8_lossy(body));
        assert_eq!(String::from_utf8_lossy(&text), expected);
        assert!(headers.contains(&("x-seen".to_owned(), "v".to_owned())));
        assert_eq!(headers.iter().filter(|(name, _)| name == "set-cookie").count(), 2);
        assert_eq!(from, to);
    }
    let bad = [("CONNECT", url.as_str()), ("get", &url), ("GET", "ftp://a/"), ("GET", "/a"), ("GET", "http://u:p@a/")];
    for (method, url) in bad {
        assert_eq!(code(world.http(method, url, &[], b"").await), HostErrorCode::Invalid, "{method} {url}");
    }
    let smuggle = world.http("GET", &url, &[("host", "other")], b"").await;
    assert_eq!(code(smuggle), HostErrorCode::Invalid);
}

pub(crate) async fn http_redirects(world: &World) {
    let url = world
        .serve(Arc::new(|exchange| match exchange.url.path() {
            "/two" => response(302, &[("location", "/one")], b""),
            "/one" => response(307, &[("location", "end?x=1")], b""),
            "/loop" => response(302, &[("location", "/loop")], b""),
            "/out" => response(302, &[("location", "http://127.0.0.2:1/")], b""),
            "/file" => response(302, &[("location", "file:///etc/passwd")], b""),
            _ => response(200, &[], exchange.method.as_str().as_bytes()),
        }))
        .await;
    let (status, _, from, body) = answer(world.http("POST", &format!("{url}/two"), &[], b"form").await);
    assert_eq!((status, from, &body[..]), (200, format!("{url}/end?x=1"), &b"GET"[..]));
    let (_, _, _, body) = answer(world.http("POST", &format!("{url}/one"), &[], b"form").await);
    assert_eq!(&body[..], b"POST");
    assert_eq!(code(world.http("GET", &format!("{url}/loop"), &[], b"").await), HostErrorCode::Denied);
    assert_eq!(code(world.http("GET", &format!("{url}/out"), &[], b"").await), HostErrorCode::Denied);
    assert_eq!(code(world.http("GET", &format!("{url}/file"), &[], b"").await), HostErrorCode::Invalid);
    let (status, _, from, _) = answer(world.http_as_it_is("GET", &format!("{url}/two")).await);
    assert_eq!((status, from), (302, format!("{url}/two")), "a caller may want the redirect itself");
}

pub(crate) async fn http_decodes(world: &World) {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(b"hello world").unwrap();
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(b"hello world").unwrap();
    let mut bare = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    bare.write_all(b"hello world").unwrap();
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![0; 10 << 20]).unwrap();
    let (gzip, zlib, bare, bomb) =
        (gzip.finish().unwrap(), zlib.finish().unwrap(), bare.finish().unwrap(), bomb.finish().unwrap());
    let url = world
        .serve(Arc::new(move |exchange| match exchange.url.path() {
            "/gzip" => response(200, &[("content-encoding", "gzip")], &gzip),
            "/deflate" => response(200, &[("content-encoding", "deflate")], &zlib),
            "/bare" => response(200, &[("content-encoding", "deflate")], &bare),
            "/br" => response(200, &[("content-encoding", "br")], b"\x0b\x05\x80hello world\x03"),
            "/bomb" => response(200, &[("content-encoding", "gzip")], &bomb),
            _ => response(200, &[("content-encoding", "gzip")], b"this is not gzip at all"),
        }))
        .await;
    for path in ["gzip", "deflate", "bare", "br"] {
        let (_, headers, _, body) = answer(world.http("GET", &format!("{url}/{path}"), &[], b"").await);
        assert_eq!(&body[..], b"hello world", "{path}");
        assert!(!headers.iter().any(|(name, _)| name == "content-encoding"));
    }
    assert_eq!(code(world.http("GET", &format!("{url}/bomb"), &[], b"").await), HostErrorCode::TooLarge);
    assert_eq!(code(world.http("GET", &format!("{url}/broken"), &[], b"").await), HostErrorCode::Unavailable);
}

pub(crate) async fn http_is_bounded(world: &World) {
    let url = world.serve(Arc::new(|_| response(200, &[], &vec![0; 100_001]))).await;
    assert_eq!(code(world.http("GET", &url, &[], b"").await), HostErrorCode::TooLarge);
    assert_eq!(code(world.http("POST", &url, &[], &vec![0; 100_001]).await), HostErrorCode::TooLarge);
    assert_eq!(code(world.http("GET", "http://127.0.0.1:1/", &[], b"").await), HostErrorCode::Unavailable);
}
