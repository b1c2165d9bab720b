//! The nex node: one machine's daemon.
//!
//! Owns: the state directory, the control interface, workloads and their triggers, the pool of agents, and, when told
//! to, a nats-server. Reached only through NATS subjects. It links no engine and runs no workload code: agents do.
//!
//! Life: [`check`] → build → run → drain; [`run`] is all of it. Every module says in its header what it promises.

pub mod artifact;
pub mod compiled;
pub mod config;
pub mod connection;
pub mod control;
pub mod embedded;
pub mod host;
pub mod lame_duck;
pub mod metrics;
mod node;
pub mod pools;
pub mod publisher;
pub mod sandbox;
pub mod state;
pub mod weakened;
pub mod workload;

use std::future::Future;
use std::path::PathBuf;

use nex_client::connection::{ConnectError, Settings};
use nex_identity::Issuer;
use nex_protocol::WorkloadType;
use nex_protocol::log::Level;
/// What the process does that a node starts to end its microVMs should the node be killed.
pub use nex_sandbox::microvm::reaper::reap;
use tokio::sync::mpsc::Receiver;

use crate::config::{Config, MetricsExporter};

/// A node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration cannot work on this machine.
    #[error("{}", .0.join("\n"))]
    Unfit(Vec<String>),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] state::StateError),
    /// A program is missing.
    #[error(transparent)]
    Program(#[from] host::NotFound),
    /// NATS cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The node's own nats-server does not start.
    #[error(transparent)]
    Embedded(#[from] embedded::EmbeddedError),
    /// The endpoint for metrics cannot listen.
    #[error(transparent)]
    Metrics(#[from] metrics::BindError),
    /// Agents cannot be started at all.
    #[error("cannot start agents: {0}")]
    Agents(String),
    /// The control interface cannot be served.
    #[error("cannot serve the control interface: {0}")]
    Serve(String),
    /// The file for the process id is taken or cannot be written.
    #[error("pid file {0} (remove it, or set another pid_filepath)")]
    PidFile(String),
}

/// A line of the node's own log, to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its severity.
    pub level: Level,
    /// The line, without its end.
    pub text: String,
}

/// What the command line says, which wins over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Runs workloads as processes.
    pub no_sandbox: Option<bool>,
    /// Tags to add or replace.
    pub tags: Vec<(String, String)>,
    /// State directory.
    pub state_dir: Option<PathBuf>,
    /// Starts a nats-server of the node's own.
    pub nats_embedded: bool,
    /// Group of nodes.
    pub nexus: Option<String>,
    /// Serves metrics.
    pub metrics: Option<bool>,
    /// Where.
    pub metrics_port: Option<u16>,
    /// How they are given.
    pub metrics_exporter: Option<MetricsExporter>,
}

impl Overrides {
    /// The configuration with these in it.
    #[must_use]
    pub fn apply(&self, mut config: Config) -> Config {
        if let Some(no_sandbox) = self.no_sandbox {
            config.no_sandbox = no_sandbox;
        }
        config.tags.extend(self.tags.iter().cloned());
        if let Some(state_dir) = &self.state_dir {
            config.state_dir = Some(state_dir.clone());
        }
        if self.nats_embedded && config.public_nats_server.is_none() {
            config.public_nats_server = Some(node::embedded_defaults());
        }
        if let Some(nexus) = &self.nexus {
            config.nexus.clone_from(nexus);
        }
        let metrics = &mut config.metrics;
        metrics.on = self.metrics.unwrap_or(metrics.on);
        metrics.port = self.metrics_port.unwrap_or(metrics.port);
        metrics.exporter = self.metrics_exporter.unwrap_or(metrics.exporter);
        config
    }
}

/// Problems of a configuration that only show on this machine; nothing is started or changed.
pub fn check(config: &Config, overrides: &Overrides) -> Vec<String> {
    let config = overrides.apply(config.clone());
    let mut problems = sandbox::problems(&config);
    let wants_v8 = config.workload_types.as_ref().is_some_and(|types| types.contains(&WorkloadType::V8));
    if config.no_sandbox
        && (wants_v8 || config.deno_path.is_some())
        && let Err(error) = host::deno(&config)
    {
        problems.push(format!("{error}: it runs JavaScript functions, workload type v8"));
    }
    if let Some(credentials) = &config.host_services.credentials
        && let Err(error) = Issuer::load(&credentials.account_seed_file)
    {
        problems.push(format!("host_services.credentials.account_seed_file: {error}"));
    }
    if config.public_nats_server.is_some()
        && let Err(error) = host::nats_server(&config)
    {
        problems.push(format!("{error}: it is needed for a NATS server of the node's own"));
    }
    if config.metrics.on && config.metrics.exporter == MetricsExporter::File {
        problems.push(
            "otel_metrics_exporter: \"file\" is not there, nor is metrics.log; use \"prometheus\", which serves them on \
             http://<otel_metrics_host>:<otel_metrics_port>/metrics"
                .to_owned(),
        );
    }
    problems
}

/// Runs a node until `shutdown` resolves, then drains it: the whole of `nex node up`. What is in `log` it publishes as its
/// own log.
///
/// # Errors
/// [`NodeError`] when it cannot start. Once it runs, it ends only when told to.
pub async fn run(
    config: Config,
    overrides: Overrides,
    nats: Settings,
    log: Option<Receiver<LogLine>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    host::keep_memory_private();
    node::Node::build(config, overrides, nats).await?.run(log, shutdown).await
}
