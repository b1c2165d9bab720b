//! From nothing to a running workload: artifact, first agent, services, triggers.
//!
//! Whatever fails here is a refusal for the one who deploys, or a reason to try again. Cancelling a start (the workload is
//! to be stopped meanwhile) leaves nothing behind.

use async_nats::jetstream;
use nex_protocol::event::Event;
use nex_protocol::{Code, Fault};
use tokio::sync::mpsc;

use super::actor::{Actor, Ended, Shared};
use super::attend::Hosted;
use super::trigger::Triggers;
use super::{Origin, State};
use crate::artifact::Artifact;

impl Actor {
    /// From nothing to a running workload, unless it is to be stopped meanwhile. A function that may rest has no agent yet.
    pub(super) async fn start(&mut self) -> Result<Option<Hosted>, Ended> {
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

    async fn bring_up(&mut self) -> Result<Option<Hosted>, Fault> {
        if self.origin != Origin::Request {
            // It can be seen and stopped before; the sender lives as long as this.
            let _ = self.shared.announced.subscribe().wait_for(|announced| *announced).await;
        }
        let artifact = match self.artifact.clone() {
            Some(artifact) => artifact,
            None => self.fetch().await?,
        };
        let artifact = self.artifact.insert(artifact).clone();
        if self.may_rest() {
            self.connect().await?;
            return Ok(None);
        }
        self.set_state(State::Starting);
        let hosted = self.assignment().launch(&artifact).await?;
        if self.spec.r#type.is_function()
            && let Err(fault) = self.connect().await
        {
            hosted.destroy().await;
            return Err(fault);
        }
        Ok(Some(hosted))
    }

    /// Whether it needs no agent before its first call: a function that ran before does, and may be without one.
    fn may_rest(&self) -> bool {
        let ran = matches!(self.origin, Origin::Restored { .. }) && !self.deployed;
        ran && self.spec.r#type.is_function() && self.spec.idle_timeout(&self.shared.config).is_some()
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

    /// What a function needs besides its agent, made once: its services and its subscriptions.
    async fn connect(&mut self) -> Result<(), Fault> {
        let failed = |text: String| Fault::new(Code::StartFailed, format!("Failed to deploy workload: {text}"));
        let configured = self.shared.config.host_services.nats.as_ref();
        let wanted = self.spec.host_services.as_ref().or(configured);
        if self.services.is_none() {
            self.services = Some(self.assignment().services_on(wanted).await.map_err(failed)?);
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
