//! JavaScript functions: a Deno worker process, driven call by call, replaced when it is stuck or dead.
//!
//! [`run`] brings the first worker up and answers Start; [`function`] owns it from then on. [`calls`] knows whose turn
//! it is, [`worker`] the process, [`host_calls`] what it asks of the node, [`protocol`] what is said to it, `worker/*.js` the
//! other side. No JavaScript ever runs in the agent, and nothing the worker says is believed.

mod answers;
mod calls;
mod function;
mod host_calls;
mod memory;
mod protocol;
mod source;
mod worker;

use std::time::{Duration, Instant};

use nex_protocol::link::message::ToNode;

use self::function::Function;
use self::protocol::{FromWorker, Load};
use self::worker::{Event, Settings, Worker};
use crate::workload::{self, Context, Finish, Inbox};

/// Time a source has to load: its top level must end, and it must say what the function is.
const LOAD: Duration = Duration::from_secs(10);

/// Runs a function from start to end.
pub(crate) async fn run(context: Context, inbox: &mut Inbox) -> Finish {
    let settings = match settings(context) {
        Ok(settings) => settings,
        Err(why) => return Finish::Rejected(why),
    };
    let begun = Instant::now();
    let mut worker = match Worker::start(&settings) {
        Ok(worker) => worker,
        Err(error) => {
            return Finish::Rejected(format!("Deno ({}) cannot be started: {error}", settings.deno.display()));
        }
    };
    let loaded = tokio::select! {
        loaded = tokio::time::timeout(LOAD, loaded(&mut worker)) => loaded,
        () = workload::stopped(&mut inbox.stop) => return Finish::stopped_early(),
    };
    match loaded {
        Ok(Loaded::Yes) => {}
        Ok(Loaded::Refused(why)) => return Finish::Rejected(why),
        Ok(Loaded::Died(why)) => {
            let ended = worker.end(why.is_some(), worker::DYING, |_| false).await;
            return Finish::Rejected(why.unwrap_or_else(|| function::last_words(&ended, "loading the source")));
        }
        Err(_) => return Finish::Rejected(format!("the source did not finish loading within {} s", LOAD.as_secs())),
    }
    let _ = settings.node.send(ToNode::Started { process_group: Some(worker.id()) }).await;
    Function::new(settings, worker, begun.elapsed()).run(inbox).await
}

fn settings(context: Context) -> Result<Settings, String> {
    let Context { welcome, start, node, host, groups, .. } = context;
    let deno = welcome.deno.ok_or("this node has no Deno, which JavaScript functions need (version 2 or later)")?;
    let source = source::read(&start.artifact, start.limits.script_bytes)?;
    worker::install(&welcome.work_dir).map_err(|error| format!("the agent's folder cannot be written: {error}"))?;
    let load = Load {
        name: start.name,
        namespace: start.namespace,
        env: start.environment,
        reply_bytes: start.limits.reply_bytes,
        host_bytes: start.limits.memory_bytes,
    };
    Ok(Settings { deno, folder: welcome.work_dir, load, source, limits: start.limits, node, host, groups })
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
            Event::Message(FromWorker::Outcome(..) | FromWorker::Yielded(_) | FromWorker::Pong(_)) => {
                return Loaded::Died(Some(function::garbage(function::UNASKED)));
            }
            // No call is with it yet, so that whatever it asks for is refused.
            Event::Message(message) => worker.host_calls.hear(message, |_| None),
            Event::Garbage(error) => return Loaded::Died(Some(function::garbage(error))),
            Event::Closed => return Loaded::Died(None),
        }
    }
}
