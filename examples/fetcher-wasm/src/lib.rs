//! Fetches the URLs in its payload, one a line, all at the same time, and says what came.
//!
//! Requests go by `wasi:http` through the node, which decides what hosts a function may reach. All are sent before the
//! first answer is waited for.

wit_bindgen::generate!({ path: "../../wit", world: "nex:function/function", generate_all });

use exports::nex::function::handler::{Call, Guest, Reply};
use wasi::http::outgoing_handler;
use wasi::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, OutgoingRequest, Scheme,
};
use wasi::io::streams::StreamError;

/// Bytes that are read at once.
const PIECE: u64 = 64 << 10;

struct Fetcher;

impl Guest for Fetcher {
    fn handle(call: Call) -> Result<Reply, String> {
        let text = String::from_utf8(call.payload).map_err(|_| "the payload is no text".to_owned())?;
        let urls = text.lines().map(str::trim).filter(|url| !url.is_empty());
        let sent: Vec<_> = urls.map(|url| (url, send(url))).collect();
        let mut lines = String::new();
        for (url, answer) in sent {
            let said = match answer.and_then(receive) {
                Ok((status, bytes)) => format!("{url} {status} {bytes} bytes\n"),
                Err(why) => format!("{url} failed: {why}\n"),
            };
            lines.push_str(&said);
        }
        Ok(Reply { headers: vec![], payload: lines.into_bytes() })
    }
}

fn send(url: &str) -> Result<FutureIncomingResponse, String> {
    let (scheme, rest) = url.split_once("://").ok_or("no URL")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&scheme)).map_err(|()| "no scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "no host")?;
    request.set_path_with_query(Some(if path.is_empty() { "/" } else { path })).map_err(|()| "no path")?;
    outgoing_handler::handle(request, None).map_err(reason)
}

/// Waits for a response; its status and the length of its body.
fn receive(answer: FutureIncomingResponse) -> Result<(u16, usize), String> {
    answer.subscribe().block();
    let response = answer.get().ok_or("no answer")?.map_err(|()| "answered before")?.map_err(reason)?;
    Ok((response.status(), body(&response)?))
}

fn body(response: &IncomingResponse) -> Result<usize, String> {
    let body: IncomingBody = response.consume().map_err(|()| "no body")?;
    let stream = body.stream().map_err(|()| "no stream")?;
    let mut length = 0;
    loop {
        match stream.blocking_read(PIECE) {
            Ok(piece) => length += piece.len(),
            Err(StreamError::Closed) => return Ok(length),
            Err(StreamError::LastOperationFailed(error)) => return Err(error.to_debug_string()),
        }
    }
}

fn reason(error: ErrorCode) -> String {
    error.to_string()
}

export!(Fetcher);
