//! `wasi:http`.

use crate::wasi::http::outgoing_handler;
use crate::wasi::http::types::{
    Fields, FutureIncomingResponse, IncomingBody, Method, OutgoingBody, OutgoingRequest, Scheme,
};
use crate::wasi::io::streams::StreamError;

fn request(method: Method, url: &str) -> OutgoingRequest {
    let (scheme, rest) = url.split_once("://").unwrap();
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let headers = Fields::from_list(&[("x-probe".to_owned(), b"yes".to_vec())]).unwrap();
    let request = OutgoingRequest::new(headers);
    request.set_method(&method).unwrap();
    request.set_scheme(Some(&scheme)).unwrap();
    request.set_authority(Some(authority)).unwrap();
    request.set_path_with_query(Some(path)).unwrap();
    request
}

fn receive(answer: FutureIncomingResponse) -> String {
    answer.subscribe().block();
    let response = match answer.get().unwrap().unwrap() {
        Ok(response) => response,
        Err(error) => return format!("{error:?}"),
    };
    let headers = response.headers();
    let served = headers.get("x-served").into_iter().map(|v| String::from_utf8_lossy(&v).into_owned());
    let served: Vec<String> = served.collect();
    let place = headers.get("location").len();
    drop(headers);
    let body: IncomingBody = response.consume().unwrap();
    let stream = body.stream().unwrap();
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(mut piece) => bytes.append(&mut piece),
            Err(StreamError::Closed) => break,
            Err(error) => return format!("{error:?}"),
        }
    }
    format!("{} {served:?} {place} {}", response.status(), String::from_utf8_lossy(&bytes))
}

/// `METHOD URL [BODY]`
pub(crate) fn send(asked: &str) -> String {
    let mut parts = asked.splitn(3, ' ');
    let method = match parts.next().unwrap() {
        "GET" => Method::Get,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "PATCH" => Method::Patch,
        "DELETE" => Method::Delete,
        "HEAD" => Method::Head,
        other => Method::Other(other.to_owned()),
    };
    let request = request(method, parts.next().unwrap());
    let body = parts.next().map(|text| (request.body().unwrap(), text));
    // The body is written while the request is under way.
    let answer = match outgoing_handler::handle(request, None) {
        Ok(answer) => answer,
        Err(error) => return format!("{error:?}"),
    };
    if let Some((body, text)) = body {
        let stream = body.write().unwrap();
        stream.blocking_write_and_flush(text.as_bytes()).unwrap();
        drop(stream);
        OutgoingBody::finish(body, None).unwrap();
    }
    receive(answer)
}

/// Sends a hundred requests at once; how many were answered, and how the first of the others failed.
pub(crate) fn flood(url: &str) -> String {
    let answers: Vec<_> =
        (0..100).map(|_| outgoing_handler::handle(request(Method::Get, url), None).unwrap()).collect();
    let said: Vec<String> = answers.into_iter().map(receive).collect();
    let answered = said.iter().filter(|said| said.starts_with("200")).count();
    let refused = said.iter().find(|said| !said.starts_with("200")).cloned();
    format!("{answered} {}", refused.unwrap_or_default())
}
