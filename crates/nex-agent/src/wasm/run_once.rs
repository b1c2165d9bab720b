//! One call: a store and an instance of its own, the payload on stdin, the reply from stdout.
//!
//! The guest has clocks and randomness, its environment and its arguments; no files and no network. Its deadline holds
//! from instantiation on, so a module that never leaves its start section is ended like one that never leaves `_start`.

use nex_link::Sender;
use nex_protocol::link::message::{Failure, FailureKind, Headers, Limits, Outcome, Start, ToNode};
use tokio::sync::watch;
use wasmtime::{Engine, Store, Trap};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{I32Exit, WasiCtxBuilder, WasiCtxView, WasiView};

use super::engine::Ticker;
use super::memory::MemoryLimit;
use super::program::Program;
use super::streams::{Reply, Stderr};
use crate::call::{self, Call};

/// First argument of every command, as Go Nex has it.
const ARGUMENT_ZERO: &str = "nexfunction";

/// Variable with the message's headers.
const HEADERS: &str = "NEX_HEADERS";

/// What the host keeps for one instance.
pub(crate) struct Guest {
    wasi: WasiP1Ctx,
    memory: MemoryLimit,
}

impl Guest {
    /// WASI's part of it.
    pub(crate) fn wasi(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

/// A function that can be called.
pub(crate) struct Function {
    engine: Engine,
    ticker: Ticker,
    program: Program,
    environment: nex_protocol::Environment,
    limits: Limits,
    node: Sender<ToNode>,
    given_up: watch::Sender<bool>,
}

impl Function {
    pub(crate) fn new(engine: Engine, ticker: Ticker, program: Program, start: &Start, node: Sender<ToNode>) -> Self {
        let (environment, limits) = (start.environment.clone(), start.limits);
        Self { engine, ticker, program, environment, limits, node, given_up: watch::Sender::new(false) }
    }

    /// Ends every call that still runs.
    pub(crate) fn give_up(&self) {
        self.given_up.send_replace(true);
    }

    /// Runs one call. What the guest said last is still to be delivered.
    pub(crate) async fn call(&self, call: Call) -> (Outcome, Stderr) {
        let (reply, stderr) = (Reply::new(self.limits.reply_bytes), Stderr::new(self.node.clone()));
        let deadline = call.deadline;
        let mut store = self.store(call, &reply, &stderr);
        let mut given_up = self.given_up.subscribe();
        let _ticking = self.ticker.tick();
        let ended = tokio::select! {
            biased;
            _ = given_up.wait_for(|given_up| *given_up) => {
                Err(Failure::new(FailureKind::Killed, "the function was stopped while the call ran"))
            }
            ended = tokio::time::timeout_at(deadline, run(&self.program, &mut store)) => {
                ended.map_err(|_| call::timed_out())
            }
        };
        let outcome = ended.and_then(|ended| self.judge(ended, &store, &reply, &stderr));
        (outcome, stderr)
    }

    fn store(&self, call: Call, reply: &Reply, stderr: &Stderr) -> Store<Guest> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.args(&[ARGUMENT_ZERO, &call.subject])
            .stdin(MemoryInputPipe::new(call.payload))
            .stdout(reply.clone())
            .stderr(stderr.clone());
        let headers = headers(&call.headers);
        for (key, value) in self.environment.iter() {
            if headers.is_none() || key != HEADERS {
                wasi.env(key, value);
            }
        }
        if let Some(headers) = headers {
            wasi.env(HEADERS, headers);
        }
        let guest = Guest { wasi: wasi.build_p1(), memory: MemoryLimit::new(self.limits.memory_bytes) };
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| &mut guest.memory);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        store
    }

    /// What the end of the program means for the caller.
    fn judge(&self, ended: wasmtime::Result<i32>, store: &Store<Guest>, reply: &Reply, stderr: &Stderr) -> Outcome {
        let Some(body) = reply.take() else { return Err(call::reply_too_large(self.limits.reply_bytes)) };
        let ended = match ended {
            Ok(0) => return Ok((Headers::new(), body)),
            Ok(status) => Ok(status),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(I32Exit(0)) => return Ok((Headers::new(), body)),
                Some(I32Exit(status)) => Ok(*status),
                None => Err(error),
            },
        };
        if store.data().memory.denied() {
            let limit = self.limits.memory_bytes;
            return Err(Failure::new(
                FailureKind::OutOfMemory,
                format!("the function needed more than the {limit} bytes of memory it may have"),
            ));
        }
        let said = stderr.last_line();
        let message = match (ended, said) {
            (Ok(status), Some(said)) => format!("exited with status {status}: {said}"),
            (Ok(status), None) => format!("exited with status {status}"),
            (Err(error), _) => first_line(&error),
        };
        Err(Failure::new(FailureKind::Function, message))
    }
}

/// Instantiates and runs; gives the exit status.
async fn run(program: &Program, store: &mut Store<Guest>) -> wasmtime::Result<i32> {
    match program {
        Program::Module(module) => {
            let instance = module.instantiate_async(&mut *store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
            start.call_async(&mut *store, ()).await?;
            Ok(0)
        }
        Program::Component(component) => {
            let command = component.instantiate_async(&mut *store).await?;
            let result = command.wasi_cli_run().call_run(&mut *store).await?;
            Ok(if result.is_ok() { 0 } else { 1 })
        }
    }
}

/// The headers as a document; none when there are none.
fn headers(headers: &Headers) -> Option<String> {
    if headers.is_empty() { None } else { serde_json::to_string(headers).ok() }
}

fn first_line(error: &wasmtime::Error) -> String {
    let text = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    text.lines().next().unwrap_or("trap").to_owned()
}
