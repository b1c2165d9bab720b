//! The HTTP server of the metrics: answers `GET /metrics`, and everything else with 404 or 405.
//!
//! Whoever can connect may ask, so all that a peer can do is bounded: connections at a time, their time, the size of a
//! request's head. A connection is for one request. Who comes when there are enough waits in the system's queue.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::exposition;

/// The one path.
const PATH: &str = "/metrics";

/// Connections at a time.
const AT_A_TIME: usize = 32;

/// Largest head of a request, bytes.
const HEAD: usize = 16 << 10;

/// Time for the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(2);

/// Time of a connection, from its begin to its end.
const LIMIT: Duration = Duration::from_secs(15);

/// Time that those who are being answered have when the server ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Time until connections are accepted again after that has failed.
const AGAIN: Duration = Duration::from_millis(100);

/// Answers with what `text` says, until `shutdown` resolves. `text` is called on a thread where it may take its time.
pub async fn run<T>(listener: TcpListener, text: T, shutdown: impl Future<Output = ()>)
where
    T: Fn() -> String + Send + Sync + 'static,
{
    let text = Arc::new(text);
    let mut shutdown = std::pin::pin!(shutdown);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < AT_A_TIME => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&text)));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection for metrics");
                    sleep(AGAIN).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = &mut shutdown => break,
        }
    }
    drop(listener);
    let _ = timeout(LAST_ANSWERS, async { while connections.join_next().await.is_some() {} }).await;
}

async fn serve<T>(stream: TcpStream, text: Arc<T>)
where
    T: Fn() -> String + Send + Sync + 'static,
{
    let service = service_fn(move |request| answer(request, Arc::clone(&text)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection for metrics failed"),
        Err(_) => debug!("a connection for metrics took too long"),
    }
}

async fn answer<T>(request: Request<Incoming>, text: Arc<T>) -> Result<Response<Full<Bytes>>, Infallible>
where
    T: Fn() -> String + Send + Sync + 'static,
{
    if request.uri().path() != PATH {
        return Ok(plain(StatusCode::NOT_FOUND, "there is nothing here but /metrics\n"));
    }
    if request.method() != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "metrics are read with GET\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return Ok(response);
    }
    // Beside the calls: the text of a thousand functions takes milliseconds.
    let response = match spawn_blocking(move || text()).await {
        Ok(text) => respond(StatusCode::OK, exposition::CONTENT_TYPE, text.into()),
        Err(error) => {
            warn!(%error, "metrics could not be collected");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be collected\n")
        }
    };
    Ok(response)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
