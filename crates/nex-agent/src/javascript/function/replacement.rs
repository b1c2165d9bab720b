//! The end of a worker, what its calls are told, and the next one.
//!
//! A worker that ended is replaced at once when a call was to blame, else after a pause that doubles; a function whose
//! workers keep dying by themselves is given up. The next one becomes ready, then loads the source; calls wait meanwhile.

use std::time::Duration;

use nex_protocol::link::message::{Failure, FailureKind, Outcome};
use tokio::time::Instant;

use super::super::calls::{Dispatched, Settled};
use super::super::deno::{DYING, Ended};
use super::super::fresh::{Fresh, NotReady, Ready};
use super::super::pace::Pace;
use super::{Function, last_words};
use crate::{call, reply};

/// Time a worker's end may take when the function ends too: its log is worth more then than the time.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A function whose workers die so often in such a time, with no call to blame, is given up.
pub(super) const DEATHS: usize = 5;
pub(super) const DEATHS_WITHIN: Duration = Duration::from_secs(10);

/// Time before a worker that died with no call to blame is replaced; doubled with every such death.
const PAUSE: Duration = Duration::from_millis(25);

/// Why a worker is gone, as the calls that were with it are told.
pub(super) struct Death {
    pub(super) kind: FailureKind,
    pub(super) text: String,
    /// Whether it speaks against the function when no call was with the worker.
    pub(super) counts: bool,
}

impl Death {
    pub(super) fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), counts: true }
    }

    /// One of our own making.
    pub(super) fn planned(text: &str) -> Self {
        Self { kind: FailureKind::Killed, text: text.to_owned(), counts: false }
    }
}

impl Function {
    /// The worker died by itself.
    pub(super) async fn lose_dead(&mut self) {
        let blameless = self.calls.quiet();
        let Some(ended) = self.end_worker(false).await else { return };
        let death = if ended.out_of_memory {
            Death::new(FailureKind::OutOfMemory, self.too_much_memory())
        } else {
            Death::new(FailureKind::Function, last_words(&ended, "running the function"))
        };
        self.fail(death, blameless).await;
    }

    /// The worker is to go.
    pub(super) async fn lose(&mut self, death: Death) {
        let blameless = self.calls.quiet();
        self.end_worker(true).await;
        self.fail(death, blameless).await;
    }

    /// Ends the worker and answers the calls it had outcomes of.
    pub(super) async fn end_worker(&mut self, kill: bool) -> Option<Ended> {
        let worker = self.worker.take()?;
        let patience = if self.ending { LAST_WORDS } else { DYING };
        let calls = &self.calls;
        let mut ended = worker.end(kill, patience, |id| calls.deadline(id).is_some()).await;
        for (id, outcome) in ended.outcomes.drain() {
            if let Settled::Call(Dispatched { begun, .. }) = self.calls.settle(id) {
                let outcome = reply::check(outcome, self.settings.limits.reply_bytes);
                call::answer(&self.settings.node, id, begun, outcome).await;
            }
        }
        Some(ended)
    }

    /// The worker is gone: answers the calls that were with it, makes room for the next. `blameless` when none was.
    pub(super) async fn fail(&mut self, death: Death, blameless: bool) {
        let lost = self.calls.lose();
        let node = &self.settings.node;
        // Whoever made the worker stuck has missed its deadline, most likely, and had its answer: it is none of these.
        let stuck = death.kind == FailureKind::Killed;
        let all_alike = stuck || (lost.culprit.is_none() && death.kind == FailureKind::OutOfMemory);
        for call in lost.others {
            let failure = if all_alike {
                Failure::new(death.kind, &death.text)
            } else {
                Failure::new(FailureKind::Killed, "the worker was replaced because another call was its end")
            };
            call::answer(node, call.id, call.begun, Err(failure)).await;
        }
        if let Some(call) = lost.culprit {
            let outcome: Outcome = Err(Failure::new(death.kind, &death.text));
            call::answer(node, call.id, call.begun, outcome).await;
        }
        let loading = self.loading_until.take().is_some();
        (self.probe, self.look_idle, self.busy, self.served) = (None, None, false, false);
        self.replace_at = Instant::now();
        if (blameless || loading) && death.counts {
            tracing::warn!(reason = death.text, "worker died without a call to blame");
            self.count_death();
        }
    }

    fn count_death(&mut self) {
        let now = Instant::now();
        self.deaths.retain(|death| now.duration_since(*death) < DEATHS_WITHIN);
        let doubled = u32::try_from(self.deaths.len()).unwrap_or(u32::MAX).min(8);
        self.deaths.push_back(now);
        self.replace_at = now + PAUSE * 2u32.saturating_pow(doubled);
    }

    /// Starts the next worker.
    pub(super) fn replace(&mut self) {
        match Fresh::start(&self.settings.engine, false) {
            Ok(fresh) => self.fresh = Some(fresh),
            Err(error) => {
                tracing::warn!(%error, "no worker can be started");
                self.count_death();
            }
        }
    }

    /// The next worker is ready for the source, or never will be.
    pub(super) async fn start_over(&mut self, ready: Result<Ready, NotReady>) {
        let Some(fresh) = self.fresh.take() else { return };
        match ready {
            Ok(ready) => {
                self.pace = ready.pace;
                self.loading_until = Some(Instant::now() + ready.pace.load());
                self.worker = Some(fresh.load(ready, &self.settings));
            }
            Err(why) => {
                let why = fresh.fail(why).await;
                tracing::warn!(reason = why, "a worker did not start");
                self.count_death();
            }
        }
    }

    pub(super) async fn load_over(&mut self) {
        self.catch_up().await;
        if self.loading_until.is_some_and(|until| until <= Instant::now()) {
            let text = too_slow(self.pace);
            self.lose(Death::new(FailureKind::Killed, text)).await;
        }
    }
}

/// What is said about a source that takes too long.
pub(crate) fn too_slow(pace: Pace) -> String {
    format!("the source did not finish loading within {} s", pace.load().as_secs())
}
