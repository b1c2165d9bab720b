//! The direct way of one JavaScript worker to its node: short host calls past the agent, over two pipes and a socket.
//!
//! States: open (no call blocks the worker), answering (one does: it waits for NATS, then its answer for room in the
//! pipe), closed (the worker or its agent is gone, or the worker broke the protocol; see [`Over`]). Beside that there are
//! [`promises`], which block nobody. Driven by the task that attends to the agent; nobody else touches pipes and socket.
//!
//! Nothing that comes from the pipe is believed: frames are bounded before they are kept, a call has to belong to a call
//! of the function that is in this agent and ends with that one's deadline, one at a time blocks the worker, promises are
//! bounded, and whose keys and subjects are meant is known from the link. The folder of the pipes is the one that the node
//! chose, never one that an agent names, and what is not of this user is not opened.

mod promises;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use nex_host_services::{HostCall, HostServices, Tenant};
use nex_link::begun;
use nex_protocol::link::codec::Message;
use nex_protocol::link::direct::{ANSWERS, ASKS, Answer, Ask, LARGEST, Waits};
use nex_protocol::link::frame::Frame;
use nex_protocol::link::host::{HostError, HostErrorCode, HostReply, HostRequest};
use promises::{Promise, Promises};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::{Duration, Instant, timeout_at};

use super::call::Instance;
use super::host_calls::{Nowhere, only_waits};
use super::millis;

/// Bytes that are read at a time: most questions are shorter.
const READ: usize = 4 << 10;

/// Bytes that a pipe holds, unless somebody has changed it.
const PIPE: usize = 64 << 10;

/// A payload up to this size is copied, so that its frame is one write.
const COPIED: usize = 16 << 10;

/// Time a worker has to read its answer: it does nothing else.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// How a direct way ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// The worker or its agent has closed it.
    Gone,
    /// The worker did what no worker of ours does; what exactly.
    Broken(&'static str),
}

/// What the calls of a worker need of its node.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) services: HostServices,
    pub(super) tenant: Arc<Tenant>,
    /// Takes the parts of an answer, which what only waits has not.
    pub(super) nowhere: Nowhere,
    /// The calls that are in the agent.
    pub(super) instance: Arc<Instance>,
    /// The longest that any call may take.
    pub(super) limit: Duration,
}

/// See the module. Dropping it closes the pipes and ends the call.
pub(super) struct Direct {
    /// The agent's name for the worker.
    worker: u32,
    terms: Terms,
    asks: pipe::Receiver,
    answers: pipe::Sender,
    /// What was read and is no whole question yet.
    buffer: BytesMut,
    open: Option<Open>,
    promises: Promises,
    /// What the worker did that no worker of ours does, found out between two calls of [`Direct::progress`].
    broken: Option<&'static str>,
    /// When a call had its answer; one that was refused is none, or a worker could go on asking for ever.
    last: Option<Instant>,
}

/// The call that blocks the worker.
struct Open {
    /// Of the function's call that it is part of; none when it is part of none, and refused.
    deadline: Option<Instant>,
    step: Step,
}

/// How far it is.
enum Step {
    /// It waits for NATS.
    Waiting(BoxFuture<'static, Answer>),
    /// Its answer goes into the pipe; what does not fit into one piece stays where it is, and is counted there.
    Writing { first: BytesMut, rest: Bytes, until: Instant },
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direct").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl Direct {
    /// Opens the pipes that are in the folder, and connects to the socket that may be there.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::InvalidInput`] when something else is there.
    pub(super) fn open(worker: u32, folder: &Path, terms: Terms) -> io::Result<Self> {
        let directory = openat(CWD, folder, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let asks = own_pipe(&directory, ASKS, OFlags::RDONLY)?;
        let answers = own_pipe(&directory, ANSWERS, OFlags::WRONLY)?;
        Ok(Self {
            worker,
            terms,
            asks: pipe::Receiver::from_owned_fd(asks)?,
            answers: pipe::Sender::from_owned_fd(answers)?,
            buffer: BytesMut::new(),
            open: None,
            promises: Promises::connect(&directory)?,
            broken: None,
            last: None,
        })
    }

    /// Whether that worker waits for its node; none when it is not this one.
    pub(super) fn waits(&self, worker: u32) -> Option<Waits> {
        let left = |open: &Open| Some(millis(open.deadline?.saturating_duration_since(Instant::now())));
        (worker == self.worker).then(|| Waits {
            left_ms: self.open.as_ref().and_then(left),
            ago_ms: self.last.map(|last| millis(last.elapsed())),
        })
    }

    /// Answers what is asked, until the way is over. Cancel-safe.
    pub(super) async fn progress(&mut self) -> Over {
        loop {
            let Self { open, asks, answers, buffer, promises, broken, .. } = self;
            if let Some(what) = broken.take() {
                return Over::Broken(what);
            }
            if buffer.capacity() - buffer.len() < READ {
                buffer.reserve(READ);
            }
            tokio::select! {
                biased;
                answered = step(open, answers) => match answered {
                    Ok(()) => {
                        let answered = self.open.take().and_then(|open| open.deadline);
                        self.last = answered.map(|_| Instant::now()).or(self.last);
                    }
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        return Over::Broken("an answer was not read in time");
                    }
                    Err(_) => return Over::Gone,
                },
                kept = promises.next() => if let Err(what) = kept {
                    return Over::Broken(what);
                },
                read = asks.read_buf(buffer) => match read {
                    Ok(0) | Err(_) => return Over::Gone,
                    Ok(_) => if let Err(what) = self.heard() {
                        return Over::Broken(what);
                    },
                },
            }
        }
    }

    /// Takes the questions that are in the pipe already. Whatever the agent is heard to say came after them.
    pub(super) fn catch_up(&mut self) {
        // No more than the pipe holds: who goes on writing meanwhile does so after what the agent said.
        let mut piece = [0; READ];
        for _ in 0..PIPE / READ {
            if self.broken.is_some() {
                return;
            }
            // Read past the runtime, which may not have heard of what is there. That the pipe is closed, or fails, is found
            // out by who waits for it.
            match rustix::io::read(self.asks.as_fd(), &mut piece) {
                Ok(read) if read > 0 => {
                    self.buffer.extend_from_slice(piece.get(..read).unwrap_or_default());
                    self.broken = self.heard().err();
                }
                _ => return,
            }
        }
    }

    /// The function's call has its outcome: the promises it left are given up.
    pub(super) fn end_of(&mut self, call: u64) {
        self.catch_up();
        if let Err(what) = self.promises.end_of(call) {
            self.broken.get_or_insert(what);
        }
    }

    /// Takes what was read: whole questions, and what is none yet. Nothing follows one that blocks the worker.
    fn heard(&mut self) -> Result<(), &'static str> {
        while !self.buffer.is_empty() {
            if self.open.is_some() {
                return Err("a question came before the last one had its answer");
            }
            let frame = match Frame::decode(&mut self.buffer, LARGEST) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(_) => return Err("something came that is no frame"),
            };
            self.begin(Ask::from_frame(frame).map_err(|_| "a frame came that is no question")?)?;
        }
        Ok(())
    }

    fn begin(&mut self, ask: Ask) -> Result<(), &'static str> {
        let Ask { number, call, promise, request, body } = ask;
        let (request, deadline) = match self.admit(call, request)? {
            Ok(admitted) => admitted,
            Err(error) => {
                let answer = Answer { number, answer: Err(error), body: Bytes::new() };
                if promise {
                    return self.promises.answer(answer);
                }
                self.open = Some(Open { deadline: None, step: writing(answer) });
                return Ok(());
            }
        };
        let what = promise.then(|| Promise { number, call, what: request.name() });
        // Begun here: calls go to NATS in the order in which they came.
        let work = begun(answer(self.terms.clone(), number, request, body, deadline));
        match what {
            Some(promise) => self.promises.begin(promise, work),
            None => {
                self.open = Some(Open { deadline: Some(deadline), step: Step::Waiting(work) });
                Ok(())
            }
        }
    }

    /// What is asked for, and until when it may take; or what the worker hears instead.
    fn admit(
        &self,
        call: u64,
        request: Result<HostRequest, String>,
    ) -> Result<Result<(HostRequest, Instant), HostError>, &'static str> {
        let request = match request {
            Ok(request) => request,
            Err(message) => return Ok(Err(HostError::no_request(message))),
        };
        if !only_waits(&request) {
            return Err("a question came that has to go through the agent");
        }
        Ok(match self.terms.instance.deadline(call).filter(|deadline| *deadline > Instant::now()) {
            Some(deadline) => Ok((request, deadline)),
            None => Err(HostError::without_call(&request)),
        })
    }
}

/// Brings the one call to its end, when there is one; never resolves when there is none. Cancel-safe.
async fn step(open: &mut Option<Open>, answers: &mut pipe::Sender) -> io::Result<()> {
    let Some(Open { step, .. }) = open else { return std::future::pending().await };
    if let Step::Waiting(call) = step {
        *step = writing(call.await);
    }
    let Step::Writing { first, rest, until } = step else { return Ok(()) };
    while first.has_remaining() || rest.has_remaining() {
        let bytes = if first.has_remaining() { first.chunk() } else { rest.chunk() };
        // At once, when there is room; only a large answer waits for the worker to read.
        let written = match answers.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                timeout_at(*until, answers.write(bytes)).await.map_err(|_| io::ErrorKind::TimedOut)??
            }
            written => written?,
        };
        if first.has_remaining() { first.advance(written) } else { rest.advance(written) }
    }
    Ok(())
}

async fn answer(terms: Terms, number: u64, request: HostRequest, body: Bytes, deadline: Instant) -> Answer {
    let Terms { services, tenant, nowhere: download, limit, .. } = terms;
    let what = request.name();
    // One deadline, for each costs a timer: the function's call's, where that comes first.
    let first = deadline.min(Instant::now() + limit);
    let call = HostCall { request, body, upload: None, download, deadline: first };
    let (answer, body) = match services.call(&tenant, call).await {
        Ok((reply, body)) => (Ok(reply), body),
        Err(error) if error.code == HostErrorCode::Timeout && Instant::now() >= deadline => {
            (Err(HostError::call_out_of_time(what)), Bytes::new())
        }
        Err(error) => (Err(error), Bytes::new()),
    };
    Answer { number, answer, body }
}

/// The step that hands out an answer.
fn writing(answer: Answer) -> Step {
    let number = answer.number;
    let (mut first, mut rest) = (BytesMut::new(), Bytes::new());
    let frame = answer.into_frame().or_else(|_| {
        // Plain texts and numbers have a JSON form; were there one without, its question needs an answer all the same.
        Answer { number, answer: Ok(HostReply::Done), body: Bytes::new() }.into_frame()
    });
    if let Ok(frame) = frame {
        frame.encode_prefix(&mut first);
        if frame.body.len() <= COPIED {
            first.extend_from_slice(&frame.body);
        } else {
            rest = frame.body;
        }
    }
    Step::Writing { first, rest, until: Instant::now() + TAKEN_WITHIN }
}

/// A named pipe of this user, by its name in a folder. Opening never waits.
fn own_pipe(folder: &OwnedFd, name: &str, access: OFlags) -> io::Result<OwnedFd> {
    own(folder, name, access | OFlags::NONBLOCK, FileType::Fifo)
}

/// What has that name in a folder, if it is of this kind and of this user. Links are not followed.
fn own(folder: &OwnedFd, name: &str, access: OFlags, kind: FileType) -> io::Result<OwnedFd> {
    let file = openat(folder, name, access | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let found = fstat(&file)?;
    let ours = found.st_uid == rustix::process::geteuid().as_raw();
    if FileType::from_raw_mode(found.st_mode) != kind || !ours {
        let what = if kind == FileType::Fifo { "pipe" } else { "socket" };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("'{name}' is no {what} of this user")));
    }
    Ok(file)
}

#[cfg(test)]
mod tests;
