//! How many agents a pool should keep ready: its size, and more for a while after takers had to wait.
//!
//! One taker who waits is chance; takers who wait again within [`FORGET`] are a demand, and each of them adds an agent, up to
//! [`Demand::new`]'s bound. Every such spell without anybody waiting takes one off again. No I/O, no clock of its own.

use std::time::Duration;

use tokio::time::Instant;

/// Time after which a shortage counts no more.
const FORGET: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Demand {
    most: usize,
    ahead: usize,
    last: Option<Instant>,
}

impl Demand {
    /// No demand yet; never more than so many agents ahead of it.
    pub(super) fn new(most: usize) -> Self {
        Self { most, ahead: 0, last: None }
    }

    /// A taker had to wait.
    pub(super) fn shortage(&mut self, now: Instant) {
        if self.last.is_some_and(|last| now.duration_since(last) < FORGET) {
            self.ahead = (self.ahead + 1).min(self.most);
        }
        self.last = Some(now);
    }

    /// Agents to keep ready beyond the pool's size.
    pub(super) fn ahead(&self) -> usize {
        self.ahead
    }

    /// When there will be one less; none when there is no demand.
    pub(super) fn fades_at(&self) -> Option<Instant> {
        self.last.filter(|_| self.ahead > 0).map(|last| last + FORGET)
    }

    /// To be told when that moment has come.
    pub(super) fn fade(&mut self, now: Instant) {
        if self.fades_at().is_some_and(|at| now >= at) {
            self.ahead -= 1;
            self.last = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takers_who_wait_again_and_again_are_a_demand_and_one_is_not() {
        let (now, mut demand) = (Instant::now(), Demand::new(2));
        demand.shortage(now);
        assert_eq!((demand.ahead(), demand.fades_at()), (0, None));
        demand.shortage(now + FORGET);
        assert_eq!(demand.ahead(), 0, "too long ago");
        for _ in 0..5 {
            demand.shortage(now + FORGET + FORGET / 2);
        }
        assert_eq!(demand.ahead(), 2);
    }

    #[test]
    fn a_demand_fades_one_by_one() {
        let (now, mut demand) = (Instant::now(), Demand::new(8));
        for _ in 0..3 {
            demand.shortage(now);
        }
        assert_eq!((demand.ahead(), demand.fades_at()), (2, Some(now + FORGET)));
        demand.fade(now + FORGET / 2);
        assert_eq!(demand.ahead(), 2);
        demand.fade(now + FORGET);
        demand.fade(now + FORGET);
        assert_eq!((demand.ahead(), demand.fades_at()), (1, Some(now + FORGET * 2)));
        demand.fade(now + FORGET * 2);
        assert_eq!((demand.ahead(), demand.fades_at()), (0, None));
    }
}
