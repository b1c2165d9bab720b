//! The socket on which a worker hears its agent: calls, pings, answers to promises.
//!
//! States: open (there is a name to connect to), connected (the worker has; the name is gone). A worker connects before
//! it says that it is ready, so that taking the connection then never waits.
//!
//! Deno hands every read of standard input to a thread of its own, and what comes back to the one that runs JavaScript:
//! each message would wake two threads. A socket that it connected to itself is read by that one thread. What a worker
//! says comes by standard output, which is written by blocking; answers to calls that block JavaScript go to standard
//! input, which is read at no other time.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Its name in the agent's folder.
pub(crate) const NAME: &str = "incoming";

/// Longest path of a Unix socket on Linux, bytes (`sun_path`, without the zero at its end).
const LONGEST_PATH: usize = 107;

/// The path that a process in that folder knows a socket in it by; none when it is too long for a socket.
pub(crate) fn socket_path(folder: &Path, name: &str) -> io::Result<Option<PathBuf>> {
    // Deno makes it from the folder it runs in.
    let path = folder.canonicalize()?.join(name);
    Ok((path.as_os_str().len() <= LONGEST_PATH).then_some(path))
}

/// A socket that a worker is to connect to.
#[derive(Debug)]
pub(crate) struct Incoming {
    listener: UnixListener,
    path: PathBuf,
    /// Where it is when the path of the agent's folder is too long.
    elsewhere: Option<TempDir>,
}

impl Incoming {
    /// A new socket, in the place of that of the worker before.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let (path, elsewhere) = match socket_path(folder, NAME)? {
            Some(path) => {
                remove(&path)?;
                (path, None)
            }
            None => {
                let elsewhere = tempfile::Builder::new().prefix("nex-").tempdir()?;
                (elsewhere.path().join(NAME), Some(elsewhere))
            }
        };
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path, elsewhere })
    }

    /// The path that a process in the agent's folder connects to.
    pub(crate) fn path(&self) -> &Path {
        if self.elsewhere.is_some() { &self.path } else { Path::new(NAME) }
    }

    /// The connection of a worker that says it is there.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is none.
    pub(crate) fn accept(self) -> io::Result<UnixStream> {
        Ok(self.listener.accept()?.0)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Whatever stays is in nobody's way, and gone with the agent.
        let _ = remove(&self.path);
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_a_long_path_has_its_socket_elsewhere_and_it_goes() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("x".repeat(100));
        std::fs::create_dir(&folder).unwrap();
        let incoming = Incoming::new(&folder).unwrap();
        let path = incoming.path().to_owned();
        assert!(path.is_absolute() && path.as_os_str().len() <= LONGEST_PATH);
        let _worker = UnixStream::connect(&path).unwrap();
        incoming.accept().unwrap();
        assert!(!path.parent().unwrap().exists());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn a_socket_that_was_left_behind_is_replaced_and_goes_when_its_worker_has_connected() {
        let folder = tempfile::tempdir().unwrap();
        std::mem::forget(Incoming::new(folder.path()).unwrap());
        let incoming = Incoming::new(folder.path()).unwrap();
        assert_eq!(incoming.path(), Path::new(NAME));
        let _worker = UnixStream::connect(folder.path().join(NAME)).unwrap();
        incoming.accept().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_worker_that_did_not_connect_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let error = Incoming::new(folder.path()).unwrap().accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
