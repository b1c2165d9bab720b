//! A worker's direct way to the node, from the side of the agent: it makes the two pipes and holds them open until the node
//! has opened them, so that nobody waits for somebody else to open one. It never reads or writes them. The socket beside
//! them is the worker's to make, where its path is not too long.
//!
//! States: kept (both ends are held), handed over (none is: from then on whoever ends closes its ends, and the other one
//! sees it).

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use nex_protocol::link::direct::{ANSWERS, ASKS, PROMISES};
use rustix::fs::{CWD, Mode, mkfifoat};

use super::incoming::socket_path;

/// The pipes of one worker.
#[derive(Debug)]
pub(crate) struct Direct {
    _ends: [File; 2],
    /// Whether the worker can make the socket.
    promises: bool,
}

impl Direct {
    /// New pipes, in the place of those of the worker before.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        Self::remove(folder);
        let promises = socket_path(folder, PROMISES)?.is_some();
        Ok(Self { _ends: [pipe(&folder.join(ASKS))?, pipe(&folder.join(ANSWERS))?], promises })
    }

    /// What the worker opens to read from it, to write into it, and to be connected to.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        [ANSWERS, ASKS].into_iter().chain(self.promises.then_some(PROMISES))
    }

    /// Takes their names away.
    pub(crate) fn remove(folder: &Path) {
        for name in [ASKS, ANSWERS, PROMISES] {
            // Whatever stays is in nobody's way, and gone with the agent.
            let _ = std::fs::remove_file(folder.join(name));
        }
    }
}

/// A new named pipe for this user alone, open for both directions: that never waits.
fn pipe(path: &Path) -> io::Result<File> {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR)?;
    OpenOptions::new().read(true).write(true).open(path)
}
