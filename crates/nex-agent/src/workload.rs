//! What every kind of workload gets from the session, and what it gives back.
//!
//! A workload is a future: it starts, says [`ToNode::Started`], takes calls and the word to stop from its [`Inbox`],
//! and ends as a [`Finish`]. It is polled by the session on the main thread, so that processes it starts are children
//! of that thread and end with it.

use std::time::Duration;

use nex_link::Sender;
use nex_protocol::link::message::{Exit, Start, ToNode, Welcome};
use nex_protocol::name::WorkloadType;
use tokio::sync::{mpsc, watch};

use crate::call::Call;
use crate::guard::Groups;
use crate::{javascript, native, wasm};

/// Everything a workload is made from.
#[derive(Debug)]
pub(crate) struct Context {
    /// What the node said about itself.
    pub(crate) welcome: Welcome,
    /// What to run.
    pub(crate) start: Start,
    /// Where to answer.
    pub(crate) node: Sender<ToNode>,
    /// Where process groups are known to the guard.
    pub(crate) groups: Groups,
}

/// What reaches a workload while it runs.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// Calls of a function.
    pub(crate) calls: mpsc::Receiver<Call>,
    /// Set once: end, within this time.
    pub(crate) stop: watch::Receiver<Option<Duration>>,
}

/// Resolves when the workload is to end, with the time it has for that. Cancel-safe.
pub(crate) async fn stopped(stop: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match stop.wait_for(Option::is_some).await {
        Ok(grace) => grace.unwrap_or_default(),
        // The session is gone: nobody is left to wait for.
        Err(_) => Duration::ZERO,
    }
}

/// How a workload's life ended.
#[derive(Debug)]
pub(crate) enum Finish {
    /// It never started; text for people.
    Rejected(String),
    /// It ran, and ended.
    Exited(Exit),
}

impl Finish {
    /// Ended because it was told to.
    pub(crate) fn stopped() -> Self {
        Finish::Exited(Exit { message: "stopped".to_owned(), ..Exit::default() })
    }

    /// Told to stop while it was starting.
    pub(crate) fn stopped_early() -> Self {
        Finish::Rejected("stopped before it had started".to_owned())
    }
}

/// Runs a workload from start to end.
pub(crate) async fn run(context: Context, inbox: &mut Inbox) -> Finish {
    if let Some(key) = context.start.environment.invalid_key() {
        return Finish::Rejected(format!(
            "environment variable '{}' has a name or value no process can have",
            key.escape_debug()
        ));
    }
    match context.start.r#type {
        WorkloadType::Native => native::run(context, inbox).await,
        WorkloadType::Wasm => wasm::run(context, inbox).await,
        WorkloadType::V8 => javascript::run(context, inbox).await,
    }
}
