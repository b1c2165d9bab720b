//! A Deno process that may do nothing, with a socket to the agent for its standard input and output.
//!
//! Owns the process, the frames on its socket and what it says on stderr; knows nothing of functions. Tasks belong to it:
//! the link's writer, a reader that logs log frames and hands on the others, one for stderr; all end with the process.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nex_link::{LinkError, Sender};
use nex_protocol::link::message::{Outcome, ToNode};
use nex_protocol::log::Level;
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::direct::Direct;
use super::incoming::{self, Incoming};
use super::memory;
use super::protocol::{FromWorker, ToWorker};
use crate::guard::Groups;
use crate::lines;
use crate::process::{self, Group};

/// The worker's own side: one module, in files.
const WORKER: &str = concat!(
    include_str!("worker/bootstrap.js"),
    include_str!("worker/frames.js"),
    include_str!("worker/console.js"),
    include_str!("worker/errors.js"),
    include_str!("worker/direct.js"),
    include_str!("worker/host.js"),
    include_str!("worker/services.js"),
    include_str!("worker/fetch.js"),
    include_str!("worker/loading.js"),
    include_str!("worker/calls.js"),
);

/// Its name in the agent's folder.
const MODULE: &str = "worker.js";

/// Folder in the agent's folder that is Deno's home.
const HOME: &str = "deno";

/// Where Deno is to keep its caches, and what `caches` and `localStorage` would store: a folder nobody can create. They
/// need no permission, so that a function could fill the node's disk.
const NOWHERE: &str = "/proc/none";

/// Room for a frame's head beside the largest body.
const HEAD: u64 = 1 << 20;

/// Messages that wait for whoever has the process; beyond it the reader, and so the process, waits.
pub(crate) const EVENTS: usize = 64;

/// Time a process that dies by itself has to say why.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// Time each step of its end may take while others wait for it: the death of one that closed its stream, that of one that
/// was killed, what it still had to say. What takes longer goes on by itself.
pub(crate) const DYING: Duration = Duration::from_millis(100);

/// Lines of stderr that are kept to tell why it died.
const LAST_LINES: usize = 16;

/// Everything needed to start a process, and to start another one.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    /// The program.
    pub(crate) program: PathBuf,
    /// The agent's folder.
    pub(crate) folder: PathBuf,
    /// Memory of the function that is to run in it.
    pub(crate) memory_bytes: u64,
    /// Time it has to start.
    pub(crate) start: Duration,
    /// Whether a worker may have a direct way to the node.
    pub(crate) direct: bool,
    pub(crate) node: Sender<ToNode>,
    pub(crate) groups: Groups,
}

impl Engine {
    /// Writes what the process reads into the agent's folder.
    pub(crate) fn install(&self) -> io::Result<()> {
        std::fs::create_dir_all(self.folder.join(HOME))?;
        std::fs::write(self.folder.join(MODULE), WORKER)
    }

    /// Takes it away again: another kind of workload gets a folder that is empty.
    pub(crate) fn uninstall(&self) {
        // Whatever stays is in nobody's way, and gone with the agent.
        let _ = std::fs::remove_file(self.folder.join(MODULE));
        let _ = std::fs::remove_file(self.folder.join(incoming::NAME));
        Direct::remove(&self.folder);
        let _ = std::fs::remove_dir(self.folder.join(HOME));
    }
}

/// What comes from a process.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message, not to be believed.
    Message(FromWorker),
    /// Something that is no message; nothing follows.
    Garbage(LinkError),
    /// It closed the stream or died; nothing follows.
    Closed,
}

/// How a process ended.
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

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Deno {
    group: Group,
    answers: Sender<ToWorker>,
    events: mpsc::Receiver<Event>,
    over: watch::Sender<bool>,
    last_words: LastWords,
    stderr: Option<JoinHandle<()>>,
}

impl Deno {
    /// Starts a process that hears us on that socket, and may go past us where there is a direct way. `waits`: it is for a
    /// function that is not known yet, and whose log what it says until then is not. To be called on the main thread.
    pub(crate) fn start(
        engine: &Engine,
        incoming: &Incoming,
        direct: Option<&Direct>,
        waits: bool,
    ) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let mut command = process::bare(&engine.program, &engine.folder);
        let incoming = incoming.path().display().to_string();
        let mut opened = vec![incoming.as_str()];
        for name in direct.into_iter().flat_map(Direct::names) {
            opened.push(name);
        }
        let paths = opened.join(",");
        command
            .args(["run", "-q", "--no-prompt", "--no-config", "--no-lock", "--no-npm", "--no-remote"])
            .arg("--no-code-cache")
            .arg(format!("--v8-flags=--max-old-space-size={}", memory::heap_mib(engine.memory_bytes)))
            // Only until the worker has opened what it needs; paths are relative to its folder. In later releases of Deno
            // sockets are the network too; earlier ones know no network that is a path.
            .args([format!("--allow-read={paths}"), format!("--allow-write={paths}"), "--allow-net".to_owned()])
            .arg(engine.folder.join(MODULE))
            .args(&opened)
            .args(waits.then_some("waits"))
            .env("HOME", engine.folder.join(HOME))
            .env("DENO_DIR", NOWHERE)
            .env("DENO_NO_UPDATE_CHECK", "1")
            .env("NO_COLOR", "1")
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
            .stdout(Stdio::from(OwnedFd::from(theirs)));
        // The command, and with it our copy of the worker's end, is gone when this returns: then only the worker
        // holds it, and its death ends the stream.
        let mut group = process::spawn(command, Some(memory::data_bytes(engine.memory_bytes)), &engine.groups)?;
        let limit = usize::try_from(largest(engine.memory_bytes).saturating_add(HEAD)).unwrap_or(usize::MAX);
        let (answers, receiver, _) = nex_link::over_socket::<FromWorker, ToWorker>(ours, limit)?;
        let (to_owner, events) = mpsc::channel(EVENTS);
        tokio::spawn(read_messages(receiver, to_owner, engine.node.clone()));
        let (over, last_words) = (watch::Sender::new(false), LastWords::new(!waits));
        let stderr = group.take_output().1.map(|stderr| {
            let words = last_words.clone();
            let forward =
                lines::forward(stderr.into(), Level::Debug, engine.node.clone(), over.subscribe(), move |line| {
                    words.hear(line)
                });
            tokio::spawn(async move {
                if let Err(error) = forward.await {
                    tracing::warn!(%error, "the worker's stderr was lost");
                }
            })
        });
        Ok(Self { group, answers, events, over, last_words, stderr })
    }

    /// From now on what it says on stderr belongs to a function's log.
    pub(crate) fn has_function(&self) {
        self.last_words.lock().public = true;
    }

    /// Process id, which is the id of its group.
    pub(crate) fn id(&self) -> u32 {
        self.group.id()
    }

    /// Where calls that block it are answered: on its standard input.
    pub(crate) fn answers(&self) -> &Sender<ToWorker> {
        &self.answers
    }

    /// The next thing it says. Cancel-safe.
    pub(crate) async fn event(&mut self) -> Event {
        self.events.recv().await.unwrap_or(Event::Closed)
    }

    /// The next thing it said already, if there is one.
    pub(crate) fn event_now(&mut self) -> Option<Event> {
        match self.events.try_recv() {
            Ok(event) => Some(event),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => Some(Event::Closed),
        }
    }

    /// Kills it and waits until it is gone.
    pub(crate) async fn kill(mut self) {
        self.group.signal(Signal::KILL);
        self.group.exited().await;
        self.over.send_replace(true);
    }

    /// Kills it, unless it is dead, and says how it ended. Takes no longer than a few times `patience`; a death that
    /// does, and logs that nobody takes, are left to themselves. Outcomes it had sent are kept of calls that are `wanted`.
    pub(crate) async fn end(mut self, kill: bool, patience: Duration, wanted: impl Fn(u64) -> bool) -> Ended {
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

/// Largest body of a frame from a process for a function with so much memory. What a function replies is bounded where it is
/// used; here the process is kept from filling the agent's memory.
fn largest(memory_bytes: u64) -> u64 {
    memory_bytes.max(SMALLEST_REPLIES)
}

/// Whatever memory a function has, it may reply so much: no server takes larger messages.
const SMALLEST_REPLIES: u64 = 64 << 20;

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

/// What a process said on stderr, as far as it tells why it died.
#[derive(Debug, Clone)]
struct LastWords(Arc<Mutex<Words>>);

#[derive(Debug, Default)]
struct Words {
    lines: VecDeque<String>,
    out_of_memory: bool,
    /// Whether they belong to a function's log.
    public: bool,
}

impl LastWords {
    fn new(public: bool) -> Self {
        Self(Arc::new(Mutex::new(Words { public, ..Words::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Words> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears a line; says whether it belongs to a log.
    fn hear(&self, line: &str) -> bool {
        let mut words = self.lock();
        let lower = line.to_ascii_lowercase();
        // V8's words for its heap, then those of Rust's allocator, then the system's.
        words.out_of_memory |=
            ["out of memory", "memory allocation of", "cannot allocate memory"].iter().any(|it| lower.contains(it));
        if !line.trim().is_empty() {
            words.lines.push_back(line.trim().to_owned());
        }
        if words.lines.len() > LAST_LINES {
            words.lines.pop_front();
        }
        words.public
    }

    fn judge(&self) -> (bool, Option<String>) {
        let words = self.lock();
        // The line that names the error, where there is one; traces come after it.
        let telling = words.lines.iter().find(|line| line.starts_with("error:") || line.contains("Fatal"));
        (words.out_of_memory, telling.or(words.lines.back()).cloned())
    }
}
