//! The bytes of messages that all functions of a node may hold at a time, running or waiting.
//!
//! Numbers of calls alone do not bound memory: a message may have as much as the server allows. What comes beyond the bound is
//! refused at once, whoever's it is. Never waits, never locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a call takes besides its message: its task, its names, its place in the tables.
const CALL: u64 = 2048;

/// See the module.
#[derive(Debug)]
pub struct Budget {
    most: u64,
    taken: AtomicU64,
}

/// A part of a budget. Dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// So many bytes.
    pub fn new(most: u64) -> Arc<Self> {
        Arc::new(Self { most, taken: AtomicU64::new(0) })
    }

    /// Room for a call with a message of this size; none when there is too little.
    pub fn take(self: &Arc<Self>, message: usize) -> Option<Share> {
        let bytes = CALL.saturating_add(message as u64);
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        // Made at once, so that it is given back when it is too much.
        let share = Share { budget: Arc::clone(self), bytes };
        (before.saturating_add(bytes) <= self.most).then_some(share)
    }

    /// Bytes that are taken now.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_is_refused_and_what_is_given_back_can_be_taken_again() {
        let budget = Budget::new(CALL * 2 + 100);
        let first = budget.take(100).unwrap();
        assert!(budget.take(1).is_none());
        let second = budget.take(0).unwrap();
        assert_eq!(budget.taken(), CALL * 2 + 100);
        drop(first);
        assert!(budget.take(100).is_some());
        drop(second);
        assert_eq!(budget.taken(), 0);
    }
}
