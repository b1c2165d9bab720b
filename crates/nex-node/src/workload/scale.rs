//! How many agents a function should have: a policy without a clock of its own, and without any I/O.
//!
//! ```text
//! none   --a call waits---------------------------------> one
//! some   --calls wait for longer than GROW_AFTER--------> more: as many as the queue is worth, at most twice as many
//! many   --half as many calls as one fewer could run,
//!          for SHRINK_AFTER-----------------------------> one fewer
//! some   --no call for `idle_timeout`-------------------> none
//! ```
//! Growing takes a queue and shrinking takes half a load, for a hundred times as long: so the number does not flap.

use std::time::Duration;

use tokio::time::Instant;

/// Time that calls wait before another agent is started: a short queue is gone before one would be there.
pub(super) const GROW_AFTER: Duration = Duration::from_millis(100);

/// Time that agents are too many before one is let go.
pub(super) const SHRINK_AFTER: Duration = Duration::from_secs(10);

/// How often the load is looked at while there are several agents.
const LOOK: Duration = Duration::from_millis(500);

/// What a function's gate sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    /// Agents that take calls.
    pub(super) agents: usize,
    /// Calls that each of them takes at a time.
    pub(super) concurrency: usize,
    /// Calls that wait now.
    pub(super) waiting: usize,
    /// Most calls that ran or waited at a time since the last look.
    pub(super) peak: usize,
    /// When the last call ended, or the last agent came.
    pub(super) last: Instant,
}

/// What the policy may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Most agents.
    pub(super) max: usize,
    /// Time without a call after which there are none; none keeps them.
    pub(super) idle: Option<Duration>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Stay,
    /// So many agents more.
    Grow(usize),
    /// One agent fewer.
    Shrink,
    /// No agents.
    Rest,
}

/// Decides for one function.
#[derive(Debug)]
pub(super) struct Scaler {
    bounds: Bounds,
    /// Since when calls wait.
    queued: Option<Instant>,
    /// Since when there are too many agents.
    slack: Option<Instant>,
}

impl Scaler {
    /// For a function without calls.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, queued: None, slack: None }
    }

    /// What to do now, and when to look again though nobody calls for it. `starting` agents are on their way.
    pub(super) fn look(&mut self, now: Instant, load: Load, starting: usize) -> (Step, Option<Instant>) {
        let step = self.step(now, load, starting);
        (step, self.next_look(now, load, starting))
    }

    fn step(&mut self, now: Instant, load: Load, starting: usize) -> Step {
        if load.waiting == 0 {
            self.queued = None;
        } else {
            self.queued.get_or_insert(now);
        }
        let agents = load.agents + starting;
        if load.waiting > 0 && starting == 0 {
            let room = self.bounds.max.saturating_sub(agents);
            let worth = load.waiting.div_ceil(load.concurrency.max(1));
            if agents == 0 {
                return Step::Grow(1);
            }
            if room > 0 && self.queued.is_some_and(|since| now.duration_since(since) >= GROW_AFTER) {
                self.queued = Some(now);
                return Step::Grow(worth.min(agents).min(room));
            }
        }
        let fewer_would_do = load.agents > 1 && starting == 0 && load.peak * 2 <= (load.agents - 1) * load.concurrency;
        if !fewer_would_do {
            self.slack = None;
        } else if now.duration_since(*self.slack.get_or_insert(now)) >= SHRINK_AFTER {
            self.slack = Some(now);
            return Step::Shrink;
        }
        match self.bounds.idle {
            Some(idle) if load.agents > 0 && load.peak == 0 && now.duration_since(load.last) >= idle => Step::Rest,
            _ => Step::Stay,
        }
    }

    fn next_look(&self, now: Instant, load: Load, starting: usize) -> Option<Instant> {
        let grow = (starting == 0 && load.agents < self.bounds.max).then_some(self.queued).flatten();
        let idle = self.bounds.idle.filter(|_| load.agents > 0).map(|idle| (load.last + idle).max(now + LOOK));
        let slack = (load.agents > 1).then_some(now + LOOK);
        [grow.map(|since| (since + GROW_AFTER).max(now)), idle, slack].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    fn scaler(max: usize) -> Scaler {
        Scaler::new(Bounds { max, idle: Some(IDLE) })
    }

    fn load(agents: usize, waiting: usize, peak: usize, last: Instant) -> Load {
        Load { agents, concurrency: 4, waiting, peak, last }
    }

    #[test]
    fn a_call_to_a_function_at_rest_brings_one_agent_at_once_and_no_second_while_it_comes() {
        let (now, mut scaler) = (Instant::now(), scaler(8));
        assert_eq!(scaler.look(now, load(0, 1, 1, now), 0).0, Step::Grow(1));
        assert_eq!(scaler.look(now + GROW_AFTER * 5, load(0, 50, 50, now), 1).0, Step::Stay);
    }

    #[test]
    fn a_queue_brings_more_agents_only_when_it_lasts_and_never_more_than_there_may_be() {
        let (now, mut scaler) = (Instant::now(), scaler(3));
        let (step, next) = scaler.look(now, load(1, 6, 10, now), 0);
        assert_eq!((step, next), (Step::Stay, Some(now + GROW_AFTER)));
        assert_eq!(scaler.look(now + GROW_AFTER / 2, load(1, 0, 4, now), 0).0, Step::Stay, "the queue was short");
        assert_eq!(scaler.look(now + GROW_AFTER, load(1, 6, 10, now), 0).0, Step::Stay, "and another one begins");
        assert_eq!(scaler.look(now + GROW_AFTER * 2, load(1, 6, 10, now), 0).0, Step::Grow(1), "twice as many at most");
        assert_eq!(scaler.look(now + GROW_AFTER * 4, load(2, 40, 48, now), 0).0, Step::Grow(1), "three are the most");
        let (step, next) = scaler.look(now + GROW_AFTER * 9, load(3, 40, 52, now), 0);
        assert_eq!((step, next), (Step::Stay, Some(now + GROW_AFTER * 9 + LOOK)));
    }

    #[test]
    fn one_agent_goes_at_a_time_when_half_a_load_has_lasted() {
        let (now, mut scaler) = (Instant::now(), scaler(8));
        let half = |at| load(3, 0, 4, at);
        assert_eq!(scaler.look(now, half(now), 0).0, Step::Stay);
        let later = now + SHRINK_AFTER / 2;
        assert_eq!(scaler.look(later, load(3, 0, 5, later), 0).0, Step::Stay, "a burst in between");
        assert_eq!(scaler.look(now + SHRINK_AFTER, half(later), 0).0, Step::Stay, "starts the time again");
        assert_eq!(scaler.look(now + SHRINK_AFTER * 2, half(later), 0).0, Step::Shrink);
        assert_eq!(
            scaler.look(now + SHRINK_AFTER * 2 + LOOK, load(2, 0, 2, later), 0).0,
            Step::Stay,
            "not the next at once"
        );
    }

    #[test]
    fn agents_go_when_no_call_came_for_long_and_stay_when_they_are_to() {
        let (now, mut scaler) = (Instant::now(), scaler(1));
        let (step, next) = scaler.look(now + IDLE / 2, load(1, 0, 0, now), 0);
        assert_eq!((step, next), (Step::Stay, Some(now + IDLE)));
        assert_eq!(scaler.look(now + IDLE, load(1, 0, 1, now), 0).0, Step::Stay, "one runs");
        assert_eq!(scaler.look(now + IDLE, load(1, 0, 0, now), 0).0, Step::Rest);
        assert_eq!(scaler.look(now + IDLE * 2, load(0, 0, 0, now), 0), (Step::Stay, None), "nothing to wake for");
        let mut resident = Scaler::new(Bounds { max: 1, idle: None });
        assert_eq!(resident.look(now + IDLE * 99, load(1, 0, 0, now), 0), (Step::Stay, None));
    }
}
