//! Figures out of many samples.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The sample below which so many hundredths of all lie, nanoseconds.
pub(crate) fn percentile(samples: &mut [u64], hundredths: usize) -> Result<u64> {
    samples.sort_unstable();
    let last = samples.len().checked_sub(1).context("nothing was measured")?;
    let at = (samples.len() * hundredths / 100).min(last);
    samples.get(at).copied().context("nothing was measured")
}

/// The middle one of some figures.
pub(crate) fn median(figures: &[u64]) -> Result<u64> {
    percentile(&mut figures.to_vec(), 50)
}

/// Does something again and again; how long each took, nanoseconds.
pub(crate) async fn timed<F: Future<Output = Result<()>>>(
    count: usize,
    mut once: impl FnMut() -> F,
) -> Result<Vec<u64>> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "what fails here is a failed test")]
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let mut samples: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(percentile(&mut samples, 50).unwrap(), 51);
        assert_eq!(percentile(&mut samples, 99).unwrap(), 100);
        assert_eq!(percentile(&mut [7], 99).unwrap(), 7);
        assert!(percentile(&mut [], 50).is_err());
        assert_eq!(median(&[3, 1, 2]).unwrap(), 2);
    }
}
