//! From nothing to a running workload: artifact, agent, hand-over, triggers.
//!
//! Whatever fails here is a refusal for the one who deploys, or a reason to try again; an agent that was claimed is
//! destroyed then. Cancelling a start (the workload is to be stopped meanwhile) leaves nothing behind either.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream;
use bytes::BytesMut;
use nex_host_services::{HostServices, Tenant};
use nex_link::Sender;
use nex_protocol::control::deploy::NatsConnection;
use nex_protocol::event::Event;
use nex_protocol::link::message::{Limits, Start, ToAgent, ToNode};
use nex_protocol::{Code, Environment, Fault, WorkloadType};
use nex_sandbox::{Agent, Resources};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::actor::{Actor, Ended, Shared};
use super::serve::Hosted;
use super::trigger::Triggers;
use super::{Origin, State, credentials};
use crate::artifact::Artifact;
use crate::config::FunctionLimits;
use crate::sandbox;

/// Bytes of an artifact in one message to an agent.
const PIECE: usize = 256 << 10;

/// Time a claim waits for a ready agent.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);

/// Time an agent has to start a workload, at least: a large Wasm module is compiled meanwhile. In a machine it has as long as
/// that has to boot, which says how fast it is.
const START_TIMEOUT: Duration = Duration::from_secs(40);

impl Actor {
    /// From nothing to a running workload, unless it is to be stopped meanwhile.
    pub(super) async fn start(&mut self) -> Result<Hosted, Ended> {
        let mut stops = std::mem::replace(&mut self.stops, mpsc::channel(1).1);
        let result = tokio::select! {
            result = self.bring_up() => result.map_err(Ended::NotStarted),
            stop = stops.recv() => {
                self.stopping = stop;
                Err(Ended::Asked)
            }
        };
        self.stops = stops;
        result
    }

    async fn bring_up(&mut self) -> Result<Hosted, Fault> {
        if self.origin != Origin::Request {
            // It can be seen and stopped before; the sender lives as long as this.
            let _ = self.shared.announced.subscribe().wait_for(|announced| *announced).await;
        }
        let artifact = match self.artifact.clone() {
            Some(artifact) => artifact,
            None => self.fetch().await?,
        };
        self.set_state(State::Starting);
        let environment = self.environment().await?;
        let agent = self.shared.pool.claim(CLAIM_TIMEOUT).await.map_err(|error| {
            Fault::new(Code::PoolExhausted, format!("Failed to get agent client from pool: {error}"))
        })?;
        let Agent { sender, receiver, lost, place, shares_files, .. } = agent;
        // Only a machine's agent compiles for later ones: any other has a folder for it.
        let compiles = !shares_files && self.spec.r#type == WorkloadType::Wasm;
        let compiled =
            compiles.then(|| self.shared.compiled.exchange(&self.spec.namespace, &artifact.sha256, artifact.size));
        let mut hosted = Hosted { sender, receiver, lost, place, calls: None, compiled };
        if let Err(fault) = self.hand_over(&mut hosted, shares_files, &artifact, environment).await {
            hosted.destroy().await;
            return Err(fault);
        }
        self.artifact = Some(artifact);
        Ok(hosted)
    }

    async fn fetch(&mut self) -> Result<Artifact, Fault> {
        self.set_state(State::Fetching);
        let Shared { artifacts, table, nats, .. } = &*self.shared;
        let ran = match &self.origin {
            Origin::Restored { sha256 } => Some(sha256.as_str()),
            Origin::Request | Origin::Autostart => None,
        };
        let cached = match ran {
            Some(sha256) => artifacts.verified(sha256).await,
            None => None,
        };
        let artifact = match cached {
            Some(artifact) => {
                table.admit_bytes(&self.id, artifact.size)?;
                artifact
            }
            None => {
                let jetstream = if self.spec.jsdomain.is_empty() {
                    jetstream::new(nats.client.clone())
                } else {
                    jetstream::with_domain(nats.client.clone(), &self.spec.jsdomain)
                };
                let expected = ran.or(self.spec.claimed_sha256.as_deref());
                let admit = |size| table.admit_bytes(&self.id, size);
                let artifact = artifacts.fetch(&jetstream, &self.spec.location, expected, admit).await?;
                if artifact.fetched {
                    self.shared.publisher.workload_event(
                        &self.spec.namespace,
                        &Event::ArtifactFetched {
                            workload_name: self.spec.name.to_string(),
                            workload_id: self.id.clone(),
                            location: self.spec.location.to_string(),
                            hash: artifact.sha256.clone(),
                            total_bytes: artifact.size,
                        },
                    );
                }
                artifact
            }
        };
        table.admit_artifact(&self.id, &artifact)?;
        Ok(artifact)
    }

    /// Tells an agent to run the workload and waits until it does, and until a function is triggered.
    async fn hand_over(
        &mut self,
        hosted: &mut Hosted,
        shares_files: bool,
        artifact: &Artifact,
        environment: Environment,
    ) -> Result<(), Fault> {
        let failed =
            |text: &dyn std::fmt::Display| Fault::new(Code::StartFailed, format!("Failed to deploy workload: {text}"));
        let config = &self.shared.config;
        let within = if config.no_sandbox { START_TIMEOUT } else { config.boot_timeout.max(START_TIMEOUT) };
        let resources = self.resources();
        if !resources.is_empty()
            && let Err(error) = hosted.place.bound(&resources)
        {
            let text = format!("Failed to deploy workload: its limits cannot be enforced: {error}");
            return Err(Fault::new(Code::LimitUnavailable, text));
        }
        if !shares_files {
            // A machine that hangs takes nothing, and nobody pings it yet.
            let sent = timeout(within, async {
                send_artifact(&hosted.sender, &artifact.path).await?;
                if let Some(compiled) = &mut hosted.compiled {
                    compiled.give(&hosted.sender).await;
                }
                Ok::<(), std::io::Error>(())
            });
            let sent = sent.await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            sent.map_err(|error| failed(&format_args!("the artifact cannot be sent to the agent: {error}")))?;
        }
        let start = ToAgent::Start(Box::new(Start {
            name: self.spec.name.to_string(),
            namespace: self.spec.namespace.to_string(),
            r#type: self.spec.r#type,
            argv: self.spec.argv.clone(),
            environment,
            artifact: if shares_files { artifact.path.clone() } else { PathBuf::new() },
            sha256: artifact.sha256.clone(),
            limits: self.limits(),
            require_static: !self.shared.config.no_sandbox,
            host_services: self.spec.asks_for_host_services(),
        }));
        let sent = timeout(within, hosted.sender.send(start)).await;
        sent.map_err(|_| failed(&"the agent does not read"))?.map_err(|error| failed(&error))?;
        let answer = timeout(within, async {
            loop {
                match hosted.receiver.receive().await {
                    // What a workload says while it starts is not lost.
                    Ok(Some(ToNode::Log { level, text })) => self.log(level, text),
                    other => return other,
                }
            }
        });
        let answer = answer.await;
        if let (Some(compiled), Ok(Ok(None) | Err(_)) | Err(_)) = (&hosted.compiled, &answer) {
            compiled.agent_lost();
        }
        let process_group = match answer {
            Ok(Ok(Some(ToNode::Started { process_group }))) => process_group,
            Ok(Ok(Some(ToNode::Rejected(rejection)))) => {
                return Err(failed(&format_args!("workload rejected by agent: {}", rejection.message)));
            }
            Ok(Ok(Some(_))) => return Err(failed(&"the agent broke the protocol")),
            Ok(Ok(None)) => return Err(failed(&"the agent ended before the workload was started")),
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(failed(&"the agent did not start the workload in time")),
        };
        if self.spec.r#type.is_function() {
            // A JavaScript worker is replaced now and then; its number would go stale, and its agent ends it.
            return self.connect().await;
        }
        hosted.place.note_process_group(process_group);
        Ok(())
    }

    /// What control groups bound; a function's memory is bounded by its engine.
    fn resources(&self) -> Resources {
        let memory = self.spec.limits.memory_mib.filter(|_| !self.spec.r#type.is_function());
        Resources {
            cpu_millis: self.spec.limits.cpu_millis,
            memory_bytes: memory.map(|mib| (mib + sandbox::overhead_mib(&self.shared.config)) << 20),
        }
    }

    fn limits(&self) -> Limits {
        let FunctionLimits { concurrency, script_bytes, .. } = self.shared.config.functions;
        // Room for headers and the protocol around a reply.
        let max_payload = self.shared.nats.client.server_info().max_payload as u64;
        Limits {
            memory_bytes: self.spec.function_memory(&self.shared.config),
            script_bytes,
            reply_bytes: max_payload.saturating_sub(4096).max(1024),
            concurrency,
        }
    }

    /// The environment it was deployed with; for a service that asks for host services with credentials in it.
    async fn environment(&self) -> Result<Environment, Fault> {
        let mut environment = self.spec.environment.clone();
        if self.spec.r#type.is_function() || !self.spec.asks_for_host_services() {
            return Ok(environment);
        }
        let host_services = &self.shared.config.host_services;
        let node = &self.shared.nats.servers;
        let set = match (&self.spec.host_services, &host_services.credentials) {
            (Some(own), _) => credentials::given(&mut environment, own, node),
            (None, Some(credentials)) => {
                let configured = host_services.nats.as_ref();
                let servers = configured.map(|nats| &nats.nats_url).filter(|url| !url.is_empty()).unwrap_or(node);
                let tenant = Tenant { namespace: self.spec.namespace.clone(), workload: self.spec.name.clone() };
                match self.services_on(configured).await {
                    Ok(services) => credentials::made(&mut environment, credentials, &services, &tenant, servers).await,
                    Err(problem) => Err(problem),
                }
            }
            (None, None) => Err("this node has no account to make credentials with \
                                 (host_services.credentials), and the deploy brings none"
                .to_owned()),
        };
        set.map(|()| environment).map_err(|problem| {
            let text = format!("Failed to deploy workload: no credentials for host services: {problem}");
            Fault::new(Code::HostServicesUnavailable, text)
        })
    }

    /// Host services on a connection; on the node's own when none is wanted.
    async fn services_on(&self, wanted: Option<&NatsConnection>) -> Result<HostServices, String> {
        if wanted.is_none() {
            return Ok(self.shared.services.clone());
        }
        let connection = self.shared.nats.for_workload(wanted, &self.spec.namespace, &self.id).await?;
        Ok(self.shared.services.on(connection.client))
    }

    /// What a function needs besides its agent, made once: its services and its subscriptions.
    async fn connect(&mut self) -> Result<(), Fault> {
        let failed = |text: String| Fault::new(Code::StartFailed, format!("Failed to deploy workload: {text}"));
        let configured = self.shared.config.host_services.nats.as_ref();
        let wanted = self.spec.host_services.as_ref().or(configured);
        if self.services.is_none() {
            self.services = Some(self.services_on(wanted).await.map_err(failed)?);
        }
        if self.triggers.is_none() {
            let wanted = self.spec.trigger_connection.as_ref().or(wanted);
            let connection =
                self.shared.nats.for_workload(wanted, &self.spec.namespace, &self.id).await.map_err(failed)?;
            self.triggers = Some(Triggers::subscribe(connection, &self.function).await.map_err(failed)?);
        }
        Ok(())
    }
}

/// Sends an artifact piece by piece. The link holds us back when the agent is slow.
async fn send_artifact(agent: &Sender<ToAgent>, path: &Path) -> std::io::Result<()> {
    let mut file = tokio::fs::File::open(path).await?;
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        while piece.len() < PIECE && file.read_buf(&mut piece).await? > 0 {}
        let last = piece.len() < PIECE;
        agent.send(ToAgent::Artifact(piece.freeze())).await.map_err(std::io::Error::other)?;
        if last {
            return Ok(());
        }
    }
}
