//! The life of the link: Hello, Welcome, one Start, then calls until the workload ends.
//!
//! One task, on the main thread, owns the link's receiver and polls the workload beside it; neither waits for the
//! other, so a Ping is answered while a workload starts, runs or stops. States: waiting for Welcome, waiting for Start
//! (beside which an engine may be started already), running, ended. In the end every call that came in has had its outcome, and Exited or Rejected was said once.

use std::convert::Infallible;
use std::io;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use nex_link::{LinkError, Receiver, Sender};
use nex_protocol::link::VERSION;
use nex_protocol::link::frame::MAX_LINK_FRAME;
use nex_protocol::link::message::{FailureKind, Hello, Rejection, Start, ToAgent, ToNode, Welcome};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::call::{self, Call};
use crate::guard::Groups;
use crate::host::{self, Answers};
use crate::javascript::Prestart;
use crate::sent::Sent;
use crate::wasm::{Given, OverLink};
use crate::workload::{self, Context, DirectSign, Finish, Inbox};

/// Time the node has to answer Hello.
const WELCOME: Duration = Duration::from_secs(10);

/// Time the workload has between TERM and KILL when the node is gone.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);

/// No grace is longer; keeps the arithmetic on clocks total.
const LONGEST_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Time for the last messages to leave.
const FLUSH: Duration = Duration::from_secs(2);

/// What ended a session before its time.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The link broke, or carried something that does not belong on it.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The socket could not be used.
    #[error("the link cannot be used: {0}")]
    Socket(#[from] io::Error),
    /// No Welcome in time.
    #[error("the node did not answer Hello within {} s", WELCOME.as_secs())]
    Silent,
    /// The node is of another release.
    #[error("the node speaks version {node} of the link, this agent version {VERSION}: install both from one release")]
    Version {
        /// What the node speaks.
        node: u16,
    },
    /// A message out of its turn.
    #[error("the node sent {0} out of turn")]
    OutOfTurn(&'static str),
}

/// Serves a link until its workload has ended or the node is gone. To be awaited on the main thread.
///
/// # Errors
/// [`SessionError`]: the workload has been ended all the same.
pub async fn serve(stream: std::os::unix::net::UnixStream, groups: Groups) -> Result<(), SessionError> {
    let (node, mut link, written) = nex_link::over_socket::<ToAgent, ToNode>(stream, MAX_LINK_FRAME)?;
    let result = live(&mut link, node, groups).await;
    // The last sender is gone: what is queued is still written.
    let _ = tokio::time::timeout(FLUSH, written.wait()).await;
    result
}

async fn live(link: &mut Receiver<ToAgent>, node: Sender<ToNode>, groups: Groups) -> Result<(), SessionError> {
    let Some(welcome) = greet(link, &node).await? else { return Ok(()) };
    let (mut sent, mut given) = (Sent::into(&welcome.work_dir), Given::into(&welcome.work_dir));
    let mut prestart = Prestart::new(&welcome, &node, &groups);
    let waited = tokio::select! {
        // The node comes first; it does not wait for what is started meanwhile.
        biased;
        start = wait_for_start(link, &node, &mut sent, &mut given) => start?,
        never = keep(&mut prestart) => match never {},
    };
    let Some(mut start) = waited else { return Ok(()) };
    let mut over_link = None;
    // Where node and agent share no files, the artifact came before the word to start it.
    if start.artifact.as_os_str().is_empty() {
        match sent.finish(&start.sha256) {
            Ok(path) => start.artifact = path,
            Err(error) => {
                let _ = node.send(ToNode::Rejected(Rejection { message: error.to_string() })).await;
                return Ok(());
            }
        }
        over_link = Some(OverLink { given: given.finish(), taken: Arc::default() });
    }
    run(link, node, welcome, start, over_link, groups, prestart).await
}

/// What is started before there is a workload, if anything.
async fn keep(prestart: &mut Option<Prestart>) -> Infallible {
    match prestart {
        Some(prestart) => prestart.keep().await,
        None => std::future::pending().await,
    }
}

/// Hello and Welcome; none when the node left or changed its mind.
async fn greet(link: &mut Receiver<ToAgent>, node: &Sender<ToNode>) -> Result<Option<Welcome>, SessionError> {
    let hello = Hello { version: VERSION, agent_version: env!("CARGO_PKG_VERSION").to_owned(), pid: process::id() };
    let _ = node.send(ToNode::Hello(hello)).await;
    let answer = tokio::time::timeout(WELCOME, link.receive()).await.map_err(|_| SessionError::Silent)??;
    match answer {
        None | Some(ToAgent::Stop { .. }) => Ok(None),
        Some(ToAgent::Welcome(welcome)) if welcome.version == VERSION => Ok(Some(welcome)),
        Some(ToAgent::Welcome(welcome)) => Err(SessionError::Version { node: welcome.version }),
        Some(other) => Err(SessionError::OutOfTurn(name(&other))),
    }
}

/// The one Start; none when the node left or has no use for the agent.
async fn wait_for_start(
    link: &mut Receiver<ToAgent>,
    node: &Sender<ToNode>,
    sent: &mut Sent,
    given: &mut Given,
) -> Result<Option<Start>, SessionError> {
    loop {
        match link.receive().await? {
            None | Some(ToAgent::Stop { .. }) => return Ok(None),
            Some(ToAgent::Artifact(piece)) => sent.add(&piece),
            Some(ToAgent::Compiled(piece)) => given.add(&piece),
            Some(ToAgent::Start(start)) => return Ok(Some(*start)),
            Some(ToAgent::Ping(number)) => pong(node, number).await,
            Some(ToAgent::Invoke(id, ..)) => {
                call::refuse(node, id, FailureKind::Killed, "no function has been started").await;
            }
            Some(
                other @ (ToAgent::Welcome(_)
                | ToAgent::HostReply(..)
                | ToAgent::HostData(..)
                | ToAgent::HostMore(_)
                | ToAgent::Direct(_)
                | ToAgent::DirectWaits(..)
                | ToAgent::CompiledMore),
            ) => return Err(SessionError::OutOfTurn(name(&other))),
        }
    }
}

/// The workload from start to end.
async fn run(
    link: &mut Receiver<ToAgent>,
    node: Sender<ToNode>,
    welcome: Welcome,
    start: Start,
    over_link: Option<OverLink>,
    groups: Groups,
    prestart: Option<Prestart>,
) -> Result<(), SessionError> {
    let (calls, incoming) = mpsc::channel(call::WAITING);
    let (stop, stopped) = watch::channel(None);
    let (direct, signs) = mpsc::channel(workload::DIRECT_SIGNS);
    let mut inbox = Inbox { calls: incoming, direct: signs, stop: stopped };
    let (host, answers) = host::connect(node.clone(), start.limits.memory_bytes);
    let taken = over_link.as_ref().map_or_else(Arc::default, |over_link| Arc::clone(&over_link.taken));
    let context = Context { welcome, start, node: node.clone(), host, over_link, groups, prestart };
    let mut result = Ok(());
    let finish = {
        let mut workload = std::pin::pin!(workload::run(context, &mut inbox));
        tokio::select! {
            finish = &mut workload => finish,
            left = dispatch(link, &node, &calls, &direct, &stop, &answers, &taken) => {
                answers.close();
                // Gone or gone mad: either way nobody is there to take the workload's last words slowly.
                result = left;
                end_within(&stop, ORPHAN_GRACE);
                workload.await
            }
        }
    };
    drop(calls);
    while let Some(call) = inbox.calls.recv().await {
        call::refuse(&node, call.id, FailureKind::Killed, "the function ended before the call's turn came").await;
    }
    let last = match finish {
        Finish::Rejected(message) => ToNode::Rejected(Rejection { message }),
        Finish::Exited(exit) => ToNode::Exited(exit),
    };
    let _ = node.send(last).await;
    result
}

/// Hands on what the node sends, until it is gone.
async fn dispatch(
    link: &mut Receiver<ToAgent>,
    node: &Sender<ToNode>,
    calls: &mpsc::Sender<Call>,
    direct: &mpsc::Sender<DirectSign>,
    stop: &watch::Sender<Option<Instant>>,
    answers: &Answers,
    taken: &Notify,
) -> Result<(), SessionError> {
    loop {
        match link.receive().await? {
            None => return Ok(()),
            Some(ToAgent::Ping(number)) => pong(node, number).await,
            Some(ToAgent::Invoke(id, invoke, payload)) => {
                // Never waits: a workload that does not take its calls must not hold up Ping and Stop.
                if calls.try_send(Call::new(id, invoke, payload)).is_err() {
                    call::refuse(node, id, FailureKind::Overloaded, "too many calls wait for this function").await;
                }
            }
            Some(ToAgent::Stop { grace_ms }) => {
                end_within(stop, Duration::from_millis(grace_ms));
            }
            Some(ToAgent::Start(_)) => {
                let message = "this agent has its workload already".to_owned();
                let _ = node.send(ToNode::Rejected(Rejection { message })).await;
            }
            Some(ToAgent::HostReply(number, answer, body)) => answers.reply(number, answer, body),
            Some(ToAgent::HostData(number, event, body)) => answers.data(number, event, body),
            Some(ToAgent::HostMore(number)) => answers.more(number),
            Some(ToAgent::CompiledMore) => taken.notify_one(),
            // Nobody hears them where no worker is; one that is lost is asked for again.
            Some(ToAgent::Direct(worker)) => drop(direct.try_send(DirectSign::Open(worker))),
            Some(ToAgent::DirectWaits(worker, waits)) => drop(direct.try_send(DirectSign::Waits(worker, waits))),
            Some(other @ (ToAgent::Welcome(_) | ToAgent::Artifact(_) | ToAgent::Compiled(_))) => {
                return Err(SessionError::OutOfTurn(name(&other)));
            }
        }
    }
}

/// Tells the workload to end; never later than it was told before.
fn end_within(stop: &watch::Sender<Option<Instant>>, grace: Duration) {
    let until = Instant::now() + grace.min(LONGEST_GRACE);
    stop.send_if_modified(|before| {
        let nearer = before.is_none_or(|before| until < before);
        if nearer {
            *before = Some(until);
        }
        nearer
    });
}

async fn pong(node: &Sender<ToNode>, number: u64) {
    let _ = node.send(ToNode::Pong(number)).await;
}

fn name(message: &ToAgent) -> &'static str {
    match message {
        ToAgent::Welcome(_) => "Welcome",
        ToAgent::Artifact(_) => "Artifact",
        ToAgent::Compiled(_) => "Compiled",
        ToAgent::CompiledMore => "CompiledMore",
        ToAgent::Start(_) => "Start",
        ToAgent::Invoke(..) => "Invoke",
        ToAgent::Stop { .. } => "Stop",
        ToAgent::Ping(_) => "Ping",
        ToAgent::HostReply(..) => "HostReply",
        ToAgent::HostData(..) => "HostData",
        ToAgent::HostMore(_) => "HostMore",
        ToAgent::Direct(_) => "Direct",
        ToAgent::DirectWaits(..) => "DirectWaits",
    }
}
