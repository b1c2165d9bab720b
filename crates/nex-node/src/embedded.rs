//! A nats-server of the node's own: started, supervised, stopped with the node.
//!
//! ```text
//! starting -> ready -> (exit) -> backoff -> starting …        stop: TERM, then KILL
//! ```
//! One thread owns the process. It is a thread, not a task, because the server is told to die with the *thread* that
//! started it (`PR_SET_PDEATHSIG`), and this one lives as long as the node: nothing is left behind even when the node
//! is killed. The server keeps its port across restarts, so clients come back to it by themselves.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nex_sandbox::Backoff;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::config::PublicNatsServer;
use crate::state::write_whole;

/// Time a server has to accept connections.
const READY: Duration = Duration::from_secs(10);

/// Time a server has to end after TERM.
const GRACE: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(20);

const RESTART: Backoff = Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(10) };

/// The server cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Its files cannot be written.
    #[error("cannot prepare the embedded nats-server: {0}")]
    Io(#[from] std::io::Error),
    /// It did not come up.
    #[error("the embedded nats-server did not start on {address}: {reason}")]
    Start {
        /// Where it should listen.
        address: String,
        /// Its last words, or what the system says.
        reason: String,
    },
}

/// A running server.
#[derive(Debug)]
pub struct EmbeddedNats {
    url: String,
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedNats {
    /// Starts a server with its data in `dir`; returns when it accepts connections.
    ///
    /// # Errors
    /// [`EmbeddedError`].
    pub async fn start(program: PathBuf, settings: &PublicNatsServer, dir: &Path) -> Result<Self, EmbeddedError> {
        std::fs::create_dir_all(dir)?;
        let mut settings = settings.clone();
        // Nobody else may be there: to a client, somebody else's server looks like ours. A free port is found once and
        // kept: a server that is restarted must come back where its clients look for it.
        let listener = TcpListener::bind((settings.host.as_str(), settings.port)).map_err(|error| {
            let address = format!("{}:{}", settings.host, settings.port);
            let reason = format!("{error} (set another port in public_nats_server, or use the server that is there)");
            EmbeddedError::Start { address, reason }
        })?;
        settings.port = listener.local_addr()?.port();
        drop(listener);
        let config = dir.join("nats-server.conf");
        write_whole(&config, configuration(&settings, dir).as_bytes())?;
        let host = if settings.host == "0.0.0.0" { "127.0.0.1" } else { &settings.host };
        let address = format!("{host}:{}", settings.port);
        let (stop, stopped) = channel();
        let (ready, becomes_ready) = oneshot::channel();
        let supervisor = Supervisor { program, config, address: address.clone(), stopped };
        let thread = std::thread::Builder::new().name("nats-server".to_owned()).spawn(move || supervisor.run(ready))?;
        let started = becomes_ready.await.unwrap_or_else(|_| Err("its supervisor ended".to_owned()));
        started.map_err(|reason| EmbeddedError::Start { address: address.clone(), reason })?;
        let url = format!("nats://{address}");
        info!(url, data = %dir.display(), "embedded nats-server started");
        Ok(Self { url, stop, thread: Some(thread) })
    }

    /// Where clients find it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops the server and waits until it is gone.
    pub async fn stop(mut self) {
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// A JSON text is a valid string in the server's configuration language.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn configuration(settings: &PublicNatsServer, dir: &Path) -> String {
    let PublicNatsServer { server_name, host, port, jetstream, store_dir, http_port } = settings;
    let mut text = format!("server_name: {}\nhost: {}\nport: {port}\n", quoted(server_name), quoted(host));
    if *http_port != 0 {
        text.push_str(&format!("http: {}\n", quoted(&format!("{host}:{http_port}"))));
    }
    if *jetstream {
        let store = store_dir.clone().unwrap_or_else(|| dir.to_owned());
        text.push_str(&format!("jetstream {{ store_dir: {} }}\n", quoted(&store.to_string_lossy())));
    }
    text
}

struct Supervisor {
    program: PathBuf,
    config: PathBuf,
    address: String,
    stopped: Receiver<()>,
}

enum Outcome {
    Asked,
    Exited(String),
}

impl Supervisor {
    fn run(self, ready: oneshot::Sender<Result<(), String>>) {
        let mut ready = Some(ready);
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let reason = match self.spawn() {
                Ok(child) => match self.supervise(child, &mut ready) {
                    Outcome::Asked => return,
                    Outcome::Exited(reason) => reason,
                },
                Err(error) => format!("cannot start {}: {error}", self.program.display()),
            };
            if let Some(ready) = ready.take() {
                let _ = ready.send(Err(reason));
                return;
            }
            failures = if began.elapsed() > GRACE { 0 } else { failures + 1 };
            let delay = RESTART.jittered(failures);
            warn!(reason, ?delay, "the embedded nats-server ended; it is started again");
            if self.is_stopped(delay) {
                return;
            }
        }
    }

    /// Waits; says whether the server is to be stopped.
    fn is_stopped(&self, within: Duration) -> bool {
        !matches!(self.stopped.recv_timeout(within), Err(RecvTimeoutError::Timeout))
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(&self.config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // A Ctrl-C at the terminal is the node's to handle; it stops the server last.
        command.process_group(0);
        // SAFETY: the closure runs between fork and exec and makes one system call, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        command.spawn()
    }

    /// Watches a server until it ends.
    fn supervise(&self, mut child: Child, ready: &mut Option<oneshot::Sender<Result<(), String>>>) -> Outcome {
        let log = child.stderr.take().map(last_line);
        let deadline = Instant::now() + READY;
        loop {
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    let words = log.and_then(|log| log.join().ok()).unwrap_or_default();
                    return Outcome::Exited(if words.is_empty() { status.to_string() } else { words });
                }
                Err(error) => return Outcome::Exited(error.to_string()),
            }
            if ready.is_some() {
                if greets(&self.address) {
                    if let Some(ready) = ready.take() {
                        let _ = ready.send(Ok(()));
                    }
                } else if Instant::now() > deadline {
                    end(&mut child);
                    return Outcome::Exited("it accepts no connections".to_owned());
                }
            }
            // Nothing tells a thread of both its child's end and a message; a look fifty times a second costs little.
            if self.is_stopped(POLL) {
                end(&mut child);
                return Outcome::Asked;
            }
        }
    }
}

/// Keeps the last line that says what went wrong.
fn last_line(stderr: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut last = String::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if line.contains("[FTL]") || line.contains("[ERR]") || line.starts_with("nats-server:") {
                last = line;
            }
        }
        last
    })
}

/// Whether a NATS server says INFO there.
fn greets(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let mut greeting = [0; 4];
    stream.set_read_timeout(Some(Duration::from_millis(500))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"INFO"
}

/// TERM, then KILL.
fn end(child: &mut Child) {
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(POLL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_in_the_servers_configuration_are_quoted() {
        let settings = PublicNatsServer { server_name: "a\"b".into(), ..PublicNatsServer::default() };
        let text = configuration(&settings, Path::new("/data"));
        assert!(text.contains(r#"server_name: "a\"b""#) && text.contains(r#"store_dir: "/data""#), "{text}");
    }

    #[tokio::test]
    async fn an_address_that_somebody_else_listens_on_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = PublicNatsServer { port: other.local_addr().unwrap().port(), ..PublicNatsServer::default() };
        let error = EmbeddedNats::start("/bin/false".into(), &settings, dir.path()).await.unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_ends_at_once_is_an_error_and_not_supervised() {
        let dir = tempfile::tempdir().unwrap();
        let settings = PublicNatsServer { port: 0, ..PublicNatsServer::default() };
        let error = EmbeddedNats::start("/bin/false".into(), &settings, dir.path()).await.unwrap_err();
        assert!(error.to_string().contains("exit status: 1"), "{error}");
    }
}
