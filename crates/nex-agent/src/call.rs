//! One call of a function, as it waits and runs, and the answer to it.
//!
//! Every call that came in is answered exactly once; whoever takes a [`Call`] answers it.

use std::time::Duration;

use bytes::Bytes;
use nex_link::Sender;
use nex_protocol::link::message::{Failure, FailureKind, Headers, Invoke, Outcome, ToNode};
use tokio::time::Instant;

/// Calls that may wait for their turn; what comes beyond is refused at once. The node admits far fewer.
pub(crate) const WAITING: usize = 1024;

/// No deadline is further away than this; keeps the arithmetic on clocks total.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A call of the function.
#[derive(Debug)]
pub(crate) struct Call {
    /// The node's number for it.
    pub(crate) id: u64,
    /// Subject of the message that triggered it.
    pub(crate) subject: String,
    /// Headers of that message.
    pub(crate) headers: Headers,
    /// Its payload.
    pub(crate) payload: Bytes,
    /// When it must be answered.
    pub(crate) deadline: Instant,
}

impl Call {
    /// The call an [`Invoke`] asks for; its time runs from now.
    pub(crate) fn new(id: u64, invoke: Invoke, payload: Bytes) -> Self {
        let timeout = Duration::from_millis(invoke.timeout_ms).min(LONGEST);
        let Invoke { subject, headers, .. } = invoke;
        Self { id, subject, headers, payload, deadline: Instant::now() + timeout }
    }
}

/// Answers a call that ran, or waited, since `begun`.
pub(crate) async fn answer(node: &Sender<ToNode>, call: u64, begun: Instant, outcome: Outcome) {
    let elapsed = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    // The link being gone ends the session, which needs nobody to say so here.
    let _ = node.send(ToNode::Outcome(call, elapsed, outcome)).await;
}

/// Answers a call that never ran.
pub(crate) async fn refuse(node: &Sender<ToNode>, call: u64, kind: FailureKind, why: &str) {
    let _ = node.send(ToNode::Outcome(call, 0, Err(Failure::new(kind, why)))).await;
}

/// The failure of a call whose time was up.
pub(crate) fn timed_out() -> Failure {
    Failure::new(FailureKind::Timeout, "the function did not finish in time")
}

/// The failure of a call whose time was up before its turn came.
pub(crate) fn overloaded() -> Failure {
    Failure::new(FailureKind::Overloaded, "the function was busy until the call's time was up")
}

/// The failure of a reply that is too large.
pub(crate) fn reply_too_large(limit: u64) -> Failure {
    Failure::new(FailureKind::ReplyTooLarge, format!("the reply is larger than the {limit} bytes it may have"))
}
