//! The actor of a workload: fetches, starts, watches, restarts and ends it.
//!
//! It alone moves the workload's state (see [`super`]). Others reach it by [`Stop`]; everything else it learns from
//! those who attend to its agents ([`super::attend`]; [`super::fleet`] for a function). A deploy is answered when the workload first runs, or with the reason why it does not; from then
//! on failures are answered with restarts: functions always, services when `essential`.
//!
//! Promises: every start ends in a claim that is used or destroyed; exactly one `workload_deployed` and one
//! `workload_undeployed` event a workload that ran; what a workload used is given back when it is gone.

use std::sync::Arc;
use std::time::Duration;

use nex_host_services::HostServices;
use nex_protocol::event::Event;
use nex_protocol::link::message::Exit;
use nex_protocol::{Code, Fault};
use nex_sandbox::Backoff;
use nex_sandbox::agent::new_id;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::assignment::Assignment;
use super::attend::Hosted;
use super::budget::Budget;
use super::call::Instance;
use super::fleet::Agents;
use super::gate::Gate;
use super::table::{Table, Workload};
use super::trigger::{Function, Triggers};
use super::{Counters, Origin, Record, Spec, State, Status, millis};
use crate::artifact::{Artifact, ArtifactCache};
use crate::compiled::CompiledStore;
use crate::config::Config;
use crate::connection::Connection;
use crate::lame_duck::LameDuck;
use crate::pools::Pools;
use crate::publisher::Publisher;
use crate::state::StateDir;

/// Time a deploy has; a client waits [`PATIENCE`] longer for its answer.
const DEPLOY_LIMIT: Duration = Duration::from_secs(55);

/// How much longer than a deploy may take a client waits, so that it hears the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends a workload.
#[derive(Debug)]
pub struct Stop {
    /// For the event and the log.
    pub reason: String,
    /// Whether the workload is to come back when the node does.
    pub keep_record: bool,
    /// Answered when it is gone.
    pub done: oneshot::Sender<()>,
}

/// What all actors of a node share.
#[derive(Debug)]
pub struct Shared {
    /// Configuration of the node.
    pub config: Config,
    /// Where records are kept.
    pub state: StateDir,
    /// The node's own connection.
    pub nats: Connection,
    /// The cache of artifacts.
    pub artifacts: ArtifactCache,
    /// What machines have compiled.
    pub compiled: CompiledStore,
    /// Ready agents.
    pub pools: Pools,
    /// All workloads.
    pub table: Table,
    /// Bytes of messages in functions.
    pub budget: Arc<Budget>,
    /// Events and logs.
    pub publisher: Publisher,
    /// Host services on the node's own connection.
    pub services: HostServices,
    /// Whether the node is on its way out.
    pub lame_duck: LameDuck,
    /// Whether the node has said that it is there: what it brings back comes up after that.
    pub announced: watch::Sender<bool>,
    /// Why processor and memory of services cannot be bounded here; none when they can.
    pub no_cgroups: Option<String>,
}

/// Starts the actor of a workload; resolves when it first runs.
///
/// # Errors
/// The refusal, when it does not come to run; nothing is left of it then.
pub async fn deploy(shared: &Arc<Shared>, spec: Spec) -> Result<Arc<Workload>, Fault> {
    let (workload, started) = spawn(shared, new_id(), spec, Origin::Request)?;
    let limit = deploy_limit(&shared.config);
    match timeout(limit, started).await {
        Ok(Ok(Ok(()))) => Ok(workload),
        Ok(Ok(Err(fault))) => Err(fault),
        Ok(Err(_)) => Err(Fault::new(Code::Internal, "Failed to deploy workload: its task ended")),
        Err(_) => {
            // Who asked has given up by now; a workload that nobody knows of must not come to run later.
            workload.stop("it was not started in time", false).await;
            let text = format!("Failed to deploy workload: it was not started within {} s", limit.as_secs());
            Err(Fault::new(Code::StartFailed, text))
        }
    }
}

/// Where machines are given more time to boot, everything in them takes longer.
fn deploy_limit(config: &Config) -> Duration {
    if config.no_sandbox { DEPLOY_LIMIT } else { DEPLOY_LIMIT.max(config.boot_timeout.saturating_sub(PATIENCE)) }
}

/// Starts the actor of a workload that ran before; failures are retried like those of a running one.
///
/// # Errors
/// The refusal, when there is no place for it.
pub fn restore(shared: &Arc<Shared>, id: String, record: Record) -> Result<(), Fault> {
    spawn(shared, id, record.spec, Origin::Restored { sha256: record.sha256 }).map(drop)
}

/// Starts the actor of a workload of the configuration; failures are retried like those of a running one.
///
/// # Errors
/// The refusal, when there is no place for it.
pub fn autostart(shared: &Arc<Shared>, spec: Spec) -> Result<(), Fault> {
    spawn(shared, new_id(), spec, Origin::Autostart).map(drop)
}

type Started = oneshot::Receiver<Result<(), Fault>>;

fn spawn(shared: &Arc<Shared>, id: String, spec: Spec, origin: Origin) -> Result<(Arc<Workload>, Started), Fault> {
    let spec = Arc::new(spec);
    let counters = Arc::new(Counters::default());
    let (status, status_seen) = watch::channel(Status { state: State::Fetching, restarts: 0, agents: 0 });
    let (stop, stops) = mpsc::channel(4);
    let gate = Gate::new(spec.function_limits(&shared.config), Arc::clone(&shared.budget));
    let seen = (status_seen, Arc::clone(&counters), Arc::clone(&gate));
    let workload = Arc::new(Workload::new(id.clone(), Arc::clone(&spec), seen, stop));
    shared.table.insert(Arc::clone(&workload))?;
    let (started, starting) = oneshot::channel();
    let function = Arc::new(Function {
        id: id.clone(),
        spec: Arc::clone(&spec),
        gate,
        counters,
        publisher: shared.publisher.clone(),
    });
    let actor = Actor {
        shared: Arc::clone(shared),
        id,
        spec,
        status,
        stops,
        function,
        triggers: None,
        services: None,
        started: (origin == Origin::Request).then_some(started),
        origin,
        artifact: None,
        deployed: false,
        running_since: None,
        stopping: None,
        agents: Agents::default(),
    };
    tokio::spawn(actor.run());
    Ok((workload, starting))
}

pub(super) struct Actor {
    pub(super) shared: Arc<Shared>,
    pub(super) id: String,
    pub(super) spec: Arc<Spec>,
    pub(super) status: watch::Sender<Status>,
    pub(super) stops: mpsc::Receiver<Stop>,
    pub(super) function: Arc<Function>,
    pub(super) triggers: Option<Triggers>,
    pub(super) started: Option<oneshot::Sender<Result<(), Fault>>>,
    pub(super) origin: Origin,
    pub(super) artifact: Option<Artifact>,
    /// The host services of a function, once it has started.
    pub(super) services: Option<HostServices>,
    /// Whether it has run since the node started.
    pub(super) deployed: bool,
    /// When the present spell of running began.
    pub(super) running_since: Option<Instant>,
    pub(super) stopping: Option<Stop>,
    /// The tasks that attend to a function's agents.
    pub(super) agents: Agents,
}

/// How a spell of running, or an attempt at one, ended.
pub(super) enum Ended {
    /// Somebody asked for it.
    Asked,
    /// The workload ended by itself.
    Exited(Exit),
    /// The agent is gone or of no use.
    Lost(String),
    /// It did not come to run.
    NotStarted(Fault),
}

impl Ended {
    /// Why, for people.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Asked => "it was asked to".to_owned(),
            Self::Exited(exit) => exit.message.clone(),
            Self::Lost(reason) => reason.clone(),
            Self::NotStarted(fault) => fault.message.clone(),
        }
    }
}

/// The end of a workload.
struct End {
    code: i32,
    message: String,
    /// Whether it is over for good. It is not when it was given up: the next start of the node tries again.
    forget: bool,
}

impl End {
    fn for_good(code: i32, message: String) -> Self {
        Self { code, message, forget: true }
    }
}

impl Actor {
    async fn run(mut self) {
        let End { code, message, forget } = self.live().await;
        self.set_state(State::Stopping);
        // What comes from now on is answered with its refusal.
        self.function.gate.close();
        if let Some(triggers) = self.triggers.take() {
            triggers.drain().await;
        }
        self.agents.end().await;
        // Whoever asks from now on is answered all the same; a stop for good outweighs that of a node that leaves.
        self.stops.close();
        let mut stops: Vec<Stop> = self.stopping.take().into_iter().collect();
        while let Ok(stop) = self.stops.try_recv() {
            stops.push(stop);
        }
        let leaving = !stops.is_empty() && stops.iter().all(|stop| stop.keep_record);
        let stopped_for_good = stops.iter().any(|stop| !stop.keep_record);
        if stopped_for_good || (forget && !leaving) {
            self.shared.state.remove_record(&self.id);
        }
        self.shared.table.remove(&self.id);
        self.set_state(State::Gone);
        info!(workload = %self.spec.name, id = %self.id, code, reason = message, "workload ended");
        self.tell_undeployed(code, message);
        self.artifact = None;
        self.shared.artifacts.evict();
        for stop in stops {
            let _ = stop.done.send(());
        }
    }

    /// The event of the end of a workload that ran.
    fn tell_undeployed(&self, code: i32, message: String) {
        if self.deployed {
            let event = Event::WorkloadUndeployed {
                workload_name: self.spec.name.to_string(),
                workload_id: self.id.clone(),
                code,
                message,
            };
            self.shared.publisher.workload_event(&self.spec.namespace, &event);
        }
    }

    /// The whole life.
    async fn live(&mut self) -> End {
        let policy = self.shared.config.restart;
        let backoff = Backoff { base: policy.base, cap: policy.cap };
        let mut attempts = 0;
        let is_function = self.spec.r#type.is_function();
        loop {
            let ended = match self.start().await {
                Ok(Some(hosted)) if !is_function => self.serve(hosted).await,
                Ok(first) => self.serve_function(first).await,
                Err(ended) => ended,
            };
            if self.running_since.take().is_some_and(|since| since.elapsed() >= policy.stable) {
                attempts = 0;
            }
            let (code, message) = match ended {
                Ended::Asked => {
                    self.refuse(Fault::new(Code::StartFailed, "Failed to deploy workload: it was stopped meanwhile"));
                    return self.asked();
                }
                Ended::NotStarted(fault) => {
                    let message = fault.message.clone();
                    if self.refuse(fault) {
                        return End::for_good(-1, message);
                    }
                    (-1, message)
                }
                // A service that has done its work is done; a function that ended is not.
                Ended::Exited(Exit { code: Some(0), message, .. }) if !is_function => return End::for_good(0, message),
                Ended::Exited(exit) => (exit.code.unwrap_or(-1), exit.message),
                Ended::Lost(reason) => (-1, reason),
            };
            // One that comes back, or that the configuration names, is tried again until it has run.
            let expected = self.origin != Origin::Request && !self.deployed;
            if !(self.spec.essential || is_function || expected) {
                return End::for_good(code, message);
            }
            if self.shared.lame_duck.is_on() && !is_function {
                // It would be started only to be ended; its record brings it back should the node come back.
                return End { code, message, forget: false };
            }
            if policy.max_attempts > 0 && attempts >= policy.max_attempts {
                self.shared.publisher.workload_event(
                    &self.spec.namespace,
                    &Event::WorkloadGivenUp {
                        workload_name: self.spec.name.to_string(),
                        workload_id: self.id.clone(),
                        attempts,
                        message: message.clone(),
                    },
                );
                let message = format!("given up after {attempts} restarts: {message}");
                return self.lie_failed(code, message).await;
            }
            let delay = backoff.jittered(attempts);
            attempts += 1;
            if !self.back_off(attempts, delay, &message).await {
                return self.asked();
            }
            if self.shared.lame_duck.is_on() && !is_function {
                return End { code, message, forget: false };
            }
        }
    }

    /// A workload that was given up runs no more, and is told so. It stays to be seen and to be stopped: its record would
    /// bring it back at the next start of the node, and nobody could say that it shall not.
    async fn lie_failed(&mut self, code: i32, message: String) -> End {
        self.set_state(State::Failed);
        if let Some(triggers) = self.triggers.take() {
            triggers.drain().await;
        }
        self.function.gate.close();
        self.artifact = None;
        self.shared.artifacts.evict();
        self.tell_undeployed(code, message.clone());
        self.deployed = false;
        self.stopping = self.stops.recv().await;
        if self.stopping.is_some() { self.asked() } else { End { code, message, forget: false } }
    }

    /// Says that the workload runs.
    pub(super) fn running(&mut self) {
        self.set_state(State::Running);
        let artifact = self.artifact.as_ref();
        if !self.deployed {
            self.deployed = true;
            info!(workload = %self.spec.name, namespace = %self.spec.namespace, id = %self.id, "workload deployed");
            let event = Event::WorkloadDeployed {
                workload_name: self.spec.name.to_string(),
                workload_id: self.id.clone(),
                code: 0,
                essential: self.spec.essential,
                total_bytes: artifact.map_or(0, |artifact| artifact.size),
            };
            self.shared.publisher.workload_event(&self.spec.namespace, &event);
            if let (Origin::Request, Some(artifact)) = (&self.origin, artifact) {
                let record = Record { spec: (*self.spec).clone(), sha256: artifact.sha256.clone() };
                if let Err(error) = self.shared.state.save_record(&self.id, &record) {
                    warn!(%error, "the workload runs, but will not come back when the node does");
                }
            }
        }
        if let Some(started) = self.started.take() {
            let _ = started.send(Ok(()));
        }
    }

    /// Watches a service until it ends, and clears away its agent.
    async fn serve(&mut self, mut hosted: Hosted) -> Ended {
        self.running_since = Some(Instant::now());
        self.running();
        let assignment = self.assignment();
        let instance = Arc::new(Instance::new(hosted.sender.clone()));
        let Self { stops, stopping, status, .. } = self;
        let asked = async {
            *stopping = stops.recv().await;
            status.send_modify(|status| status.state = State::Stopping);
        };
        let ended = assignment.attend(&mut hosted, &instance, None, asked, std::future::pending()).await;
        hosted.destroy().await;
        ended
    }

    pub(super) fn assignment(&self) -> Assignment {
        Assignment { shared: Arc::clone(&self.shared), id: self.id.as_str().into(), spec: Arc::clone(&self.spec) }
    }

    /// The end of a workload that was told to.
    fn asked(&self) -> End {
        End::for_good(0, self.stopping.as_ref().map(|stop| stop.reason.clone()).unwrap_or_default())
    }

    /// Answers a deploy that waits with its refusal; says whether there was one.
    fn refuse(&mut self, fault: Fault) -> bool {
        self.started.take().map(|started| started.send(Err(fault))).is_some()
    }

    /// Waits before a restart; false when it is to be stopped instead.
    async fn back_off(&mut self, attempt: u32, delay: Duration, message: &str) -> bool {
        self.set_state(State::Backoff);
        warn!(workload = %self.spec.name, id = %self.id, attempt, ?delay, reason = message, "workload failed; it is restarted");
        let event = Event::WorkloadRestarting {
            workload_name: self.spec.name.to_string(),
            workload_id: self.id.clone(),
            attempt,
            delay_ms: millis(delay),
            message: message.to_owned(),
        };
        self.shared.publisher.workload_event(&self.spec.namespace, &event);
        self.status.send_modify(|status| status.restarts += 1);
        // Through a long delay, other members of the queue group shall have the messages.
        if delay > self.spec.function_limits(&self.shared.config).timeout
            && let Some(triggers) = self.triggers.take()
        {
            triggers.drain().await;
        }
        tokio::select! {
            () = sleep(delay) => true,
            stop = self.stops.recv() => {
                self.stopping = stop;
                false
            }
        }
    }

    pub(super) fn set_state(&self, state: State) {
        self.status.send_if_modified(|status| std::mem::replace(&mut status.state, state) != state);
    }
}
