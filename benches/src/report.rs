//! What was measured, and where: the document that `--json` writes.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::setting::Setting;

/// A latency beside its baseline.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    /// Which benchmark.
    pub(crate) benchmark: &'static str,
    /// What was measured.
    pub(crate) what: String,
    /// What it is compared with.
    pub(crate) baseline: String,
    /// The figure.
    pub(crate) figure: Percentiles,
    /// The baseline's.
    pub(crate) beside: Percentiles,
    /// The median over all turns of the difference of the two p50.
    pub(crate) above_us: f64,
    /// The median over all turns of the ratio of the two p50.
    pub(crate) ratio: f64,
    /// The ratio of the two p99.
    pub(crate) p99_ratio: f64,
    /// What the ratios should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bound: Option<Bound>,
}

/// Percentiles over all samples, microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

/// Targets of a latency.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Bound {
    /// Largest ratio of the p50.
    pub(crate) p50_ratio: f64,
    /// Largest ratio of the p99.
    pub(crate) p99_ratio: f64,
}

/// Any other figure.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// Which benchmark.
    pub(crate) benchmark: &'static str,
    /// What was measured.
    pub(crate) what: String,
    /// The figure.
    pub(crate) value: f64,
    /// The worst of all that it is the middle of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) worst: Option<f64>,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// What it is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) beside: Option<Beside>,
    /// What it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<Target>,
}

/// The baseline of a figure, in the same unit.
#[derive(Debug, Serialize)]
pub(crate) struct Beside {
    pub(crate) what: String,
    pub(crate) value: f64,
    /// The figure as a multiple of it.
    pub(crate) ratio: f64,
}

/// What a figure should be.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// The figure itself.
    AtMost(f64),
    /// The ratio to the baseline.
    RatioAtLeast(f64),
}

impl Figure {
    /// A figure alone.
    pub(crate) fn new(benchmark: &'static str, what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { benchmark, what: what.into(), value, worst: None, unit, beside: None, target: None }
    }

    /// Beside a baseline.
    pub(crate) fn beside(self, what: impl Into<String>, value: f64) -> Self {
        let ratio = self.value / value.max(f64::MIN_POSITIVE);
        self.beside_in_turns(what, value, ratio)
    }

    /// Beside a baseline, with a ratio that was made turn by turn.
    pub(crate) fn beside_in_turns(mut self, what: impl Into<String>, value: f64, ratio: f64) -> Self {
        self.beside = Some(Beside { what: what.into(), value, ratio });
        self
    }

    /// With the worst of what it is the middle of.
    pub(crate) fn worst(mut self, worst: f64) -> Self {
        self.worst = Some(worst);
        self
    }

    /// With what it should be.
    pub(crate) fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }
}

/// A line of the table that has no figure, and why.
#[derive(Debug, Serialize)]
pub(crate) struct Absent {
    pub(crate) benchmark: &'static str,
    pub(crate) what: String,
    pub(crate) reason: String,
}

/// Everything that was measured, and where.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) setting: Setting,
    pub(crate) lines: Vec<Line>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) absent: Vec<Absent>,
}

impl Report {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { setting: Setting::look(), lines: Vec::new(), figures: Vec::new(), absent: Vec::new() }
    }

    /// Adds a latency.
    pub(crate) fn add(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Adds another figure.
    pub(crate) fn add_figure(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Says that something was not measured, and why: at once and in the report.
    pub(crate) fn skip(&mut self, benchmark: &'static str, what: impl Into<String>, reason: impl Into<String>) {
        let absent = Absent { benchmark, what: what.into(), reason: reason.into() };
        eprintln!("SKIPPED {benchmark}, {}: {}", absent.what, absent.reason);
        self.absent.push(absent);
    }

    /// Writes everything to a file.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}
