//! Exponential backoff with jitter, as a value: no clock, no randomness of its own.

use std::time::Duration;

/// `base * 2^n`, capped, then up to half of it taken off at random so that many do not come back at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Delay before the first retry.
    pub base: Duration,
    /// Longest delay.
    pub cap: Duration,
}

impl Backoff {
    /// Delay before retry number `attempt` (0 is the first); `jitter` from 0 to 1 says how much is taken off.
    pub fn delay(&self, attempt: u32, jitter: f64) -> Duration {
        let factor = 1u32.checked_shl(attempt).unwrap_or(u32::MAX);
        let full = self.base.saturating_mul(factor).min(self.cap);
        full - full.mul_f64(jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// As [`Backoff::delay`], with jitter from the thread's random numbers.
    pub fn jittered(&self, attempt: u32) -> Duration {
        self.delay(attempt, rand::random())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(2) };

    #[test]
    fn doubles_up_to_the_cap() {
        let delays: Vec<u128> = (0..7).map(|n| BACKOFF.delay(n, 0.0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(BACKOFF.delay(u32::MAX, 0.0), BACKOFF.cap);
    }

    #[test]
    fn jitter_takes_off_half_at_most() {
        assert_eq!(BACKOFF.delay(1, 1.0), Duration::from_millis(100));
        assert_eq!(BACKOFF.delay(1, 9.0), Duration::from_millis(100));
    }
}
