//! A worker that is started before there is a function for it: nobody waits then while Deno starts.
//!
//! States: starting, ready, and after a death a pause before the next. It ends with the agent, when the workload turns out
//! to be none that fits it, or by itself, which is nobody's concern: who gets none starts one. The node decides whether
//! there is one at all.

use std::convert::Infallible;
use std::time::Duration;

use nex_link::Sender;
use nex_protocol::link::message::{Start, ToNode, Welcome};
use nex_protocol::name::WorkloadType;
use tokio::time::Instant;

use super::deno::Engine;
use super::fresh::Fresh;
use crate::guard::Groups;

/// Time before a worker that died while it waited is replaced; doubled with every such death.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest such time: what does not stay here costs little, and may stay later.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The worker that waits, or the next one.
#[derive(Debug)]
pub(crate) struct Prestart {
    engine: Engine,
    fresh: Option<Fresh>,
    /// When the next one is started, while there is none.
    at: Instant,
    pause: Duration,
}

impl Prestart {
    /// What the node wants to have started; none when it wants nothing.
    pub(crate) fn new(welcome: &Welcome, node: &Sender<ToNode>, groups: &Groups) -> Option<Self> {
        let memory_bytes = welcome.prestart?.memory_bytes;
        let engine = super::engine(welcome, memory_bytes, node, groups)?;
        Some(Self { engine, fresh: None, at: Instant::now(), pause: PAUSE })
    }

    /// Keeps a worker there. Cancel-safe: whatever is there stays.
    pub(crate) async fn keep(&mut self) -> Infallible {
        loop {
            let Some(fresh) = &mut self.fresh else {
                tokio::time::sleep_until(self.at).await;
                match self.engine.install().and_then(|()| Fresh::start(&self.engine, true)) {
                    Ok(fresh) => self.fresh = Some(fresh),
                    Err(error) => self.died(&format!("Deno cannot be started: {error}")),
                }
                continue;
            };
            let why = fresh.lost().await;
            if let Some(fresh) = self.fresh.take() {
                if fresh.age() > LONGEST_PAUSE {
                    self.pause = PAUSE;
                }
                // Before anything is waited for: the next one has its time even when this is cancelled here.
                self.at = Instant::now() + self.pause;
                let why = fresh.fail(why).await;
                self.died(&why);
            }
        }
    }

    fn died(&mut self, why: &str) {
        self.at = Instant::now() + self.pause;
        tracing::warn!(
            reason = why,
            again_ms = self.pause.as_millis(),
            "a worker that waited for its function is gone"
        );
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// The worker for this workload. One that does not fit is gone when this returns.
    pub(crate) async fn give(mut self, start: &Start) -> Option<Fresh> {
        let fresh = self.fresh.take();
        let javascript = start.r#type == WorkloadType::V8;
        // Its heap has the size it was started with.
        let fits = javascript && start.limits.memory_bytes == self.engine.memory_bytes;
        match fresh {
            Some(fresh) if fits && shares_control_groups(fresh.id()) => return Some(fresh.claimed()),
            Some(fresh) => fresh.kill().await,
            None => {}
        }
        if !javascript {
            self.engine.uninstall();
        }
        None
    }
}

/// Whether a process is bounded as the agent is. An agent is bounded when its workload is known, and what it starts after
/// that is bounded with it; what was there before is not.
fn shares_control_groups(process: u32) -> bool {
    let groups = |process: &str| std::fs::read(format!("/proc/{process}/cgroup")).ok();
    groups("self") == groups(&process.to_string())
}
