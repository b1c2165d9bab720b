//! JavaScript functions: a Deno worker process, driven call by call, replaced when it is stuck or dead.
//!
//! [`run`] brings the first worker up and answers Start; [`function`] owns it from then on. [`prestart`] may have started it
//! before. [`calls`] knows whose turn it is, [`deno`] the process, [`fresh`] one without a function and [`worker`] one with
//! it, [`incoming`] how it hears us, [`host_calls`] what it asks of the node and [`direct`] its way past us, [`pace`] how slow
//! the machine is, [`protocol`] what is said to it,
//! `worker/*.js` the other side. No JavaScript ever runs in the agent, and nothing the worker says is believed.

mod calls;
mod deno;
mod direct;
mod fresh;
mod function;
mod host_calls;
mod incoming;
mod memory;
mod pace;
mod prestart;
mod protocol;
mod source;
mod worker;

use std::time::Duration;

use nex_link::Sender;
use nex_protocol::link::message::{ToNode, Welcome};

use self::deno::{DYING, Engine, Event};
pub(crate) use self::fresh::Fresh;
use self::fresh::Ready;
use self::function::Function;
pub(crate) use self::prestart::Prestart;
use self::protocol::{FromWorker, Load};
use self::worker::{Settings, Worker};
use crate::guard::Groups;
use crate::workload::{self, Context, Finish, Inbox};

/// Runs a function from start to end, in the worker that waits for it if there is one.
pub(crate) async fn run(context: Context, waiting: Option<Fresh>, inbox: &mut Inbox) -> Finish {
    let settings = match settings(context) {
        Ok(settings) => settings,
        Err(why) => return Finish::Rejected(why),
    };
    let (fresh, ready) = tokio::select! {
        ready = ready(&settings.engine, waiting) => match ready {
            Ok(ready) => ready,
            Err(why) => return Finish::Rejected(why),
        },
        () = workload::stopped(&mut inbox.stop) => return Finish::stopped_early(),
    };
    let pace = ready.pace;
    let mut worker = fresh.load(ready, &settings);
    let loaded = tokio::select! {
        loaded = tokio::time::timeout(pace.load(), loaded(&mut worker)) => loaded,
        () = workload::stopped(&mut inbox.stop) => return Finish::stopped_early(),
    };
    match loaded {
        Ok(Loaded::Yes) => {}
        Ok(Loaded::Refused(why)) => return Finish::Rejected(why),
        Ok(Loaded::Died(why)) => {
            let ended = worker.end(why.is_some(), DYING, |_| false).await;
            return Finish::Rejected(why.unwrap_or_else(|| function::last_words(&ended, "loading the source")));
        }
        Err(_) => return Finish::Rejected(function::too_slow(pace)),
    }
    let _ = settings.node.send(ToNode::Started { process_group: Some(worker.id()) }).await;
    Function::new(settings, worker, pace).run(inbox).await
}

/// A worker that is ready: the one that waits, if it gets there, else a new one.
async fn ready(engine: &Engine, waiting: Option<Fresh>) -> Result<(Fresh, Ready), String> {
    if let Some(mut fresh) = waiting {
        match fresh.ready().await {
            Ok(ready) => return Ok((fresh, ready)),
            Err(fresh::NotReady::Late) => return Err(fresh.fail(fresh::NotReady::Late).await),
            Err(why) => tracing::warn!(reason = fresh.fail(why).await, "the worker that waited cannot be used"),
        }
    }
    engine.install().map_err(|error| format!("the agent's folder cannot be written: {error}"))?;
    let mut fresh = Fresh::start(engine, false)
        .map_err(|error| format!("Deno ({}) cannot be started: {error}", engine.program.display()))?;
    match fresh.ready().await {
        Ok(ready) => Ok((fresh, ready)),
        Err(why) => Err(fresh.fail(why).await),
    }
}

/// How workers are started; none on a node without Deno.
fn engine(welcome: &Welcome, memory_bytes: u64, node: &Sender<ToNode>, groups: &Groups) -> Option<Engine> {
    Some(Engine {
        program: welcome.deno.clone()?,
        folder: welcome.work_dir.clone(),
        memory_bytes,
        // Before the node's patience ends, so that it hears what was wrong.
        start: Duration::from_millis(welcome.start_timeout_ms) * 9 / 10,
        direct: welcome.direct,
        node: node.clone(),
        groups: groups.clone(),
    })
}

fn settings(context: Context) -> Result<Settings, String> {
    let Context { welcome, start, node, host, groups, .. } = context;
    let engine = engine(&welcome, start.limits.memory_bytes, &node, &groups)
        .ok_or("this node has no Deno, which JavaScript functions need (version 2.9 or later)")?;
    let source = source::read(&start.artifact, start.limits.script_bytes)?;
    let load = Load {
        name: start.name,
        namespace: start.namespace,
        env: start.environment,
        reply_bytes: start.limits.reply_bytes,
        host_bytes: start.limits.memory_bytes,
    };
    Ok(Settings { engine, load, source, limits: start.limits, node, host })
}

enum Loaded {
    Yes,
    Refused(String),
    /// With the reason, unless the worker's end has to tell it.
    Died(Option<String>),
}

async fn loaded(worker: &mut Worker) -> Loaded {
    loop {
        match worker.event().await {
            Event::Message(FromWorker::Loaded) => return Loaded::Yes,
            Event::Message(FromWorker::Refused(why)) => return Loaded::Refused(why),
            Event::Message(
                FromWorker::Ready | FromWorker::Outcome(..) | FromWorker::Yielded(_) | FromWorker::Pong(_),
            ) => {
                return Loaded::Died(Some(function::garbage(function::UNASKED)));
            }
            // No call is with it yet, so that whatever it asks for is refused.
            Event::Message(message) => worker.host_calls.hear(message, |_| None),
            Event::Garbage(error) => return Loaded::Died(Some(function::garbage(error))),
            Event::Closed => return Loaded::Died(None),
        }
    }
}
