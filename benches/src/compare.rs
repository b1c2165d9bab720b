//! A run beside an earlier one: what has changed in each line that both have.
//!
//! Compared are ratios to the baseline where there is one: the machine may have been another, or busier.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::report::Report;
use crate::table::table;

/// What is needed of the document that a run wrote.
#[derive(Debug, Deserialize)]
pub(crate) struct Earlier {
    commit: String,
    date: String,
    lines: Vec<EarlierLine>,
    figures: Vec<EarlierFigure>,
}

#[derive(Debug, Deserialize)]
struct EarlierLine {
    benchmark: String,
    what: String,
    ratio: f64,
}

#[derive(Debug, Deserialize)]
struct EarlierFigure {
    benchmark: String,
    what: String,
    value: f64,
    unit: String,
    beside: Option<EarlierBeside>,
}

#[derive(Debug, Deserialize)]
struct EarlierBeside {
    ratio: f64,
}

/// A figure of a run, and whether it is a ratio.
type Known = BTreeMap<String, (f64, String)>;

const RATIO: &str = "ratio";

impl Earlier {
    /// Reads what `--json` wrote.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not what --json writes", file.display()))
    }

    fn known(&self) -> Known {
        let lines = self.lines.iter().map(|line| (key(&line.benchmark, &line.what), (line.ratio, RATIO.to_owned())));
        let figures = self.figures.iter().map(|figure| {
            let value = match &figure.beside {
                Some(beside) => (beside.ratio, RATIO.to_owned()),
                None => (figure.value, figure.unit.clone()),
            };
            (key(&figure.benchmark, &figure.what), value)
        });
        lines.chain(figures).collect()
    }

    /// Shows how each line has changed.
    pub(crate) fn print_change_to(&self, report: &Report) {
        let mut table = table(&["Change", "Earlier", "Now", "Of", "Now/earlier"], &[1, 2, 4]);
        for change in self.changes(report) {
            table.add_row([
                change.what,
                format!("{:.2}", change.earlier),
                format!("{:.2}", change.now),
                change.unit,
                format!("{:.2}", change.now / change.earlier),
            ]);
        }
        println!("\n{table}\nEarlier: commit {}, {}", self.commit, self.date);
    }

    fn changes(&self, report: &Report) -> Vec<Change> {
        let known = self.known();
        let lines = report.lines.iter().map(|line| (key(line.benchmark, &line.what), line.ratio, RATIO));
        let figures = report.figures.iter().map(|figure| {
            let (value, unit) = figure.beside.as_ref().map_or((figure.value, figure.unit), |b| (b.ratio, RATIO));
            (key(figure.benchmark, &figure.what), value, unit)
        });
        lines
            .chain(figures)
            .filter_map(|(what, now, unit)| {
                let (earlier, _) = known.get(&what).filter(|(_, known)| known == unit)?;
                Some(Change { what, earlier: *earlier, now, unit: unit.to_owned() })
            })
            .collect()
    }
}

struct Change {
    what: String,
    earlier: f64,
    now: f64,
    unit: String,
}

fn key(benchmark: &str, what: &str) -> String {
    format!("{benchmark}: {what}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]
    use super::*;
    use crate::report::Figure;

    #[test]
    fn what_a_run_writes_is_what_the_next_one_compares_with() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.json");
        let mut report = Report::new();
        report.add_figure(Figure::new("b", "ratio", 10.0, "ms").beside("base", 5.0));
        report.add_figure(Figure::new("b", "alone", 3.0, "ms"));
        report.add_figure(Figure::new("b", "another unit", 3.0, "ms"));
        report.write(&file).unwrap();

        let earlier = Earlier::read(&file).unwrap();
        let mut now = Report::new();
        now.add_figure(Figure::new("b", "ratio", 40.0, "ms").beside("base", 10.0));
        now.add_figure(Figure::new("b", "alone", 6.0, "ms"));
        now.add_figure(Figure::new("b", "another unit", 6.0, "s"));
        now.add_figure(Figure::new("b", "new", 1.0, "ms"));
        let changes = earlier.changes(&now);
        let values: Vec<_> = changes.iter().map(|change| (change.what.as_str(), change.earlier, change.now)).collect();
        assert_eq!(values, [("b: ratio", 2.0, 4.0), ("b: alone", 3.0, 6.0)]);
        assert!(Earlier::read(&folder.path().join("missing")).is_err());
    }
}
