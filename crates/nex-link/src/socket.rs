//! The two halves of a connected Unix socket, for a link.
//!
//! The runtime is asked to tell of bytes that can be read, and of room to write only while somebody waits for room.
//! A Unix socket tells of room whenever the other side has read something: asked for all the time, as a general
//! stream asks for it, every message would wake its sender once more, for nothing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// The socket, open as long as one of its halves is.
#[derive(Debug, Clone)]
struct Shared(Arc<OwnedFd>);

impl AsRawFd for Shared {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Reads from the socket.
#[derive(Debug)]
pub(crate) struct ReadHalf {
    socket: AsyncFd<Shared>,
}

/// Writes to the socket; what is written and not read ends with it.
#[derive(Debug)]
pub(crate) struct WriteHalf {
    socket: Shared,
    /// Told of room. A descriptor of its own, for the runtime knows the other one by what is read.
    room: Option<AsyncFd<OwnedFd>>,
}

/// Takes a socket apart. Must be called on a runtime.
///
/// # Errors
/// When the runtime cannot watch it.
pub(crate) fn split(socket: UnixStream) -> io::Result<(ReadHalf, WriteHalf)> {
    let socket = Shared(Arc::new(socket.into()));
    Ok((ReadHalf { socket: watched(socket.clone(), Interest::READABLE)? }, WriteHalf { socket, room: None }))
}

/// The half that writes, of a socket that nobody reads.
pub(crate) fn write_half(socket: UnixStream) -> WriteHalf {
    WriteHalf { socket: Shared(Arc::new(socket.into())), room: None }
}

fn watched<T: AsRawFd>(socket: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptor must stay open and the same while it is registered. What is registered owns it (`OwnedFd`,
    // alone or shared), is never taken out or replaced, and gives the same number all the time.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest)? })
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut readable = ready!(self.socket.poll_read_ready(cx))?;
            // Not zeroed first: kilobytes, for each message of a few dozen bytes.
            // SAFETY: the system call writes bytes into it and nothing takes any out.
            let room = unsafe { buffer.unfilled_mut() };
            let asked = room.len();
            match recv(self.socket.get_ref().0.as_fd(), room, RecvFlags::DONTWAIT) {
                Ok(((read, _), _)) => {
                    let read = read.len();
                    // Less than was asked for is all there is: the next read waits without asking in vain.
                    if read > 0 && read < asked {
                        readable.clear_ready();
                    }
                    // SAFETY: the system call has written so many.
                    unsafe { buffer.assume_init(read) };
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(rustix::io::Errno::AGAIN) => readable.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl WriteHalf {
    /// Writes what there is room for; none when there is no room. Needs no runtime.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        loop {
            match send(self.socket.0.as_fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(written) => return Ok(Some(written)),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            if let Some(written) = self.try_write(bytes)? {
                if written == bytes.len() {
                    self.room = None;
                }
                return Poll::Ready(Ok(written));
            }
            if self.room.is_none() {
                self.room = Some(watched(self.socket.0.try_clone()?, Interest::WRITABLE)?);
            }
            if let Some(room) = &self.room {
                let mut writable = ready!(room.poll_write_ready(cx))?;
                // Room that came before this attempt is of no use; room that comes from here on is told of anew.
                writable.clear_ready();
                if let Some(written) = self.try_write(bytes)? {
                    return Poll::Ready(Ok(written));
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match shutdown(self.socket.0.as_fd(), Shutdown::Write) {
            // The other side is gone already.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        // The reading half may live on; the other side must see that nothing more comes.
        let _ = shutdown(self.socket.0.as_fd(), Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn what_does_not_fit_waits_until_the_other_side_reads() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut read, _keep) = split(ours).unwrap();
        let (_other, mut write) = split(theirs).unwrap();
        let sent: Vec<u8> = (0..8 << 20).map(|at: u32| (at % 251) as u8).collect();
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        read.read_to_end(&mut received).await.unwrap();
        assert!(received == expected);
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn dropping_the_writing_half_ends_what_the_other_side_reads() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut read, _keep) = split(ours).unwrap();
        let (_other, write) = split(theirs).unwrap();
        drop(write);
        assert_eq!(read.read(&mut [0; 8]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn writing_to_a_side_that_is_gone_is_an_error_and_no_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_read, mut write) = split(ours).unwrap();
        drop(theirs);
        assert_eq!(write.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
