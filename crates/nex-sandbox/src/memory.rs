//! The in-memory twin of a sandbox: agents without a process, for tests of what is built on top.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use nex_link::{Receiver, Sender, open};
use nex_protocol::link::frame::MAX_LINK_FRAME;
use nex_protocol::link::message::{ToAgent, ToNode};
use tokio_util::sync::CancellationToken;

use crate::agent::new_id;
use crate::{Agent, Place, PrepareError, Sandbox};

/// The agent's end of a link.
pub type FarEnd = (Sender<ToNode>, Receiver<ToAgent>);

/// Makes agents that are always ready and do nothing by themselves.
#[derive(Debug, Default)]
pub struct MemorySandbox {
    failing: AtomicBool,
    alive: Arc<AtomicUsize>,
    tokens: Mutex<Vec<CancellationToken>>,
    far_ends: Mutex<Vec<FarEnd>>,
}

impl MemorySandbox {
    /// Makes preparations fail from now on, or succeed again.
    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// Places that exist.
    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }

    /// Loses every agent made so far.
    pub fn lose_all(&self) {
        for token in self.tokens.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            token.cancel();
        }
    }

    /// The agents' ends of the links made so far, oldest first.
    pub fn far_ends(&self) -> Vec<FarEnd> {
        std::mem::take(&mut *self.far_ends.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct MemoryPlace(Arc<AtomicUsize>);

impl Drop for MemoryPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Place for MemoryPlace {
    fn note_process_group(&mut self, _leader: Option<u32>) {}

    fn folder(&self) -> Option<&Path> {
        None
    }

    fn bound(&mut self, _resources: &crate::Resources) -> std::io::Result<()> {
        Ok(())
    }

    fn ran_out_of_memory(&self) -> bool {
        false
    }

    fn destroy(self: Box<Self>) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { drop(self) })
    }
}

impl Sandbox for MemorySandbox {
    async fn prepare(&self) -> Result<Agent, PrepareError> {
        tokio::task::yield_now().await;
        if self.failing.load(Ordering::SeqCst) {
            return Err(PrepareError::Ended("told to fail".to_owned()));
        }
        let (near, far) = tokio::io::duplex(64 << 10);
        let (near_read, near_write) = tokio::io::split(near);
        let (far_read, far_write) = tokio::io::split(far);
        let (sender, receiver) = open(near_read, near_write, MAX_LINK_FRAME);
        let far = open(far_read, far_write, MAX_LINK_FRAME);
        self.far_ends.lock().unwrap_or_else(PoisonError::into_inner).push(far);
        let lost = CancellationToken::new();
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).push(lost.clone());
        self.alive.fetch_add(1, Ordering::SeqCst);
        Ok(Agent {
            id: new_id(),
            sender,
            receiver,
            lost,
            place: Box::new(MemoryPlace(Arc::clone(&self.alive))),
            shares_files: true,
        })
    }
}
