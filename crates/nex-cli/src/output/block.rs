//! Labelled values under headings, the colons below each other, as the NATS tools print details.

use std::fmt::Write;

use super::shown;

enum Item {
    Heading(String),
    Value(String, String),
    Gap,
}

/// Lines to be aligned.
#[derive(Default)]
pub(crate) struct Block(Vec<Item>);

impl Block {
    /// A line at the margin, set apart.
    pub(crate) fn heading(&mut self, text: &str) {
        if !self.0.is_empty() {
            self.gap();
        }
        self.0.push(Item::Heading(text.to_owned()));
        self.gap();
    }

    /// A labelled value.
    pub(crate) fn value(&mut self, label: &str, value: impl Into<String>) {
        self.0.push(Item::Value(label.to_owned(), value.into()));
    }

    /// An empty line, unless there is one already.
    pub(crate) fn gap(&mut self) {
        if !matches!(self.0.last(), Some(Item::Gap)) {
            self.0.push(Item::Gap);
        }
    }

    /// The text.
    pub(crate) fn render(&self) -> String {
        let label_width = |item: &Item| match item {
            Item::Value(label, _) => label.chars().count(),
            _ => 0,
        };
        let width = self.0.iter().map(label_width).max().unwrap_or(0) + 2;
        let mut text = String::new();
        for item in &self.0 {
            // Writing to a string cannot fail.
            let _ = match item {
                Item::Heading(heading) => writeln!(text, "{heading}"),
                Item::Value(label, value) => writeln!(text, "{label:>width$}: {}", shown(value)),
                Item::Gap => writeln!(text),
            };
        }
        text.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colons_are_below_each_other() {
        let mut block = Block::default();
        block.heading("NEX Node Information");
        block.value("Node", "N1");
        block.value("Description", "two\nlines\u{1b}[2J");
        assert_eq!(block.render(), "NEX Node Information\n\n         Node: N1\n  Description: two lines [2J");
    }
}
