//! Figures out of many samples.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The sample below which so many thousandths of all lie, nanoseconds.
pub(crate) fn percentile(samples: &mut [u64], thousandths: usize) -> Result<u64> {
    samples.sort_unstable();
    let last = samples.len().checked_sub(1).context("nothing was measured")?;
    let at = (samples.len() * thousandths / 1000).min(last);
    samples.get(at).copied().context("nothing was measured")
}

/// The middle one of some figures.
pub(crate) fn median(figures: &[u64]) -> Result<u64> {
    percentile(&mut figures.to_vec(), 500)
}

/// The middle one of some ratios.
pub(crate) fn median_of(figures: &[f64]) -> Result<f64> {
    let mut figures = figures.to_vec();
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().context("nothing was measured")
}

/// Does something again and again; how long each took, nanoseconds.
pub(crate) async fn timed(count: usize, mut once: impl AsyncFnMut() -> Result<()>) -> Result<Vec<u64>> {
    let mut samples = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        once().await?;
        samples.push(nanos(begun.elapsed()));
    }
    Ok(samples)
}

/// A duration in nanoseconds.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds in microseconds.
pub(crate) fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// Nanoseconds in milliseconds.
pub(crate) fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "what fails here is a failed test")]
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let mut samples: Vec<u64> = (1..=1000).rev().collect();
        assert_eq!(percentile(&mut samples, 500).unwrap(), 501);
        assert_eq!(percentile(&mut samples, 990).unwrap(), 991);
        assert_eq!(percentile(&mut samples, 999).unwrap(), 1000);
        assert_eq!(percentile(&mut [7], 999).unwrap(), 7);
        assert!(percentile(&mut [], 500).is_err());
        assert_eq!(median(&[3, 1, 2]).unwrap(), 2);
    }

    #[test]
    fn the_median_of_ratios_is_one_of_them() {
        assert_eq!(median_of(&[1.5, 0.5, 1.0]).unwrap().to_bits(), 1.0f64.to_bits());
        assert!(median_of(&[]).is_err());
    }
}
