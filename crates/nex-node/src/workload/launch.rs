//! From a ready agent to one that runs the workload: claim, limits, artifact, hand-over.
//!
//! Whatever fails here is a refusal for the one who deploys, or a reason to try again; an agent that was claimed is
//! destroyed then. Cancelling a launch leaves nothing behind either. For a function this happens again for every agent it
//! gets; its triggers are not touched.

use std::path::{Path, PathBuf};

use bytes::BytesMut;
use nex_link::Sender;
use nex_protocol::link::message::{Limits, Start, ToAgent, ToNode};
use nex_protocol::{Code, Environment, Fault, WorkloadType};
use nex_sandbox::{Agent, Resources};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::assignment::Assignment;
use super::attend::Hosted;
use super::credentials;
use crate::artifact::Artifact;
use crate::config::FunctionLimits;
use crate::sandbox;

/// Bytes of an artifact in one message to an agent.
const PIECE: usize = 256 << 10;

impl Assignment {
    /// Claims an agent and has it run the artifact.
    ///
    /// # Errors
    /// The refusal; nothing is left then.
    pub(super) async fn launch(&self, artifact: &Artifact) -> Result<Hosted, Fault> {
        let environment = self.environment().await?;
        let (pool, within) = self.shared.pools.of(&self.spec.limits, &self.shared.config);
        let agent = pool.claim(within).await.map_err(|error| {
            Fault::new(Code::PoolExhausted, format!("Failed to get agent client from pool: {error}"))
        })?;
        let Agent { sender, receiver, lost, place, shares_files, .. } = agent;
        // Only a machine's agent compiles for later ones: any other has a folder for it.
        let compiles = !shares_files && self.spec.r#type == WorkloadType::Wasm;
        let compiled =
            compiles.then(|| self.shared.compiled.exchange(&self.spec.namespace, &artifact.sha256, artifact.size));
        let mut hosted = Hosted { sender, receiver, lost, place, calls: None, compiled };
        match self.hand_over(&mut hosted, shares_files, artifact, environment).await {
            Ok(()) => Ok(hosted),
            Err(fault) => {
                hosted.destroy().await;
                Err(fault)
            }
        }
    }

    /// Tells an agent to run the workload and waits until it does.
    async fn hand_over(
        &self,
        hosted: &mut Hosted,
        shares_files: bool,
        artifact: &Artifact,
        environment: Environment,
    ) -> Result<(), Fault> {
        let failed =
            |text: &dyn std::fmt::Display| Fault::new(Code::StartFailed, format!("Failed to deploy workload: {text}"));
        let within = sandbox::start_timeout(&self.shared.config);
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
        // A JavaScript worker is replaced now and then; its number would go stale, and its agent ends it.
        if !self.spec.r#type.is_function() {
            hosted.place.note_process_group(process_group);
        }
        Ok(())
    }

    /// What control groups bound; a function's memory is bounded by its engine.
    fn resources(&self) -> Resources {
        let memory = self.spec.limits.memory_mib.filter(|_| !self.spec.r#type.is_function());
        Resources {
            cpu_millis: self.spec.limits.cpu_millis,
            memory_bytes: memory.map(|mib| (mib + sandbox::overhead_mib(&self.shared.config, &self.spec.limits)) << 20),
            processes: None,
        }
    }

    fn limits(&self) -> Limits {
        let FunctionLimits { concurrency, script_bytes, .. } = self.shared.config.functions;
        // Room for headers and the protocol around a reply.
        let max_payload = self.shared.nats.client.max_payload() as u64;
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
                match self.services_on(configured).await {
                    Ok(services) => {
                        credentials::made(&mut environment, credentials, &services, &self.tenant(), servers).await
                    }
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
