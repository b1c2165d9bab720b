//! Failures as the user sees them: one line on standard error, and an exit code.

use std::io::ErrorKind as IoErrorKind;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::args::Cli;

/// Exit code of a command line that cannot be understood.
const USAGE: u8 = 2;

/// Prints what the parser says: help and version as they are, mistakes in one line.
pub(crate) fn usage(error: clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has gone away (`nex --help | head`) is no failure of ours.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(USAGE)
        }
        _ => {
            let written: Vec<String> = std::env::args().skip(1).collect();
            eprintln!("nex: {} (see `{} --help`)", one_line(&error.render().to_string()), command(&written));
            ExitCode::from(USAGE)
        }
    }
}

/// The parser's message, tips included, without the usage below it.
fn one_line(message: &str) -> String {
    let mut text = String::new();
    for line in message.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with("Usage: ") || line.starts_with("For more information") {
            break;
        }
        if !text.is_empty() {
            text.push_str(if line.starts_with("tip: ") { "; " } else { " " });
        }
        text.push_str(line.strip_prefix("error: ").unwrap_or(line));
    }
    text
}

/// The command as far as it can be recognised in what was written: `nex node ls`.
fn command(written: &[String]) -> String {
    let cli = Cli::command();
    let mut command = &cli;
    let mut path = vec![cli.get_name().to_owned()];
    for word in written {
        if let Some(found) = command.find_subcommand(word) {
            path.push(found.get_name().to_owned());
            command = found;
        }
    }
    path.join(" ")
}

/// Prints a failed command's error, causes included.
pub(crate) fn report(error: &anyhow::Error) {
    // Messages of the other side may have several lines; ours is one.
    let text = format!("{error:#}");
    let text: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    eprintln!("nex: {}", text.join("; "));
}

/// Whether an error is that of a reader that stopped reading.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == IoErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn a_usage_error_is_one_line() {
        let message = |line: &str| one_line(&Cli::try_parse_from(line.split(' ')).unwrap_err().render().to_string());
        assert_eq!(message("nex devrun"), "the following required arguments were not provided: <FILE>");
        assert_eq!(
            message("nex node ls --fulll"),
            "unexpected argument '--fulll' found; tip: a similar argument exists: '--full'"
        );
    }

    #[test]
    fn the_command_is_recognised_by_its_names_and_aliases() {
        let of = |line: &str| command(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("-s nats://x nodes list --fulll"), "nex node ls");
        assert_eq!(of("yeet f nokey"), "nex devrun");
        assert_eq!(of("nonsense"), "nex");
    }
}
