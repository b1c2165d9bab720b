//! Reads a JSON object key by key and collects every problem instead of stopping at the first.
//!
//! A [`Section`] is asked for the keys it may have; what is left when it is finished is unknown, and warned about
//! with the nearest known name. Paths in messages are those of the file: `node_limits.max_workloads`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

/// What was found wrong, in the order of the file's keys.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// A value a key may have.
pub(super) trait FromValue: Sized {
    /// Says what was expected when the value is not of this kind.
    fn from_value(value: Value) -> Result<Self, &'static str>;
}

impl FromValue for String {
    fn from_value(value: Value) -> Result<Self, &'static str> {
        if let Value::String(text) = value { Ok(text) } else { Err("a text") }
    }
}

impl FromValue for PathBuf {
    fn from_value(value: Value) -> Result<Self, &'static str> {
        match value {
            Value::String(text) if !text.is_empty() => Ok(text.into()),
            _ => Err("a path"),
        }
    }
}

impl FromValue for bool {
    fn from_value(value: Value) -> Result<Self, &'static str> {
        value.as_bool().ok_or("true or false")
    }
}

impl FromValue for u64 {
    fn from_value(value: Value) -> Result<Self, &'static str> {
        value.as_u64().ok_or("a whole number, 0 or more")
    }
}

impl FromValue for Vec<String> {
    fn from_value(value: Value) -> Result<Self, &'static str> {
        serde_json::from_value(value).map_err(|_| "a list of texts")
    }
}

impl FromValue for BTreeMap<String, String> {
    fn from_value(value: Value) -> Result<Self, &'static str> {
        serde_json::from_value(value).map_err(|_| "an object whose values are texts")
    }
}

impl FromValue for Map<String, Value> {
    fn from_value(value: Value) -> Result<Self, &'static str> {
        if let Value::Object(map) = value { Ok(map) } else { Err("an object") }
    }
}

impl FromValue for Vec<Value> {
    fn from_value(value: Value) -> Result<Self, &'static str> {
        if let Value::Array(list) = value { Ok(list) } else { Err("a list") }
    }
}

/// One object of the file.
pub(super) struct Section<'r> {
    path: String,
    map: Map<String, Value>,
    known: Vec<&'static str>,
    report: &'r mut Report,
}

impl<'r> Section<'r> {
    pub(super) fn new(path: impl Into<String>, map: Map<String, Value>, report: &'r mut Report) -> Self {
        Self { path: path.into(), map, known: Vec::new(), report }
    }

    /// The path of a key of this section.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Adds a problem with a key.
    pub(super) fn problem(&mut self, key: &str, text: impl AsRef<str>) {
        let path = self.path(key);
        self.report.problems.push(format!("{path}: {}", text.as_ref()));
    }

    /// Adds a warning about a key.
    pub(super) fn warn(&mut self, key: &str, text: impl AsRef<str>) {
        let path = self.path(key);
        self.report.warnings.push(format!("{path}: {}", text.as_ref()));
    }

    /// Takes a key's value; `null` counts as absent.
    pub(super) fn take<T: FromValue>(&mut self, key: &'static str) -> Option<T> {
        self.known.push(key);
        let value = self.map.remove(key).filter(|value| !value.is_null())?;
        let shown = shorten(&value);
        match T::from_value(value) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.problem(key, format!("expected {expected}, found {shown}"));
                None
            }
        }
    }

    /// Takes a number that must lie in a range.
    pub(super) fn take_in(&mut self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let value: u64 = self.take(key)?;
        if range.contains(&value) {
            return Some(value);
        }
        self.problem(key, format!("must be from {} to {}, is {value}", range.start(), range.end()));
        None
    }

    /// Reads an object inside this one.
    pub(super) fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>) -> T) -> Option<T> {
        let map: Map<String, Value> = self.take(key)?;
        let path = self.path(key);
        let mut section = Section::new(path, map, self.report);
        let value = read(&mut section);
        section.finish();
        Some(value)
    }

    /// Reads a list of objects inside this one.
    pub(super) fn sections<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_>) -> Option<T>,
    ) -> Vec<T> {
        let list: Vec<Value> = self.take(key).unwrap_or_default();
        let mut values = Vec::new();
        for (index, value) in list.into_iter().enumerate() {
            let path = format!("{}[{index}]", self.path(key));
            match value {
                Value::Object(map) => {
                    let mut section = Section::new(path, map, self.report);
                    values.extend(read(&mut section));
                    section.finish();
                }
                other => self.report.problems.push(format!("{path}: expected an object, found {}", shorten(&other))),
            }
        }
        values
    }

    /// Warns about every key that was not asked for.
    pub(super) fn finish(self) {
        for key in self.map.keys() {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            let nearest = self
                .known
                .iter()
                .map(|known| (strsim::jaro_winkler(known, key), *known))
                .filter(|(likeness, _)| *likeness > 0.8)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = nearest.map(|(_, known)| format!("; did you mean {known}?")).unwrap_or_default();
            self.report.warnings.push(format!("{path}: unknown key, ignored{hint}"));
        }
    }
}

/// What stands where something else should. Texts, and what they may be in, are not shown: they may be secrets.
fn shorten(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::String(_) => "a text".to_owned(),
        plain => plain.to_string(),
    }
}
