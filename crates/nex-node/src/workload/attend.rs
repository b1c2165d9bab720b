//! One agent with the workload in it: its messages, its health, and its end in order.
//!
//! ```text
//! attended --asked to end--> no call left -> Stop -> exited, or out of time --+
//!    |                                                                        v
//!    +--exited, lost, hangs-----------------------------------------> to be destroyed
//! ```
//! A service has one such agent, attended to by its actor's own task; a function has any number, each with a task
//! ([`super::fleet`]). Nothing here decides whether there will be another one.

use std::sync::Arc;
use std::time::Duration;

use nex_host_services::HostServices;
use nex_link::{LinkError, Receiver, Sender};
use nex_protocol::link::message::{ToAgent, ToNode};
use nex_protocol::log::Level;
use nex_sandbox::Place;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::actor::Ended;
use super::assignment::Assignment;
use super::call::{AGENT_SLACK, Instance};
use super::direct::Over;
use super::host_calls::{HostCalls, ProtocolBroken};
use super::millis;
use crate::compiled::Exchange;

/// Time between two pings; this many unanswered ones in a row mean that the agent hangs.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const MISSED_PINGS: u32 = 3;

/// Time an agent has beyond the workload's own grace to say that it has ended.
const STOP_SLACK: Duration = Duration::from_secs(2);

/// An agent with the workload in it.
pub(super) struct Hosted {
    pub(super) sender: Sender<ToAgent>,
    pub(super) receiver: Receiver<ToNode>,
    pub(super) lost: CancellationToken,
    pub(super) place: Box<dyn Place>,
    /// Host calls of a function; none for a service, which has no business with them.
    pub(super) calls: Option<HostCalls>,
    /// Compiled code of a Wasm function in a machine; none for others, which have no business with it.
    pub(super) compiled: Option<Exchange>,
}

impl Assignment {
    /// Attends to an agent until it ends, or until it is asked to: then once its calls have ended, which `hurry` cuts short.
    /// `services` are those of a function. The agent is to be destroyed afterwards.
    pub(super) async fn attend(
        &self,
        hosted: &mut Hosted,
        instance: &Arc<Instance>,
        services: Option<HostServices>,
        asked: impl Future<Output = ()>,
        hurry: impl Future<Output = ()>,
    ) -> Ended {
        hosted.calls = services
            .map(|services| HostCalls::new(services, self.tenant(), hosted.sender.clone(), self.call_timeout()));
        let mut ended = self.watch(hosted, instance, asked).await;
        if let (Ended::Lost(_), Some(compiled)) = (&ended, &hosted.compiled) {
            compiled.agent_lost();
        }
        // Killed is killed: only the place knows why.
        if hosted.place.ran_out_of_memory() {
            let took = ": it took more memory than it may";
            match &mut ended {
                Ended::Exited(exit) if exit.code != Some(0) => exit.message.push_str(took),
                Ended::Lost(reason) => reason.push_str(took),
                _ => {}
            }
        }
        if matches!(ended, Ended::Asked) {
            self.wind_down(hosted, instance, hurry).await;
        }
        ended
    }

    async fn watch(&self, hosted: &mut Hosted, instance: &Arc<Instance>, asked: impl Future<Output = ()>) -> Ended {
        let mut asked = std::pin::pin!(asked);
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
                () = &mut asked => return Ended::Asked,
                _ = pings.tick(), if pong_due.is_none() => {
                    sent += 1;
                    // A full queue means that the agent does not read; the ping then counts as missed.
                    hosted.sender.try_send(ToAgent::Ping(sent));
                    pong_due = Some(Instant::now() + self.shared.config.agent_ping_timeout);
                }
                over = progress(&mut hosted.calls) => self.direct_way_over(over),
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
    fn handle(&self, message: ToNode, hosted: &mut Hosted, instance: &Arc<Instance>) -> Option<Ended> {
        match message {
            ToNode::Outcome(call, elapsed_ns, outcome) => {
                if let (Some(compiled), Ok(_)) = (&mut hosted.compiled, &outcome) {
                    compiled.works();
                }
                if let Some(calls) = &mut hosted.calls {
                    calls.end_of(call);
                }
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
            ToNode::HostCall(number, _, request, body) => hosted.host_calls(|calls| calls.begin(number, request, body)),
            ToNode::HostData(number, chunk) => hosted.host_calls(|calls| calls.data(number, chunk)),
            ToNode::HostMore(number) => hosted.host_calls(|calls| calls.more(number)),
            ToNode::HostCancel(number) => hosted.host_calls(|calls| {
                calls.cancel(number);
                Ok(())
            }),
            ToNode::Compiled(piece) => match &mut hosted.compiled {
                Some(compiled) => {
                    compiled.take(piece, &hosted.sender);
                    None
                }
                None => Some(broke_the_protocol()),
            },
            ToNode::Direct(worker) => self.open_direct_way(worker, hosted, instance),
            ToNode::DirectWaits(worker) => hosted.host_calls(|calls| {
                calls.tell_waits(worker);
                Ok(())
            }),
            ToNode::Hello(_) | ToNode::Started { .. } | ToNode::Rejected(_) => Some(broke_the_protocol()),
        }
    }

    /// Ends a workload in order: the calls in it finish, then TERM, grace, KILL.
    async fn wind_down(&self, hosted: &mut Hosted, instance: &Arc<Instance>, hurry: impl Future<Output = ()>) {
        let grace = self.shared.config.stop_grace;
        let timeout = self.call_timeout();
        let drained = async {
            tokio::select! {
                // Every call has ended by its deadline.
                () = instance.drained(timeout + AGENT_SLACK) => {}
                () = async {
                    hurry.await;
                    instance.drained(timeout.min(grace)).await;
                } => {}
            }
        };
        if !self.hear(hosted, instance, drained).await {
            return;
        }
        // Beside the receive loop, never inside it: an agent that does not read must not keep us from the deadline.
        let sender = hosted.sender.clone();
        let out_of_time = async {
            let told = tokio::time::timeout(grace, sender.send(ToAgent::Stop { grace_ms: millis(grace) })).await;
            if matches!(told, Ok(Ok(()))) {
                tokio::time::sleep(grace + STOP_SLACK).await;
            }
        };
        if self.hear(hosted, instance, out_of_time).await {
            warn!(workload = %self.spec.name, id = %self.id, "the agent did not end the workload; it is killed");
        }
    }

    /// Takes what the agent says until something else is done; false when the agent has ended before.
    async fn hear(&self, hosted: &mut Hosted, instance: &Arc<Instance>, done: impl Future<Output = ()>) -> bool {
        let mut done = std::pin::pin!(done);
        loop {
            tokio::select! {
                () = &mut done => return true,
                received = hosted.receiver.receive() => match received {
                    Ok(Some(message)) => if self.handle(message, hosted, instance).is_some() {
                        return false;
                    },
                    Ok(None) | Err(_) => return false,
                },
                over = progress(&mut hosted.calls) => self.direct_way_over(over),
            }
        }
    }

    /// The agent has made pipes for a worker. Whatever is wrong with them, the way through the agent remains.
    fn open_direct_way(&self, worker: u32, hosted: &mut Hosted, instance: &Arc<Instance>) -> Option<Ended> {
        let Hosted { place, calls, .. } = hosted;
        let (Some(folder), Some(calls)) = (place.folder(), calls) else { return Some(broke_the_protocol()) };
        if let Err(error) = calls.open_direct(worker, folder, instance) {
            warn!(
                workload = %self.spec.name, id = %self.id, %error,
                "a worker's pipes cannot be opened; its host calls go through the agent"
            );
        }
        None
    }

    fn direct_way_over(&self, over: Over) {
        if let Over::Broken(what) = over {
            let text = format!(
                "the function's worker has no direct way to host services any more, its calls go through the agent: {what}"
            );
            self.log(Level::Warn, text);
        }
    }
}

/// Drives host calls, while there are any; resolves when the direct way is over.
async fn progress(calls: &mut Option<HostCalls>) -> Over {
    match calls {
        Some(calls) => calls.progress().await,
        None => std::future::pending().await,
    }
}

fn broke_the_protocol() -> Ended {
    Ended::Lost("the agent broke the protocol".to_owned())
}

fn lost_by(error: &LinkError) -> String {
    format!("the agent was lost: {error}")
}

impl Hosted {
    fn host_calls(&mut self, act: impl FnOnce(&mut HostCalls) -> Result<(), ProtocolBroken>) -> Option<Ended> {
        let done = self.calls.as_mut().map_or(Err(ProtocolBroken), act);
        done.err().map(|error| Ended::Lost(error.to_string()))
    }

    pub(super) async fn destroy(self) {
        let Hosted { sender, receiver, lost, place, calls, compiled } = self;
        drop((sender, receiver, lost, calls, compiled));
        place.destroy().await;
    }
}
