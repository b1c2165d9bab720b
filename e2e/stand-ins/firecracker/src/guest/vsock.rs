//! The socket of the vsock device: `CONNECT <port>\n` and `OK <n>\n`, then the bytes of the guest.
//!
//! As in Firecracker the request must be there whole when its first bytes are, and a port on which nobody listens
//! closes the connection. The guest listens on one port and takes one link.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::console::Console;
use super::{Run, agent, birth};
use crate::settings::Faults;

/// Where the first process waits.
const PORT: u32 = 1024;

/// Shortest and longest request.
const REQUEST: std::ops::RangeInclusive<usize> = 10..=32;

/// Longest birth message.
const LONGEST_BIRTH: usize = 64 * 1024;

/// Ports of the host's side.
static LOCAL_PORT: AtomicU32 = AtomicU32::new(1 << 30);

/// The port of the guest, and who is behind it.
#[derive(Debug, Clone)]
pub(super) struct Port {
    pub(super) agent: PathBuf,
    pub(super) faults: Faults,
    pub(super) births: Option<PathBuf>,
    pub(super) console: Console,
    pub(super) run: watch::Receiver<Run>,
    pub(super) linked: Arc<AtomicBool>,
}

impl Port {
    /// Takes connections for ever.
    pub(super) async fn listen(mut self, listener: StdListener) {
        let Ok(listener) = UnixListener::from_std(listener) else { return };
        while let Ok((stream, _)) = listener.accept().await {
            let _ = self.run.wait_for(|run| run.running).await;
            tokio::spawn(self.clone().connection(stream));
        }
    }

    async fn connection(mut self, stream: UnixStream) {
        let resets = self.run.borrow().resets;
        let mut run = self.run.clone();
        let reset = async move { run.wait_for(|run| run.running && run.resets != resets).await.map(|_| ()) };
        let handshake = self.handshake(stream);
        let stream = tokio::select! {
            stream = handshake => stream,
            _ = reset => return,
        };
        let Ok(Some(stream)) = stream else { return };
        let Ok(link) = stream.into_std() else { return };
        let linked = link.set_nonblocking(false).and_then(|()| link.try_clone());
        let Ok(kept) = linked else { return };
        let started = agent::Started { link: OwnedFd::from(link), kept, resets };
        agent::run(started, &self.agent, &self.faults, &self.console, &mut self.run).await;
    }

    /// Up to the answer to the birth message; gives the link.
    async fn handshake(&mut self, mut stream: UnixStream) -> io::Result<Option<UnixStream>> {
        let mut first = [0];
        stream.read_exact(&mut first).await?;
        let Some(port) = requested(first, &stream) else { return Ok(None) };
        if self.faults.never_answer_connect {
            return std::future::pending().await;
        }
        if self.faults.garbage_for_ok {
            stream.write_all(b"\0\xff\xfenot the answer").await?;
            return std::future::pending().await;
        }
        if port != PORT || self.linked.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let local = LOCAL_PORT.fetch_add(1, Ordering::SeqCst);
        stream.write_all(format!("OK {local}\n").as_bytes()).await?;
        let Some(line) = line(&mut stream).await? else { return Ok(None) };
        let _ = self.run.wait_for(|run| run.running).await;
        match birth::check(&line, self.births.as_deref()) {
            // Of two that come this far at once, one has the guest.
            Ok(_) if self.linked.swap(true, Ordering::SeqCst) => Ok(None),
            Ok(()) => {
                stream.write_all(b"{}\n").await?;
                Ok(Some(stream))
            }
            Err(error) => {
                self.console.line(&format!("nex-init: {error}"));
                std::process::exit(0);
            }
        }
    }
}

/// The port that is asked for, in a request that begins so. Byte by byte: what follows the line is the guest's.
fn requested(first: [u8; 1], stream: &UnixStream) -> Option<u32> {
    let mut request = Vec::from(first);
    while request.last() != Some(&b'\n') || request.len() < *REQUEST.start() {
        let mut byte = [0];
        // What is not there yet is not waited for.
        if request.len() == *REQUEST.end() || stream.try_read(&mut byte).ok()? == 0 {
            return None;
        }
        request.extend(byte);
    }
    let mut words = std::str::from_utf8(&request).ok()?.split_whitespace();
    words.next().filter(|word| word.eq_ignore_ascii_case("connect"))?;
    words.next()?.parse().ok()
}

/// The next line, without its end; none when the connection ends before.
async fn line(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    while line.len() < LONGEST_BIRTH {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        if byte == *b"\n" {
            return Ok(Some(line));
        }
        line.extend(byte);
    }
    Ok(None)
}
