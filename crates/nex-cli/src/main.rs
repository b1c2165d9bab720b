//! The `nex` command: arguments in, commands run, one clear line when something fails.

mod args;
mod artifact_kind;
mod commands;
mod failure;
mod keys;
mod logging;
mod output;
mod words;

use std::process::ExitCode;

fn main() -> ExitCode {
    let result = args::Cli::read().map_err(failure::usage).and_then(|cli| {
        commands::run(cli).map_err(|error| {
            failure::report(&error);
            ExitCode::FAILURE
        })
    });
    result.unwrap_or_else(|code| code)
}
