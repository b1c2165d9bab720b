//! The report for people.

use comfy_table::{CellAlignment, Table};

use crate::report::{Bound, Figure, Line, Report, Target};

/// Prints what there is.
pub(crate) fn print(report: &Report) {
    if !report.lines.is_empty() {
        println!("\n{}", lines(&report.lines));
    }
    if !report.figures.is_empty() {
        println!("\n{}", figures(&report.figures));
    }
    if !report.absent.is_empty() {
        let mut table = table(&["Not measured", "Why"], &[]);
        for absent in &report.absent {
            table.add_row([format!("{}: {}", absent.benchmark, absent.what), absent.reason.clone()]);
        }
        println!("\n{table}");
    }
    println!("\n{}", report.setting);
}

/// An empty table, with columns of numbers.
pub(crate) fn table(header: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    for number in numbers {
        if let Some(column) = table.column_mut(*number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn lines(lines: &[Line]) -> Table {
    let header = [
        "Latency, µs",
        "p50",
        "p99",
        "p99.9",
        "Baseline",
        "p50",
        "p99",
        "p99.9",
        "Above",
        "Ratio",
        "p99 ratio",
        "Target",
    ];
    let mut table = table(&header, &[1, 2, 3, 5, 6, 7, 8, 9, 10]);
    for line in lines {
        table.add_row([
            format!("{}: {}", line.benchmark, line.what),
            number(line.figure.p50_us),
            number(line.figure.p99_us),
            number(line.figure.p999_us),
            line.baseline.clone(),
            number(line.beside.p50_us),
            number(line.beside.p99_us),
            number(line.beside.p999_us),
            number(line.above_us),
            format!("{:.2}", line.ratio),
            format!("{:.2}", line.p99_ratio),
            line.bound
                .map_or_else(String::new, |Bound { p50_ratio, p99_ratio }| format!("≤ {p50_ratio}, ≤ {p99_ratio}")),
        ]);
    }
    table
}

fn figures(figures: &[Figure]) -> Table {
    let header = ["Benchmark", "Figure", "Worst", "Unit", "Baseline", "Figure", "Ratio", "Target"];
    let mut table = table(&header, &[1, 2, 5, 6]);
    for figure in figures {
        let (what, value, ratio) = match &figure.beside {
            Some(beside) => (beside.what.clone(), number(beside.value), format!("{:.2}", beside.ratio)),
            None => Default::default(),
        };
        table.add_row([
            format!("{}: {}", figure.benchmark, figure.what),
            number(figure.value),
            figure.worst.map_or_else(String::new, number),
            figure.unit.to_owned(),
            what,
            value,
            ratio,
            match figure.target {
                Some(Target::AtMost(most)) => format!("≤ {most}"),
                Some(Target::RatioAtLeast(least)) => format!("ratio ≥ {least}"),
                None => String::new(),
            },
        ]);
    }
    table
}

/// As many places as help to read it.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
