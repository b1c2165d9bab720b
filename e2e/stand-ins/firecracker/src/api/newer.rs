//! What came with later versions than the one that is played: to that one, it is unknown.

use serde_json::Value;

use super::Refusal;
use crate::version::Version;

/// First part of the path, second part, field, since.
const FIELDS: &[(&str, &str, &str, Version)] = &[
    ("balloon", "", "free_page_hinting", Version::SERIAL),
    ("balloon", "", "free_page_reporting", Version::SERIAL),
    ("mmds", "config", "imds_compat", Version::SERIAL),
    ("network-interfaces", "*", "mtu", Version::HOTPLUG),
    ("pmem", "*", "rate_limiter", Version::HOTPLUG),
    ("serial", "", "rate_limiter", Version::HOTPLUG),
    ("snapshot", "load", "network_overrides", Version::NETWORK_OVERRIDES),
    ("snapshot", "load", "track_dirty_pages", Version::PCI),
    ("snapshot", "load", "vsock_override", Version::HOTPLUG),
    ("snapshot", "load", "clock_realtime", Version::HOTPLUG),
];

/// Refuses a field that this version does not know.
pub(super) fn refuse(version: Version, path: &[&str], body: &Value) -> Result<(), Refusal> {
    let first = path.first().copied().unwrap_or_default();
    let second = path.get(1).copied().unwrap_or_default();
    let unknown = FIELDS.iter().find(|(one, two, field, since)| {
        *one == first && (*two == "*" || *two == second) && version < *since && body.get(field).is_some()
    });
    unknown.map_or(Ok(()), |(_, _, field, since)| {
        Err(Refusal::body(format!("unknown field `{field}` (it came with {since}, this is {version})")))
    })
}

/// Whether this version has the path.
pub(super) fn knows(version: Version, path: &[&str]) -> bool {
    match path {
        ["serial" | "pmem" | "hotplug", ..] | ["balloon", "hinting", ..] => version >= Version::SERIAL,
        _ => true,
    }
}
