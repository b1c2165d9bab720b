//! Tables: with a title and borders on a terminal, columns of text otherwise.

use comfy_table::presets::{NOTHING, UTF8_FULL_CONDENSED};
use comfy_table::{CellAlignment, LineStyle};

use super::shown;

/// Rows under a header.
pub(crate) struct Table {
    title: &'static str,
    rows: comfy_table::Table,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(title: &'static str, columns: &[&str]) -> Self {
        let mut rows = comfy_table::Table::new();
        rows.set_header(columns.iter().copied());
        Self { title, rows }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.add_row(cells.iter().map(|cell| shown(cell)));
    }

    /// The last column holds numbers.
    pub(crate) fn last_is_number(&mut self) {
        if let Some(column) = self.rows.column_iter_mut().last() {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }

    /// The text; `bordered` for people, otherwise columns two blanks apart, one line a row, which tools can cut.
    pub(crate) fn render(&mut self, bordered: bool) -> String {
        if bordered { self.with_borders() } else { self.plain() }
    }

    fn plain(&mut self) -> String {
        self.rows.load_style(NOTHING);
        for column in self.rows.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let lines: Vec<String> = self.rows.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.join("\n")
    }

    fn with_borders(&mut self) -> String {
        let style = UTF8_FULL_CONDENSED.with_rounded_corners().with_solid_inner_borders();
        self.rows.load_style(style.header_separator(LineStyle::new('├', '─', '┼', '┤')));
        let mut lines: Vec<String> = self.rows.lines().collect();
        // The title is a row of its own across all columns, as the NATS tools draw it.
        if let Some(top) = lines.first_mut() {
            let width = top.chars().count().saturating_sub(2);
            let below_title = top.replace('╭', "├").replace('╮', "┤");
            let border = format!("╭{}╮", "─".repeat(width));
            *top = below_title;
            lines.insert(0, format!("│{:^width$}│", self.title));
            lines.insert(0, border);
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("NATS Nodes", &["ID", "Name", "Workloads"]);
        table.row(vec!["NAB*".into(), "quiet-fox".into(), "2".into()]);
        table.last_is_number();
        table
    }

    #[test]
    fn borders_and_a_title_for_people() {
        let expected = "\
╭─────────────────────────────╮
│         NATS Nodes          │
├──────┬───────────┬──────────┤";
        let text = table().render(true);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7, "{text}");
        let widths: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
        assert!(lines[0].starts_with('╭') && lines[6].starts_with('╰'), "{text}");
        assert_eq!(lines[2].chars().filter(|c| *c == '┬').count(), 2, "{text}");
        assert_eq!(expected.lines().count(), 3);
    }

    #[test]
    fn plain_columns_for_pipes() {
        let text = table().render(false);
        assert!(text.is_ascii(), "{text}");
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows, [vec!["ID", "Name", "Workloads"], vec!["NAB*", "quiet-fox", "2"]]);
    }
}
