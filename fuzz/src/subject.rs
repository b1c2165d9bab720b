//! Subjects, names, types and locations as texts.

use nex_protocol::control::ping::PingResponse;
use nex_protocol::link::message::{Failure, FailureKind};
use nex_protocol::log::Level;
use nex_protocol::subject::{self, ALWAYS_DENIED, TriggerSubject};
use nex_protocol::{Location, Namespace, WorkloadName, WorkloadType};

/// A line a text. What is accepted prints as it was written, is what it claims to be, and overlaps as NATS matches.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<&str> = text.split('\n').collect();
    for line in &lines {
        names(line);
        location(line);
        control_subjects(line);
        texts(line);
    }
    let subjects: Vec<TriggerSubject> = lines.iter().take(16).filter_map(|line| trigger(line)).collect();
    for left in &subjects {
        for right in &subjects {
            assert_eq!(left.overlaps(right), right.overlaps(left), "{left} {right}");
            let literal = !right.as_str().split('.').any(|token| token == "*" || token == ">");
            if literal {
                assert_eq!(left.overlaps(right), matches(left.as_str(), right.as_str()), "{left} {right}");
            }
        }
    }
}

fn one_token(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| ".*>".contains(c) || c.is_whitespace() || c.is_control())
}

fn names(line: &str) {
    if let Ok(name) = line.parse::<WorkloadName>() {
        assert!(one_token(line) && name.as_str() == line && name.to_string() == line);
        let json = serde_json::to_string(&name).expect("a name can be written");
        assert_eq!(serde_json::from_str::<WorkloadName>(&json).expect("what was written reads"), name);
    }
    // The same rule: one is part of the other's subjects.
    assert_eq!(line.parse::<Namespace>().is_ok(), line.parse::<WorkloadName>().is_ok());
    if let Ok(kind) = line.parse::<WorkloadType>() {
        assert_eq!(kind.as_str().parse::<WorkloadType>(), Ok(kind));
    }
    if let Ok(level) = Level::try_from(line.to_owned()) {
        let json = serde_json::to_string(&level).expect("a level can be written");
        assert_eq!(serde_json::from_str::<Level>(&json).expect("what was written reads"), level);
    }
}

fn location(line: &str) {
    let Ok(location) = line.parse::<Location>() else { return };
    assert!(one_token(location.bucket()) && !location.key().is_empty());
    assert_eq!(location.to_string().parse::<Location>().as_ref(), Ok(&location));
    let json = serde_json::to_string(&location).expect("a location can be written");
    assert_eq!(serde_json::from_str::<Location>(&json).expect("what was written reads"), location);
}

fn control_subjects(line: &str) {
    if let Some(namespace) = subject::namespace_of(line) {
        assert_eq!(line.split('.').count(), 4);
        assert!(one_token(namespace.as_str()) && line.split('.').nth(2) == Some(namespace.as_str()));
    }
    if let Some((namespace, workload)) = subject::workloads_asked(line) {
        assert_eq!(subject::workload_ping(&namespace, workload.as_deref()), line);
    }
    if let Some([namespace, node, id, name]) = subject::log_tokens(line)
        && let (Ok(namespace), Ok(name)) = (namespace.parse::<Namespace>(), name.parse::<WorkloadName>())
    {
        assert_eq!(subject::log(&namespace, node, id, name.as_str()), line);
    }
}

fn trigger(line: &str) -> Option<TriggerSubject> {
    let subject: TriggerSubject = line.parse().ok()?;
    assert_eq!(subject.as_str(), line);
    assert!(line.split('.').all(|token| !token.is_empty()) && !line.contains([' ', '\t', '\r', '\n']));
    assert!(subject.overlaps(&subject));
    let everything: TriggerSubject = ">".parse().expect("everything is a subject");
    assert!(subject.overlaps(&everything));
    // What lies under a denied subject is seen to.
    for denied in ALWAYS_DENIED {
        let denied: TriggerSubject = denied.parse().expect("what is denied is a subject");
        if matches(denied.as_str(), line) {
            assert!(subject.overlaps(&denied), "{line} {denied}");
        }
    }
    Some(subject)
}

/// Whether a pattern matches a subject, as NATS tells it: written down once more, for the sake of being another way.
fn matches(pattern: &str, subject: &str) -> bool {
    let (pattern, subject): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), subject.split('.').collect());
    match pattern.split_last() {
        Some((&">", before)) => subject.len() > before.len() && each(before, &subject),
        _ => subject.len() == pattern.len() && each(&pattern, &subject),
    }
}

fn each(pattern: &[&str], subject: &[&str]) -> bool {
    pattern.iter().zip(subject).all(|(wanted, token)| *wanted == "*" || wanted == token)
}

/// Texts that end in headers and comparisons.
fn texts(line: &str) {
    let failure = Failure::new(FailureKind::Function, line);
    assert!(!failure.message.contains(['\r', '\n']));
    let node = PingResponse { tags: [("a".to_owned(), line.to_owned())].into(), ..PingResponse::default() };
    assert!(node.tag_is("a", line));
}
