//! Commands that look at what nodes tell: logs, events, workloads across nodes; and the one that sends a node away.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use nex_protocol::log::Level;

use super::duration;

/// Which part of a feed.
#[derive(Debug, Args)]
pub(crate) struct FeedArgs {
    /// Begin so long ago, such as 10m, and end with the present; a JetStream stream must keep the messages
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    since: Option<Duration>,
    /// Go on with what comes; without --since, that is what happens anyway
    #[arg(short, long)]
    follow: bool,
    /// End after so many lines
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Print JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

impl FeedArgs {
    /// From when until when.
    pub(crate) fn reach(&self) -> nex_client::Reach {
        match (self.since, self.follow) {
            (None, _) => nex_client::Reach::Live,
            (Some(since), false) => nex_client::Reach::Past(since),
            (Some(since), true) => nex_client::Reach::PastAndLive(since),
        }
    }
}

/// `nex logs`
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Only from this node: its id, the beginning of it (4 characters or more), or its name
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Only of workloads with this name
    #[arg(long = "workload_name", alias = "workload-name", value_name = "NAME")]
    pub(crate) workload_name: Option<String>,
    /// Only of the workload with this id
    #[arg(long = "workload_id", alias = "workload-id", value_name = "ID")]
    pub(crate) workload_id: Option<String>,
    /// Least severe level to show: debug, info, warn or error
    #[arg(long, value_name = "LEVEL", default_value = "debug", value_parser = level)]
    pub(crate) level: Level,
    #[command(flatten)]
    pub(crate) feed: FeedArgs,
}

/// `nex events`
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only events of this type, such as workload_deployed; may be repeated
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
    pub(crate) types: Vec<String>,
    #[command(flatten)]
    pub(crate) feed: FeedArgs,
}

/// `nex workload …`
#[derive(Debug, Subcommand)]
pub(crate) enum WorkloadCommand {
    /// List the workloads of the namespace on all nodes
    #[command(alias = "list")]
    Ls(WorkloadLsArgs),
}

/// `nex workload ls`
#[derive(Debug, Args)]
pub(crate) struct WorkloadLsArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nex node probe`
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// Only the workload with this id, or workloads with this name
    #[arg(long, value_name = "WORKLOAD", value_parser = token)]
    pub(crate) workload: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nex lameduck`
#[derive(Debug, Args)]
pub(crate) struct LameDuckArgs {
    /// Id of the node, the beginning of it (4 characters or more), or its name
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// How long its workloads go on before it ends them and leaves [default: as the node is configured]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub(crate) delay: Option<Duration>,
    /// File with the account key that signs the order, which nodes with valid_issuers want
    /// [default: ~/.nex/issuer.nk when there is one]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) issuer: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn level(text: &str) -> Result<Level, String> {
    Level::try_from(text.to_owned()).map_err(|error| error.to_string())
}

/// What becomes a token of a subject: no wildcard may get in there.
fn token(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err("only letters, digits, - and _ are in an id or name".to_owned());
    }
    Ok(text.to_owned())
}

fn event_type(text: &str) -> Result<String, String> {
    token(text).map_err(|_| "an event type is a word such as workload_deployed".to_owned())
}
