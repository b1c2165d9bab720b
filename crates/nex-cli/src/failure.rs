//! Failures as the user sees them: one line on standard error, and an exit code.

use std::io::ErrorKind as IoErrorKind;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

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
            let text = without_secret(&error, one_line(&error.render().to_string()));
            eprintln!("nex: {text} (see `{} --help`)", command(&written));
            ExitCode::from(USAGE)
        }
    }
}

/// The message without the value it quotes, where that may be a secret whose key was forgotten.
fn without_secret(error: &clap::Error, text: String) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let (argument, value) = (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue));
    if argument.contains("KEY=VALUE") && !value.is_empty() { text.replace(value, "…") } else { text }
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
    let text = chain(error);
    let text: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    eprintln!("nex: {}", text.join("; "));
}

/// An error and its causes. A cause that its effect has quoted already is not said twice.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
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
    fn a_value_whose_key_was_forgotten_is_not_printed() {
        let error = Cli::try_parse_from(["nex", "devrun", "f.js", "hunter2"]).unwrap_err();
        let text = without_secret(&error, one_line(&error.render().to_string()));
        assert!(!text.contains("hunter2") && text.contains("KEY=VALUE"), "{text}");
    }

    #[test]
    fn a_cause_is_not_said_twice() {
        let cause = std::io::Error::from(IoErrorKind::NotFound);
        let quoted = format!("key file x: {cause}");
        assert_eq!(chain(&anyhow::Error::new(cause).context(quoted.clone())), quoted);
    }

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
