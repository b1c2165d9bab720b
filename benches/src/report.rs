//! What was measured, as a table for people and as JSON for comparisons.

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

/// One figure beside its baseline, microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    /// Which benchmark.
    pub(crate) benchmark: &'static str,
    /// What was measured.
    pub(crate) what: String,
    /// What it is compared with.
    pub(crate) baseline: String,
    /// The figure: the median over all turns of the turn's p50.
    pub(crate) p50_us: f64,
    /// Likewise of the p99.
    pub(crate) p99_us: f64,
    /// The baseline's.
    pub(crate) baseline_p50_us: f64,
    /// Likewise.
    pub(crate) baseline_p99_us: f64,
    /// The median over all turns of the difference of the two p50.
    pub(crate) above_us: f64,
    /// The median over all turns of their ratio.
    pub(crate) ratio: f64,
}

/// A figure that nothing in the same run can be compared with.
#[derive(Debug, Serialize)]
pub(crate) struct Single {
    /// Which benchmark.
    pub(crate) benchmark: &'static str,
    /// What was measured.
    pub(crate) what: String,
    /// The figure.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: &'static str,
}

/// Everything that was measured, and where.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    processor: String,
    processors: usize,
    nats_server: Option<String>,
    lines: Vec<Line>,
    singles: Vec<Single>,
}

impl Report {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            processor: name.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            nats_server: None,
            lines: Vec::new(),
            singles: Vec::new(),
        }
    }

    /// Says which server was used.
    pub(crate) fn server(&mut self, version: &str) {
        self.nats_server = Some(version.to_owned());
    }

    /// Adds a figure.
    pub(crate) fn add(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Adds a figure without a baseline.
    pub(crate) fn add_single(&mut self, single: Single) {
        self.singles.push(single);
    }

    /// Prints what there is.
    pub(crate) fn print(&self) {
        if !self.lines.is_empty() {
            self.print_lines();
        }
        if !self.singles.is_empty() {
            self.print_singles();
        }
        let server = self.nats_server.as_deref().unwrap_or("unknown");
        println!("{} × {}, nats-server {server}", self.processors, self.processor);
    }

    fn print_singles(&self) {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header(["Benchmark", "Figure", "Unit"]);
        for single in &self.singles {
            table.add_row([
                format!("{}: {}", single.benchmark, single.what),
                format!("{:.1}", single.value),
                single.unit.to_owned(),
            ]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("\n{table}");
    }

    fn print_lines(&self) {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header(["Benchmark", "p50 µs", "p99 µs", "Baseline", "p50 µs", "p99 µs", "Above µs", "Ratio"]);
        for line in &self.lines {
            let figure = |value: f64| format!("{value:.1}");
            table.add_row([
                format!("{}: {}", line.benchmark, line.what),
                figure(line.p50_us),
                figure(line.p99_us),
                line.baseline.clone(),
                figure(line.baseline_p50_us),
                figure(line.baseline_p99_us),
                figure(line.above_us),
                format!("{:.2}", line.ratio),
            ]);
        }
        for column in [1, 2, 4, 5, 6, 7] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        println!("\n{table}");
    }

    /// Writes everything to a file.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}
