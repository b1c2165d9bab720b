//! `nex node up`: a node, until a signal comes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nex_node::config::{Config, Loaded};
use nex_node::{LogLine, Overrides};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Receiver;

use super::session;
use crate::args::{GlobalArgs, NatsSource, NodeOverrides, UpArgs};

/// The file that is used when none is named.
pub(super) const DEFAULT_CONFIG: &str = "config.json";

/// Exit code of a node that was told twice to end.
const INTERRUPTED: i32 = 130;

pub(super) fn run(global: &GlobalArgs, args: &UpArgs, log: Option<Receiver<LogLine>>) -> Result<()> {
    let config = load(args.config.as_deref())?;
    let nats = session::resolve(global)?.settings;
    let runtime = runtime().context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        // From here on no signal ends the process by itself.
        let listen = |kind| signal(kind).context("cannot listen for signals");
        let signals = Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        };
        nex_node::run(config, overrides(&args.overrides), nats, log, shutdown(signals)).await?;
        Ok(())
    });
    // Whatever still blocks in the background must not keep an ended node from exiting.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// A thread for each processor, but one where there are only two: there a node's threads take turns with its agents and
/// with NATS, and most of what a message costs is waking one thread from another.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = if processors > 2 {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder.enable_all().build()
}

/// What the flags change of a configuration.
pub(super) fn overrides(args: &NodeOverrides) -> Overrides {
    Overrides {
        no_sandbox: args.no_sandbox,
        tags: args.tags(),
        state_dir: args.state_dir.clone(),
        nats_embedded: args.nats == Some(NatsSource::Embedded),
        nexus: args.nexus.clone(),
        metrics: args.metrics,
        metrics_port: args.metrics_port,
        metrics_exporter: args.metrics_exporter.map(Into::into),
    }
}

pub(super) fn load(path: Option<&Path>) -> Result<Config> {
    let default = Path::new(DEFAULT_CONFIG);
    let path = match path {
        Some(path) => path,
        None if default.exists() => default,
        None => {
            tracing::info!("no --config given and there is no ./{DEFAULT_CONFIG}: the defaults are used");
            return Ok(Config::default());
        }
    };
    match Config::load(path) {
        Ok(Loaded { config, warnings }) => {
            for warning in warnings {
                tracing::warn!("{}: {warning}", path.display());
            }
            tracing::info!("configuration loaded from {}", path.display());
            Ok(config)
        }
        Err(errors) => bail!("{}: {}", path.display(), errors.problems.join("; ")),
    }
}

/// Resolves at the first signal; the second one ends the process at once.
async fn shutdown(mut signals: Signals) {
    let first = signals.next().await;
    tracing::info!(signal = first, "stopping the node; a second signal ends it at once");
    tokio::spawn(async move {
        let second = signals.next().await;
        eprintln!("nex: {second} again: ended without stopping in order");
        std::process::exit(INTERRUPTED);
    });
}

/// The signals that end a node.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// The terminal went away: nobody sees the node any more, and it leaves in order.
    hangup: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
