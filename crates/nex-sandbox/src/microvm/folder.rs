//! A folder whose sockets can be reached however long its path is: an address of a Unix socket has room for 107 bytes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
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

    /// A short path of something in it, for this process.
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }

    /// Connects to a socket in it, as soon as there is one.
    pub(super) async fn connect(
        &self,
        name: &str,
        until: Instant,
        lost: &CancellationToken,
    ) -> Result<UnixStream, PrepareError> {
        loop {
            match UnixStream::connect(self.path(name)).await {
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
