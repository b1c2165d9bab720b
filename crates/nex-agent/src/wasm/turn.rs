//! Where a call runs: on the thread of the link as long as it is short, on the guests' threads when it computes.
//!
//! ```text
//! the only call, of a function whose calls are short ──> here ──── done
//!                                                          └── computes for a tick ──> guests' threads ──> done
//! any other ──────────────────────────────────────────────────────────────────────────^
//! ```
//! Handing a call to another thread, and its host calls' answers after it, costs more than most calls take. The price
//! of running it here is that the link waits for it, so it may for one [`TICK`], once; a function whose call used that
//! up has its next calls elsewhere.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Instant;

use wasmtime::UpdateDeadline;

use super::engine::TICK;

/// Calls that run elsewhere after one that computed for long.
const WARY: u32 = 64;

/// Whether a function's calls have been short of late.
#[derive(Debug, Default)]
pub(crate) struct Habit {
    wary: AtomicU32,
}

impl Habit {
    /// Whether the next call may run on the thread of the link.
    pub(crate) fn is_short(&self) -> bool {
        self.wary.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }

    fn was_long(&self) {
        self.wary.store(WARY, Ordering::Relaxed);
    }
}

/// One call's time on the thread of the link.
#[derive(Debug)]
pub(crate) struct Turn {
    made: Instant,
    /// When the present spell of computing began, nanoseconds after `made`.
    begun: AtomicU64,
    over: AtomicBool,
}

impl Turn {
    pub(crate) fn new() -> Self {
        Self { made: Instant::now(), begun: AtomicU64::new(0), over: AtomicBool::new(false) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn begin(&self) {
        self.begun.store(self.now(), Ordering::Relaxed);
    }

    /// What an epoch means for the guest: it gives way when it has computed for a tick. Waiting is no computing, and
    /// ends a spell.
    pub(crate) fn at_epoch(&self) -> UpdateDeadline {
        if !self.over.load(Ordering::Relaxed) {
            let computed = self.now().saturating_sub(self.begun.load(Ordering::Relaxed));
            // An epoch may begin a little before its tick is over.
            if computed < u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX) / 2 {
                return UpdateDeadline::Continue(1);
            }
            self.over.store(true, Ordering::Relaxed);
        }
        UpdateDeadline::Yield(1)
    }
}

/// A call that runs.
pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs a call here; gives it back when its turn is over.
pub(crate) async fn here<T>(mut work: Work<T>, turn: &Turn, habit: &Habit) -> Result<T, Work<T>> {
    let done = poll_fn(|cx| {
        turn.begin();
        match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if turn.over.load(Ordering::Relaxed) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    done.ok_or_else(|| {
        habit.was_long();
        work
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_trusted_until_a_call_was_long_and_again_after_a_while() {
        let habit = Habit::default();
        assert!(habit.is_short() && habit.is_short());
        habit.was_long();
        for _ in 0..WARY {
            assert!(!habit.is_short());
        }
        assert!(habit.is_short());
    }

    #[tokio::test]
    async fn a_call_that_waits_keeps_its_turn_and_one_that_computes_loses_it() {
        let (turn, habit) = (Turn::new(), Habit::default());
        let waits: Work<u8> = Box::pin(async {
            tokio::time::sleep(TICK * 2).await;
            1
        });
        assert!(matches!(here(waits, &turn, &habit).await, Ok(1)));
        let turn = std::sync::Arc::new(Turn::new());
        let epochs = std::sync::Arc::clone(&turn);
        let computes: Work<u8> = Box::pin(async move {
            let until = Instant::now() + TICK;
            while Instant::now() < until {}
            if matches!(epochs.at_epoch(), UpdateDeadline::Yield(_)) {
                tokio::task::yield_now().await;
            }
            2
        });
        let Err(work) = here(computes, &turn, &habit).await else { panic!("it kept its turn") };
        assert_eq!(work.await, 2, "it goes on where it was");
        assert!(!habit.is_short());
    }
}
