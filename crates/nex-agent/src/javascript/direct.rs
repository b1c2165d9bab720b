//! The two pipes of a worker's direct way to the node, from the side of the agent: it makes them and holds them open
//! until the node has opened them, so that nobody waits for somebody else to open one. It never reads or writes them.
//!
//! States: kept (both ends are held), handed over (none is: from then on whoever ends closes its ends, and the other one
//! sees it).

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use nex_protocol::link::direct::{ANSWERS, ASKS};
use rustix::fs::{CWD, Mode, mkfifoat};

/// The pipes of one worker.
#[derive(Debug)]
pub(crate) struct Direct {
    _ends: [File; 2],
}

impl Direct {
    /// New pipes, in the place of those of the worker before.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        Ok(Self { _ends: [pipe(&folder.join(ASKS))?, pipe(&folder.join(ANSWERS))?] })
    }

    /// Takes their names away.
    pub(crate) fn remove(folder: &Path) {
        for name in [ASKS, ANSWERS] {
            // Whatever stays is in nobody's way, and gone with the agent.
            let _ = std::fs::remove_file(folder.join(name));
        }
    }
}

/// A new named pipe, open for both directions: that never waits.
fn pipe(path: &Path) -> io::Result<File> {
    make(path)?;
    OpenOptions::new().read(true).write(true).open(path)
}

/// Makes a named pipe for this user alone, in the place of what is there.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR)?)
}
