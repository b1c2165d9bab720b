//! Commands about nodes.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand, ValueEnum};

use super::observe::{LameDuckArgs, ProbeArgs};
use super::preflight::PreflightArgs;
use super::workload::key_value;

/// `nex node …`
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Start a node and run it until a signal comes
    Up(UpArgs),
    /// List the nodes that answer
    #[command(alias = "list")]
    Ls(LsArgs),
    /// Show one node and the workloads of the namespace on it
    Info(InfoArgs),
    /// List the workloads of the namespace, and the nodes they are on
    Probe(ProbeArgs),
    /// Have a node take no new work and leave
    #[command(hide = true)]
    Lameduck(LameDuckArgs),
    /// Check a configuration file and start nothing
    Check(CheckArgs),
    /// Look for what a node needs of this machine, and install what is missing
    Preflight(Box<PreflightArgs>),
    /// Started by a node: ends its microVMs should it be killed
    #[command(hide = true)]
    Reap(ReapArgs),
}

/// `nex node reap`
#[derive(Debug, Args)]
pub(crate) struct ReapArgs {
    /// Folder of the node's machines
    pub(crate) machines: PathBuf,
    /// Folders of the node's control groups
    pub(crate) groups: Vec<PathBuf>,
}

/// `nex node up`
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Configuration file [default: ./config.json when there is one]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) overrides: NodeOverrides,
}

/// What flags may change of a configuration.
#[derive(Debug, Args)]
pub(crate) struct NodeOverrides {
    /// Run workloads as plain processes, without isolation
    #[arg(long, env = "NEX_NODE_NOSANDBOX", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    pub(crate) no_sandbox: Option<bool>,
    /// Start a nats-server of the node's own
    #[arg(long, value_enum, value_name = "SOURCE")]
    pub(crate) nats: Option<NatsSource>,
    /// Tags of the node; may be repeated or separated by commas
    #[arg(long, env = "NEX_NODE_TAGS", value_delimiter = ',', value_parser = tag, value_name = "KEY=VALUE")]
    tags: Vec<(String, String)>,
    /// Directory for the node's identity and state
    #[arg(long, env = "NEX_STATE_DIR", value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Group of nodes this one belongs to [default: nexus]
    #[arg(long, value_name = "NAME")]
    pub(crate) nexus: Option<String>,
    /// Serve metrics for Prometheus
    #[arg(long, env = "NEX_NODE_METRICS", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), value_name = "BOOL", hide_possible_values = true)]
    pub(crate) metrics: Option<bool>,
    /// Port of the metrics, 0 for a free one [default: 8085]
    #[arg(long = "metrics_port", alias = "metrics-port", env = "NEX_NODE_METRICS_PORT", value_name = "PORT")]
    pub(crate) metrics_port: Option<u16>,
    /// How metrics are given [default: prometheus]
    #[arg(long = "otel_metrics_exporter", alias = "otel-metrics-exporter", value_enum, value_name = "KIND")]
    pub(crate) metrics_exporter: Option<MetricsExporter>,
}

impl NodeOverrides {
    /// The tags that were given.
    pub(crate) fn tags(&self) -> Vec<(String, String)> {
        self.tags.iter().filter(|(key, _)| !key.is_empty()).cloned().collect()
    }
}

/// A tag; nothing at all stands for none, so that the environment variable may be set to nothing.
fn tag(text: &str) -> Result<(String, String), String> {
    if text.is_empty() { Ok((String::new(), String::new())) } else { key_value(text) }
}

/// How metrics are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MetricsExporter {
    /// On a port, to Prometheus
    Prometheus,
    /// Known of Go Nex, and refused with what to use instead
    #[value(hide = true)]
    File,
}

impl From<MetricsExporter> for nex_node::config::MetricsExporter {
    fn from(exporter: MetricsExporter) -> Self {
        match exporter {
            MetricsExporter::Prometheus => Self::Prometheus,
            MetricsExporter::File => Self::File,
        }
    }
}

/// Where NATS comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NatsSource {
    /// A nats-server that the node starts and supervises
    Embedded,
}

/// `nex node ls`
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Show nexus, uptime, sandbox, operating system and architecture too
    #[arg(long)]
    pub(crate) full: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nex node info`
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// Id of the node, the beginning of it (4 characters or more), or its name
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// Show type, state, restarts and triggers of the workloads too
    #[arg(long)]
    pub(crate) full: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nex node check`
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = "config.json", value_hint = clap::ValueHint::FilePath)]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) overrides: NodeOverrides,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
