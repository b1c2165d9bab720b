//! What the operator allows: which services there are, how large things may be, where HTTP may go.
//!
//! Everything has a default that is safe; [`Settings::from_config`] reads what a node's configuration says otherwise.

mod parse;

use std::time::Duration;

use nex_protocol::subject::TriggerSubject;

use crate::EgressRule;

/// Settings of all services.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `kv`.
    pub kv: StoreSettings,
    /// `objectStore`.
    pub object_store: StoreSettings,
    /// `messaging`.
    pub messaging: MessagingSettings,
    /// `http`.
    pub http: HttpSettings,
    /// Subjects no function publishes to, beside those that are always refused.
    pub denied_subjects: Vec<TriggerSubject>,
    /// What a namespace may use.
    pub quota: QuotaSettings,
}

impl Settings {
    /// The settings with buckets of the default names.
    pub(crate) fn template_or<'a>(store: &'a StoreSettings, default: &'a str) -> &'a str {
        if store.bucket_name.is_empty() { default } else { &store.bucket_name }
    }
}

/// Bucket of `kv` when none is named.
pub const KV_BUCKET: &str = "hs_${namespace}_${workload_name}_kv";

/// Bucket of `objectStore` when none is named.
pub const OBJECT_BUCKET: &str = "hs_${namespace}_${workload_name}_obj";

/// Settings of a service that stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// Whether functions may use it.
    pub enabled: bool,
    /// Name of a tenant's bucket, with `${namespace}` and `${workload_name}` in any case; the default one when empty.
    pub bucket_name: String,
    /// Bytes a bucket may hold, overhead included; none or less is no limit.
    pub max_bytes: i64,
    /// Whether a bucket is made on first use.
    pub jit_provision: bool,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { enabled: true, bucket_name: String::new(), max_bytes: 524_288, jit_provision: true }
    }
}

/// Settings of `messaging`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessagingSettings {
    /// Whether functions may use it.
    pub enabled: bool,
    /// Longest wait for answers when the request names none.
    pub request_timeout: Duration,
    /// Bytes the answers to one request may have together, headers included.
    pub max_reply_bytes: usize,
    /// Answers one request may collect.
    pub max_replies: usize,
}

impl Default for MessagingSettings {
    fn default() -> Self {
        Self { enabled: true, request_timeout: Duration::from_secs(5), max_reply_bytes: 8 << 20, max_replies: 10_000 }
    }
}

/// Settings of `http`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Whether functions may use it.
    pub enabled: bool,
    /// Longest wait for a whole response, redirects included.
    pub timeout: Duration,
    /// Bytes a request's body, and a response's body once it is decoded, may have.
    pub max_body_bytes: usize,
    /// Redirects that are followed; with none, the redirecting response is the answer.
    pub max_redirects: usize,
    /// Where requests may go although the address is one that is denied by default.
    pub allow: Vec<EgressRule>,
    /// Where requests may not go, whatever `allow` says.
    pub deny: Vec<EgressRule>,
    /// Whether requests may go nowhere but to what `allow` names.
    pub allow_only: bool,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            timeout: Duration::from_secs(10),
            max_body_bytes: 8 << 20,
            max_redirects: 5,
            allow: Vec::new(),
            deny: Vec::new(),
            allow_only: false,
        }
    }
}

/// What a namespace may use; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaSettings {
    /// Calls per second.
    pub calls_per_second: u64,
    /// Bytes per second, both ways together.
    pub bytes_per_second: u64,
    /// Bytes of the node's memory that its calls may hold at a time.
    pub bytes_in_memory: usize,
}

impl Default for QuotaSettings {
    fn default() -> Self {
        Self { calls_per_second: 0, bytes_per_second: 0, bytes_in_memory: 128 << 20 }
    }
}
