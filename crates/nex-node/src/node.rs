//! A node's life: build, run, drain.
//!
//! ```text
//! build: state directory -> (port for metrics) -> (embedded NATS) -> connection -> agents' pool
//! run:   (metrics), control interface, workloads of an earlier life, autostart, heartbeats; until told to end, by a signal or by
//!        lame duck mode, whose delay is over
//! drain: no new work -> workloads end in order -> pool -> (metrics) -> last event -> connection -> (embedded NATS)
//! ```

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use nex_client::connection::Settings;
use nex_host_services::HostServices;
use nex_identity::Issuer;
use nex_protocol::WorkloadType;
use nex_protocol::control::ping::tag;
use nex_protocol::event::Event;
use nex_sandbox::Cgroups;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::artifact::ArtifactCache;
use crate::compiled::CompiledStore;
use crate::config::{Config, PublicNatsServer};
use crate::connection::Connection;
use crate::control::{self, Control};
use crate::embedded::EmbeddedNats;
use crate::lame_duck::LameDuck;
use crate::publisher::Publisher;
use crate::sandbox::Places;
use crate::state::StateDir;
use crate::workload::Record;
use crate::workload::actor::{self, Shared};
use crate::workload::budget::Budget;
use crate::workload::table::Table;
use crate::{LogLine, NodeError, Overrides, host, metrics, sandbox, weakened};

/// Time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Time NATS has to take the last events.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A node that is built and not yet on the air.
pub(crate) struct Node {
    control: Arc<Control>,
    places: Places,
    metrics: Option<metrics::Endpoint>,
    embedded: Option<EmbeddedNats>,
    pid_file: Option<PidFile>,
}

impl Node {
    /// Makes everything a node needs; nothing is announced yet.
    pub(crate) async fn build(config: Config, overrides: Overrides, nats: Settings) -> Result<Self, NodeError> {
        let config = overrides.apply(config);
        let problems = crate::check(&config, &Overrides::default());
        if !problems.is_empty() {
            return Err(NodeError::Unfit(problems));
        }
        let state_path = config.state_dir.clone().unwrap_or_else(StateDir::default_path);
        let state = StateDir::open(&state_path)?;
        let pid_file = config.pid_filepath.as_deref().map(PidFile::write).transpose()?;
        let metrics = metrics::Endpoint::bind(&config.metrics).await?;
        let mut settings = nats;
        let embedded = match &config.public_nats_server {
            Some(server) => {
                let program = host::nats_server(&config)?;
                let started = EmbeddedNats::start(program, server, &state.path("nats")).await?;
                settings.servers = started.url().to_owned();
                Some(started)
            }
            None => None,
        };
        let nats = Connection::open(&settings).await?;
        let node_id = state.node_id();
        info!(server = %settings.shown_servers(), "established node NATS connection");

        let (cgroups, no_cgroups) = match Cgroups::open(node_id.get(..16).unwrap_or(&node_id)) {
            Ok(cgroups) => (Some(Arc::new(cgroups)), None),
            Err(unavailable) => (None, Some(unavailable.to_string())),
        };
        let unbounded =
            weakened::unbounded(&config, cgroups.as_deref().ok_or(no_cgroups.as_deref().unwrap_or_default()));
        let deno = host::deno(&config).ok();
        let types = types(&config, deno.is_some() || !config.no_sandbox);
        let (pools, places) = sandbox::pools(&config, &state, deno, &types, cgroups)?;

        let mut tags = host::tags(&config, &node_id);
        tags.extend(unbounded.map(|what| (tag::UNBOUNDED.to_owned(), what.to_owned())));
        let shared = Arc::new(Shared {
            artifacts: ArtifactCache::new(state.path("artifacts"), config.artifact_cache_bytes),
            compiled: CompiledStore::new(state.path("compiled-guest")),
            budget: Budget::new(config.functions.max_pending_bytes),
            table: Table::new(config.node_limits, config.allow_duplicate_workloads),
            publisher: Publisher::spawn(nats.client.clone(), &node_id),
            services: HostServices::on_nats(nats.client.clone(), config.host_services.settings.clone()),
            nats,
            state,
            pools,
            config,
            lame_duck: LameDuck::default(),
            no_cgroups,
            announced: watch::Sender::new(false),
        });
        let control = Arc::new(Control::new(shared, node_id, tags, types));
        Ok(Self { control, places, metrics, embedded, pid_file })
    }

    /// Runs until told to end, then drains.
    pub(crate) async fn run(
        self,
        log: Option<Receiver<LogLine>>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), NodeError> {
        let Node { control, places, metrics, embedded, pid_file } = self;
        let shared = Arc::clone(&control.shared);
        let metrics = metrics.map(|endpoint| endpoint.serve(Arc::clone(&control)));
        let leaving = Leaving { places, metrics, embedded, pid_file };
        if let Some(mut log) = log {
            let publisher = shared.publisher.clone();
            // To the very end: it goes with the runtime.
            tokio::spawn(async move {
                while let Some(line) = log.recv().await {
                    publisher.own_log(line);
                }
            });
        }
        tokio::spawn(tell_when_empty(Arc::clone(&shared)));
        let mut shutdown = std::pin::pin!(shutdown);
        tokio::select! {
            first = shared.pools.usual().first_result() => match first.last_error {
                None => info!("received agent handshake; the pool is filling"),
                Some(reason) => error!(reason, "agents do not start; deploys are refused until they do"),
            },
            // The drain below ends what there is by then.
            () = &mut shutdown => return drain(&control, None, leaving).await,
        }
        // Before the first request: who repeats the deploy of a workload that comes back must not be first, and who
        // asks for the workload must find it.
        let records = shared.state.records::<Record>();
        control.remember_claims(records.iter().map(|(_, record)| &record.spec));
        restore(&control, records);
        start_configured(&control);
        let mut serving = control.serve().await.map_err(|error| NodeError::Serve(error.to_string()))?;
        let xkey = shared.state.xkey().public_key();
        info!(xkey, "use this key as the recipient for encrypted run requests");
        info!(id = %control.node_id, version = env!("CARGO_PKG_VERSION"), "NATS execution engine awaiting commands");
        if shared.config.no_sandbox {
            warn!(
                "running without a sandbox: workloads are processes of this user and can do what it can (nex.unsafe)"
            );
        }
        let started = Event::NodeStarted {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            id: control.node_id.clone(),
            tags: control.tags.clone(),
        };
        shared.publisher.node_event(&started);
        shared.announced.send_replace(true);
        serving.spawn(heartbeat(Arc::clone(&control)));

        tokio::select! {
            () = &mut shutdown => {}
            () = shared.lame_duck.over() => info!("the delay of lame duck mode is over: the node leaves"),
        }
        drain(&control, Some(serving), leaving).await
    }
}

/// What a node ends when it leaves.
struct Leaving {
    places: Places,
    metrics: Option<metrics::Serving>,
    embedded: Option<EmbeddedNats>,
    pid_file: Option<PidFile>,
}

/// Leaves in order; see the module's header.
async fn drain(control: &Control, serving: Option<JoinSet<()>>, leaving: Leaving) -> Result<(), NodeError> {
    let Leaving { places, metrics, embedded, pid_file } = leaving;
    info!("stopping: no new work is taken, workloads end in order");
    let shared = &control.shared;
    shared.table.close();
    stop_all(shared).await;
    places.close().await;
    if let Some(metrics) = metrics {
        metrics.close().await;
    }
    // Who was never announced does not take leave; and nothing is heard of a node after it has.
    if let Some(mut serving) = serving {
        serving.shutdown().await;
        shared.publisher.node_event(&Event::NodeStopped { id: control.node_id.clone(), graceful: true });
    }
    // NATS may be away: then nobody hears the last words, and nothing waits for it.
    if tokio::time::timeout(LAST_WORDS, shared.publisher.flush()).await.is_err() {
        warn!("NATS did not take the last events in time");
    }
    drop(pid_file);
    let nats = &shared.nats.client;
    let _ = tokio::time::timeout(LAST_WORDS, nats.drain()).await;
    if let Some(embedded) = embedded {
        // A connection is left after `drain` has returned, and cannot be flushed once it is left. Its server goes after that,
        // so that nobody is told of a lost connection.
        let left = async { while nats.flush().await.is_ok() {} };
        let _ = tokio::time::timeout(LAST_WORDS, left).await;
        embedded.stop().await;
    }
    info!("stopped");
    Ok(())
}

/// The types to run: those of the configuration, else all that this machine can.
fn types(config: &Config, deno: bool) -> Vec<WorkloadType> {
    if let Some(types) = &config.workload_types {
        return types.clone();
    }
    if !deno {
        warn!("Deno was not found: this node runs no JavaScript functions (set deno_path, or put deno on the path)");
    }
    WorkloadType::ALL.into_iter().filter(|kind| *kind != WorkloadType::V8 || deno).collect()
}

/// Brings back what ran when the node ended.
fn restore(control: &Control, records: Vec<(String, Record)>) {
    if !control.shared.config.restore_workloads {
        return;
    }
    for (id, record) in records {
        let name = record.spec.name.clone();
        // The configuration may have become narrower meanwhile.
        let restored =
            control.check_policies(&record.spec).and_then(|()| actor::restore(&control.shared, id.clone(), record));
        match restored {
            Ok(()) => info!(workload = %name, id, "bringing back a workload"),
            Err(fault) => error!(workload = %name, id, %fault, "cannot bring back a workload; its record is kept"),
        }
    }
}

fn start_configured(control: &Control) {
    let workloads = &control.shared.config.autostart;
    if !workloads.is_empty() {
        // Nobody holds the seed of this key, so nobody but the node stops what it started.
        let issuer = Issuer::generate().public_key();
        control::autostart(control, workloads, &issuer);
    }
}

async fn heartbeat(control: Arc<Control>) {
    let mut beat = tokio::time::interval(HEARTBEAT);
    loop {
        beat.tick().await;
        let ping = control.ping();
        control.shared.publisher.node_event(&Event::Heartbeat {
            version: ping.version,
            node_id: ping.node_id,
            uptime: ping.uptime,
            tags: ping.tags,
            nexus: ping.nexus,
            running_machines: ping.running_machines,
            allow_duplicate_workloads: control.shared.config.allow_duplicate_workloads,
        });
    }
}

/// The event of a pool that had nothing for somebody: one each time that begins.
async fn tell_when_empty(shared: Arc<Shared>) {
    let mut pool = shared.pools.usual().watch();
    let mut told = 0;
    while pool.changed().await.is_ok() {
        let status = pool.borrow_and_update().clone();
        for _ in told..status.shortages {
            shared.publisher.node_event(&Event::PoolEmpty {
                id: shared.state.node_id(),
                pool_size: shared.config.machine_pool_size,
                message: status.last_error.clone().unwrap_or_default(),
            });
        }
        told = status.shortages;
    }
}

/// Ends all workloads, all at the same time; each has its own bound.
async fn stop_all(shared: &Arc<Shared>) {
    let mut ending = JoinSet::new();
    for workload in shared.table.all() {
        ending.spawn(async move { workload.stop("the node is stopping", true).await });
    }
    while ending.join_next().await.is_some() {}
}

/// The process id in a file, removed when the node ends.
struct PidFile(std::path::PathBuf);

impl PidFile {
    fn write(path: &std::path::Path) -> Result<Self, NodeError> {
        let running = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i32>().ok());
        let alive = |pid: i32| {
            pid != std::process::id().cast_signed()
                && rustix::process::Pid::from_raw(pid)
                    .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
        };
        if let Some(pid) = running.filter(|pid| alive(*pid)) {
            return Err(NodeError::PidFile(format!("{} names process {pid}, which runs", path.display())));
        }
        crate::state::write_whole(path, format!("{}\n", std::process::id()).as_bytes())
            .map_err(|error| NodeError::PidFile(format!("{}: {error}", path.display())))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What `--nats embedded` starts when the configuration says nothing of it.
pub(crate) fn embedded_defaults() -> PublicNatsServer {
    PublicNatsServer::default()
}
