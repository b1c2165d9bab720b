//! The guest's serial port: standard output, or the file that was named; silent while the kernel's command line does
//! not ask for it.

use std::fs::File;
use std::io::{self, Write};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

/// The port.
#[derive(Debug, Clone)]
pub(super) struct Console {
    file: Option<Arc<Mutex<File>>>,
    on: bool,
}

impl Console {
    pub(super) fn new(file: Option<File>, arguments: &str) -> Self {
        let on = arguments.split(' ').any(|word| word == "console=ttyS0" || word.starts_with("console=ttyS0,"));
        Self { file: file.map(Mutex::new).map(Arc::new), on }
    }

    /// Writes a line. Nobody has to read it.
    pub(super) fn line(&self, text: &str) {
        if !self.on {
            return;
        }
        let line = format!("{text}\r\n");
        let _ = match &self.file {
            Some(file) => file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes()),
            None => io::stdout().write_all(line.as_bytes()),
        };
    }

    /// Where the agent's own log goes.
    pub(super) fn for_process(&self) -> Stdio {
        let file = match &self.file {
            _ if !self.on => return Stdio::null(),
            Some(file) => file.lock().unwrap_or_else(PoisonError::into_inner).try_clone(),
            None => return io::stdout().into(),
        };
        file.map_or_else(|_| Stdio::null(), Stdio::from)
    }

    /// Writes without end.
    pub(super) fn flood(&self) {
        let console = self.clone();
        std::thread::spawn(move || {
            loop {
                console.line("flood: all work and no play makes a console that nobody wants to keep in memory");
            }
        });
    }
}
