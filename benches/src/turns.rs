//! Samples of something and of its baseline, taken in turns, and the line that they make.
//!
//! Percentiles are over the samples of all turns. Difference and ratio are the medians over the turns of those of one
//! turn: what disturbs the machine for a while disturbs both halves of a turn.

use anyhow::Result;

use crate::figures::{median, median_of, micros, percentile};
use crate::report::{Bound, Line, Percentiles};

/// Samples, nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    mine: Vec<u64>,
    base: Vec<u64>,
    above: Vec<f64>,
    ratio: Vec<f64>,
}

impl Turns {
    /// Adds one turn.
    pub(crate) fn add(&mut self, mine: Vec<u64>, base: Vec<u64>) -> Result<()> {
        let (figure, baseline) = (median(&mine)?, median(&base)?);
        self.above.push(micros(figure) - micros(baseline));
        self.ratio.push(figure as f64 / baseline.max(1) as f64);
        self.mine.extend(mine);
        self.base.extend(base);
        Ok(())
    }

    /// What was measured.
    pub(crate) fn line(
        mut self,
        benchmark: &'static str,
        what: impl Into<String>,
        baseline: impl Into<String>,
        bound: Option<Bound>,
    ) -> Result<Line> {
        let (figure, beside) = (percentiles(&mut self.mine)?, percentiles(&mut self.base)?);
        Ok(Line {
            benchmark,
            what: what.into(),
            baseline: baseline.into(),
            p99_ratio: figure.p99_us / beside.p99_us.max(f64::MIN_POSITIVE),
            figure,
            beside,
            above_us: median_of(&self.above)?,
            ratio: median_of(&self.ratio)?,
            bound,
        })
    }
}

fn percentiles(samples: &mut [u64]) -> Result<Percentiles> {
    Ok(Percentiles {
        p50_us: micros(percentile(samples, 500)?),
        p99_us: micros(percentile(samples, 990)?),
        p999_us: micros(percentile(samples, 999)?),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "what fails here is a failed test")]
    use super::*;

    #[test]
    fn a_turn_that_was_disturbed_does_not_change_the_ratio() {
        let mut turns = Turns::default();
        turns.add(vec![2000; 3], vec![1000; 3]).unwrap();
        turns.add(vec![90_000; 3], vec![10_000; 3]).unwrap();
        turns.add(vec![2200; 3], vec![1000; 3]).unwrap();
        let line = turns.line("b", "w", "base", None).unwrap();
        assert_eq!((line.ratio * 100.0).round(), 220.0);
        assert_eq!((line.figure.p50_us * 10.0).round(), 22.0);
        assert_eq!(line.beside.p999_us.round(), 10.0);
        assert!(Turns::default().line("b", "w", "base", None).is_err());
    }
}
