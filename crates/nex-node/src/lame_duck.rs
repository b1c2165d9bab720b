//! Lame duck mode: a node on its way out.
//!
//! ```text
//! Serving --enter--> LameDuck (takes no deploys, does not bid, restarts no service) --delay--> leaves (drains, exit 0)
//! ```
//! There is no way back: a node that has announced that it leaves does so. Entering again only shortens the delay.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Whether the node is on its way out, and when it leaves.
#[derive(Debug)]
pub struct LameDuck {
    leaves: watch::Sender<Option<Instant>>,
}

impl Default for LameDuck {
    fn default() -> Self {
        Self { leaves: watch::Sender::new(None) }
    }
}

impl LameDuck {
    /// Enters the mode, to leave after this delay. Says whether the node was not in it before.
    pub fn enter(&self, delay: Duration) -> bool {
        let when = Instant::now() + delay;
        let mut first = false;
        self.leaves.send_if_modified(|leaves| {
            first = leaves.is_none();
            let sooner = leaves.is_none_or(|set| when < set);
            if sooner {
                *leaves = Some(when);
            }
            sooner
        });
        first
    }

    /// Whether the node is in the mode.
    pub fn is_on(&self) -> bool {
        self.leaves.borrow().is_some()
    }

    /// Time until the node leaves, when it is in the mode.
    pub fn leaves_in(&self) -> Option<Duration> {
        self.leaves.borrow().map(|leaves| leaves.saturating_duration_since(Instant::now()))
    }

    /// Resolves when the node is to leave; never, while it is not in the mode.
    pub async fn over(&self) {
        let mut leaves = self.leaves.subscribe();
        loop {
            let set = *leaves.borrow_and_update();
            tokio::select! {
                // The sender lives as long as this.
                _ = leaves.changed() => {}
                () = until(set) => return,
            }
        }
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_node_leaves_after_the_delay_and_a_second_order_can_only_shorten_it() {
        let duck = LameDuck::default();
        assert!(!duck.is_on());
        assert!(tokio::time::timeout(Duration::from_secs(3600), duck.over()).await.is_err());
        assert!(duck.enter(Duration::from_secs(60)));
        assert!(!duck.enter(Duration::from_secs(600)), "it was in the mode before");
        assert_eq!(duck.leaves_in(), Some(Duration::from_secs(60)));
        assert!(!duck.enter(Duration::from_secs(5)));
        let began = Instant::now();
        duck.over().await;
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }
}
