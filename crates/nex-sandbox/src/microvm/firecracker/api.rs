//! A client of Firecracker's API: one request after the other, over one connection to its Unix socket.
//!
//! A refusal carries what Firecracker says and, where it is known, what to do about it. Nothing here waits longer than it
//! is told, or after the monitor has ended.

use std::fmt;
use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use super::fault;
use super::model::{Action, Fault, Vm};
use crate::PrepareError;

/// Largest answer, bytes.
const LARGEST: usize = 1 << 20;

/// The API of one machine's monitor.
#[derive(Debug)]
pub(super) struct Api {
    requests: SendRequest<Full<Bytes>>,
    until: Instant,
}

impl Api {
    /// Speaks to a monitor over this connection; no answer is waited for longer than `until`.
    pub(super) async fn over(stream: UnixStream, until: Instant) -> Result<Self, PrepareError> {
        let (requests, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| lost("its API", &error))?;
        // Ends with the handle or with the monitor.
        tokio::spawn(connection);
        Ok(Self { requests, until })
    }

    /// No answer is waited for longer than this from now on.
    pub(super) fn waits_until(&mut self, until: Instant) {
        self.until = until;
    }

    pub(super) async fn put(&mut self, path: &str, body: &impl Serialize) -> Result<(), PrepareError> {
        self.send(Method::PUT, path, body).await
    }

    /// Starts the machine.
    pub(super) async fn start(&mut self) -> Result<(), PrepareError> {
        self.put("/actions", &Action { action_type: "InstanceStart" }).await
    }

    pub(super) async fn pause(&mut self) -> Result<(), PrepareError> {
        self.send(Method::PATCH, "/vm", &Vm { state: "Paused" }).await
    }

    pub(super) async fn resume(&mut self) -> Result<(), PrepareError> {
        self.send(Method::PATCH, "/vm", &Vm { state: "Resumed" }).await
    }

    async fn send(&mut self, method: Method, path: &str, body: &impl Serialize) -> Result<(), PrepareError> {
        let what = format!("{method} {path}");
        let body = serde_json::to_vec(body).map_err(|error| lost(&what, &error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "localhost")
            .header("Content-Type", "application/json")
            .header("Accept", "application/json")
            .body(Full::from(body))
            .map_err(|error| lost(&what, &error))?;
        let answered = async {
            self.requests.ready().await.map_err(|error| lost(&what, &error))?;
            let answer = self.requests.send_request(request).await.map_err(|error| lost(&what, &error))?;
            let status = answer.status();
            let body =
                Limited::new(answer.into_body(), LARGEST).collect().await.map_err(|error| lost(&what, &error))?;
            Ok::<_, PrepareError>((status, body.to_bytes()))
        };
        let (status, body) = match timeout_at(self.until, answered).await {
            Ok(answer) => answer?,
            Err(_) => return Err(lost(&what, &"no answer in time")),
        };
        if status.is_success() { Ok(()) } else { Err(refused(what, status, &body)) }
    }
}

fn refused(request: String, status: StatusCode, body: &[u8]) -> PrepareError {
    let fault = serde_json::from_slice::<Fault>(body).map_or_else(|_| status.to_string(), |fault| fault.fault_message);
    let help = fault::help(&fault);
    PrepareError::Refused { request, fault, help }
}

fn lost(what: &str, error: &dyn fmt::Display) -> PrepareError {
    PrepareError::System {
        what: format!("Firecracker did not answer {what}"),
        source: io::Error::other(error.to_string()),
    }
}
