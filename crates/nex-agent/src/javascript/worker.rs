//! The worker: a Deno process that may do nothing, with one socket to the agent.
//!
//! Owns the process, the frames on its socket and what it says on stderr. States: loading (it was sent the source),
//! loaded, ended. Tasks belong to it: the link's writer, a reader that logs log frames and hands on the others, one for
//! stderr, one for the pipe of answers, one for each open host call; all end with the process.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nex_link::{LinkError, Sender};
use nex_protocol::link::message::{Limits, Outcome, ToNode};
use nex_protocol::log::Level;
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::answers::{self, Answers};
use super::host_calls::HostCalls;
use super::memory;
use super::protocol::{CallHead, FromWorker, Load, ToWorker};
use crate::call::Call;
use crate::guard::Groups;
use crate::host::Host;
use crate::lines;
use crate::process::{self, Group};

/// The worker's own side: one module, in files.
const WORKER: &str = concat!(
    include_str!("worker/bootstrap.js"),
    include_str!("worker/frames.js"),
    include_str!("worker/console.js"),
    include_str!("worker/errors.js"),
    include_str!("worker/host.js"),
    include_str!("worker/services.js"),
    include_str!("worker/fetch.js"),
    include_str!("worker/loading.js"),
    include_str!("worker/calls.js"),
);

/// Where Deno is to keep its caches, and what `caches` and `localStorage` would store: a folder nobody can create. They
/// need no permission, so that a function could fill the node's disk.
const NOWHERE: &str = "/proc/none";

/// Room for a frame's head beside the largest body.
const HEAD: u64 = 1 << 20;

/// Messages that wait for the function's task; beyond it the reader, and so the worker, waits.
pub(crate) const EVENTS: usize = 64;

/// Time a worker that dies by itself has to say why.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// Time each step of a worker's end may take while others wait for it: the death of one that closed its stream, that
/// of one that was killed, what it still had to say. What takes longer goes on by itself.
pub(crate) const DYING: Duration = Duration::from_millis(100);

/// Lines of stderr that are kept to tell why a worker died.
const LAST_LINES: usize = 16;

/// Everything needed to start a worker, and to start another one.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) deno: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) load: Load,
    pub(crate) source: Bytes,
    pub(crate) limits: Limits,
    pub(crate) node: Sender<ToNode>,
    pub(crate) host: Host,
    pub(crate) groups: Groups,
}

/// What comes from a worker.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message, not to be believed.
    Message(FromWorker),
    /// Something that is no message; nothing follows.
    Garbage(LinkError),
    /// It closed the stream or died; nothing follows.
    Closed,
}

/// How a worker ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// It ran out of memory, as far as its last words tell.
    pub(crate) out_of_memory: bool,
    /// The last thing it said.
    pub(crate) last_line: Option<String>,
    /// The first outcome of each call that was waited for.
    pub(crate) outcomes: HashMap<u64, Outcome>,
}

/// A running worker. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Worker {
    group: Group,
    messages: Sender<ToWorker>,
    events: mpsc::Receiver<Event>,
    /// What it asked of the node.
    pub(crate) host_calls: HostCalls,
    over: watch::Sender<bool>,
    last_words: LastWords,
    stderr: Option<JoinHandle<()>>,
}

/// Writes the worker's side into the agent's folder.
pub(crate) fn install(folder: &std::path::Path) -> io::Result<()> {
    std::fs::create_dir_all(folder.join("deno"))?;
    std::fs::write(folder.join("worker.js"), WORKER)
}

impl Worker {
    /// Starts a worker and sends it the source. To be called on the main thread.
    pub(crate) fn start(settings: &Settings) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let answers = Answers::new(&settings.folder)?;
        let mut command = process::bare(&settings.deno, &settings.folder);
        let home = settings.folder.join("deno");
        command
            .args(["run", "-q", "--no-prompt", "--no-config", "--no-lock", "--no-npm", "--no-remote"])
            .arg("--no-code-cache")
            .arg(format!("--v8-flags=--max-old-space-size={}", memory::heap_mib(&settings.limits)))
            // The pipe and nothing else, and only until the worker has opened it; the path is relative to its folder.
            .arg(format!("--allow-read={}", answers::NAME))
            .arg(settings.folder.join("worker.js"))
            .arg(answers::NAME)
            .env("HOME", &home)
            .env("DENO_DIR", NOWHERE)
            .env("DENO_NO_UPDATE_CHECK", "1")
            .env("NO_COLOR", "1")
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
            .stdout(Stdio::from(OwnedFd::from(theirs)));
        // The command, and with it our copy of the worker's end, is gone when this returns: then only the worker
        // holds it, and its death ends the stream.
        let mut group = process::spawn(command, Some(memory::data_bytes(&settings.limits)), &settings.groups)?;
        let largest = settings.limits.reply_bytes.max(settings.limits.memory_bytes);
        let limit = usize::try_from(largest.saturating_add(HEAD)).unwrap_or(usize::MAX);
        let (messages, receiver, _) = nex_link::over_socket::<FromWorker, ToWorker>(ours, limit)?;
        let (to_function, events) = mpsc::channel(EVENTS);
        tokio::spawn(read_messages(receiver, to_function, settings.node.clone()));
        let (over, last_words) = (watch::Sender::new(false), LastWords::default());
        let stderr = group.take_output().1.map(|stderr| {
            let words = last_words.clone();
            let forward =
                lines::forward(stderr.into(), Level::Debug, settings.node.clone(), over.subscribe(), move |line| {
                    words.hear(line);
                });
            tokio::spawn(async move {
                if let Err(error) = forward.await {
                    tracing::warn!(%error, "the worker's stderr was lost");
                }
            })
        });
        let host_calls = HostCalls::new(settings.host.clone(), messages.clone(), answers, &settings.limits);
        let worker = Self { group, messages, events, host_calls, over, last_words, stderr };
        // The first message of an empty queue always has room.
        worker.messages.try_send(ToWorker::Load(Box::new(settings.load.clone()), settings.source.clone()));
        Ok(worker)
    }

    /// Process id, which is the id of its group.
    pub(crate) fn id(&self) -> u32 {
        self.group.id()
    }

    /// The next thing it says. Cancel-safe.
    pub(crate) async fn event(&mut self) -> Event {
        loop {
            tokio::select! {
                biased;
                () = self.host_calls.one_over() => {}
                event = self.events.recv() => return event.unwrap_or(Event::Closed),
            }
        }
    }

    /// The next thing it said already, if there is one.
    pub(crate) fn event_now(&mut self) -> Option<Event> {
        match self.events.try_recv() {
            Ok(event) => Some(event),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => Some(Event::Closed),
        }
    }

    /// Hands it a call, to be answered with that pong when it begins; false when it is gone.
    pub(crate) fn call(&self, call: Call, deadline_ms: u64, ping: Option<u64>) -> bool {
        let ping = ping.map(|number| number.to_string());
        let head = CallHead { subject: call.subject, headers: call.headers, deadline: deadline_ms, ping };
        self.messages.try_send(ToWorker::Call(call.id, head, call.payload))
    }

    /// Asks whether JavaScript gives way.
    pub(crate) fn ping(&self, number: u64) {
        // A worker that cannot even be asked is found out by the answer that does not come.
        self.messages.try_send(ToWorker::Ping(number));
    }

    /// Resident memory.
    pub(crate) fn resident(&self) -> Option<u64> {
        memory::resident(self.id())
    }

    /// Time it has computed.
    pub(crate) fn computed(&self) -> Option<Duration> {
        memory::computed(self.id())
    }

    /// Kills it, unless it is dead, and says how it ended. Takes no longer than a few times `patience`; a death that
    /// does, and logs that nobody takes, are left to themselves. Outcomes it had sent are kept of calls that are `wanted`.
    pub(crate) async fn end(mut self, kill: bool, patience: Duration, wanted: impl Fn(u64) -> bool) -> Ended {
        self.host_calls.clear();
        // One that closed the stream is about to die by itself, and how it does is worth a moment: an engine that is out
        // of memory says so with its last breath, which on a busy machine takes long.
        let patience = if kill { patience } else { patience.max(LAST_BREATH) };
        if kill || tokio::time::timeout(patience, self.group.exited()).await.is_err() {
            self.group.signal(Signal::KILL);
        }
        let status = tokio::time::timeout(patience, self.group.exited()).await;
        self.over.send_replace(true);
        let mut outcomes = HashMap::new();
        let rest = async {
            // What it logged is delivered; but for outcomes, whatever else it still had to say comes too late.
            while let Some(event) = self.events.recv().await {
                if let Event::Message(FromWorker::Outcome(id, outcome)) = event
                    && wanted(id)
                {
                    outcomes.entry(id).or_insert(outcome);
                }
            }
            if let Some(stderr) = self.stderr.take() {
                let _ = stderr.await;
            }
        };
        if tokio::time::timeout(patience, rest).await.is_err() {
            tracing::debug!("nobody takes what a worker said before its end");
        }
        let status = status.unwrap_or_else(|_| {
            let mut group = self.group;
            tokio::spawn(async move { group.exited().await });
            ExitStatus::default()
        });
        let (out_of_memory, last_line) = self.last_words.judge();
        Ended { status, out_of_memory, last_line, outcomes }
    }
}

async fn read_messages(mut receiver: nex_link::Receiver<FromWorker>, to: mpsc::Sender<Event>, node: Sender<ToNode>) {
    loop {
        let event = match receiver.receive().await {
            Ok(Some(FromWorker::Log(level, text))) => {
                // Waits for the node, and the worker for us: a function that floods its log is slowed down.
                lines::log(&node, level, &text).await;
                continue;
            }
            Ok(Some(message)) => Event::Message(message),
            Ok(None) | Err(LinkError::Io(_) | LinkError::Truncated) => Event::Closed,
            Err(error) => Event::Garbage(error),
        };
        let last = !matches!(event, Event::Message(_));
        if to.send(event).await.is_err() || last {
            return;
        }
    }
}

/// What a worker said on stderr, as far as it tells why it died.
#[derive(Debug, Clone, Default)]
struct LastWords(Arc<Mutex<(VecDeque<String>, bool)>>);

impl LastWords {
    fn hear(&self, line: &str) {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lower = line.to_ascii_lowercase();
        // V8's words for its heap, then those of Rust's allocator, then the system's.
        words.1 |=
            ["out of memory", "memory allocation of", "cannot allocate memory"].iter().any(|it| lower.contains(it));
        if !line.trim().is_empty() {
            words.0.push_back(line.trim().to_owned());
        }
        if words.0.len() > LAST_LINES {
            words.0.pop_front();
        }
    }

    fn judge(&self) -> (bool, Option<String>) {
        let words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The line that names the error, where there is one; traces come after it.
        let telling = words.0.iter().find(|line| line.starts_with("error:") || line.contains("Fatal"));
        (words.1, telling.or(words.0.back()).cloned())
    }
}
