//! WebAssembly functions: compiled once, a fresh instance for every call.
//!
//! The session's task owns the function and hands each call to a task of its own. A call that is alone and short runs
//! on the thread of the link ([`turn`]); all others run on a runtime of their own ([`Guests`]): guest code that computes
//! for long takes its share of the processors there, and no more than a moment of the link's time. At most
//! `limits.concurrency` calls run; more wait, until their deadline. [`engine`] and [`program`] make what is run,
//! [`run_once`] runs it, [`cache`] spares compiling it again, [`services`] is what a component may ask of the node.

mod bindings;
mod cache;
mod engine;
mod fresh;
mod given;
mod guest;
mod memory;
mod program;
mod run_once;
mod services;
mod streams;
mod turn;

use std::sync::Arc;

use nex_link::Sender;
use nex_protocol::link::message::{Failure, FailureKind, ToNode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use wasmtime::Engine;

use self::cache::Kept;
use self::engine::{Guests, Ticker};
use self::fresh::Fresh;
pub(crate) use self::fresh::OverLink;
pub(crate) use self::given::Given;
use self::run_once::{Function, Place};
use crate::call::{self, Call};
use crate::host::Host;
use crate::workload::{self, Context, Finish, Inbox};

/// Runs a function's calls until it is told to stop.
pub(crate) async fn run(context: Context, inbox: &mut Inbox) -> Finish {
    let Context { welcome, start, node, host, over_link, .. } = context;
    let concurrency = engine::slots(&start.limits);
    let (given, taken) = over_link.map(|OverLink { given, taken }| (given, taken)).unzip();
    let prepare = {
        let node = node.clone();
        move || {
            let engine = engine::create(&start.limits).map_err(failed)?;
            let kept = match given {
                Some(given) => Kept::link(&engine, given),
                None => Kept::folder(&engine, welcome.compiled_dir.as_deref(), &start.sha256),
            };
            prepare(engine, &start, &kept, node, host)
        }
    };
    // Compiling takes as long as it takes, away from the threads that answer the node.
    let prepared = tokio::select! {
        prepared = tokio::task::spawn_blocking(prepare) => prepared,
        () = workload::stopped(&mut inbox.stop) => return Finish::stopped_early(),
    };
    let (function, guests, fresh) = match prepared {
        Ok(Ok(prepared)) => prepared,
        Ok(Err(why)) => return Finish::Rejected(why),
        Err(error) => return Finish::Rejected(format!("the WebAssembly engine failed: {error}")),
    };
    let _ = node.send(ToNode::Started { process_group: None }).await;
    let send = async {
        if let (Some(fresh), Some(taken)) = (fresh, &taken) {
            fresh.send(&node, taken).await;
        }
        std::future::pending::<()>().await;
    };
    // Beside the calls, and no longer than there are any.
    tokio::select! {
        biased;
        () = serve(&function, &guests, concurrency, &node, inbox) => {}
        () = send => {}
    }
    Finish::stopped()
}

type Prepared = (Arc<Function>, Guests, Option<Fresh>);

fn failed(error: wasmtime::Error) -> String {
    format!("the WebAssembly engine failed: {error:#}")
}

fn prepare(
    engine: Engine,
    start: &nex_protocol::link::message::Start,
    kept: &Kept,
    node: Sender<ToNode>,
    host: Host,
) -> Result<Prepared, String> {
    let (program, fresh) = program::prepare(&engine, start, kept).map_err(|error| error.to_string())?;
    let ticker = Ticker::start(engine.clone()).map_err(|error| format!("no thread for the engine: {error}"))?;
    let guests = Guests::start().map_err(|error| format!("no threads for the engine: {error}"))?;
    let function = Function::new(engine, ticker, program, start, node, host);
    Ok((Arc::new(function), guests, fresh))
}

/// Takes calls until told to stop, then lets those that run finish within the grace.
async fn serve(function: &Arc<Function>, guests: &Guests, concurrency: u32, node: &Sender<ToNode>, inbox: &mut Inbox) {
    let slots = Arc::new(Semaphore::new(concurrency as usize));
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            // Stop before a call that came before it: what has not begun by then is not begun any more.
            biased;
            () = workload::stopped(&mut inbox.stop) => break,
            Some(call) = inbox.calls.recv() => {
                if running.len() >= call::WAITING + concurrency as usize {
                    call::refuse(node, call.id, FailureKind::Overloaded, "too many calls wait for this function").await;
                    continue;
                }
                // Here, where calls are in order: tasks do not begin in the order they were made.
                let slot = Arc::clone(&slots).try_acquire_owned().ok();
                while running.try_join_next().is_some() {}
                let turn = |place| take_turn(call, slot, Arc::clone(&slots), Arc::clone(function), node.clone(), place);
                if running.is_empty() && function.is_short() {
                    running.spawn(turn(Place::OnLink(guests.handle().clone())));
                } else {
                    running.spawn_on(turn(Place::Here), guests.handle());
                }
            }
            Some(_) = running.join_next() => {}
        }
    }
    slots.close();
    let mut told = false;
    loop {
        tokio::select! {
            ended = running.join_next() => if ended.is_none() { return },
            () = workload::out_of_grace(&mut inbox.stop), if !told => {
                function.give_up();
                told = true;
            }
        }
    }
}

/// Waits for a slot if there was none, runs the call, answers it.
async fn take_turn(
    call: Call,
    slot: Option<OwnedSemaphorePermit>,
    slots: Arc<Semaphore>,
    function: Arc<Function>,
    node: Sender<ToNode>,
    place: Place,
) {
    let waited_since = Instant::now();
    let id = call.id;
    let turn = async {
        match slot {
            Some(slot) => Ok(slot),
            None => slots.acquire_owned().await,
        }
    };
    let slot = match tokio::time::timeout_at(call.deadline, turn).await {
        Ok(Ok(slot)) => slot,
        Ok(Err(_closed)) => {
            let stopped = Failure::new(FailureKind::Killed, "the function was stopped before the call's turn came");
            return call::answer(&node, id, waited_since, Err(stopped)).await;
        }
        Err(_) => return call::answer(&node, id, waited_since, Err(call::overloaded())).await,
    };
    let begun = Instant::now();
    let (outcome, last_words) = function.call(call, slot, place).await;
    call::answer(&node, id, begun, outcome).await;
    // After the answer: whoever waits for it does not wait for the log.
    last_words.deliver().await;
}
