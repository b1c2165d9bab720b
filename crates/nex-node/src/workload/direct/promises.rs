//! Promises on a worker's direct way: host calls that do not block it, answered on a socket that the worker has made.
//!
//! A promise ends with its answer, which comes at the latest by the deadline of the function's call it is part of; when
//! that call has its outcome before, with an error; or with the direct way, unanswered. A worker reads its answers when
//! its JavaScript gives way, so that they wait in the socket and in the link's queue, never here: one that has more of
//! them than workers have promises is none of ours.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::FuturesUnordered;
use nex_link::Sender;
use nex_protocol::link::direct::{Answer, OPEN_PROMISES, PROMISES};
use nex_protocol::link::host::HostError;
use rustix::fs::{FileType, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::own;

/// What an answer to a promise belongs to.
#[derive(Debug)]
pub(super) struct Promise {
    /// The worker's number for it.
    pub(super) number: u64,
    /// The function's call it is part of.
    pub(super) call: u64,
    /// Service and method.
    pub(super) what: (&'static str, &'static str),
}

/// See the module. Dropping it gives everything up and closes the socket.
pub(super) struct Promises {
    /// None when the worker has made no socket.
    socket: Option<Sender<Answer>>,
    /// What is waited for.
    work: FuturesUnordered<Abortable<BoxFuture<'static, Answer>>>,
    open: BTreeMap<u64, (Promise, AbortHandle)>,
}

impl Promises {
    /// Connects to the socket in the folder, if there is one.
    pub(super) fn connect(folder: &OwnedFd) -> io::Result<Self> {
        let socket = match own(folder, PROMISES, OFlags::PATH, FileType::Socket) {
            Ok(file) => Some(nex_link::to_socket(connected(&file)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { socket, work: FuturesUnordered::new(), open: BTreeMap::new() })
    }

    /// Waits for one more answer.
    pub(super) fn begin(&mut self, promise: Promise, work: BoxFuture<'static, Answer>) -> Result<(), &'static str> {
        if self.open.len() >= OPEN_PROMISES {
            return Err("it has more promises open than a worker has");
        }
        let (task, registration) = AbortHandle::new_pair();
        if self.open.insert(promise.number, (promise, task)).is_some() {
            return Err("a promise has the number of another");
        }
        self.work.push(Abortable::new(work, registration));
        Ok(())
    }

    /// Sends the next answer that comes; never resolves while nothing is waited for. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<(), &'static str> {
        loop {
            match self.work.next().await {
                Some(Ok(answer)) => {
                    self.open.remove(&answer.number);
                    return self.answer(answer);
                }
                // It was given up.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Sends an answer.
    pub(super) fn answer(&self, answer: Answer) -> Result<(), &'static str> {
        let Some(socket) = &self.socket else { return Err("a promise came from a worker that has no socket for it") };
        if socket.try_send(answer) { Ok(()) } else { Err("the answers to promises are not read") }
    }

    /// Ends those of one call of the function.
    pub(super) fn end_of(&mut self, call: u64) -> Result<(), &'static str> {
        let ended: Vec<u64> =
            self.open.iter().filter(|(_, (promise, _))| promise.call == call).map(|(number, _)| *number).collect();
        for number in ended {
            let Some((promise, task)) = self.open.remove(&number) else { continue };
            task.abort();
            let error = HostError::call_ended(promise.what);
            self.answer(Answer { number, answer: Err(error), body: Bytes::new() })?;
        }
        Ok(())
    }
}

/// A connection to the socket that a descriptor names, whatever the length of its path. Never waits for the other side.
fn connected(socket: &OwnedFd) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&stream, &SocketAddrUnix::new(format!("/proc/self/fd/{}", socket.as_raw_fd()))?)?;
    Ok(stream.into())
}
