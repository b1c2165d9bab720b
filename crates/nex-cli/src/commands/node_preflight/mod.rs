//! `nex node preflight`: the checklist, and the installing of what is missing on it.
//!
//! Asks only on a terminal, and only when it was not told beforehand.

mod show;
mod wanted;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nex_preflight::{Fetcher, Finding, Manifest, Patience, Plan, State, examine};
use serde::Serialize;

use self::show::Bar;
use super::node_up;
use crate::args::PreflightArgs;
use crate::output;

/// What was found and done.
#[derive(Serialize)]
struct Report {
    /// The configuration; none when the defaults were looked at.
    file: Option<String>,
    ok: bool,
    checks: Vec<Finding>,
    /// What is missing and could be installed.
    plan: Vec<show::PlannedStep>,
    installed: Vec<PathBuf>,
}

pub(super) fn run(args: &PreflightArgs) -> Result<ExitCode> {
    let people = !args.json;
    let path = args.config.clone().unwrap_or_else(|| PathBuf::from(node_up::DEFAULT_CONFIG));
    if let Some(kind) = args.init {
        let written = nex_preflight::init(&path, kind.template(), &wanted::resources())?;
        if people {
            let what = if written { "written" } else { "is there already and was not changed" };
            output::line(format!("Configuration {} {what}", path.display()))?;
        }
    }
    // A file that was named has to be there; the default one need not.
    let named = args.config.is_some() || path.exists();
    let config = node_up::overrides(&args.overrides).apply(node_up::load(named.then_some(path.as_path()))?);
    let wanted = wanted::of(&config, &args.cni_ns);
    let manifest = manifest(args.manifest.as_deref())?;

    let checks = examine(&wanted, &manifest);
    let plan = Plan::new(&wanted, &manifest, &checks, &args.also(), args.force);
    if people {
        show::checks(&checks, named.then_some(&path))?;
    }
    let file = named.then(|| path.display().to_string());
    let mut report = Report { file, ok: false, checks, plan: show::steps(&plan, args), installed: Vec::new() };
    if !args.check && !plan.is_empty() {
        if people {
            show::plan(&report.plan, args.verbose)?;
        }
        if !(args.yes || args.force || agreed(args.json)?) {
            return finish(report, args, "nothing was installed");
        }
        report.installed = carry_out(&plan, args)?;
        report.checks = examine(&wanted, &manifest);
        report.plan = Vec::new();
        if people {
            show::installed(&report.installed)?;
            show::checks(&report.checks, named.then_some(&path))?;
        }
    }
    finish(report, args, "")
}

/// The last words: all is well, or what is not.
fn finish(mut report: Report, args: &PreflightArgs, note: &str) -> Result<ExitCode> {
    let blocking: Vec<&str> = report.checks.iter().filter(|one| one.blocks()).map(|one| one.name).collect();
    let summary = blocking.join(", ");
    let installable = !report.plan.is_empty();
    let replaceable = report.checks.iter().any(|one| one.blocks() && one.state == State::Wrong && one.remedy.is_some());
    report.ok = blocking.is_empty();
    if args.json {
        output::json(&report)?;
    }
    if report.ok {
        return Ok(ExitCode::SUCCESS);
    }
    let mut hints = Vec::new();
    if !note.is_empty() {
        hints.push(note.to_owned());
    }
    if installable {
        hints.push("`nex node preflight --yes` installs what is missing".to_owned());
    }
    if replaceable && !args.force {
        hints.push("--force replaces what is there and wrong".to_owned());
    }
    let hints = if hints.is_empty() { String::new() } else { format!(" ({})", hints.join("; ")) };
    bail!("not ready for a node: {summary}{hints}")
}

fn manifest(path: Option<&Path>) -> Result<Manifest> {
    let Some(path) = path else { return Ok(Manifest::embedded()?) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Manifest::parse(&text).with_context(|| path.display().to_string())
}

/// Whether the person at the terminal wants it. Where there is none, nobody is asked, and it is a no.
fn agreed(json: bool) -> Result<bool> {
    if json || !std::io::stdin().is_terminal() || !output::to_terminal() {
        return Ok(false);
    }
    output::line("Install this? [y/N]")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn carry_out(plan: &Plan, args: &PreflightArgs) -> Result<Vec<PathBuf>> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let bar = Bar::default();
    let fetcher = Fetcher::new(args.origin(), Patience::default(), &bar);
    Ok(runtime.block_on(plan.carry_out(&fetcher))?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nex_node::config::Config;
    use nex_preflight::Template;

    #[test]
    fn the_configurations_that_init_writes_are_understood_without_a_warning() {
        for (template, no_sandbox) in [(Template::Sandbox, false), (Template::NoSandbox, true)] {
            let loaded = Config::parse(&template.text(Path::new("/var/lib/nex/resources"))).unwrap();
            assert!(loaded.warnings.is_empty(), "{template:?}: {:?}", loaded.warnings);
            assert_eq!(loaded.config.no_sandbox, no_sandbox);
        }
    }
}
