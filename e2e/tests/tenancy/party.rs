//! Somebody on a server: a tenant or the operator. Does what the command line does, and tries what it should not; says
//! how the server refused.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use async_nats::{ConnectOptions, Event, Message, RequestErrorKind, ServerError, Subscriber};
use futures_util::StreamExt;
use nex_client::Client;
use nex_client::deployment::{Deployment, stop_request};
use nex_e2e::{PATIENCE, eventually};
use nex_identity::{Issuer, XKeyPair};
use nex_protocol::WorkloadType::V8;
use nex_protocol::control::deploy::{NatsConnection, RunResponse};
use nex_protocol::control::info::InfoResponse;
use nex_protocol::{Location, Namespace, subject};

/// How a try came to nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The server says that the user may not.
    Violation,
    /// It leads nowhere.
    NobodyThere,
}

/// Violations of permissions that the server has told a connection of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Violations(Arc<Mutex<Vec<String>>>);

impl Violations {
    fn note(&self, event: &Event) {
        if let Event::ServerError(ServerError::Other(text)) = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }

    /// Whether there was one that has to do with this.
    fn has(&self, doing: &str, subject: &str) -> bool {
        let wanted = format!("permissions violation for {doing} to \"{subject}\"").to_lowercase();
        self.0.lock().unwrap().iter().any(|text| text.to_lowercase().contains(&wanted))
    }
}

/// Somebody with a connection, a namespace and keys.
#[derive(Debug)]
pub(crate) struct Party {
    pub(crate) nats: async_nats::Client,
    pub(crate) nex: Client,
    pub(crate) violations: Violations,
    pub(crate) issuer: Issuer,
    pub(crate) publisher: XKeyPair,
    /// Id of the node.
    pub(crate) node: String,
    /// Prefix of its reply subjects.
    pub(crate) inbox: String,
    /// What its functions are triggered on, and what their host services use.
    pub(crate) triggers: Option<NatsConnection>,
    pub(crate) host_services: Option<NatsConnection>,
    /// JetStream domain of its bucket.
    pub(crate) jsdomain: Option<&'static str>,
}

impl Party {
    pub(crate) async fn connect(url: &str, options: ConnectOptions, namespace: &str, node: &str) -> Result<Self> {
        let violations = Violations::default();
        let noted = violations.clone();
        let inbox = format!("_INBOX.{namespace}");
        let options = options.custom_inbox_prefix(&inbox).event_callback(move |event| {
            noted.note(&event);
            std::future::ready(())
        });
        let nats = options.connect(url).await.with_context(|| format!("{namespace} connects"))?;
        let nex = Client::new(nats.clone(), namespace.parse()?, PATIENCE);
        let (issuer, publisher) = (Issuer::generate(), XKeyPair::generate());
        let node = node.to_owned();
        Ok(Self {
            nats,
            nex,
            violations,
            issuer,
            publisher,
            node,
            inbox,
            triggers: None,
            host_services: None,
            jsdomain: None,
        })
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        self.nex.namespace()
    }

    pub(crate) async fn info(&self) -> Result<InfoResponse> {
        Ok(self.nex.node_info(&self.node).await?)
    }

    /// Names of the workloads that INFO lists.
    pub(crate) async fn workloads(&self) -> Result<Vec<String>> {
        Ok(self.info().await?.machines.into_iter().map(|machine| machine.workload.name).collect())
    }

    /// A function of its own, from its own bucket, triggered by its own subject.
    pub(crate) fn function(&self, name: &str, sha256: &str) -> Result<Deployment> {
        let mut deployment = Deployment::new(name.parse()?, V8, self.location(name)?, sha256);
        deployment.trigger_subjects = vec![format!("{}.{name}", self.namespace()).parse()?];
        deployment.trigger_connection.clone_from(&self.triggers);
        deployment.host_services.clone_from(&self.host_services);
        deployment.jsdomain = self.jsdomain.unwrap_or_default().to_owned();
        Ok(deployment)
    }

    pub(crate) fn location(&self, key: &str) -> Result<Location> {
        Ok(Location::new(self.namespace().as_str(), key)?)
    }

    pub(crate) async fn send(&self, deployment: &Deployment) -> Result<RunResponse> {
        let xkey = self.info().await?.public_xkey;
        let request = deployment.request(&self.issuer, &self.publisher, self.namespace(), &self.node, &xkey)?;
        Ok(self.nex.deploy(&request, &self.node).await?)
    }

    pub(crate) async fn stop(&self, workload: &RunResponse) -> Result<()> {
        let request = stop_request(&self.issuer, self.namespace(), &self.node, &workload.id, &workload.name)?;
        self.nex.stop(&request, &self.node).await?;
        Ok(())
    }

    pub(crate) async fn call(&self, subject: &str, payload: &str) -> Result<Message> {
        let request = async_nats::Request::new().payload(payload.to_owned().into()).timeout(Some(PATIENCE));
        Ok(self.nats.send_request(subject.to_owned(), request).await?)
    }

    /// Asks; nobody must answer. How it was refused.
    pub(crate) async fn is_refused(&self, subject: &str, payload: impl Into<Vec<u8>>) -> Result<Refusal> {
        let request = async_nats::Request::new().payload(payload.into().into()).timeout(Some(PATIENCE));
        tokio::select! {
            answer = self.nats.send_request(subject.to_owned(), request) => match answer {
                Ok(answer) => bail!("{subject} was answered with {:?}", answer.payload),
                Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(Refusal::NobodyThere),
                Err(error) => bail!("{subject}: {error}"),
            },
            violation = self.violation("publish", subject) => violation.map(|()| Refusal::Violation),
        }
    }

    /// Waits until the server has told of a violation.
    pub(crate) async fn violation(&self, doing: &str, subject: &str) -> Result<()> {
        let what = format!("a violation for {doing} to {subject}");
        eventually(&what, || async { self.violations.has(doing, subject) }).await
    }

    /// Waits until the server has handled what it sent before, by something it may ask.
    pub(crate) async fn settle(&self) -> Result<()> {
        self.info().await.map(drop)
    }

    /// Whether the server lets it subscribe, and what it hears then.
    pub(crate) async fn listen(&self, subject: &str) -> Result<Ear> {
        let heard = self.nats.subscribe(subject.to_owned()).await?;
        self.settle().await?;
        Ok(Ear { subject: subject.to_owned(), heard })
    }
}

/// A subscription that is perhaps none.
#[derive(Debug)]
pub(crate) struct Ear {
    pub(crate) subject: String,
    heard: Subscriber,
}

impl Ear {
    /// The subjects of what it has heard by now, but for what its owner asks here, and the replies.
    pub(crate) async fn heard(&mut self, owner: &Party) -> Result<Vec<String>> {
        owner.settle().await?;
        let own = subject::info(owner.namespace().as_str(), &owner.node);
        let mut subjects = vec![];
        while let Some(Some(message)) = futures_util::FutureExt::now_or_never(self.heard.next()) {
            if !message.subject.starts_with(&format!("{}.", owner.inbox)) && message.subject.as_str() != own {
                subjects.push(message.subject.to_string());
            }
        }
        Ok(subjects)
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Result<Message> {
        let next = tokio::time::timeout(PATIENCE, self.heard.next());
        next.await.with_context(|| format!("nothing on {}", self.subject))?.context("the subscription ended")
    }
}
