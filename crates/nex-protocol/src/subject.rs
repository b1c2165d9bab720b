//! Subjects: those of the control interface, and trigger subjects with their overlap test.
//!
//! Control subjects are `$NEX.<COMMAND>[.<namespace>][.<node>]`; a node is named by its public nkey (`N…`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::event::SYSTEM;
use crate::name::{MAX_NAME, Namespace};

/// The first token of every control subject.
pub const PREFIX: &str = "$NEX";

/// Subjects no function is ever triggered by, whatever a node's configuration says.
///
/// The first three are those of Go Nex. The others are ours: who is triggered by inboxes, chunks of objects, or what is
/// written to key-value buckets and MQTT sessions reads other people's replies, artifacts and data.
pub const ALWAYS_DENIED: [&str; 7] = ["$SYS.>", "$JS.>", "$NEX.>", "_INBOX.>", "$O.>", "$KV.>", "$MQTT.>"];

/// Longest subject that is answered to, bytes. Inboxes have some fifty.
const MAX_REPLY: usize = 1024;

/// `$NEX.PING`: every node answers.
pub const PING: &str = "$NEX.PING";

/// `$NEX.AUCTION`: every node that fits answers.
pub const AUCTION: &str = "$NEX.AUCTION";

/// What a node subscribes to for WPING; [`workloads_asked`] reads what was asked.
pub const WPING_ALL: &str = "$NEX.WPING.>";

/// `$NEX.WPING.<namespace>`: every node that has workloads of the namespace answers. With a workload's id or name as a
/// further token only those that have it.
pub fn workload_ping(namespace: &Namespace, workload: Option<&str>) -> String {
    match workload {
        Some(workload) => format!("{PREFIX}.WPING.{namespace}.{workload}"),
        None => format!("{PREFIX}.WPING.{namespace}"),
    }
}

/// The namespace and the workload (id or name) that a WPING asks for.
pub fn workloads_asked(subject: &str) -> Option<(Namespace, Option<String>)> {
    let mut tokens = subject.strip_prefix("$NEX.WPING.")?.split('.');
    let namespace = tokens.next()?.parse().ok()?;
    let workload = tokens.next().map(str::to_owned);
    (tokens.next().is_none() && workload.as_deref() != Some("")).then_some((namespace, workload))
}

/// `$NEX.LAMEDUCK.<node>`
pub fn lame_duck(node: &str) -> String {
    format!("{PREFIX}.LAMEDUCK.{node}")
}

/// `$NEX.PING.<node>`
pub fn ping(node: &str) -> String {
    format!("{PREFIX}.PING.{node}")
}

/// `$NEX.INFO.<namespace>.<node>`
pub fn info(namespace: &str, node: &str) -> String {
    format!("{PREFIX}.INFO.{namespace}.{node}")
}

/// `$NEX.DEPLOY.<namespace>.<node>`
pub fn deploy(namespace: &str, node: &str) -> String {
    format!("{PREFIX}.DEPLOY.{namespace}.{node}")
}

/// `$NEX.STOP.<namespace>.<node>`
pub fn stop(namespace: &str, node: &str) -> String {
    format!("{PREFIX}.STOP.{namespace}.{node}")
}

/// `$NEX.logs.<namespace>.<node>.<workload id>.<workload name>`
pub fn log(namespace: &Namespace, node: &str, workload_id: &str, workload_name: &str) -> String {
    format!("{PREFIX}.logs.{namespace}.{node}.{workload_id}.{workload_name}")
}

/// `$NEX.logs.system.<node>.<output>`: a node's own log, as `stdout` or `stderr`.
pub fn own_log(node: &str, output: &str) -> String {
    format!("{PREFIX}.logs.{SYSTEM}.{node}.{output}")
}

/// Namespace, node, workload id and workload name of the subject of a log entry.
pub fn log_tokens(subject: &str) -> Option<[&str; 4]> {
    let mut tokens = subject.strip_prefix("$NEX.logs.")?.split('.');
    let found = [tokens.next()?, tokens.next()?, tokens.next()?, tokens.next()?];
    tokens.next().is_none().then_some(found)
}

/// `$NEX.events.<namespace>.<event type>`
pub fn event(namespace: &str, event_type: &str) -> String {
    format!("{PREFIX}.events.{namespace}.{event_type}")
}

/// The namespace token of a control subject with four tokens (`$NEX.<COMMAND>.<namespace>.<node>`).
pub fn namespace_of(subject: &str) -> Option<Namespace> {
    let mut tokens = subject.split('.');
    let (prefix, _command, namespace, _node, end) =
        (tokens.next()?, tokens.next()?, tokens.next()?, tokens.next()?, tokens.next());
    if prefix != PREFIX || end.is_some() {
        return None;
    }
    namespace.parse().ok()
}

/// Whether an answer may go to this subject. Who asks chooses where the answer goes, and it goes there with the
/// permissions of who answers: nobody must get a bucket purged, an event forged or an artifact replaced by asking for an
/// answer there. Nor must the answer's line be longer than a server takes (4 KiB), which would end the connection.
pub fn may_be_answered_to(reply: &str) -> bool {
    const INTERNAL: [&str; 6] = ["$SYS.", "$JS.", "$NEX.", "$O.", "$KV.", "$MQTT."];
    let foreign = reply.starts_with("$JS.ACK.") || !INTERNAL.iter().any(|prefix| reply.starts_with(prefix));
    foreign && reply.len() <= MAX_REPLY
}

/// Whether a text can be the name of a JetStream domain: a token of the subjects of its API.
pub fn is_domain(text: &str) -> bool {
    let odd = |c: char| ".*>".contains(c) || c.is_whitespace() || c.is_control();
    !text.is_empty() && text.len() <= MAX_NAME && !text.contains(odd)
}

/// A subject to subscribe to, wildcards allowed: `calc.*`, `orders.>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TriggerSubject(String);

/// The text cannot be subscribed to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a valid NATS subject")]
pub struct InvalidSubject(pub String);

impl TriggerSubject {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether some subject matches both patterns.
    pub fn overlaps(&self, other: &TriggerSubject) -> bool {
        // Most have nothing in common, and this is asked with every message that a function sends.
        let wild = |first: Option<&u8>| matches!(first, Some(b'*' | b'>'));
        let (a, b) = (self.0.as_bytes().first(), other.0.as_bytes().first());
        if a != b && !wild(a) && !wild(b) {
            return false;
        }
        let (mut left, mut right) = (self.0.split('.'), other.0.split('.'));
        loop {
            match (left.next(), right.next()) {
                // `>` stands for one token or more, so it needs one on the other side.
                (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
                (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
                (None, None) => return true,
                _ => return false,
            }
        }
    }
}

impl FromStr for TriggerSubject {
    type Err = InvalidSubject;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidSubject(text.to_owned());
        if text.len() > 1024 || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(invalid());
        }
        let mut tokens = text.split('.').peekable();
        while let Some(token) = tokens.next() {
            if token.is_empty() || (token == ">" && tokens.peek().is_some()) {
                return Err(invalid());
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for TriggerSubject {
    type Error = InvalidSubject;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TriggerSubject> for String {
    fn from(subject: TriggerSubject) -> Self {
        subject.0
    }
}

impl fmt::Display for TriggerSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlap(a: &str, b: &str) -> bool {
        let (a, b): (TriggerSubject, TriggerSubject) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(a.overlaps(&b), b.overlaps(&a), "overlap is symmetric");
        a.overlaps(&b)
    }

    #[test]
    fn overlap_is_that_of_nats() {
        for (a, b) in
            [("a.b", "a.b"), ("a.*", "a.b"), (">", "$NEX.x"), ("a.>", "a.b.c"), ("*.b", "a.*"), ("a.>", "*.b")]
        {
            assert!(overlap(a, b), "{a} {b}");
        }
        for (a, b) in [("a.b", "a.c"), ("a", "a.b"), ("a.>", "a"), ("a.*", "a.b.c"), ("*", "a.b")] {
            assert!(!overlap(a, b), "{a} {b}");
        }
    }

    #[test]
    fn subjects_nobody_can_subscribe_to_are_refused() {
        for bad in ["", ".", "a..b", "a b", ">.a", "a.>.b", ".a", "a.", "a\n"] {
            assert!(bad.parse::<TriggerSubject>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn answers_go_to_inboxes_and_acknowledgements_but_not_to_nats_itself() {
        for good in ["_INBOX.x.1", "a.b", "$JS.ACK.S.C.1.2.3.4.0"] {
            assert!(may_be_answered_to(good), "{good}");
        }
        for bad in ["$JS.API.STREAM.DELETE.S", "$NEX.STOP.a.N", "$NEX.events.a.x", "$KV.B.k", "$O.B.M.k", "$MQTT.a"] {
            assert!(!may_be_answered_to(bad), "{bad}");
        }
        assert!(may_be_answered_to(&"a".repeat(MAX_REPLY)) && !may_be_answered_to(&"a".repeat(MAX_REPLY + 1)));
    }

    #[test]
    fn a_domain_is_one_token() {
        assert!(is_domain("hub") && is_domain("Leaf-1_ä"));
        for bad in ["", "a.b", "*", "API.STREAM.DELETE", "a b", "a\r\nPUB x", &"d".repeat(MAX_NAME + 1)] {
            assert!(!is_domain(bad), "{bad}");
        }
    }

    #[test]
    fn a_wping_asks_for_a_namespace_and_perhaps_a_workload() {
        let namespace: Namespace = "shop".parse().unwrap();
        for workload in [None, Some("cart")] {
            let subject = workload_ping(&namespace, workload);
            assert_eq!(workloads_asked(&subject), Some((namespace.clone(), workload.map(str::to_owned))));
        }
        for bad in ["$NEX.WPING", "$NEX.WPING.", "$NEX.WPING.a b", "$NEX.WPING.a.", "$NEX.WPING.a.b.c", "$NEX.PING.a"] {
            assert_eq!(workloads_asked(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_log_subject_has_four_tokens_after_its_prefix() {
        let subject = log(&"shop".parse().unwrap(), "N1", "id", "cart");
        assert_eq!(log_tokens(&subject), Some(["shop", "N1", "id", "cart"]));
        assert_eq!(log_tokens("$NEX.logs.system.U1.stdout"), None);
    }

    #[test]
    fn the_namespace_is_the_third_of_four_tokens() {
        assert_eq!(namespace_of("$NEX.DEPLOY.default.NABC").unwrap().as_str(), "default");
        for bad in ["$NEX.DEPLOY.NABC", "$NEX.DEPLOY.a.b.c", "X.DEPLOY.a.b", "$NEX.INFO.b$d.N"] {
            assert!(namespace_of(bad).is_none(), "{bad}");
        }
    }
}
