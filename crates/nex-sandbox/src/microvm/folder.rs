//! A folder whose sockets can be reached however long its path is: an address of a Unix socket has room for 107 bytes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::PrepareError;

/// Time between two looks for a socket that a monitor makes a moment after its start.
const LOOK: Duration = Duration::from_millis(2);

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

impl Folder {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// The folder may be somebody else's, who could have put a link to another socket there: none is followed.
    async fn connect_now(&self, name: &str) -> io::Result<UnixStream> {
        let socket = openat(&self.0, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if !FileType::from_raw_mode(fstat(&socket)?.st_mode).is_socket() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is no socket")));
        }
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
    }

    /// Connects to a socket in it, as soon as there is one.
    pub(super) async fn connect(
        &self,
        name: &str,
        until: Instant,
        lost: &CancellationToken,
    ) -> Result<UnixStream, PrepareError> {
        loop {
            match self.connect_now(name).await {
                Ok(stream) => return Ok(stream),
                Err(_) if lost.is_cancelled() => return Err(PrepareError::Ended("the machine monitor ended".into())),
                Err(_) if Instant::now() < until => sleep(LOOK).await,
                Err(source) => {
                    return Err(PrepareError::System { what: "cannot reach the machine monitor".into(), source });
                }
            }
        }
    }
}
