//! What every kind of workload gets from the session, and what it gives back.
//!
//! A workload is a future: it starts, says [`ToNode::Started`], takes calls and the word to stop from its [`Inbox`],
//! and ends as a [`Finish`]. It is polled by the session on the main thread, so that processes it starts are children
//! of that thread and end with it.

use nex_link::Sender;
use nex_protocol::link::direct::Waits;
use nex_protocol::link::message::{Exit, Start, ToNode, Welcome};
use nex_protocol::name::WorkloadType;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::call::Call;
use crate::guard::Groups;
use crate::host::Host;
use crate::javascript::Prestart;
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
    /// The node's host services.
    pub(crate) host: Host,
    /// How compiled code comes and goes, where agent and node share no files.
    pub(crate) over_link: Option<wasm::OverLink>,
    /// Where process groups are known to the guard.
    pub(crate) groups: Groups,
    /// What was started before the workload was known.
    pub(crate) prestart: Option<Prestart>,
}

/// What the node says about the direct way of a worker, by its process id.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DirectSign {
    /// It is open.
    Open(u32),
    /// Whether the worker waits for the node.
    Waits(u32, Waits),
}

/// Such signs that wait to be heard: each answers one of ours.
pub(crate) const DIRECT_SIGNS: usize = 16;

/// When a workload is to have ended; none while it may run.
pub(crate) type Stop = watch::Receiver<Option<Instant>>;

/// What reaches a workload while it runs.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// Calls of a function.
    pub(crate) calls: mpsc::Receiver<Call>,
    /// What the node says about the direct ways of workers.
    pub(crate) direct: mpsc::Receiver<DirectSign>,
    /// Once it is set: end, by this time. It may be drawn nearer afterwards.
    pub(crate) stop: Stop,
}

/// Resolves when the workload is to end. Cancel-safe.
pub(crate) async fn stopped(stop: &mut Stop) {
    // An error means that the session is gone: nobody is left to run for.
    let _ = stop.wait_for(Option::is_some).await;
}

/// Resolves when the time for ending in good order is up, also when it is drawn nearer meanwhile. Cancel-safe.
pub(crate) async fn out_of_grace(stop: &mut Stop) {
    loop {
        let Some(until) = *stop.borrow_and_update() else { return };
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            changed = stop.changed() => if changed.is_err() { return },
        }
    }
}

/// One of the two things a workload hears about its end.
pub(crate) enum Sign {
    /// It is to end.
    Stop,
    /// Its time for that is up.
    OutOfGrace,
}

/// The next sign, for a workload that is `stopping` already or not. Cancel-safe.
pub(crate) async fn next_sign(stop: &mut Stop, stopping: bool) -> Sign {
    if stopping {
        out_of_grace(stop).await;
        return Sign::OutOfGrace;
    }
    stopped(stop).await;
    Sign::Stop
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
pub(crate) async fn run(mut context: Context, inbox: &mut Inbox) -> Finish {
    // First of all: what does not fit is to be gone before anything else takes memory.
    let waiting = match context.prestart.take() {
        Some(prestart) => prestart.give(&context.start).await,
        None => None,
    };
    if let Some(key) = context.start.environment.invalid_key() {
        return Finish::Rejected(format!(
            "environment variable '{}' has a name or value no process can have",
            key.escape_debug()
        ));
    }
    match context.start.r#type {
        WorkloadType::Native => native::run(context, inbox).await,
        WorkloadType::Wasm => wasm::run(context, inbox).await,
        WorkloadType::V8 => javascript::run(context, waiting, inbox).await,
    }
}
