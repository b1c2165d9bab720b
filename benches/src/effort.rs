//! How much is measured.

use std::time::Duration;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Enough to show that it works, and no more.
    pub(crate) quick: bool,
    /// Turns between a figure and its baseline.
    pub(crate) rounds: usize,
    /// Operations in one turn.
    pub(crate) operations: usize,
    /// How long one turn is, where the number of operations is the figure.
    pub(crate) turn: Duration,
}

impl Effort {
    /// What figures are made with.
    pub(crate) const FULL: Self = Self { quick: false, rounds: 9, operations: 2000, turn: Duration::from_millis(1000) };

    /// What shows that every line works.
    pub(crate) const QUICK: Self = Self { quick: true, rounds: 2, operations: 100, turn: Duration::from_millis(150) };

    /// One or the other.
    pub(crate) fn choose<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}
