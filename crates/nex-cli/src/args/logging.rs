//! Flags about logging.

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};

/// What is logged, where and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LoggingArgs {
    /// Least severe level to log [default: info for nodes, warn for other commands]
    #[arg(long, env = "NEX_LOGLEVEL", global = true, value_enum, ignore_case = true)]
    pub(crate) loglevel: Option<Level>,
    /// Log JSON, one object a line
    #[arg(long, env = "NEX_LOGJSON", global = true, value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub(crate) logjson: bool,
    /// Colour the log even when it goes to no terminal
    #[arg(long, env = "NEX_LOG_COLORIZED", global = true, value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub(crate) logcolor: bool,
    /// Where a node logs to: standard error, the file nex.log, or NATS ($NEX.logs.system.NODE.stdout and .stderr);
    /// may be repeated
    #[arg(
        long,
        env = "NEX_LOGGER",
        global = true,
        value_enum,
        value_delimiter = ',',
        default_value = "std",
        hide_possible_values = false
    )]
    pub(crate) logger: Vec<Logger>,
    /// Form of the times in the log, which are UTC
    #[arg(long, env = "NEX_LOG_TIMEFORMAT", global = true, value_enum, default_value = "DateTime", ignore_case = true)]
    pub(crate) timeformat: TimeFormat,
}

/// Levels, most severe last but for `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    None,
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Targets of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Logger {
    Std,
    File,
    Nats,
}

/// Go's names for forms of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub(crate) enum TimeFormat {
    DateOnly,
    DateTime,
    Stamp,
    #[value(name = "RFC822")]
    Rfc822,
    #[value(name = "RFC3339")]
    Rfc3339,
}
