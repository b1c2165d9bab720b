//! Metrics of a node for Prometheus: an HTTP endpoint, off unless the configuration turns it on (`otel_metrics`).
//!
//! ```text
//! GET /metrics -> collect: the node's counters as they are now (Snapshot) -> series: names and labels
//!              -> exposition: the text format 0.0.4
//! ```
//! Owns the listener and what is said on it. Everything is read when it is asked for, on a thread beside those of the calls;
//! nobody counts anything for the sake of metrics. Nothing is written, and nobody is asked for credentials: by default it
//! listens on 127.0.0.1.
//!
//! Promises: each happening is counted in one series; each series has one sample; a node that is to have metrics and cannot
//! does not start.

mod collect;
mod exposition;
mod machines;
mod process;
mod series;
mod server;
mod snapshot;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use crate::config::MetricsEndpoint;
use crate::control::Control;

pub use process::Process;
pub use server::run;
pub use snapshot::{Function, Requests, Snapshot, Workload};

/// The endpoint cannot listen where it is to.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics on {address}: {}", why(.source))]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there (give another port with --metrics_port or \
                                     otel_metrics_port, or 0 for any that is free)"
            .to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address (see otel_metrics_host)".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "the node may not listen there (give a port above 1023 with --metrics_port or otel_metrics_port)".to_owned()
        }
        _ => error.to_string(),
    }
}

/// An endpoint that listens and does not answer yet.
#[derive(Debug)]
pub(crate) struct Endpoint {
    listener: TcpListener,
}

impl Endpoint {
    /// Listens, when the configuration wants metrics.
    ///
    /// # Errors
    /// [`BindError`].
    pub(crate) async fn bind(config: &MetricsEndpoint) -> Result<Option<Self>, BindError> {
        if !config.on {
            return Ok(None);
        }
        let address = SocketAddr::new(config.host, config.port);
        let listener = TcpListener::bind(address).await.map_err(|source| BindError { address, source })?;
        Ok(Some(Self { listener }))
    }

    /// Answers with what the node is doing, until closed.
    pub(crate) fn serve(self, control: Arc<Control>) -> Serving {
        match self.listener.local_addr() {
            Ok(address) => info!("metrics are served on http://{address}/metrics"),
            Err(error) => warn!(%error, "metrics are served, but where is not known"),
        }
        let end = CancellationToken::new();
        let text = move || Snapshot::of(&control).to_string();
        let task = tokio::spawn(run(self.listener, text, end.clone().cancelled_owned()));
        Serving { task, end: end.drop_guard() }
    }
}

/// An endpoint that answers. Dropping it ends it, too.
#[derive(Debug)]
pub(crate) struct Serving {
    task: JoinHandle<()>,
    end: DropGuard,
}

impl Serving {
    /// Ends it; who is being answered gets the answer, within bounds.
    pub(crate) async fn close(self) {
        drop(self.end);
        let _ = self.task.await;
    }
}
