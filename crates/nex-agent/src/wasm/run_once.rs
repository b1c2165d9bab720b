//! One call: a store and an instance of its own. A command has the payload on stdin and replies on stdout; a component
//! of our own world has both as values.
//!
//! The guest has clocks and randomness, its environment and its arguments, a component the node's host services too; no
//! files and no network. Its deadline holds from instantiation on, so a module that never leaves its start section is
//! ended like one that never leaves `_start`.

use std::sync::Arc;

use nex_link::Sender;
use nex_protocol::link::message::{Failure, FailureKind, Headers, Limits, Outcome, Start, ToNode};
use nex_protocol::log::Level;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, watch};
use wasmtime::{Engine, Store, Trap};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::runtime::AbortOnDropJoinHandle;
use wasmtime_wasi::{I32Exit, WasiCtxBuilder};

use super::bindings::handler;
use super::engine::Ticker;
use super::guest::{Guest, Identity};
use super::memory::MemoryLimit;
use super::program::Program;
use super::services::Services;
use super::streams::{Log, Reply};
use super::turn::{self, Habit, Turn, Work};
use crate::call::{self, Call};
use crate::host::Host;
use crate::reply;

/// First argument of every command, as Go Nex has it.
const ARGUMENT_ZERO: &str = "nexfunction";

/// Variable with the message's headers.
const HEADERS: &str = "NEX_HEADERS";

/// A function that can be called.
pub(crate) struct Function {
    engine: Engine,
    ticker: Ticker,
    program: Program,
    identity: Arc<Identity>,
    limits: Limits,
    node: Sender<ToNode>,
    host: Host,
    given_up: watch::Sender<bool>,
    habit: Habit,
}

/// Where a call is to run.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// In the task that asks, wherever that is.
    Here,
    /// Likewise, on the thread of the link: when it computes for long, it goes on there.
    OnLink(Handle),
}

/// How a program ended that did not trap.
enum End {
    /// A command, with this status.
    Status(i32),
    /// A handler, with this answer.
    Answer(Result<handler::Reply, String>),
}

/// How a call ended, and whether it was denied memory.
type Ran = (wasmtime::Result<End>, bool);

/// What a guest writes to while it runs.
struct Streams {
    /// Standard output of a command.
    reply: Reply,
    /// Standard output of a handler.
    stdout: Log,
    stderr: Log,
}

impl Streams {
    /// Delivers what has not been delivered yet.
    async fn deliver(&self) {
        self.stdout.deliver().await;
        self.stderr.deliver().await;
    }
}

/// What a call said that has not reached the node yet.
pub(crate) struct LastWords(Streams);

impl LastWords {
    /// Delivers it.
    pub(crate) async fn deliver(self) {
        self.0.deliver().await;
    }
}

impl Function {
    pub(crate) fn new(
        engine: Engine,
        ticker: Ticker,
        program: Program,
        start: &Start,
        node: Sender<ToNode>,
        host: Host,
    ) -> Self {
        let identity = Identity {
            name: start.name.clone(),
            namespace: start.namespace.clone(),
            environment: start.environment.clone(),
        };
        let (identity, limits) = (Arc::new(identity), start.limits);
        let given_up = watch::Sender::new(false);
        Self { engine, ticker, program, identity, limits, node, host, given_up, habit: Habit::default() }
    }

    /// Whether the next call may run on the thread of the link.
    pub(crate) fn is_short(&self) -> bool {
        self.habit.is_short()
    }

    /// Ends every call that still runs.
    pub(crate) fn give_up(&self) {
        self.given_up.send_replace(true);
    }

    /// Runs one call, which keeps its `slot` until nothing of it is left. What the guest said last is still to be
    /// delivered.
    pub(crate) async fn call(
        self: &Arc<Self>,
        call: Call,
        slot: OwnedSemaphorePermit,
        place: Place,
    ) -> (Outcome, LastWords) {
        let streams = Streams {
            reply: Reply::new(self.limits.reply_bytes),
            stdout: Log::new(Level::Info, self.node.clone()),
            stderr: Log::new(Level::Warn, self.node.clone()),
        };
        let deadline = call.deadline;
        let (mut store, call) = self.store(call, &streams);
        let turn = Arc::new(Turn::new());
        store.set_epoch_deadline(1);
        if let Place::OnLink(_) = place {
            let turn = Arc::clone(&turn);
            store.epoch_deadline_callback(move |_| Ok(turn.at_epoch()));
        } else {
            store.epoch_deadline_async_yield_and_update(1);
        }
        let function = Arc::clone(self);
        // Dropped in this order: the instance's place in the pool is what the slot stands for. A call that is given up
        // on another thread is gone only at its next epoch.
        let mut held = (store, slot);
        let work: Work<Ran> = Box::pin(async move {
            let (store, _) = &mut held;
            let ended = run(&function.program, store, call).await;
            (ended, store.data().memory.denied())
        });
        let work = self.place(work, place, &turn);
        let mut given_up = self.given_up.subscribe();
        let _ticking = self.ticker.tick();
        let ended = tokio::select! {
            biased;
            _ = given_up.wait_for(|given_up| *given_up) => {
                Err(Failure::new(FailureKind::Killed, "the function was stopped while the call ran"))
            }
            ended = tokio::time::timeout_at(deadline, work) => {
                ended.map_err(|_| call::timed_out())
            }
        };
        let outcome = ended.and_then(|(ended, denied)| self.judge(ended, denied, &streams));
        (outcome, LastWords(streams))
    }

    /// Runs a call where it belongs. Dropping this ends it.
    async fn place(&self, work: Work<Ran>, place: Place, turn: &Turn) -> Ran {
        let guests = match place {
            Place::Here => return work.await,
            Place::OnLink(guests) => guests,
        };
        match turn::here(work, turn, &self.habit).await {
            Ok(ran) => ran,
            Err(work) => AbortOnDropJoinHandle::from(guests.spawn(work)).await,
        }
    }

    /// The store of a call, and what of the call a handler is given.
    fn store(&self, call: Call, streams: &Streams) -> (Store<Guest>, handler::Call) {
        let Call { id, subject, headers, payload, deadline } = call;
        let mut wasi = WasiCtxBuilder::new();
        wasi.args(&[ARGUMENT_ZERO, &subject]).stderr(streams.stderr.clone());
        let given = match &self.program {
            Program::Handler(_) => {
                wasi.stdout(streams.stdout.clone());
                self.environment(&mut wasi, None);
                handler::Call { subject, headers, payload: payload.into() }
            }
            Program::Module(_) | Program::Command(_) => {
                wasi.stdin(MemoryInputPipe::new(payload)).stdout(streams.reply.clone());
                self.environment(&mut wasi, as_document(&headers));
                handler::Call { subject: String::new(), headers: Headers::new(), payload: Vec::new() }
            }
        };
        let memory = MemoryLimit::new(self.limits.memory_bytes);
        let services = Services::new(self.host.clone(), id, self.node.clone(), self.limits.memory_bytes);
        let guest = Guest::new(&mut wasi, memory, services, Arc::clone(&self.identity), deadline);
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| &mut guest.memory);
        (store, given)
    }

    fn environment(&self, wasi: &mut WasiCtxBuilder, headers: Option<String>) {
        for (key, value) in self.identity.environment.iter() {
            if headers.is_none() || key != HEADERS {
                wasi.env(key, value);
            }
        }
        if let Some(headers) = headers {
            wasi.env(HEADERS, headers);
        }
    }

    /// What the end of the program means for the caller.
    fn judge(&self, ended: wasmtime::Result<End>, denied: bool, streams: &Streams) -> Outcome {
        let Some(body) = streams.reply.take() else { return Err(call::reply_too_large(self.limits.reply_bytes)) };
        let ended = match ended {
            Ok(End::Answer(Ok(handler::Reply { headers, payload }))) => {
                return reply::check(Ok((headers, payload.into())), self.limits.reply_bytes);
            }
            Ok(End::Answer(Err(why))) => return Err(Failure::new(FailureKind::Function, said(&why))),
            Ok(End::Status(0)) => return Ok((Headers::new(), body)),
            Ok(End::Status(status)) => Ok(status),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                // A handler that exits has no reply.
                Some(I32Exit(0)) if !matches!(self.program, Program::Handler(_)) => return Ok((Headers::new(), body)),
                Some(I32Exit(status)) => Ok(*status),
                None => Err(error),
            },
        };
        if denied {
            let limit = self.limits.memory_bytes;
            return Err(Failure::new(
                FailureKind::OutOfMemory,
                format!("the function needed more than the {limit} bytes of memory it may have"),
            ));
        }
        let last_line = streams.stderr.last_line();
        let message = match (ended, last_line) {
            (Ok(status), Some(line)) => format!("exited with status {status}: {line}"),
            (Ok(status), None) => format!("exited with status {status}"),
            (Err(error), _) => first_line(&error),
        };
        Err(Failure::new(FailureKind::Function, message))
    }
}

/// Instantiates and runs.
async fn run(program: &Program, store: &mut Store<Guest>, call: handler::Call) -> wasmtime::Result<End> {
    match program {
        Program::Module(module) => {
            let instance = module.instantiate_async(&mut *store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
            start.call_async(&mut *store, ()).await?;
            Ok(End::Status(0))
        }
        Program::Command(component) => {
            let command = component.instantiate_async(&mut *store).await?;
            let result = command.wasi_cli_run().call_run(&mut *store).await?;
            Ok(End::Status(if result.is_ok() { 0 } else { 1 }))
        }
        Program::Handler(component) => {
            let instance = component.instantiate_async(&mut *store).await?;
            instance.nex_function_handler().call_handle(&mut *store, &call).await.map(End::Answer)
        }
    }
}

/// The headers as a document; none when there are none.
fn as_document(headers: &Headers) -> Option<String> {
    if headers.is_empty() { None } else { serde_json::to_string(headers).ok() }
}

/// The error of a handler; it has one.
fn said(why: &str) -> &str {
    if why.trim().is_empty() { "the function failed and did not say why" } else { why }
}

fn first_line(error: &wasmtime::Error) -> String {
    let text = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    text.lines().next().unwrap_or("trap").to_owned()
}
