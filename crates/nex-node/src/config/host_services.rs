//! `host_services`, and how it is read: the workload connection, the services' settings, the credentials that services get.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use nex_host_services::Settings;
use nex_identity::keys::is_public_key;
use nex_protocol::control::deploy::NatsConnection;
use nex_protocol::subject::TriggerSubject;
use nex_protocol::{Namespace, WorkloadName};
use serde_json::{Map, Value};

use super::reader::Section;

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

/// Reads `host_services`; `denied` are the subjects the node denies.
pub(super) fn read(section: &mut Section<'_>, denied: &[TriggerSubject]) -> HostServices {
    let flat = connection(section);
    let nested = section.section("nats", connection).flatten();
    let services = section.section("services", |services| {
        let mut named = BTreeMap::new();
        for name in ["http", "kv", "messaging", "objectstore", "quota"] {
            let service = services.section(name, |service| {
                (
                    service.take("enabled").unwrap_or(true),
                    service.take::<Map<String, Value>>("config").unwrap_or_default(),
                )
            });
            named.extend(service.map(|service| (name.to_owned(), service)));
        }
        named
    });
    let settings = match Settings::from_config(&services.unwrap_or_default(), denied.to_vec()) {
        Ok(settings) => settings,
        Err(problems) => {
            for problem in problems {
                section.problem("services", problem);
            }
            Settings::default()
        }
    };
    let credentials = section.section("credentials", credentials).flatten();
    HostServices { nats: nested.or(flat), settings, credentials }
}

fn credentials(section: &mut Section<'_>) -> Option<ServiceCredentials> {
    let defaults = ServiceCredentials::default();
    let file: Option<PathBuf> = section.take("account_seed_file");
    if file.is_none() {
        section.problem("account_seed_file", "is needed: a file with the seed of an account's key, SA…");
    }
    let account: Option<String> = section.take("account");
    if account.as_ref().is_some_and(|key| !key.starts_with('A') || !is_public_key(key)) {
        section.problem("account", "has to be the public key of an account, A…");
    }
    let mut subjects = |key: &'static str, default: Vec<String>| {
        let subjects: Vec<String> = section.take(key).unwrap_or(default);
        for subject in &subjects {
            if let Err(problem) = subject_template(subject) {
                section.problem(key, problem);
            }
        }
        subjects
    };
    let publish = subjects("publish", defaults.publish);
    let subscribe = subjects("subscribe", defaults.subscribe);
    Some(ServiceCredentials {
        account_seed_file: file?,
        account,
        publish,
        subscribe,
        allow_consumers: section.take("allow_consumers").unwrap_or(defaults.allow_consumers),
        ttl: section.take("ttl_ms").map_or(defaults.ttl, Duration::from_millis),
    })
}

/// Whether a template becomes a subject whatever the names are.
fn subject_template(template: &str) -> Result<(), String> {
    let sample = template.replace("${namespace}", "n").replace("${workload_name}", "w");
    if sample.contains("${") {
        return Err(format!("'{template}': known variables are ${{namespace}} and ${{workload_name}}"));
    }
    sample.parse::<TriggerSubject>().map(drop).map_err(|error| error.to_string())
}

fn connection(section: &mut Section<'_>) -> Option<NatsConnection> {
    let connection = NatsConnection {
        nats_url: section.take("nats_url").unwrap_or_default(),
        nats_user_jwt: section.take("nats_user_jwt").unwrap_or_default(),
        nats_user_seed: section.take("nats_user_seed").unwrap_or_default(),
    };
    if connection.nats_user_jwt.is_empty() != connection.nats_user_seed.is_empty() {
        section.problem("nats_user_jwt", "goes together with nats_user_seed");
    }
    (connection != NatsConnection::default()).then_some(connection)
}

#[cfg(test)]
mod tests {
    use super::super::file::parse;

    #[test]
    fn credentials_are_read_with_their_defaults() {
        let text = r#"{"host_services":{"credentials":{"account_seed_file":"/k","ttl_ms":1000}}}"#;
        let read = parse(text).unwrap().config.host_services.credentials.unwrap();
        assert_eq!((read.account_seed_file.to_str().unwrap(), read.ttl.as_secs()), ("/k", 1));
        assert_eq!(
            (&read.publish[..], &read.subscribe[..]),
            (&["${namespace}.>".to_owned()][..], &["${namespace}.>".to_owned()][..])
        );
        assert!(!read.allow_consumers && read.account.is_none());
        assert!(parse("{}").unwrap().config.host_services.credentials.is_none());
    }

    #[test]
    fn credentials_that_cannot_be_meant_are_problems() {
        let text =
            r#"{"host_services":{"credentials":{"account":"UABC","publish":["${tenant}.>"],"subscribe":["a..b"]}}}"#;
        let problems = parse(text).unwrap_err().to_string();
        for part in ["account_seed_file: is needed", "account: has to be", "publish: '${tenant}.>'", "subscribe: "] {
            assert!(problems.contains(part), "{part}: {problems}");
        }
    }
}
