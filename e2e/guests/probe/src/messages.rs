//! `nex:messaging`.

use crate::nex::messaging::messaging::{self, Bounds, Message};

fn shown(message: &Message) -> String {
    format!("{}{:?}", String::from_utf8_lossy(&message.payload), message.headers)
}

/// Publishes to `<base>.news`, asks on `<base>.one` and `<base>.many`.
pub(crate) fn all(base: &str) -> String {
    let headers = vec![("Kind".to_owned(), "probe".to_owned())];
    messaging::publish(&format!("{base}.news"), &headers, b"hello").unwrap();
    let one = messaging::request(&format!("{base}.one"), &headers, b"ask", Some(5000)).unwrap();
    let bounds = |max_messages, stall_ms, timeout_ms| Bounds { max_messages, stall_ms, timeout_ms };
    let many = |bounds| messaging::request_many(&format!("{base}.many"), &[], b"all", bounds).unwrap();
    let two: Vec<String> = many(bounds(Some(2), None, Some(5000))).iter().map(shown).collect();
    let stalled = many(bounds(None, Some(300), Some(5000))).len();
    format!("{} {two:?} {stalled}", shown(&one))
}

pub(crate) fn publish(subject: &str) -> String {
    let sent = messaging::publish(subject, &[], b"x");
    let asked = messaging::request(subject, &[], b"x", Some(200)).map(drop);
    format!("{sent:?}\n{asked:?}")
}
