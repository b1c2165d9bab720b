//! A node as the agent sees one: starts the real binary with a socket as its standard input and speaks the link.
#![allow(dead_code)] // each test binary uses its part

pub(crate) mod direct;
pub(crate) mod functions;
pub(crate) mod twin;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use direct::DirectEnds;
use nex_link::{Receiver, Sender};
use nex_protocol::Environment;
use nex_protocol::link::VERSION;
use nex_protocol::link::direct::Ask;
use nex_protocol::link::frame::MAX_LINK_FRAME;
use nex_protocol::link::host::{HostError, HostErrorCode, HostReply, HostRequest};
use nex_protocol::link::message::{
    Exit, Failure, FailureKind, Headers, Invoke, Limits, Start, ToAgent, ToNode, Welcome,
};
use nex_protocol::log::Level;
use nex_protocol::name::WorkloadType;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// Nothing in these tests takes so long; a test that waits for it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const LIMITS: Limits =
    Limits { memory_bytes: 64 << 20, script_bytes: 1 << 20, reply_bytes: 1 << 20, concurrency: 4 };

pub(crate) fn deno() -> PathBuf {
    if let Some(deno) = std::env::var_os("NEX_DENO") {
        return deno.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("deno"))
        .find(|deno| deno.is_file())
        .expect("these tests need Deno 2.9 or later: set NEX_DENO to the program, or put `deno` on the PATH")
}

/// A node with one agent.
pub(crate) struct Node {
    pub(crate) agent: Child,
    pub(crate) to: Option<Sender<ToAgent>>,
    from: Receiver<ToNode>,
    pub(crate) folder: tempfile::TempDir,
    aside: VecDeque<ToNode>,
    pub(crate) hosts: Hosts,
    /// The direct way of the worker, once it is open.
    pub(crate) direct: Option<DirectEnds>,
    /// Questions that came that way and were answered by the twin.
    pub(crate) asked_directly: usize,
}

/// Who answers host calls.
pub(crate) enum Hosts {
    /// Nobody: the node does not have them.
    Unsupported,
    /// A node in memory.
    Twin(Box<twin::Twin>),
    /// The test, which finds them among the messages.
    Test,
}

/// The answer to a Start.
pub(crate) type Started = Result<Option<u32>, String>;

pub(crate) fn start(r#type: WorkloadType, artifact: PathBuf) -> Start {
    Start {
        name: "work".into(),
        namespace: "space".into(),
        r#type,
        argv: vec![],
        environment: Environment::default(),
        artifact,
        sha256: "0".repeat(64),
        limits: LIMITS,
        require_static: false,
        host_services: false,
    }
}

impl Node {
    /// An agent that has not been greeted.
    pub(crate) fn silent() -> Self {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let agent = Command::new(env!("CARGO_BIN_EXE_nex-agent"))
            .env("SECRET_OF_THE_NODE", "leaked")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        ours.set_nonblocking(true).unwrap();
        let (read, write) = UnixStream::from_std(ours).unwrap().into_split();
        let (to, from) = nex_link::open(read, write, MAX_LINK_FRAME);
        Self {
            agent,
            to: Some(to),
            from,
            folder: tempfile::tempdir().unwrap(),
            aside: VecDeque::new(),
            hosts: Hosts::Unsupported,
            direct: None,
            asked_directly: 0,
        }
    }

    /// An agent that has shaken hands.
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// One that was told something else about its node.
    pub(crate) async fn with(change: impl FnOnce(&mut Welcome)) -> Self {
        let mut node = Self::silent();
        let ToNode::Hello(hello) = node.next().await else { panic!("no Hello") };
        assert_eq!(hello.version, VERSION);
        let mut welcome = Welcome {
            version: VERSION,
            agent_id: "agent".into(),
            work_dir: node.folder.path().to_owned(),
            compiled_dir: None,
            deno: None,
            start_timeout_ms: 40_000,
            prestart: None,
            direct: false,
        };
        change(&mut welcome);
        node.send(ToAgent::Welcome(welcome)).await;
        node
    }

    pub(crate) async fn send(&self, message: ToAgent) {
        self.to.as_ref().expect("connected").send(message).await.expect("the agent reads");
    }

    /// The next message, in the order they came.
    pub(crate) async fn next(&mut self) -> ToNode {
        self.next_or_end().await.expect("the agent has more to say")
    }

    /// The next message, or none when the agent has left.
    pub(crate) async fn next_or_end(&mut self) -> Option<ToNode> {
        if let Some(message) = self.aside.pop_front() {
            return Some(message);
        }
        self.receive().await
    }

    async fn receive(&mut self) -> Option<ToNode> {
        loop {
            let asked = async {
                match (&mut self.direct, &self.hosts) {
                    (Some(direct), Hosts::Twin(_)) => direct.next().await,
                    _ => std::future::pending().await,
                }
            };
            let message = async {
                tokio::select! {
                    message = self.from.receive() => Ok(message),
                    ask = asked => Err(ask),
                }
            };
            let message = match tokio::time::timeout(PATIENCE, message).await.expect("the agent is silent") {
                Ok(message) => message.unwrap_or_default()?,
                Err(ask) => {
                    self.answer_directly(ask).await;
                    continue;
                }
            };
            let answers = match &mut self.hosts {
                Hosts::Test => None,
                Hosts::Twin(twin) => twin.hear(&message),
                Hosts::Unsupported => unsupported(&message),
            };
            let Some(answers) = answers else { return Some(message) };
            for answer in answers {
                self.send(answer).await;
            }
        }
    }

    /// Has the twin answer a question; what others are to hear of it goes to the agent.
    async fn answer_directly(&mut self, ask: Option<Ask>) {
        let Some(Ask { number, call, promise, request, body }) = ask else {
            self.direct = None;
            return;
        };
        self.asked_directly += 1;
        let heard = self.twin().hear(&ToNode::HostCall(number, call, request.unwrap(), body));
        for answer in heard.unwrap() {
            match answer {
                ToAgent::HostReply(_, answer, body) if promise => self.direct().resolve(number, answer, body).await,
                ToAgent::HostReply(_, answer, body) => self.direct().answer(number, answer, body).await,
                other => self.send(other).await,
            }
        }
    }

    /// Opens the direct way of the worker that is loaded now.
    pub(crate) async fn open_direct(&mut self) {
        let folder = self.folder.path().to_owned();
        self.open_direct_in(&folder).await;
    }

    /// The same, for an agent that has another folder.
    pub(crate) async fn open_direct_in(&mut self, folder: &std::path::Path) {
        let worker = self.find(|message| if let ToNode::Direct(worker) = message { Some(*worker) } else { None }).await;
        self.direct = Some(DirectEnds::open(worker, folder).await);
        self.send(ToAgent::Direct(worker)).await;
    }

    pub(crate) fn direct(&mut self) -> &mut DirectEnds {
        self.direct.as_mut().expect("a direct way")
    }

    /// The next question on the direct way.
    pub(crate) async fn asked(&mut self) -> Ask {
        let ask = tokio::time::timeout(PATIENCE, self.direct().next()).await.expect("nothing is asked");
        ask.expect("the worker is there")
    }

    /// The first message of a kind; the others stay for later.
    pub(crate) async fn find<T>(&mut self, mut wanted: impl FnMut(&ToNode) -> Option<T>) -> T {
        for at in 0..self.aside.len() {
            if let Some(found) = wanted(&self.aside[at]) {
                self.aside.remove(at);
                return found;
            }
        }
        loop {
            let message = self.receive().await.expect("the agent left before it said what was waited for");
            if let Some(found) = wanted(&message) {
                return found;
            }
            self.aside.push_back(message);
        }
    }

    /// The twin.
    pub(crate) fn twin(&mut self) -> &mut twin::Twin {
        match &mut self.hosts {
            Hosts::Twin(twin) => twin,
            _ => panic!("no twin"),
        }
    }

    /// The next host call, when the test answers them: its number, the function's call, what is asked for.
    pub(crate) async fn host_call(&mut self) -> (u64, u64, HostRequest) {
        self.find(|message| match message {
            ToNode::HostCall(number, call, request, _) => Some((*number, *call, request.clone())),
            _ => None,
        })
        .await
    }

    pub(crate) async fn host_reply(&self, number: u64, reply: HostReply, body: impl Into<Bytes>) {
        self.send(ToAgent::HostReply(number, Ok(reply), body.into())).await;
    }

    pub(crate) async fn host_cancelled(&mut self, number: u64) {
        self.find(|message| (*message == ToNode::HostCancel(number)).then_some(())).await;
    }

    pub(crate) async fn start(&mut self, start: Start) -> Started {
        self.send(ToAgent::Start(Box::new(start))).await;
        self.find(|message| match message {
            ToNode::Started { process_group } => Some(Ok(*process_group)),
            ToNode::Rejected(rejection) => Some(Err(rejection.message.clone())),
            _ => None,
        })
        .await
    }

    /// Writes an artifact into the agent's folder.
    pub(crate) fn artifact(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub(crate) async fn invoke_with(&self, call: u64, headers: Headers, payload: impl Into<Bytes>, timeout_ms: u64) {
        let invoke = Invoke { subject: "some.subject".into(), headers, timeout_ms };
        self.send(ToAgent::Invoke(call, invoke, payload.into())).await;
    }

    pub(crate) async fn invoke(&self, call: u64, payload: impl Into<Bytes>) {
        self.invoke_with(call, vec![], payload, 20_000).await;
    }

    pub(crate) async fn outcome(&mut self, call: u64) -> Result<(Headers, Bytes), Failure> {
        self.find(|message| match message {
            ToNode::Outcome(id, _, outcome) if *id == call => Some(outcome.clone()),
            _ => None,
        })
        .await
    }

    /// Invokes and gives the reply's body as text.
    pub(crate) async fn call(&mut self, call: u64, payload: &'static str) -> Result<String, (FailureKind, String)> {
        self.invoke(call, payload).await;
        self.reply(call).await
    }

    pub(crate) async fn reply(&mut self, call: u64) -> Result<String, (FailureKind, String)> {
        match self.outcome(call).await {
            Ok((_, body)) => Ok(String::from_utf8(body.to_vec()).unwrap()),
            Err(failure) => Err((failure.kind, failure.message)),
        }
    }

    pub(crate) async fn log(&mut self) -> (Level, String) {
        self.find(|message| match message {
            ToNode::Log { level, text } => Some((*level, text.clone())),
            _ => None,
        })
        .await
    }

    pub(crate) async fn ping(&mut self, number: u64) {
        self.send(ToAgent::Ping(number)).await;
        self.find(|message| (*message == ToNode::Pong(number)).then_some(())).await;
    }

    pub(crate) async fn exited(&mut self) -> Exit {
        self.find(|message| match message {
            ToNode::Exited(exit) => Some(exit.clone()),
            _ => None,
        })
        .await
    }

    /// Everything the agent says until it leaves.
    pub(crate) async fn rest(&mut self) -> Vec<ToNode> {
        let mut rest = Vec::new();
        while let Some(message) = self.next_or_end().await {
            rest.push(message);
        }
        rest
    }

    pub(crate) async fn stop(&mut self, grace_ms: u64) -> Exit {
        self.send(ToAgent::Stop { grace_ms }).await;
        self.exited().await
    }

    /// Waits for the end of the agent's process.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.agent.wait()).await.expect("the agent ends").unwrap()
    }
}

fn unsupported(message: &ToNode) -> Option<Vec<ToAgent>> {
    match message {
        ToNode::HostCall(number, _, request, _) => {
            let error = HostError::new(request, HostErrorCode::Unsupported, "not here");
            Some(vec![ToAgent::HostReply(*number, Err(error), Bytes::new())])
        }
        ToNode::HostData(..) | ToNode::HostMore(_) | ToNode::HostCancel(_) => Some(vec![]),
        _ => None,
    }
}

/// Resolves when a process is gone, or a zombie that nobody reaps. There is no event for the end of another's child
/// but its pidfd.
pub(crate) async fn gone(pid: i32) {
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return };
    let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
    // SAFETY: the descriptor is owned by what it is registered with.
    let ended = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE).unwrap() };
    let _ = tokio::time::timeout(PATIENCE, ended.readable()).await.expect("the process ends").unwrap();
}
