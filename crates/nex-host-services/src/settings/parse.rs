//! Reads the settings out of a node's configuration: every problem at once, each with where it is.
//!
//! The keys are those of Go Nex 0.2.7 (`bucket_name`, `max_bytes`, `jit_provision`, `request_timeout_ms`) and ours;
//! `auto_provision` is the name 0.3.0-rc1 gave to `jit_provision`. The quota is read from an entry named `quota`.

use std::collections::BTreeMap;
use std::time::Duration;

use nex_protocol::subject::TriggerSubject;
use serde_json::{Map, Value};

use super::Settings;
use crate::EgressRule;
use crate::bucket::Template;

/// Longest time a setting may name, milliseconds.
const LONGEST_MS: u64 = 3_600_000;

/// Largest answer that still fits the link's frame.
const LARGEST: u64 = 64 << 20;

const STORE_KEYS: &[&str] = &["bucket_name", "max_bytes", "jit_provision", "auto_provision"];
const MESSAGING_KEYS: &[&str] = &["request_timeout_ms", "max_reply_bytes", "max_replies"];
const HTTP_KEYS: &[&str] = &["timeout_ms", "max_body_bytes", "max_redirects", "allow", "deny", "allow_only"];
const QUOTA_KEYS: &[&str] = &["calls_per_second", "bytes_per_second", "bytes_in_memory"];

impl Settings {
    /// Reads the services of a configuration: whether each is enabled, and its own keys. `denied` are the subjects
    /// the node denies.
    pub fn from_config(
        services: &BTreeMap<String, (bool, Map<String, Value>)>,
        denied: Vec<TriggerSubject>,
    ) -> Result<Self, Vec<String>> {
        let mut settings = Settings { denied_subjects: denied, ..Settings::default() };
        let mut problems = Vec::new();
        for (name, (enabled, config)) in services {
            let mut section = Section { name, config, problems: &mut problems };
            match name.to_ascii_lowercase().as_str() {
                "kv" => section.store(&mut settings.kv, *enabled),
                "objectstore" | "object_store" => section.store(&mut settings.object_store, *enabled),
                "messaging" => {
                    section.known(MESSAGING_KEYS);
                    let messaging = &mut settings.messaging;
                    messaging.enabled = *enabled;
                    section.millis("request_timeout_ms", &mut messaging.request_timeout);
                    section.size("max_reply_bytes", &mut messaging.max_reply_bytes);
                    section.number("max_replies", 1..=1_000_000, &mut messaging.max_replies);
                }
                "http" => {
                    section.known(HTTP_KEYS);
                    let http = &mut settings.http;
                    http.enabled = *enabled;
                    section.millis("timeout_ms", &mut http.timeout);
                    section.size("max_body_bytes", &mut http.max_body_bytes);
                    section.number("max_redirects", 0..=20, &mut http.max_redirects);
                    section.rules("allow", &mut http.allow);
                    section.rules("deny", &mut http.deny);
                    section.flag("allow_only", &mut http.allow_only);
                }
                "quota" => {
                    section.known(QUOTA_KEYS);
                    let quota = &mut settings.quota;
                    section.number("calls_per_second", 0..=u64::MAX, &mut quota.calls_per_second);
                    section.number("bytes_per_second", 0..=u64::MAX, &mut quota.bytes_per_second);
                    section.number("bytes_in_memory", 0..=u64::MAX, &mut quota.bytes_in_memory);
                    if !enabled {
                        *quota = super::QuotaSettings::default();
                    }
                }
                _ => problems.push(format!(
                    "{name}: there is no such service; known are kv, objectstore, messaging, http, quota"
                )),
            }
        }
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }
}

/// The keys of one service.
struct Section<'a> {
    name: &'a str,
    config: &'a Map<String, Value>,
    problems: &'a mut Vec<String>,
}

impl Section<'_> {
    fn store(&mut self, store: &mut super::StoreSettings, enabled: bool) {
        self.known(STORE_KEYS);
        store.enabled = enabled;
        match self.config.get("max_bytes").map(Value::as_i64) {
            None => {}
            Some(Some(max_bytes)) => store.max_bytes = max_bytes,
            Some(None) => self.problem("max_bytes", "has to be a whole number"),
        }
        self.flag("auto_provision", &mut store.jit_provision);
        self.flag("jit_provision", &mut store.jit_provision);
        match self.config.get("bucket_name") {
            None => {}
            Some(Value::String(name)) => match Template::parse(name) {
                Ok(_) => store.bucket_name = name.clone(),
                Err(problem) => self.problem("bucket_name", &problem),
            },
            Some(_) => self.problem("bucket_name", "has to be a text"),
        }
    }

    fn known(&mut self, known: &[&str]) {
        let config = self.config;
        for key in config.keys().filter(|key| !known.contains(&key.as_str())) {
            self.problem(key, &format!("is not known; known are {}", known.join(", ")));
        }
    }

    fn millis(&mut self, key: &str, into: &mut Duration) {
        let mut millis = u64::try_from(into.as_millis()).unwrap_or(LONGEST_MS);
        self.number(key, 1..=LONGEST_MS, &mut millis);
        *into = Duration::from_millis(millis);
    }

    fn size(&mut self, key: &str, into: &mut usize) {
        self.number(key, 1..=LARGEST, into);
    }

    fn number<T: TryFrom<u64>>(&mut self, key: &str, range: std::ops::RangeInclusive<u64>, into: &mut T) {
        let Some(value) = self.config.get(key) else { return };
        match value.as_u64().filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok()) {
            Some(number) => *into = number,
            None if *range.end() == u64::MAX => self.problem(key, "has to be a whole number"),
            None => {
                self.problem(key, &format!("has to be a whole number from {} to {}", range.start(), range.end()));
            }
        }
    }

    fn flag(&mut self, key: &str, into: &mut bool) {
        match self.config.get(key) {
            None => {}
            Some(Value::Bool(value)) => *into = *value,
            Some(_) => self.problem(key, "has to be true or false"),
        }
    }

    fn rules(&mut self, key: &str, into: &mut Vec<EgressRule>) {
        let Some(value) = self.config.get(key) else { return };
        let Value::Array(rules) = value else {
            return self.problem(key, "has to be a list of hosts, addresses and networks");
        };
        for (index, rule) in rules.iter().enumerate() {
            match rule.as_str().map(str::parse::<EgressRule>) {
                Some(Ok(rule)) => into.push(rule),
                Some(Err(problem)) => self.problem(&format!("{key}[{index}]"), &problem.to_string()),
                None => self.problem(&format!("{key}[{index}]"), "has to be a text"),
            }
        }
    }

    fn problem(&mut self, key: &str, what: &str) {
        self.problems.push(format!("{}.{key}: {what}", self.name));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(services: Value) -> Result<Settings, Vec<String>> {
        let services = services
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, config)| (name.clone(), (true, config.as_object().unwrap().clone())))
            .collect();
        Settings::from_config(&services, Vec::new())
    }

    #[test]
    fn nothing_said_is_the_default() {
        let settings = read(json!({})).unwrap();
        assert!(settings.kv.enabled && settings.kv.jit_provision && settings.kv.max_bytes == 524_288);
        assert_eq!(settings.messaging.request_timeout, Duration::from_secs(5));
        assert_eq!(settings.quota, super::super::QuotaSettings::default());
        assert!(settings.http.allow.is_empty());
    }

    #[test]
    fn everything_said_is_read() {
        let settings = read(json!({
            "kv": {"bucket_name": "b_${NAMESPACE}_${Workload_Name}", "max_bytes": -1, "jit_provision": false},
            "objectstore": {"max_bytes": 1024, "auto_provision": false},
            "messaging": {"request_timeout_ms": 250, "max_reply_bytes": 10, "max_replies": 3},
            "http": {"timeout_ms": 7, "max_body_bytes": 8, "max_redirects": 0, "allow_only": true,
                     "allow": ["10.0.0.0/8", "*.example.com:443"], "deny": ["bad.example.com"]},
            "quota": {"calls_per_second": 5, "bytes_per_second": 6},
        }))
        .unwrap();
        assert_eq!(settings.kv.bucket_name, "b_${NAMESPACE}_${Workload_Name}");
        assert!(!settings.kv.jit_provision && !settings.object_store.jit_provision);
        assert_eq!((settings.kv.max_bytes, settings.object_store.max_bytes), (-1, 1024));
        assert_eq!(settings.messaging.request_timeout, Duration::from_millis(250));
        assert_eq!((settings.http.allow.len(), settings.http.deny.len()), (2, 1));
        assert_eq!((settings.quota.calls_per_second, settings.quota.bytes_per_second), (5, 6));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let problems = read(json!({
            "kv": {"bucket": "x", "max_bytes": "1", "bucket_name": "${who}"},
            "messaging": {"request_timeout_ms": 0},
            "http": {"allow": ["10.0.0.0/33", 5], "deny": "x"},
            "mail": {},
        }))
        .unwrap_err();
        assert_eq!(problems.len(), 8, "{problems:#?}");
        let all = problems.join("\n");
        for part in
            ["kv.bucket: is not known; known are bucket_name, max_bytes", "mail: there is no such", "http.allow[0]"]
        {
            assert!(all.contains(part), "{part} in {all}");
        }
    }
}
