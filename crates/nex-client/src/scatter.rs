//! One request to everybody: collecting answers until they stop coming.
//!
//! Nobody knows how many nodes there are, so no count ends the wait. Waiting the whole timeout (as Go Nex does) makes
//! every listing slow; instead the wait ends when no answer came for a while that is measured by the answers
//! themselves: several times the slowest gap seen so far, within bounds. When nobody listens at all, the server says
//! so at once.

use std::time::{Duration, Instant};

use async_nats::{Client, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::error::ClientError;

/// How many times the slowest gap counts as silence.
const PATIENCE: u32 = 5;
/// Shortest silence that ends the wait. The nearest node answers first and says nothing of how far the others are: this
/// is a round trip across an ocean, and a slow leaf node's scheduling.
const SHORTEST_SILENCE: Duration = Duration::from_millis(300);
/// Longest silence that is waited for after an answer.
const LONGEST_SILENCE: Duration = Duration::from_secs(1);

/// When to stop waiting. No clock of its own, so that it can be tested.
#[derive(Debug)]
struct Stall {
    last: Instant,
    end: Instant,
    slowest_gap: Option<Duration>,
}

impl Stall {
    fn new(start: Instant, timeout: Duration) -> Self {
        Self { last: start, end: start + timeout, slowest_gap: None }
    }

    /// An answer came. The first gap is the time from the request to it: a distant network is waited for longer.
    fn answered(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.last);
        self.slowest_gap = Some(self.slowest_gap.map_or(gap, |slowest| slowest.max(gap)));
        self.last = now;
    }

    fn deadline(&self) -> Instant {
        let Some(gap) = self.slowest_gap else { return self.end };
        let silence = gap.saturating_mul(PATIENCE).clamp(SHORTEST_SILENCE, LONGEST_SILENCE);
        (self.last + silence).min(self.end)
    }
}

/// Sends a request to everybody and returns the bodies of all answers; none when nobody is there.
pub(crate) async fn scatter(
    nats: &Client,
    subject: String,
    body: Bytes,
    timeout: Duration,
) -> Result<Vec<Bytes>, ClientError> {
    let inbox = nats.new_inbox();
    let mut answers = nats.subscribe(inbox.clone()).await.map_err(|e| ClientError::transport("subscribe", &e))?;
    nats.publish_with_reply(subject, inbox, body).await.map_err(|e| ClientError::transport("publish", &e))?;
    nats.flush().await.map_err(|e| ClientError::transport("publish", &e))?;
    let mut stall = Stall::new(Instant::now(), timeout);
    let mut bodies = Vec::new();
    while let Ok(Some(answer)) = tokio::time::timeout_at(stall.deadline().into(), answers.next()).await {
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            break;
        }
        stall.answered(Instant::now());
        bodies.push(answer.payload);
    }
    Ok(bodies)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(2);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn before_the_first_answer_the_whole_timeout_is_waited() {
        let start = Instant::now();
        assert_eq!(Stall::new(start, TIMEOUT).deadline(), start + TIMEOUT);
    }

    #[test]
    fn after_a_quick_answer_a_short_silence_ends_the_wait() {
        let start = Instant::now();
        let mut stall = Stall::new(start, TIMEOUT);
        stall.answered(start + ms(1));
        assert_eq!(stall.deadline(), start + ms(301));
        stall.answered(start + ms(101));
        assert_eq!(stall.deadline(), start + ms(101 + 500), "five times the slowest gap");
    }

    #[test]
    fn silence_and_the_whole_are_bounded() {
        let start = Instant::now();
        let mut stall = Stall::new(start, TIMEOUT);
        stall.answered(start + ms(900));
        assert_eq!(stall.deadline(), start + ms(1900));
        stall.answered(start + ms(1900));
        assert_eq!(stall.deadline(), start + TIMEOUT);
    }
}
