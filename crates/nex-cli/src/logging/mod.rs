//! The log of a node, and the few lines that client commands log: to standard error, never to standard output.

mod nats;

use std::fs::File;
use std::io::IsTerminal;

use anyhow::{Context, Result};
use nex_node::LogLine;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::sync::mpsc::Receiver;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{Level, Logger, LoggingArgs, TimeFormat};
use crate::output;

/// Who logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// A node: everything that happens is told.
    Node,
    /// A command: its result is what counts.
    Command,
}

/// Sets up logging for the process. What a node is to publish of its log is waiting in what is returned.
pub(crate) fn start(args: &LoggingArgs, audience: Audience) -> Result<Option<Receiver<LogLine>>> {
    let to = |logger| args.logger.contains(&logger);
    let mut layers = Vec::new();
    if audience == Audience::Command || to(Logger::Std) {
        let colour = args.logcolor || (std::io::stderr().is_terminal() && !output::colour_unwanted());
        layers.push(layer(args, colour && !args.logjson, std::io::stderr));
    }
    if audience == Audience::Node && to(Logger::File) {
        let file = File::options().create(true).append(true).open("nex.log").context("cannot log to nex.log")?;
        layers.push(layer(args, false, std::sync::Arc::new(file)));
    }
    let mut published = None;
    if audience == Audience::Node && to(Logger::Nats) {
        let (lines, waiting) = nats::lines();
        layers.push(layer(args, false, lines).with_filter(filter_fn(published_too)).boxed());
        published = Some(waiting);
    }
    tracing_subscriber::registry().with(layers).with(levels(args.loglevel, audience)).init();
    Ok(published)
}

fn layer<W>(args: &LoggingArgs, colour: bool, writer: W) -> Box<dyn Layer<tracing_subscriber::Registry> + Send + Sync>
where
    W: for<'a> tracing_subscriber::fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(colour).with_writer(writer);
    if args.logjson {
        layer.json().flatten_event(true).with_timer(Clock(TimeFormat::Rfc3339)).boxed()
    } else {
        layer.with_target(false).with_timer(Clock(args.timeformat)).boxed()
    }
}

/// Whether a record is published when a node logs to NATS: ours are, but not those about publishing, which would go on for
/// ever.
fn published_too(meta: &tracing::Metadata<'_>) -> bool {
    meta.target().starts_with("nex") && !meta.target().starts_with("nex_node::publisher")
}

/// Levels by crate. The NATS library reports at error level what is either handled or reported again by us.
fn levels(level: Option<Level>, audience: Audience) -> Targets {
    let ours = level.map_or(
        match audience {
            Audience::Node => LevelFilter::INFO,
            Audience::Command => LevelFilter::WARN,
        },
        |level| match level {
            Level::None => LevelFilter::OFF,
            Level::Trace => LevelFilter::TRACE,
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warn => LevelFilter::WARN,
            Level::Error => LevelFilter::ERROR,
        },
    );
    let theirs = if ours >= LevelFilter::DEBUG { ours } else { ours.min(LevelFilter::WARN) };
    let nats = if ours >= LevelFilter::DEBUG { ours } else { LevelFilter::OFF };
    Targets::new().with_default(theirs).with_target("nex", ours).with_target("async_nats", nats)
}

/// UTC in one of Go's forms.
#[derive(Debug, Clone, Copy)]
struct Clock(TimeFormat);

impl Clock {
    fn form(self) -> &'static [BorrowedFormatItem<'static>] {
        match self.0 {
            TimeFormat::DateOnly => format_description!("[year]-[month]-[day]"),
            TimeFormat::DateTime => format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"),
            TimeFormat::Stamp => format_description!("[month repr:short] [day padding:space] [hour]:[minute]:[second]"),
            TimeFormat::Rfc822 => {
                format_description!("[day] [month repr:short] [year repr:last_two] [hour]:[minute] UTC")
            }
            TimeFormat::Rfc3339 => {
                format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z")
            }
        }
    }
}

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let text = OffsetDateTime::now_utc().format(self.form()).map_err(|_| std::fmt::Error)?;
        writer.write_str(&text)
    }
}
