//! How slow this machine is, as far as a worker's start tells, and what that is worth.
//!
//! Time limits are made for a machine of our days that is busy. Where a start takes many times as long, as in a machine
//! that is translated, everything does. Only Deno's own start counts: no function can draw that out.

use std::time::Duration;

/// Time in which Deno starts on a machine of our days that is busy.
const QUICK_START: Duration = Duration::from_millis(500);

/// The most that a slow start counts.
const SLOWEST: u32 = 20;

/// Time a worker has to show that JavaScript gives way, once a call has missed its deadline.
const GIVE_WAY: Duration = Duration::from_millis(100);

/// Time a source has to load: its top level must end, and it must say what the function is.
const LOAD: Duration = Duration::from_secs(10);

/// The most time a source has to load, on the slowest machine.
const LONGEST_LOAD: Duration = Duration::from_secs(60);

/// How many times slower than [`QUICK_START`] everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace(u32);

impl Pace {
    /// That of a machine on which Deno starts in so long.
    pub(crate) fn of(start: Duration) -> Self {
        let times = start.as_millis().checked_div(QUICK_START.as_millis()).unwrap_or(1);
        Self(u32::try_from(times).unwrap_or(SLOWEST).clamp(1, SLOWEST))
    }

    /// Time a worker has to answer a ping.
    pub(crate) fn give_way(self) -> Duration {
        GIVE_WAY * self.0
    }

    /// Time a source has to load.
    pub(crate) fn load(self) -> Duration {
        (LOAD * self.0).min(LONGEST_LOAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_machine_has_more_time_for_everything_and_not_without_end() {
        let paces = [0, 499, 2600, 60_000].map(|ms| Pace::of(Duration::from_millis(ms)));
        assert_eq!(paces.map(|pace| pace.give_way().as_millis()), [100, 100, 500, 2000]);
        assert_eq!(paces.map(|pace| pace.load().as_secs()), [10, 10, 50, 60]);
    }
}
