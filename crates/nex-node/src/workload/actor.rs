//! The actor of a workload: fetches, starts, watches, restarts and ends it.
//!
//! It alone moves the workload's state (see [`super`]). Others reach it by [`Stop`]; everything else it learns from
//! its agent's link. A deploy is answered when the workload first runs, or with the reason why it does not; from then
//! on failures are answered with restarts: functions always, services when `essential`.
//!
//! Promises: every start ends in a claim that is used or destroyed; exactly one `workload_deployed` and one
//! `workload_undeployed` event a workload that ran; what a workload used is given back when it is gone.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use nex_link::{LinkError, Receiver, Sender};
use nex_protocol::event::Event;
use nex_protocol::link::message::{Exit, Limits, Start, ToAgent, ToNode};
use nex_protocol::log::Level;
use nex_protocol::{Code, Fault};
use nex_sandbox::{Agent, Backoff, Place, Pool};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::call::{Gate, Instance};
use super::table::{Table, Workload};
use super::trigger::{Function, Triggers};
use super::{Counters, Record, Spec, State, Status};
use crate::artifact::{Artifact, ArtifactCache};
use crate::config::{Config, FunctionLimits};
use crate::connection;
use crate::publisher::Publisher;
use crate::state::StateDir;

/// Time a claim waits for a ready agent.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);

/// Time an agent has to start a workload: a large Wasm module is compiled meanwhile.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Time between two pings; this many unanswered ones in a row mean that the agent hangs.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const MISSED_PINGS: u32 = 3;

/// Time an agent has beyond the workload's own grace to say that it has ended.
const STOP_SLACK: Duration = Duration::from_secs(2);

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
    pub nats: async_nats::Client,
    /// The cache of artifacts.
    pub artifacts: ArtifactCache,
    /// Ready agents.
    pub pool: Pool,
    /// All workloads.
    pub table: Table,
    /// Events and logs.
    pub publisher: Publisher,
}

/// Starts the actor of a workload; resolves when it first runs.
///
/// # Errors
/// The refusal, when it does not come to run; nothing is left of it then.
pub async fn deploy(shared: &Arc<Shared>, id: String, spec: Spec) -> Result<Arc<Workload>, Fault> {
    let (workload, started) = spawn(shared, id, spec, None)?;
    let gone = || Fault::new(Code::Internal, "Failed to deploy workload: its task ended");
    started.await.unwrap_or_else(|_| Err(gone())).map(|()| workload)
}

/// Starts the actor of a workload that ran before; failures are retried like those of a running one.
///
/// # Errors
/// The refusal, when there is no place for it.
pub fn restore(shared: &Arc<Shared>, id: String, record: Record) -> Result<(), Fault> {
    spawn(shared, id, record.spec, Some(record.sha256)).map(drop)
}

type Started = oneshot::Receiver<Result<(), Fault>>;

fn spawn(
    shared: &Arc<Shared>,
    id: String,
    spec: Spec,
    restored_sha256: Option<String>,
) -> Result<(Arc<Workload>, Started), Fault> {
    let spec = Arc::new(spec);
    let counters = Arc::new(Counters::default());
    let (status, status_seen) = watch::channel(Status { state: State::Fetching, restarts: 0 });
    let (stop, stops) = mpsc::channel(4);
    let workload = Arc::new(Workload::new(id.clone(), Arc::clone(&spec), status_seen, Arc::clone(&counters), stop));
    shared.table.insert(Arc::clone(&workload))?;
    let (started, starting) = oneshot::channel();
    let (instance, instance_seen) = watch::channel(None);
    let function = Arc::new(Function {
        id: id.clone(),
        spec: Arc::clone(&spec),
        gate: Gate::new(instance_seen, shared.config.functions),
        counters,
        publisher: shared.publisher.clone(),
    });
    let actor = Actor {
        shared: Arc::clone(shared),
        id,
        spec,
        status,
        stops,
        instance,
        function,
        triggers: None,
        started: Some(started),
        restored_sha256,
        artifact: None,
        deployed: false,
        stopping: None,
    };
    tokio::spawn(actor.run());
    Ok((workload, starting))
}

struct Actor {
    shared: Arc<Shared>,
    id: String,
    spec: Arc<Spec>,
    status: watch::Sender<Status>,
    stops: mpsc::Receiver<Stop>,
    instance: watch::Sender<Option<Arc<Instance>>>,
    function: Arc<Function>,
    triggers: Option<Triggers>,
    started: Option<oneshot::Sender<Result<(), Fault>>>,
    restored_sha256: Option<String>,
    artifact: Option<Artifact>,
    deployed: bool,
    stopping: Option<Stop>,
}

/// An agent with the workload in it.
struct Hosted {
    sender: Sender<ToAgent>,
    receiver: Receiver<ToNode>,
    lost: CancellationToken,
    place: Box<dyn Place>,
}

/// How a spell of running, or an attempt at one, ended.
enum Ended {
    /// Somebody asked for it.
    Asked,
    /// The workload ended by itself.
    Exited(Exit),
    /// The agent is gone or of no use.
    Lost(String),
    /// It did not come to run.
    NotStarted(Fault),
}

impl Actor {
    async fn run(mut self) {
        let (code, message) = self.live().await;
        self.set_state(State::Stopping);
        self.triggers = None;
        let keep_record = self.stopping.as_ref().is_some_and(|stop| stop.keep_record);
        if !keep_record {
            self.shared.state.remove_record(&self.id);
        }
        self.shared.table.remove(&self.id);
        self.set_state(State::Gone);
        if self.deployed {
            info!(workload = %self.spec.name, id = %self.id, code, reason = message, "workload ended");
            let event = Event::WorkloadUndeployed {
                workload_name: self.spec.name.to_string(),
                workload_id: self.id.clone(),
                code,
                message,
            };
            self.shared.publisher.workload_event(&self.spec.namespace, &event);
        }
        let table = &self.shared.table;
        self.shared.artifacts.evict(&|sha256| table.uses(sha256));
        if let Some(stop) = self.stopping.take() {
            let _ = stop.done.send(());
        }
    }

    /// The whole life; gives the code and text of its end.
    async fn live(&mut self) -> (i32, String) {
        let policy = self.shared.config.restart;
        let backoff = Backoff { base: policy.base, cap: policy.cap };
        let mut attempts = 0;
        loop {
            let began = Instant::now();
            let ended = match self.start().await {
                Ok(hosted) => self.serve(hosted).await,
                Err(ended) => ended,
            };
            self.instance.send_replace(None);
            if began.elapsed() >= policy.stable {
                attempts = 0;
            }
            let (code, message) = match ended {
                Ended::Asked => {
                    self.refuse(Fault::new(Code::StartFailed, "Failed to deploy workload: it was stopped meanwhile"));
                    return (0, self.stopping.as_ref().map(|stop| stop.reason.clone()).unwrap_or_default());
                }
                Ended::NotStarted(fault) => {
                    let message = fault.message.clone();
                    if self.refuse(fault) {
                        return (-1, message);
                    }
                    (-1, message)
                }
                Ended::Exited(exit) => {
                    let code = exit.code.unwrap_or(-1);
                    // A service that has done its work is done; a function that ended is not.
                    if code == 0 && !self.spec.r#type.is_function() {
                        return (0, exit.message);
                    }
                    (code, exit.message)
                }
                Ended::Lost(reason) => (-1, reason),
            };
            // One that comes back with its node and has not run yet is tried again, whatever it is.
            let coming_back = self.restored_sha256.is_some() && !self.deployed;
            if !(self.spec.essential || self.spec.r#type.is_function() || coming_back) {
                return (code, message);
            }
            if policy.max_attempts > 0 && attempts >= policy.max_attempts {
                return (code, format!("given up after {attempts} restarts: {message}"));
            }
            let delay = backoff.jittered(attempts);
            attempts += 1;
            if !self.back_off(attempts, delay, &message).await {
                return (0, self.stopping.as_ref().map(|stop| stop.reason.clone()).unwrap_or_default());
            }
        }
    }

    /// Answers a deploy that waits with its refusal; says whether there was one.
    fn refuse(&mut self, fault: Fault) -> bool {
        // A workload that comes back has nobody waiting for an answer and is tried again.
        let waiting = self.started.take().filter(|_| self.restored_sha256.is_none());
        waiting.map(|started| started.send(Err(fault))).is_some()
    }

    /// Waits before a restart; false when it is to be stopped instead.
    async fn back_off(&mut self, attempt: u32, delay: Duration, message: &str) -> bool {
        self.set_state(State::Backoff);
        warn!(workload = %self.spec.name, id = %self.id, attempt, ?delay, reason = message, "workload failed; it is restarted");
        let event = Event::WorkloadRestarting {
            workload_name: self.spec.name.to_string(),
            workload_id: self.id.clone(),
            attempt,
            delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            message: message.to_owned(),
        };
        self.shared.publisher.workload_event(&self.spec.namespace, &event);
        self.status.send_modify(|status| status.restarts += 1);
        tokio::select! {
            () = sleep(delay) => true,
            stop = self.stops.recv() => {
                self.stopping = stop;
                false
            }
        }
    }

    /// From nothing to a running workload, unless it is to be stopped meanwhile.
    async fn start(&mut self) -> Result<Hosted, Ended> {
        let mut stops = std::mem::replace(&mut self.stops, mpsc::channel(1).1);
        let result = tokio::select! {
            result = self.bring_up() => result.map_err(Ended::NotStarted),
            stop = stops.recv() => {
                self.stopping = stop;
                Err(Ended::Asked)
            }
        };
        self.stops = stops;
        result
    }

    async fn bring_up(&mut self) -> Result<Hosted, Fault> {
        let artifact = match self.artifact.clone() {
            Some(artifact) => artifact,
            None => self.fetch().await?,
        };
        self.set_state(State::Starting);
        let agent = self.shared.pool.claim(CLAIM_TIMEOUT).await.map_err(|error| {
            Fault::new(Code::PoolExhausted, format!("Failed to get agent client from pool: {error}"))
        })?;
        let hosted = self.hand_over(agent, &artifact).await?;
        if self.triggers.is_none() && !self.spec.trigger_subjects.is_empty() {
            self.triggers = Some(self.subscribe().await?);
        }
        self.artifact = Some(artifact);
        Ok(hosted)
    }

    async fn fetch(&mut self) -> Result<Artifact, Fault> {
        self.set_state(State::Fetching);
        let Shared { artifacts, table, nats, .. } = &*self.shared;
        let cached = match &self.restored_sha256 {
            Some(sha256) => artifacts.verified(sha256).await,
            None => None,
        };
        let artifact = match cached {
            Some(artifact) => artifact,
            None => {
                let jetstream = if self.spec.jsdomain.is_empty() {
                    jetstream::new(nats.clone())
                } else {
                    jetstream::with_domain(nats.clone(), &self.spec.jsdomain)
                };
                let expected = self.restored_sha256.as_deref().or(self.spec.claimed_sha256.as_deref());
                let admit = |size| table.admit_bytes(&self.id, size);
                artifacts.fetch(&jetstream, &self.spec.location, expected, admit).await?
            }
        };
        table.admit_artifact(&self.id, &artifact)?;
        Ok(artifact)
    }

    /// Tells an agent to run the workload and waits until it does.
    async fn hand_over(&self, agent: Agent, artifact: &Artifact) -> Result<Hosted, Fault> {
        let failed =
            |text: &dyn std::fmt::Display| Fault::new(Code::StartFailed, format!("Failed to deploy workload: {text}"));
        let Agent { sender, receiver, lost, place, .. } = agent;
        let mut hosted = Hosted { sender, receiver, lost, place };
        let start = ToAgent::Start(Box::new(Start {
            name: self.spec.name.to_string(),
            namespace: self.spec.namespace.to_string(),
            r#type: self.spec.r#type,
            argv: self.spec.argv.clone(),
            environment: self.spec.environment.clone(),
            artifact: artifact.path.clone(),
            sha256: artifact.sha256.clone(),
            limits: self.limits(),
            require_static: !self.shared.config.no_sandbox,
        }));
        hosted.sender.send(start).await.map_err(|error| failed(&error))?;
        let answer = timeout(START_TIMEOUT, async {
            loop {
                match hosted.receiver.receive().await {
                    // What a workload says while it starts is not lost.
                    Ok(Some(ToNode::Log { level, text })) => self.log(level, text),
                    other => return other,
                }
            }
        });
        let refusal = match answer.await {
            Ok(Ok(Some(ToNode::Started { process_group }))) => {
                // A JavaScript worker is replaced now and then; the number would go stale, and its agent ends it.
                let lasting = process_group.filter(|_| !self.spec.r#type.is_function());
                hosted.place.note_process_group(lasting);
                return Ok(hosted);
            }
            Ok(Ok(Some(ToNode::Rejected(rejection)))) => {
                failed(&format_args!("workload rejected by agent: {}", rejection.message))
            }
            Ok(Ok(Some(_))) => failed(&"the agent broke the protocol"),
            Ok(Ok(None)) => failed(&"the agent ended before the workload was started"),
            Ok(Err(error)) => failed(&error),
            Err(_) => failed(&"the agent did not start the workload in time"),
        };
        hosted.destroy().await;
        Err(refusal)
    }

    fn limits(&self) -> Limits {
        let FunctionLimits { concurrency, script_bytes, .. } = self.shared.config.functions;
        // Room for headers and the protocol around a reply.
        let max_payload = self.shared.nats.server_info().max_payload as u64;
        Limits {
            memory_bytes: self.shared.config.machine_template.memsize_mib << 20,
            script_bytes,
            reply_bytes: max_payload.saturating_sub(4096).max(1024),
            concurrency,
        }
    }

    async fn subscribe(&self) -> Result<Triggers, Fault> {
        let failed = |text: String| Fault::new(Code::StartFailed, format!("Failed to deploy workload: {text}"));
        let wanted = self.spec.trigger_connection.as_ref().or(self.shared.config.host_services.nats.as_ref());
        let client = connection::for_workload(&self.shared.nats, wanted, &self.id).await.map_err(failed)?;
        Triggers::subscribe(&client, &self.function).await.map_err(failed)
    }

    /// Says that the workload runs.
    fn running(&mut self) {
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
            if let (true, Some(artifact)) = (self.spec.restored, artifact) {
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

    /// Watches a running workload until it ends, and clears away its agent.
    async fn serve(&mut self, mut hosted: Hosted) -> Ended {
        let instance = Arc::new(Instance::new(hosted.sender.clone()));
        self.instance.send_replace(Some(Arc::clone(&instance)));
        self.running();
        let ended = self.watch(&mut hosted, &instance).await;
        if matches!(ended, Ended::Asked) {
            self.wind_down(&mut hosted, &instance).await;
        }
        self.instance.send_replace(None);
        instance.close();
        drop(instance);
        hosted.destroy().await;
        ended
    }

    async fn watch(&mut self, hosted: &mut Hosted, instance: &Instance) -> Ended {
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        pings.tick().await;
        let (mut sent, mut missed) = (0u64, 0);
        let mut pong_due: Option<Instant> = None;
        loop {
            let overdue = async {
                match pong_due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                received = hosted.receiver.receive() => match received {
                    Ok(Some(ToNode::Pong(_))) => (pong_due, missed) = (None, 0),
                    Ok(Some(message)) => if let Some(ended) = self.handle(message, hosted, instance) {
                        return ended;
                    },
                    Ok(None) => return Ended::Lost("the agent was lost".to_owned()),
                    Err(error) => return Ended::Lost(lost_by(&error)),
                },
                stop = self.stops.recv() => {
                    self.stopping = stop;
                    return Ended::Asked;
                }
                _ = pings.tick(), if pong_due.is_none() => {
                    sent += 1;
                    // A full queue means that the agent does not read; the ping then counts as missed.
                    hosted.sender.try_send(ToAgent::Ping(sent));
                    pong_due = Some(Instant::now() + self.shared.config.agent_ping_timeout);
                }
                () = overdue => {
                    pong_due = None;
                    missed += 1;
                    warn!(workload = %self.spec.name, id = %self.id, missed, "the agent did not answer a ping");
                    if missed >= MISSED_PINGS {
                        return Ended::Lost(format!("the agent hangs: it did not answer {missed} pings in a row"));
                    }
                }
            }
        }
    }

    /// One message of the agent; says how the workload ended, if it did.
    fn handle(&self, message: ToNode, hosted: &mut Hosted, instance: &Instance) -> Option<Ended> {
        match message {
            ToNode::Outcome(call, elapsed_ns, outcome) => {
                instance.settle(call, (elapsed_ns, outcome));
                None
            }
            ToNode::Log { level, text } => {
                self.log(level, text);
                None
            }
            ToNode::Exited(exit) => {
                hosted.place.note_process_group(None);
                Some(Ended::Exited(exit))
            }
            ToNode::Pong(_) => None,
            ToNode::Hello(_) | ToNode::Started { .. } | ToNode::Rejected(_) => {
                Some(Ended::Lost("the agent broke the protocol".to_owned()))
            }
        }
    }

    /// Ends a workload in order: no new calls, running ones finish, then TERM, grace, KILL.
    async fn wind_down(&mut self, hosted: &mut Hosted, instance: &Instance) {
        self.set_state(State::Stopping);
        self.triggers = None;
        let grace = self.shared.config.stop_grace;
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let function = Arc::clone(&self.function);
        let mut drained = std::pin::pin!(async {
            if self.spec.r#type.is_function() {
                function.gate.drained(self.shared.config.functions.timeout.min(grace)).await;
            }
        });
        let mut asked = false;
        let deadline = Instant::now() + grace * 2 + STOP_SLACK;
        loop {
            tokio::select! {
                () = &mut drained, if !asked => {
                    asked = true;
                    if hosted.sender.send(ToAgent::Stop { grace_ms }).await.is_err() {
                        return;
                    }
                }
                received = hosted.receiver.receive() => match received {
                    Ok(Some(message)) => if self.handle(message, hosted, instance).is_some() {
                        return;
                    },
                    Ok(None) | Err(_) => return,
                },
                () = tokio::time::sleep_until(deadline) => {
                    warn!(workload = %self.spec.name, id = %self.id, "the agent did not end the workload; it is killed");
                    return;
                }
            }
        }
    }

    fn set_state(&self, state: State) {
        self.status.send_if_modified(|status| std::mem::replace(&mut status.state, state) != state);
    }

    fn log(&self, level: Level, text: String) {
        self.shared.publisher.log(&self.spec.namespace, &self.id, &self.spec.name, level, text);
    }
}

fn lost_by(error: &LinkError) -> String {
    format!("the agent was lost: {error}")
}

impl Hosted {
    async fn destroy(self) {
        let Hosted { sender, receiver, lost, place } = self;
        drop((sender, receiver, lost));
        place.destroy().await;
    }
}
