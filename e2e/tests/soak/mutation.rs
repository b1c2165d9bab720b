//! What is done to a good request: members dropped, replaced, nested, doubled, numbers and texts beyond all measure,
//! bytes flipped and cut off. All of it by a random number generator that is given, so that a seed tells what was sent.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};

/// Stands in a document for what no JSON value can say; replaced in its text.
const RAW: &str = "@raw@";

/// Depth that no decoder may follow.
const DEEP: usize = 50_000;

/// Longest result, bytes: what is larger is made elsewhere, a few at a time.
const LONGEST: usize = 256 << 10;

/// A document, spoilt or not, as bytes.
pub(crate) fn mutated(rng: &mut StdRng, mut document: Value) -> Vec<u8> {
    if rng.random_bool(0.05) {
        return instead(rng);
    }
    let mut raw = None;
    if rng.random_bool(0.8) {
        for _ in 0..rng.random_range(1..=3) {
            let depth = rng.random_range(1..=3);
            raw = spoil(rng, &mut document, depth).or(raw);
        }
    }
    let mut text = document.to_string();
    if let Some(raw) = raw {
        text = text.replacen(&format!("\"{RAW}\""), &raw, 1);
    }
    if rng.random_bool(0.05) {
        text = doubled(rng, &document, &text);
    }
    let mut bytes = text.into_bytes();
    if rng.random_bool(0.3) {
        damage(rng, &mut bytes);
    }
    bytes.truncate(LONGEST);
    bytes
}

/// No document at all.
fn instead(rng: &mut StdRng) -> Vec<u8> {
    let texts = ["", " ", "null", "true", "0", "[]", "{}", "\"\"", "[[]]", "{\"\":{}}", "\u{feff}{}", "nul", "{", "\0"];
    if rng.random_bool(0.5) {
        return texts.choose(rng).map(|text| text.as_bytes().to_vec()).unwrap_or_default();
    }
    let length = rng.random_range(0..2000);
    (0..length).map(|_| rng.random()).collect()
}

/// Changes one member, at most so deep; gives what is to stand for [`RAW`], when that was put in.
fn spoil(rng: &mut StdRng, value: &mut Value, depth: u32) -> Option<String> {
    let Value::Object(members) = value else { return replace(rng, value) };
    let names: Vec<String> = members.keys().cloned().collect();
    let name = names.choose(rng)?.clone();
    if let Some(inner) = members.get_mut(&name)
        && depth > 1
        && inner.is_object()
    {
        return spoil(rng, inner, depth - 1);
    }
    match rng.random_range(0..8) {
        0 => drop(members.remove(&name)),
        1 => drop(members.insert(odd_text(rng), json!(1))),
        2 => swap(rng, members, &names, &name),
        3 => {
            let taken = members.remove(&name).unwrap_or_default();
            members.insert(name.to_uppercase(), taken);
        }
        4 => {
            let taken = members.remove(&name).unwrap_or_default();
            members.insert(name, if rng.random() { json!([taken]) } else { json!({ "a": taken }) });
        }
        _ => return members.get_mut(&name).and_then(|value| replace(rng, value)),
    }
    None
}

fn swap(rng: &mut StdRng, members: &mut Map<String, Value>, names: &[String], name: &str) {
    if let Some(other) = names.choose(rng)
        && let (Some(left), Some(right)) = (members.get(name).cloned(), members.get(other).cloned())
    {
        members.insert(name.to_owned(), right);
        members.insert(other.clone(), left);
    }
}

fn replace(rng: &mut StdRng, value: &mut Value) -> Option<String> {
    if let Value::String(text) = value
        && rng.random_bool(0.4)
    {
        *text = changed(rng, text);
        return None;
    }
    let plain = [json!(null), json!(true), json!(0), json!(-1), json!(1.5), json!(u64::MAX), json!(i64::MIN)];
    let more = [json!([]), json!({}), json!(""), json!([null]), json!([[], {}]), json!({"Scheme": "nats"})];
    match rng.random_range(0..4) {
        0 => *value = plain.choose(rng).cloned().unwrap_or_default(),
        1 => *value = more.choose(rng).cloned().unwrap_or_default(),
        2 => *value = odd_text(rng).into(),
        _ => {
            *value = RAW.into();
            let deep = rng.random_range(1..DEEP);
            let raw = match rng.random_range(0..6) {
                0 => "1e999".to_owned(),
                1 => "9".repeat(400),
                2 => "-0".to_owned(),
                3 => "\"\\ud800\"".to_owned(),
                4 => "[".repeat(deep) + &"]".repeat(deep),
                _ => "{\"a\":".repeat(deep) + "1" + &"}".repeat(deep),
            };
            return Some(raw);
        }
    }
    None
}

/// A text with something in it changed.
fn changed(rng: &mut StdRng, text: &str) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    if letters.is_empty() {
        return odd_text(rng);
    }
    let at = rng.random_range(0..letters.len());
    match rng.random_range(0..5) {
        0 => letters[at] = rng.random_range('!'..='~'),
        1 => letters.truncate(at),
        2 => drop(letters.remove(at)),
        3 => letters.insert(at, *['\0', '\n', '"', '.', '*', 'ä', ' ', '\u{202e}'].choose(rng).unwrap_or(&' ')),
        _ => return text.repeat(rng.random_range(2..200)),
    }
    letters.into_iter().collect()
}

fn odd_text(rng: &mut StdRng) -> String {
    let texts =
        ["x", "\0", "..", "../../etc/passwd", "${namespace}", ">", "$SYS.>", "nats://", "a b", "ü\u{0301}", "%s%n"];
    match rng.random_range(0..10) {
        0 => "y".repeat(rng.random_range(1..50_000)),
        _ => (*texts.choose(rng).unwrap_or(&"")).to_owned(),
    }
}

/// The text with one of its members in it twice.
fn doubled(rng: &mut StdRng, document: &Value, text: &str) -> String {
    let Some(names) = document.as_object().map(|members| members.keys().collect::<Vec<_>>()) else {
        return text.to_owned();
    };
    match names.choose(rng) {
        Some(name) => text.replacen('{', &format!("{{{}:null,", json!(name)), 1),
        None => text.to_owned(),
    }
}

fn damage(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.random_range(0..bytes.len());
    match rng.random_range(0..4) {
        0 => {
            for _ in 0..rng.random_range(1..=8) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
        }
        1 => bytes.truncate(at),
        2 => bytes.splice(at..at, [0xff, 0x00, 0xc3]).for_each(drop),
        _ => bytes.extend_from_within(at..),
    }
}
