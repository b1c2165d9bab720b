//! `nex node check`: everything that is wrong with a configuration, at once, and nothing started.

use std::process::ExitCode;

use anyhow::Result;
use nex_node::config::{Config, Loaded};
use serde::Serialize;

use super::node_up;
use crate::args::CheckArgs;
use crate::output;

/// What was found.
#[derive(Serialize)]
struct Report {
    file: String,
    ok: bool,
    problems: Vec<String>,
    warnings: Vec<String>,
}

pub(super) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let (problems, warnings) = match Config::load(&args.config) {
        Ok(Loaded { config, warnings }) => (nex_node::check(&config, &node_up::overrides(&args.overrides)), warnings),
        Err(errors) => (errors.problems, errors.warnings),
    };
    let report = Report { file: args.config.display().to_string(), ok: problems.is_empty(), problems, warnings };
    if args.json {
        output::json(&report)?;
    } else {
        for problem in &report.problems {
            output::line(format!("{}: problem: {problem}", report.file))?;
        }
        for warning in &report.warnings {
            output::line(format!("{}: warning: {warning}", report.file))?;
        }
        if report.ok {
            output::line(format!("{}: ok", report.file))?;
        }
    }
    if report.ok {
        return Ok(ExitCode::SUCCESS);
    }
    let count = report.problems.len();
    let problems = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
    anyhow::bail!("{}: {problems} to solve before a node can start with it", report.file)
}
