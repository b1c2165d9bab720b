//! The worker: a Deno process with a function in it.
//!
//! Owns the process and what it asked of the node. States: loading (it was sent the source), loaded, ended. One task for
//! each open host call belongs to it; all end with it.

use std::time::Duration;

use bytes::Bytes;
use nex_link::Sender;
use nex_protocol::link::message::{Limits, ToNode};

use super::deno::{Deno, Ended, Engine, Event};
use super::direct::Direct;
use super::host_calls::HostCalls;
use super::memory;
use super::protocol::{CallHead, Load, ToWorker};
use crate::call::Call;
use crate::host::Host;

/// Everything needed to load the function into a worker, and into another one.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) engine: Engine,
    pub(crate) load: Load,
    pub(crate) source: Bytes,
    pub(crate) limits: Limits,
    pub(crate) node: Sender<ToNode>,
    pub(crate) host: Host,
}

/// A worker with a source. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Worker {
    deno: Deno,
    messages: Sender<ToWorker>,
    /// What it asked of the node.
    pub(crate) host_calls: HostCalls,
    direct: Way,
}

/// A worker's way past us.
#[derive(Debug)]
enum Way {
    /// There is none.
    None,
    /// The node has not opened the pipes.
    Made { _ends: Direct },
    /// The worker may use it.
    Open,
}

impl Worker {
    /// Of a process that was sent the source.
    pub(crate) fn new(deno: Deno, messages: Sender<ToWorker>, host_calls: HostCalls, direct: Option<Direct>) -> Self {
        Self { deno, messages, host_calls, direct: direct.map_or(Way::None, |ends| Way::Made { _ends: ends }) }
    }

    /// Whether it has pipes that the node has not opened.
    pub(crate) fn has_pipes(&self) -> bool {
        matches!(self.direct, Way::Made { .. })
    }

    /// Whether some of its calls may go past us.
    pub(crate) fn goes_directly(&self) -> bool {
        matches!(self.direct, Way::Open)
    }

    /// The node has opened the pipes: our ends close, and the worker may use its own.
    pub(crate) fn direct_is_open(&mut self) {
        if self.has_pipes() && self.messages.try_send(ToWorker::Direct) {
            self.direct = Way::Open;
        }
    }

    /// Process id, which is the id of its group.
    pub(crate) fn id(&self) -> u32 {
        self.deno.id()
    }

    /// The next thing it says. Cancel-safe.
    pub(crate) async fn event(&mut self) -> Event {
        loop {
            tokio::select! {
                biased;
                () = self.host_calls.one_over() => {}
                event = self.deno.event() => return event,
            }
        }
    }

    /// The next thing it said already, if there is one.
    pub(crate) fn event_now(&mut self) -> Option<Event> {
        self.deno.event_now()
    }

    /// Hands it a call, to be answered with that pong when it begins; false when it is gone.
    pub(crate) fn call(&self, call: Call, deadline_ms: u64, ping: Option<u64>) -> bool {
        let ping = ping.map(|number| number.to_string());
        let head = CallHead { subject: call.subject, headers: call.headers, deadline: deadline_ms, ping };
        self.messages.try_send(ToWorker::Call(call.id, head, call.payload))
    }

    /// Asks whether JavaScript gives way.
    pub(crate) fn ping(&self, number: u64) {
        // A worker that cannot even be asked is found out by the answer that does not come.
        self.messages.try_send(ToWorker::Ping(number));
    }

    /// Resident memory.
    pub(crate) fn resident(&self) -> Option<u64> {
        memory::resident(self.id())
    }

    /// Time it has computed.
    pub(crate) fn computed(&self) -> Option<Duration> {
        memory::computed(self.id())
    }

    /// See [`Deno::end`].
    pub(crate) async fn end(mut self, kill: bool, patience: Duration, wanted: impl Fn(u64) -> bool) -> Ended {
        self.host_calls.clear();
        self.deno.end(kill, patience, wanted).await
    }
}
