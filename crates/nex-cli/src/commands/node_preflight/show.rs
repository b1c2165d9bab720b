//! Checklist, plan and progress as people see them.

use std::cell::RefCell;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use nex_preflight::{Finding, Plan, Progress, Remedy, State, Step};
use serde::Serialize;

use crate::args::PreflightArgs;
use crate::output::{self, shown};

/// A step of a plan, for people and for programs.
#[derive(Serialize)]
pub(super) struct PlannedStep {
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    to: Vec<PathBuf>,
}

pub(super) fn steps(plan: &Plan, args: &PreflightArgs) -> Vec<PlannedStep> {
    let origin = args.origin();
    let planned = |step: &Step| {
        let to = step.targets().into_iter().map(Path::to_owned).collect();
        let (what, source) = match step {
            Step::Download { piece, version, source, .. } => (format!("{} {version}", piece.as_str()), Some(source)),
            Step::BuildImage { .. } => ("root image, built here".to_owned(), None),
            Step::WriteConflist { .. } => ("description of the CNI network".to_owned(), None),
        };
        PlannedStep {
            what,
            from: source.map(|source| origin.place(source)),
            sha256: source.and_then(|source| source.sha256).map(|digest| digest.to_string()),
            bytes: source.and_then(|source| source.bytes),
            to,
        }
    };
    plan.steps.iter().map(planned).collect()
}

pub(super) fn checks(checks: &[Finding], file: Option<&PathBuf>) -> Result<()> {
    let mut text = match file {
        Some(file) => format!("Checked for {}\n", file.display()),
        None => "Checked for the defaults: there is no config.json (--init writes one)\n".to_owned(),
    };
    let mut group = None;
    for finding in checks {
        if group != Some(finding.group) {
            group = Some(finding.group);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\nValidating - {}", finding.group.title());
        }
        let _ = writeln!(text, "{}", line(finding));
        if let Some(mend) = &finding.mend {
            let installs = match finding.remedy {
                None => String::new(),
                Some(Remedy::Download(piece)) if !finding.needed => {
                    format!("`--with {}` installs it. By hand: ", piece.as_str())
                }
                Some(_) if finding.state == State::Wrong => "`--force` replaces it. By hand: ".to_owned(),
                Some(_) => "preflight installs it. By hand: ".to_owned(),
            };
            let _ = writeln!(text, "     {installs}{}", shown(mend));
        }
    }
    output::line(text)
}

fn line(finding: &Finding) -> String {
    let (tick, word) = match (finding.state, finding.needed) {
        (State::Ok, _) => ("✅", "Satisfied"),
        (State::Missing, true) => ("⛔", "Missing"),
        (State::Wrong, true) => ("⛔", "Wrong"),
        (State::Missing, false) => ("➖", "Missing, not needed"),
        (State::Wrong, false) => ("➖", "Wrong, not needed"),
    };
    let place = finding.path.as_ref().map_or_else(|| finding.name.to_owned(), |path| path.display().to_string());
    format!("{}Dependency {word} - {} [{}]", output::emoji(tick), shown(&place), shown(&finding.detail))
}

pub(super) fn plan(steps: &[PlannedStep], verbose: bool) -> Result<()> {
    let mut text = "To be installed".to_owned();
    for step in steps {
        let size = step.bytes.map_or_else(String::new, |bytes| format!(", {} MiB", bytes.div_ceil(1 << 20)));
        let _ = write!(text, "\n  {}{size}", step.what);
        if let Some(from) = &step.from {
            let _ = write!(text, "\n    from {from}");
        }
        if let Some(digest) = step.sha256.as_ref().filter(|_| verbose) {
            let _ = write!(text, "\n    SHA-256 {digest}");
        }
        for path in &step.to {
            let replaces = if path.exists() { ", replaces what is there" } else { "" };
            let _ = write!(text, "\n    to {}{replaces}", path.display());
        }
    }
    output::line(text)
}

pub(super) fn installed(paths: &[PathBuf]) -> Result<()> {
    paths.iter().try_for_each(|path| output::line(format!("{}Installed {}", output::emoji("📦"), path.display())))?;
    output::line("")
}

/// A bar on standard error, when that is a terminal.
#[derive(Default)]
pub(super) struct Bar(RefCell<Option<ProgressBar>>);

impl Progress for Bar {
    fn begin(&self, name: &str, have: u64, size: Option<u64>) {
        let (bar, template) = match size {
            Some(size) => {
                (ProgressBar::new(size), "Downloading {msg} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec}")
            }
            None => (ProgressBar::no_length(), "Downloading {msg} {bytes} {bytes_per_sec}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(name.to_owned());
        bar.set_position(have);
        self.0.replace(Some(bar));
    }

    fn reached(&self, have: u64) {
        if let Some(bar) = &*self.0.borrow() {
            bar.set_position(have);
        }
    }

    fn end(&self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}
