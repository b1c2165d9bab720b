//! The server: one request at a time, in the order in which they come.
//!
//! What Firecracker's server does not do is refused here too: bodies without a length, more than ten connections,
//! bodies over the limit.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};

use super::route::route;
use super::{Answer, Refusal};
use crate::machine::Machine;

const MOST_CONNECTIONS: usize = 10;

type Reply = Response<Full<Bytes>>;

/// Serves the machine for ever.
pub(crate) async fn serve(listener: UnixListener, machine: Machine, largest_body: usize) -> std::io::Error {
    let server = Arc::new(Server { machine: Mutex::new(machine), open: AtomicUsize::new(0), largest_body });
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(Arc::clone(&server).connection(stream));
            }
            Err(error) => return error,
        }
    }
}

struct Server {
    machine: Mutex<Machine>,
    open: AtomicUsize,
    largest_body: usize,
}

impl Server {
    async fn connection(self: Arc<Self>, stream: UnixStream) {
        let full = self.open.fetch_add(1, Ordering::SeqCst) >= MOST_CONNECTIONS;
        let service = service_fn(|request| {
            let server = Arc::clone(&self);
            async move {
                let reply = if full { too_many() } else { server.reply(request).await };
                Ok::<_, Infallible>(with_name(reply))
            }
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        self.open.fetch_sub(1, Ordering::SeqCst);
        // The answer is out: what was fatal ends the process now.
        let fatal = self.machine.lock().unwrap_or_else(PoisonError::into_inner).fatal();
        if let Some(code) = fatal {
            std::process::exit(code);
        }
    }

    async fn reply(&self, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let length = head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let length: usize = length.unwrap_or(0);
        let body = match body.collect().await {
            Ok(_) if length > self.largest_body => return too_large(length, self.largest_body),
            // A body whose length is not told is not read.
            Ok(body) if length > 0 => body.to_bytes(),
            Ok(_) => Bytes::new(),
            Err(_) => return error(StatusCode::BAD_REQUEST, "the request ended early"),
        };
        let path = head.uri.path().to_owned();
        let (hangs, refuses, version) = {
            let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
            let faults = machine.faults();
            (faults.hang.contains(&path), faults.refuse.contains(&path), machine.version())
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        if refuses {
            return refusal(&Refusal::new("refused, as the stand-in was told"));
        }
        let routed = match route(version, head.method.as_str(), &path, &body) {
            Ok(routed) => routed,
            Err(refused) => return refusal(&refused),
        };
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reply = match machine.handle(routed.action) {
            Ok(Answer::Done) => bare(StatusCode::NO_CONTENT, Bytes::new()),
            Ok(Answer::Json(value)) => bare(StatusCode::OK, value.to_string().into()),
            Err(refused) => refusal(&refused),
        };
        if routed.deprecated {
            reply.headers_mut().insert("deprecation", header::HeaderValue::from_static("true"));
        }
        if machine.fatal().is_some() {
            reply.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        reply
    }
}

fn bare(status: StatusCode, body: Bytes) -> Reply {
    let typed = !body.is_empty();
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    if typed {
        let json = header::HeaderValue::from_static("application/json");
        reply.headers_mut().insert(header::CONTENT_TYPE, json);
    }
    reply
}

fn with_name(mut reply: Reply) -> Reply {
    reply.headers_mut().insert(header::SERVER, header::HeaderValue::from_static("Firecracker API"));
    reply
}

fn refusal(refused: &Refusal) -> Reply {
    let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_REQUEST);
    bare(status, json!({ "fault_message": refused.message }).to_string().into())
}

/// What the server itself says has another name than what the machine says.
fn error(status: StatusCode, message: &str) -> Reply {
    bare(status, json!({ "error": message }).to_string().into())
}

fn too_large(length: usize, limit: usize) -> Reply {
    let what = format!("Request payload with size {length} is larger than the limit of {limit} allowed by server.");
    error(StatusCode::BAD_REQUEST, &what)
}

fn too_many() -> Reply {
    error(StatusCode::SERVICE_UNAVAILABLE, "Too many open connections")
}
