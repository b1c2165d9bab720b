//! The way on which synchronous host calls are answered: a named pipe in the agent's folder.
//!
//! A read of its socket is pending in the worker most of the time, and Deno refuses a second one, blocking or not, on
//! the same descriptor; of standard output and error it reads nothing at all. So a call that blocks JavaScript has its
//! answer on a stream that is read at no other time. Deno opens a pipe only by its path; it may read that one path
//! until it has done so (see `worker/bootstrap.js`).
//!
//! The agent holds the pipe open for reading too, so that neither side waits for the other to open it. Nothing but
//! the task that belongs to it writes; a worker that does not read stops that task, which ends with this value.

use std::io;
use std::path::Path;

use bytes::BytesMut;
use nex_protocol::link::message::Message;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::direct;
use super::protocol::ToWorker;

/// The pipe's name in the agent's folder, which is the worker's too.
pub(crate) const NAME: &str = "answers";

/// Answers that wait to be written. A worker waits for one at a time; the rest ends watches it does not look at.
const WAITING: usize = 64;

/// A worker's pipe.
#[derive(Debug)]
pub(crate) struct Answers {
    queue: mpsc::Sender<ToWorker>,
    _writer: JoinSet<()>,
}

impl Answers {
    /// A new pipe, in the place of that of the worker before.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let path = folder.join(NAME);
        direct::make(&path)?;
        let pipe = pipe::OpenOptions::new().read_write(true).open_sender(&path)?;
        let (queue, waiting) = mpsc::channel(WAITING);
        let mut writer = JoinSet::new();
        writer.spawn(async move {
            if let Err(error) = write(pipe, waiting).await {
                tracing::warn!(%error, "the pipe for answers was lost");
            }
        });
        Ok(Self { queue, _writer: writer })
    }

    /// Where answers go.
    pub(crate) fn sender(&self) -> mpsc::Sender<ToWorker> {
        self.queue.clone()
    }
}

async fn write(mut pipe: pipe::Sender, mut waiting: mpsc::Receiver<ToWorker>) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    while let Some(message) = waiting.recv().await {
        let frame = message.into_frame().map_err(io::Error::other)?;
        frame.encode_prefix(&mut bytes);
        let small = frame.body.len() <= 16 << 10;
        if small {
            bytes.extend_from_slice(&frame.body);
        }
        pipe.write_all(&bytes).await?;
        bytes.clear();
        if !small {
            pipe.write_all(&frame.body).await?;
        }
    }
    Ok(())
}
