//! The text format of Prometheus, version 0.0.4: `# HELP`, `# TYPE` and a line for each sample.
//! See <https://prometheus.io/docs/instrumenting/exposition_formats/>.
//!
//! Writes what it is given, escaped. Knows no names; that a series has one sample is for those who give them.

use std::fmt::{self, Display, Write};

/// Content type of the text.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a value may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, but for restarts.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        })
    }
}

/// The text as it grows.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

impl Exposition {
    /// Series of one name. A family without samples leaves no trace.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        Family { text: &mut self.text, name, kind, help, begun: false }
    }

    /// The whole text.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// See [`Exposition::family`].
#[derive(Debug)]
pub(super) struct Family<'e> {
    text: &'e mut String,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    begun: bool,
}

impl Family<'_> {
    /// One sample. Whole numbers and decimals are written as they are.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        // Writing to a text does not fail.
        let _ = self.write(labels, &value);
    }

    fn write(&mut self, labels: &[(&str, &str)], value: &dyn Display) -> fmt::Result {
        let Self { text, name, kind, help, .. } = self;
        if !self.begun {
            write!(text, "# HELP {name} ")?;
            escape(text, help, false)?;
            write!(text, "\n# TYPE {name} {kind}\n")?;
            self.begun = true;
        }
        text.write_str(name)?;
        let mut before = '{';
        for (label, value) in labels {
            write!(text, "{before}{label}=\"")?;
            escape(text, value, true)?;
            text.write_char('"')?;
            before = ',';
        }
        if !labels.is_empty() {
            text.write_char('}')?;
        }
        writeln!(text, " {value}")
    }
}

fn escape(text: &mut String, raw: &str, quoted: bool) -> fmt::Result {
    for character in raw.chars() {
        match character {
            '\\' => text.write_str("\\\\")?,
            '\n' => text.write_str("\\n")?,
            '"' if quoted => text.write_str("\\\"")?,
            plain => text.write_char(plain)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_described_once_before_its_samples() {
        let mut exposition = Exposition::default();
        let mut family = exposition.family("things_total", Kind::Counter, "What there was");
        family.sample(&[("kind", "a"), ("of", "b")], 1_u64);
        family.sample(&[("kind", "c"), ("of", "b")], u64::MAX);
        exposition.family("level", Kind::Gauge, "How much").sample(&[], 0.25_f64);
        let expected = "\
# HELP things_total What there was
# TYPE things_total counter
things_total{kind=\"a\",of=\"b\"} 1
things_total{kind=\"c\",of=\"b\"} 18446744073709551615
# HELP level How much
# TYPE level gauge
level 0.25
";
        assert_eq!(exposition.into_text(), expected);
    }

    #[test]
    fn a_family_without_samples_leaves_no_trace() {
        let mut exposition = Exposition::default();
        exposition.family("nothing", Kind::Gauge, "Nothing");
        assert_eq!(exposition.into_text(), "");
    }

    #[test]
    fn no_value_of_a_label_and_no_help_breaks_out_of_its_place() {
        let mut exposition = Exposition::default();
        let mut family = exposition.family("x", Kind::Gauge, "a \"b\" \\ c\nd");
        family.sample(&[("l", "q\" b\\ n\n ü")], 1_u64);
        let text = exposition.into_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, [r#"# HELP x a "b" \\ c\nd"#, "# TYPE x gauge", r#"x{l="q\" b\\ n\n ü"} 1"#]);
    }

    #[test]
    fn decimals_are_written_without_an_exponent_or_as_prometheus_has_it() {
        let mut exposition = Exposition::default();
        let mut family = exposition.family("x", Kind::Gauge, "x");
        for value in [0.0, 1e-9, 1_764_182_400.25, 1e18] {
            family.sample(&[], value);
        }
        let text = exposition.into_text();
        let values: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("x ")).collect();
        assert_eq!(values, ["0", "0.000000001", "1764182400.25", "1000000000000000000"]);
    }
}
