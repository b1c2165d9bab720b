//! A real nats-server with JetStream, on a port of its own, its data in a folder that goes with it.
//!
//! The server chooses the port and says which in its log, so two tests never race for one. From then on the guard keeps
//! that port: a server that was stopped comes back where its clients look for it, with the streams it had.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{Log, Process, binaries};

/// How long a server may take to become ready, or to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a server is started with; see [`NatsServer::builder`].
#[derive(Debug, Default)]
pub struct NatsServerBuilder {
    port: Option<u16>,
    account: Option<(String, String)>,
    config: String,
}

impl NatsServerBuilder {
    /// Listens on this port in place of a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Lets in only this user.
    #[must_use]
    pub fn account(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.account = Some((user.into(), password.into()));
        self
    }

    /// More of a nats-server configuration, added to the generated one.
    #[must_use]
    pub fn config(mut self, snippet: &str) -> Self {
        self.config.push_str(snippet);
        self.config.push('\n');
        self
    }

    /// Starts the server and waits until it takes connections.
    pub async fn start(self) -> Result<NatsServer> {
        let folder = tempfile::Builder::new().prefix("nex-nats-").tempdir()?;
        let mut server = NatsServer { port: self.port, process: None, options: self, folder };
        server.restart().await?;
        Ok(server)
    }
}

/// A running nats-server. Dropping it kills the server and removes its data.
#[derive(Debug)]
pub struct NatsServer {
    // Fields are dropped in this order: the process is gone before its folder is.
    process: Option<Process>,
    /// Known from the first start on.
    port: Option<u16>,
    options: NatsServerBuilder,
    folder: TempDir,
}

impl NatsServer {
    /// A server with JetStream, on a free port, open to everybody on this machine.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// A server with something said about it.
    pub fn builder() -> NatsServerBuilder {
        NatsServerBuilder::default()
    }

    /// The address for clients, without user and password.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port())
    }

    /// The port it listens on, or did before it was stopped.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or_default()
    }

    /// The user and password it was started with.
    pub fn account(&self) -> Option<&(String, String)> {
        self.options.account.as_ref()
    }

    /// The server's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().filter(|process| process.is_running()).map(Process::pid)
    }

    /// What the server printed since its last start.
    pub fn log(&self) -> Option<&Log> {
        self.process.as_ref().map(Process::log)
    }

    /// A connected client, with the user and password the server was started with.
    pub async fn client(&self) -> Result<async_nats::Client> {
        let options = match &self.options.account {
            Some((user, password)) => {
                async_nats::ConnectOptions::with_user_and_password(user.clone(), password.clone())
            }
            None => async_nats::ConnectOptions::new(),
        };
        options.connect(self.url()).await.with_context(|| format!("cannot connect to the test's own {}", self.url()))
    }

    /// Ends the server orderly; its port and its data stay reserved for [`NatsServer::restart`].
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.terminate(PATIENCE).await?;
        }
        Ok(())
    }

    /// Ends the server as a crash would.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Starts the server again, on the same port and data; stops it before when it runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        let config = self.folder.path().join("server.conf");
        std::fs::write(&config, self.configuration())?;
        let end = Instant::now() + PATIENCE;
        loop {
            let mut command = Command::new(binaries::nats_server()?);
            command.arg("--config").arg(&config);
            let process = Process::spawn("nats-server", command).await?;
            match tokio::time::timeout(PATIENCE, ready(process.log())).await {
                Ok(Some(port)) => {
                    self.port = Some(port);
                    self.process = Some(process);
                    return Ok(());
                }
                Err(_) => bail!("nats-server was not ready within {PATIENCE:?}:{}", process.log().tail(20)),
                // The port was let go with the server, and another program's outgoing connection may hold it now.
                Ok(None) if process.log().text().contains("address already in use") && Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(None) => bail!("nats-server ended at its start:{}", process.log().tail(20)),
            }
        }
    }

    fn configuration(&self) -> String {
        // -1 lets the server choose. Quoting as Rust does is quoting as its configuration wants it, for any sane text.
        let port = self.port.map_or(-1, i32::from);
        let mut text =
            format!("host: \"127.0.0.1\"\nport: {port}\njetstream {{ store_dir: {:?} }}\n", self.folder.path());
        if let Some((user, password)) = &self.options.account {
            text.push_str(&format!("authorization {{ user: {user:?}, password: {password:?} }}\n"));
        }
        text.push_str(&self.options.config);
        text
    }
}

/// The port the server listens on, once it has said that it is ready; `None` when it ended instead.
async fn ready(log: &Log) -> Option<u16> {
    let mut port = None;
    log.find(|line| {
        if let Some((_, address)) = line.split_once("Listening for client connections on ") {
            port = address.rsplit(':').next().and_then(|port| port.trim().parse().ok());
        }
        port.filter(|_| line.contains("Server is ready"))
    })
    .await
}
