//! Keys about host services, and about what services are given of them.

use std::path::PathBuf;
use std::time::Duration;

use nex_protocol::control::deploy::NatsConnection;
use nex_protocol::{Namespace, WorkloadName};

/// Host services: their connection and settings.
#[derive(Debug, Clone, Default)]
pub struct HostServices {
    /// The workload connection, when it is not the node's own.
    pub nats: Option<NatsConnection>,
    /// Settings of the services.
    pub settings: nex_host_services::Settings,
    /// How services get credentials of their own; without it they get none.
    pub credentials: Option<ServiceCredentials>,
}

/// What users that are made for services are users of, and what they may do (`host_services.credentials`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCredentials {
    /// File with the seed of an account's key, or of one of its signing keys.
    pub account_seed_file: PathBuf,
    /// The account, when the file holds a signing key.
    pub account: Option<String>,
    /// Subjects a service may publish to, with `${namespace}` and `${workload_name}`.
    pub publish: Vec<String>,
    /// Subjects a service may subscribe to, likewise.
    pub subscribe: Vec<String>,
    /// Whether a service may make consumers of its buckets, which can deliver to any subject of the account.
    pub allow_consumers: bool,
    /// How long a user lives; zero for as long as its account.
    pub ttl: Duration,
}

impl Default for ServiceCredentials {
    fn default() -> Self {
        let own = vec!["${namespace}.>".to_owned()];
        Self {
            account_seed_file: PathBuf::new(),
            account: None,
            publish: own.clone(),
            subscribe: own,
            allow_consumers: false,
            ttl: Duration::ZERO,
        }
    }
}

impl ServiceCredentials {
    /// A subject of `publish` or `subscribe` for a workload.
    pub fn subject(template: &str, namespace: &Namespace, workload: &WorkloadName) -> String {
        template.replace("${namespace}", namespace.as_str()).replace("${workload_name}", workload.as_str())
    }
}
