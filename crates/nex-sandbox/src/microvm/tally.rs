//! What the machines of a node do, all together, for its metrics: how many there are in which state, how they came up, and what
//! their monitors counted. Of single machines nothing is kept: they come and go by the thousand.
//!
//! ```text
//! starting --handshake--> running --given back--> ending --nothing of it left--> (gone)
//!     +--does not come up--------------------------^
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where a machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is made.
    Starting,
    /// Its agent is ready, or has a workload.
    Running,
    /// It was given up; what it has is taken back.
    Ending,
}

/// How a machine came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Origin {
    /// Its kernel booted.
    #[default]
    Kernel,
    /// It was restored from a snapshot.
    Snapshot,
}

/// What a monitor counts, or the node of it. The order is that of the counters below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// Bytes that guests have read from their drives.
    Read,
    /// Bytes that guests have written to their drives.
    Written,
    /// Bytes that guests have received from their networks.
    NetworkIn,
    /// Bytes that guests have sent to their networks.
    NetworkOut,
    /// Bytes that guests have received over their links.
    LinkIn,
    /// Bytes that guests have sent over their links.
    LinkOut,
    /// Times that a rate limiter held back a drive.
    DriveThrottled,
    /// Times that a rate limiter held back a network.
    NetworkThrottled,
    /// System calls that were refused to monitors.
    SeccompFault,
    /// Failures of processors.
    VcpuFault,
    /// Failures of drives.
    DriveFault,
    /// Failures of networks.
    NetworkFault,
    /// Failures of links.
    LinkFault,
    /// Monitors that were killed because they took more memory than they may.
    OutOfMemory,
}

/// Machines that came up in one way, and the time that took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Starts {
    /// How many.
    pub count: u64,
    /// From nothing to the handshake, all together.
    pub took: Duration,
}

/// The sums at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Machines that are made.
    pub starting: u64,
    /// Machines whose agents are ready or have workloads.
    pub running: u64,
    /// Machines that are given back.
    pub ending: u64,
    /// Those that booted a kernel.
    pub booted: Starts,
    /// Those that were restored from a snapshot.
    pub restored: Starts,
    /// What monitors counted; what was never counted is not there.
    pub counted: BTreeMap<Counted, u64>,
}

/// The sums of all machines of a node.
#[derive(Debug, Default)]
pub struct Tally {
    states: [AtomicU64; 3],
    starts: [(AtomicU64, AtomicU64); 2],
    counted: Mutex<BTreeMap<Counted, u64>>,
}

impl Tally {
    /// The sums of now.
    pub fn counts(&self) -> Counts {
        let [starting, running, ending] = self.states.each_ref().map(|state| state.load(Relaxed));
        let [booted, restored] = self.starts.each_ref().map(|(count, nanos)| Starts {
            count: count.load(Relaxed),
            took: Duration::from_nanos(nanos.load(Relaxed)),
        });
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Counts { starting, running, ending, booted, restored, counted }
    }

    /// Another machine is made.
    pub(super) fn begin(self: &Arc<Self>) -> Stay {
        self.state(State::Starting).fetch_add(1, Relaxed);
        Stay { of: Arc::clone(self), state: State::Starting }
    }

    /// A machine came up.
    pub(super) fn came_up(&self, origin: Origin, took: Duration) {
        let [booted, restored] = &self.starts;
        let (count, nanos) = if origin == Origin::Kernel { booted } else { restored };
        count.fetch_add(1, Relaxed);
        nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Adds what was counted. A monitor that was taken over may say anything: no sum wraps around.
    pub(super) fn add(&self, counted: Counted, many: u64) {
        let mut sums = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = sums.entry(counted).or_default();
        *sum = sum.saturating_add(many);
    }

    fn state(&self, state: State) -> &AtomicU64 {
        let [starting, running, ending] = &self.states;
        match state {
            State::Starting => starting,
            State::Running => running,
            State::Ending => ending,
        }
    }
}

/// One machine's place in the sums, which ends with it.
#[derive(Debug)]
pub(super) struct Stay {
    of: Arc<Tally>,
    state: State,
}

impl Stay {
    /// It is in another state now.
    pub(super) fn turn(&mut self, state: State) {
        self.of.state(state).fetch_add(1, Relaxed);
        self.of.state(self.state).fetch_sub(1, Relaxed);
        self.state = state;
    }

    /// The sums that it is part of.
    pub(super) fn tally(&self) -> &Arc<Tally> {
        &self.of
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.of.state(self.state).fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_in_one_state_at_a_time_and_in_none_when_it_is_gone() {
        let tally = Arc::new(Tally::default());
        let states = || {
            let counts = tally.counts();
            [counts.starting, counts.running, counts.ending]
        };
        let mut stay = tally.begin();
        let other = tally.begin();
        assert_eq!(states(), [2, 0, 0]);
        stay.turn(State::Running);
        assert_eq!(states(), [1, 1, 0]);
        stay.turn(State::Ending);
        drop(other);
        assert_eq!(states(), [0, 0, 1]);
        drop(stay);
        assert_eq!(states(), [0, 0, 0]);
    }

    #[test]
    fn starts_and_counters_are_summed_and_never_wrap_around() {
        let tally = Tally::default();
        tally.came_up(Origin::Kernel, Duration::from_secs(30));
        tally.came_up(Origin::Snapshot, Duration::from_millis(100));
        tally.came_up(Origin::Snapshot, Duration::from_millis(200));
        tally.add(Counted::Read, 5);
        tally.add(Counted::Read, u64::MAX);
        let counts = tally.counts();
        assert_eq!(counts.booted, Starts { count: 1, took: Duration::from_secs(30) });
        assert_eq!(counts.restored, Starts { count: 2, took: Duration::from_millis(300) });
        assert_eq!(counts.counted, BTreeMap::from([(Counted::Read, u64::MAX)]));
    }
}
