//! The agents of a function: none while nobody calls it, more while its calls queue.
//!
//! ```text
//!            +--a call waits--> launching --failed--> (the function failed: its actor backs off and begins anew)
//!            |                      |
//! at rest ---+                      v
//!    ^                         takes calls --lost--> others left? nothing more : (the function failed)
//!    |                              |
//!    +--last one--- let go <--------+  no calls for `idle_timeout`; or one too many (see [`super::scale`])
//! ```
//! The function's actor drives this; each agent has a task that attends to it, and each launch has one. An agent that is let
//! go gets no more calls first and ends when those in it have ended, so that no call notices.
//!
//! Promises: at most `max_instances` agents take calls; an agent is used for one function and then destroyed; when the
//! function is to end, its agents end in order, all at the same time.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nex_host_services::HostServices;
use nex_protocol::event::{Event, ScaleReason};
use nex_protocol::{Code, Fault};
use nex_sandbox::Backoff;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::actor::{Actor, Ended};
use super::assignment::Assignment;
use super::attend::Hosted;
use super::call::Instance;
use super::gate::Gate;
use super::scale::{Bounds, Scaler, Step};
use super::trigger::{Function, Triggers};
use super::{Counters, millis};
use crate::artifact::Artifact;

impl Actor {
    /// Serves a function until it is to be stopped, or has failed.
    pub(super) async fn serve_function(&mut self, first: Option<Hosted>) -> Ended {
        let (Some(artifact), Some(services)) = (self.artifact.clone(), self.services.clone()) else {
            return Ended::NotStarted(Fault::new(Code::Internal, "Failed to deploy workload: it has no artifact"));
        };
        let agents = std::mem::take(&mut self.agents);
        let mut fleet = Fleet::new(self.assignment(), &self.function, (artifact, services), agents);
        if let Some(hosted) = first {
            fleet.add(hosted);
        }
        self.running_since = Some(Instant::now());
        self.note_agents(&fleet);
        self.running();
        let ended = loop {
            tokio::select! {
                stop = self.stops.recv() => {
                    self.stopping = stop;
                    break Ended::Asked;
                }
                happening = fleet.next() => {
                    let ended = fleet.act(happening);
                    self.note_agents(&fleet);
                    if let Some(ended) = ended {
                        break ended;
                    }
                }
            }
        };
        if matches!(ended, Ended::Asked) {
            self.set_state(super::State::Stopping);
            fleet.wind_down(self.triggers.take()).await;
        } else {
            // Those that were let go have calls to finish, whatever became of the others.
            self.agents = fleet.agents;
        }
        self.status.send_modify(|status| status.agents = 0);
        ended
    }

    fn note_agents(&self, fleet: &Fleet) {
        let agents = u32::try_from(fleet.members.len()).unwrap_or(u32::MAX);
        self.status.send_if_modified(|status| std::mem::replace(&mut status.agents, agents) != agents);
    }
}

/// The tasks that attend to a function's agents, those that were let go included. They outlive the fleet when it fails.
#[derive(Debug, Default)]
pub(super) struct Agents {
    tasks: JoinSet<()>,
    /// The function is to end: nobody waits for long calls any more.
    hurry: CancellationToken,
}

impl Agents {
    /// Has all of them end soon, and waits until they have.
    pub(super) async fn end(&mut self) {
        self.hurry.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// See the module.
struct Fleet {
    assignment: Assignment,
    gate: Arc<Gate>,
    counters: Arc<Counters>,
    artifact: Artifact,
    services: HostServices,
    scaler: Scaler,
    idle: Option<Duration>,
    /// Agents that take calls.
    members: Vec<Member>,
    agents: Agents,
    /// How agents ended, told before what they lived in is cleared away.
    ended: mpsc::UnboundedReceiver<(u64, Ended)>,
    ends: mpsc::UnboundedSender<(u64, Ended)>,
    /// Agents on their way.
    launches: JoinSet<Launched>,
    /// Why they are.
    reason: ScaleReason,
    /// Launches that failed, and agents that were lost soon, while others were there; when the last one was, and when the next
    /// launch may be.
    failures: u32,
    failed_at: Option<Instant>,
    not_before: Option<Instant>,
    /// When to look at the load although nobody calls for it.
    look_at: Option<Instant>,
    next: u64,
}

struct Member {
    number: u64,
    instance: Arc<Instance>,
    since: Instant,
    let_go: CancellationToken,
}

/// Closes an instance whatever becomes of the task that has it: its calls are not to wait for nobody.
struct Closing(Arc<Instance>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// An agent that was to come, and how long it was on its way.
struct Launched {
    took: Duration,
    outcome: Result<Box<Hosted>, Fault>,
}

/// What a fleet waits for.
enum Happening {
    /// The load is to be looked at.
    Look,
    Launched(Result<Launched, JoinError>),
    Ended(u64, Ended),
    /// A task is gone; one that ended in good order has told how its agent did.
    Gone(Result<(), JoinError>),
}

impl Fleet {
    fn new(
        assignment: Assignment,
        function: &Function,
        (artifact, services): (Artifact, HostServices),
        agents: Agents,
    ) -> Self {
        let (ends, ended) = mpsc::unbounded_channel();
        let limits = assignment.spec.function_limits(&assignment.shared.config);
        let idle = assignment.spec.idle_timeout(&assignment.shared.config);
        let max = usize::try_from(limits.max_instances).unwrap_or(1).max(1);
        Self {
            assignment,
            gate: Arc::clone(&function.gate),
            counters: Arc::clone(&function.counters),
            artifact,
            services,
            scaler: Scaler::new(Bounds { max, idle }),
            idle,
            members: Vec::new(),
            agents,
            ended,
            ends,
            launches: JoinSet::new(),
            reason: ScaleReason::Call,
            failures: 0,
            failed_at: None,
            not_before: None,
            // Calls may have come while there was nobody to see them.
            look_at: Some(Instant::now()),
            next: 0,
        }
    }

    /// Cancel-safe.
    async fn next(&mut self) -> Happening {
        let look = async {
            match self.look_at {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            Some((number, ended)) = self.ended.recv() => Happening::Ended(number, ended),
            Some(gone) = self.agents.tasks.join_next() => Happening::Gone(gone),
            Some(launched) = self.launches.join_next() => Happening::Launched(launched),
            () = self.gate.called_for() => Happening::Look,
            () = look => Happening::Look,
        }
    }

    /// Does what there is to do; says how the function ended, if it did.
    fn act(&mut self, happening: Happening) -> Option<Ended> {
        let failed = match happening {
            Happening::Look => None,
            Happening::Launched(Ok(Launched { took, outcome: Ok(hosted) })) => {
                let before = self.members.len();
                self.add(*hosted);
                self.count(took);
                self.tell(before, self.reason, Some(took), String::new());
                None
            }
            Happening::Launched(Ok(Launched { outcome: Err(fault), .. })) => Some(Ended::NotStarted(fault)),
            Happening::Launched(Err(error)) => {
                Some(Ended::NotStarted(Fault::new(Code::Internal, format!("Failed to deploy workload: {error}"))))
            }
            Happening::Ended(number, ended) => self.lost(number).map(|since| {
                if since.elapsed() < self.assignment.shared.config.restart.stable {
                    self.put_off();
                }
                ended
            }),
            Happening::Gone(Ok(())) => None,
            Happening::Gone(Err(error)) => {
                let before = self.members.len();
                self.members.retain(|member| !member.instance.is_closed());
                (self.members.len() < before).then(|| Ended::Lost(error.to_string()))
            }
        };
        if let Some(failed) = failed {
            if self.members.is_empty() && self.launches.is_empty() {
                return Some(failed);
            }
            self.bear(&failed);
        }
        self.scale();
        None
    }

    /// One of several failed: the others go on.
    fn bear(&mut self, failed: &Ended) {
        let message = failed.reason();
        warn!(
            workload = %self.assignment.spec.name, id = %self.assignment.id, reason = message, left = self.members.len(),
            "an agent of a function failed; the others go on"
        );
        if matches!(failed, Ended::NotStarted(_)) {
            self.put_off();
        } else {
            self.tell(self.members.len() + 1, ScaleReason::Lost, None, message);
        }
    }

    /// Has the next agent wait, the longer the more of them have failed without a stable spell in between.
    fn put_off(&mut self) {
        let (now, policy) = (Instant::now(), self.assignment.shared.config.restart);
        if self.failed_at.is_some_and(|last| now.duration_since(last) >= policy.stable) {
            self.failures = 0;
        }
        let backoff = Backoff { base: policy.base, cap: policy.cap };
        self.not_before = Some(now + backoff.jittered(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(now);
    }

    /// Forgets an agent that has ended; since when it took calls, unless it was let go before.
    fn lost(&mut self, number: u64) -> Option<Instant> {
        let at = self.members.iter().position(|member| member.number == number)?;
        Some(self.members.swap_remove(at).since)
    }

    /// Sends calls to an agent, and has it attended to.
    fn add(&mut self, hosted: Hosted) {
        let instance = Arc::new(Instance::new(hosted.sender.clone()));
        let (number, let_go) = (self.next, CancellationToken::new());
        self.next += 1;
        let since = Instant::now();
        self.members.push(Member { number, instance: Arc::clone(&instance), since, let_go: let_go.clone() });
        let (assignment, services, ends) = (self.assignment.clone(), self.services.clone(), self.ends.clone());
        let (gate, closing) = (Arc::clone(&self.gate), Closing(Arc::clone(&instance)));
        let hurry = self.agents.hurry.clone();
        self.agents.tasks.spawn(async move {
            let (mut hosted, calls) = (hosted, &closing.0);
            let (asked, hurry) = (let_go.cancelled(), hurry.cancelled());
            let ended = assignment.attend(&mut hosted, calls, Some(services), asked, hurry).await;
            // In this order: a seat must not be given away of an agent that is gone, and nobody is to wait for its place to be
            // cleared away.
            gate.remove(calls);
            drop(closing);
            let _ = ends.send((number, ended));
            hosted.destroy().await;
        });
        self.gate.add(instance);
    }

    fn scale(&mut self) {
        let now = Instant::now();
        let (step, look_at) = self.scaler.look(now, self.gate.load(), self.launches.len());
        self.look_at = look_at;
        let before = self.members.len();
        match step {
            Step::Stay => {}
            // A call to a function without agents waits for nothing that went wrong before.
            Step::Grow(_) if before > 0 && self.not_before.is_some_and(|until| now < until) => {
                self.look_at = [look_at, self.not_before].into_iter().flatten().filter(|at| *at > now).min();
            }
            Step::Grow(count) => {
                self.reason = if before == 0 { ScaleReason::Call } else { ScaleReason::Queue };
                debug!(workload = %self.assignment.spec.name, agents = before, count, "more agents for a function");
                for _ in 0..count {
                    self.launch();
                }
            }
            Step::Shrink => {
                if let Some(instance) = self.gate.remove_one_of_many() {
                    self.let_go(&instance);
                    self.tell(before, ScaleReason::Quiet, None, String::new());
                }
            }
            Step::Rest => {
                let resting = self.gate.remove_all_idle(self.idle.unwrap_or(Duration::MAX));
                for instance in &resting {
                    self.let_go(instance);
                }
                if !resting.is_empty() {
                    self.look_at = None;
                    self.tell(before, ScaleReason::Idle, None, String::new());
                }
            }
        }
    }

    fn launch(&mut self) {
        let (assignment, artifact) = (self.assignment.clone(), self.artifact.clone());
        self.launches.spawn(async move {
            let begun = Instant::now();
            let outcome = assignment.launch(&artifact).await.map(Box::new);
            Launched { took: begun.elapsed(), outcome }
        });
    }

    fn let_go(&mut self, instance: &Arc<Instance>) {
        self.members.retain(|member| {
            let meant = Arc::ptr_eq(&member.instance, instance);
            if meant {
                member.let_go.cancel();
            }
            !meant
        });
    }

    /// An agent came, for which somebody waited.
    fn count(&self, took: Duration) {
        let arrived = if self.reason == ScaleReason::Queue { &self.counters.grown } else { &self.counters.cold_starts };
        arrived.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counters.starting_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Says that the function has another number of agents.
    fn tell(&self, before: usize, reason: ScaleReason, took: Option<Duration>, message: String) {
        let Assignment { shared, id, spec } = &self.assignment;
        let event = Event::FunctionScaled {
            workload_name: spec.name.to_string(),
            workload_id: id.to_string(),
            namespace: spec.namespace.to_string(),
            before,
            instances: self.members.len(),
            reason,
            took_ms: took.map(millis),
            message,
        };
        shared.publisher.workload_event(&spec.namespace, &event);
    }

    /// Ends all agents in order: no new calls, those that are here finish, then TERM, grace, KILL.
    async fn wind_down(mut self, triggers: Option<Triggers>) {
        let within = self.assignment.call_timeout().min(self.assignment.shared.config.stop_grace);
        let gate = Arc::clone(&self.gate);
        let mut drained = std::pin::pin!(async {
            if let Some(triggers) = triggers {
                triggers.drain().await;
            }
            gate.drained(within).await;
        });
        loop {
            tokio::select! {
                () = &mut drained => break,
                happening = self.next() => match happening {
                    // A call that came before the end gets its agent; nobody is let go any more but with all others.
                    Happening::Look => {
                        self.look_at = None;
                        if self.members.is_empty() && self.launches.is_empty() && self.gate.load().waiting > 0 {
                            self.launch();
                        }
                    }
                    Happening::Launched(Ok(Launched { outcome: Ok(hosted), .. })) => self.add(*hosted),
                    Happening::Launched(_) => if self.members.is_empty() && self.launches.is_empty() {
                        self.gate.close();
                    },
                    Happening::Ended(number, _) => {
                        self.lost(number);
                        self.look_at = Some(Instant::now());
                    }
                    Happening::Gone(_) => {}
                },
            }
        }
        self.gate.close();
        self.launches.shutdown().await;
        for member in self.members.drain(..) {
            member.let_go.cancel();
        }
        self.agents.end().await;
    }
}
