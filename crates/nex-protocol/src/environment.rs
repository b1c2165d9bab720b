//! The environment of a workload: secrets until it is inside the workload.
//!
//! Never printed: `Debug` shows the keys only. The values are zeroized when dropped.

use std::collections::BTreeMap;
use std::{fmt, io};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Variables by name; keys are given to the workload as they are (Go Nex upper-cased them).
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Environment(BTreeMap<String, Zeroizing<String>>);

impl Environment {
    /// Adds or replaces a variable.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.insert(key.into(), Zeroizing::new(value.into()));
    }

    /// The value of a variable.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| value.as_str())
    }

    /// All variables, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first key that no operating system accepts: empty, or with `=` or NUL in it (or NUL in its value).
    pub fn invalid_key(&self) -> Option<&str> {
        self.iter()
            .find(|(key, value)| key.is_empty() || key.contains(['=', '\0']) || value.contains('\0'))
            .map(|(key, _)| key)
    }
}

/// JSON that holds secrets. It is made in one piece: a buffer that grows is moved, and leaves copies behind that nobody
/// zeroizes.
///
/// # Errors
/// As the serializer.
pub fn clear_json<T: Serialize>(value: &T) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value)?;
    let mut json = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *json, value)?;
    Ok(json)
}

/// Only counts what is written to it.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        let mut environment = Self::default();
        for (key, value) in iter {
            environment.set(key, value);
        }
        environment
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_keys_and_never_values() {
        let environment: Environment = [("TOKEN", "s3cret")].into_iter().collect();
        assert_eq!(format!("{environment:?}"), r#"{"TOKEN"}"#);
    }

    #[test]
    fn clear_json_is_made_without_growing() {
        let environment: Environment = [("TOKEN", "s3\"cret"), ("B", &"x".repeat(1000))].into_iter().collect();
        let json = clear_json(&environment).unwrap();
        assert_eq!(*json, serde_json::to_vec(&environment).unwrap());
        assert_eq!(json.capacity(), json.len());
    }

    #[test]
    fn keys_no_system_accepts_are_found() {
        let environment: Environment = [("A", "1"), ("B=C", "2")].into_iter().collect();
        assert_eq!(environment.invalid_key(), Some("B=C"));
    }
}
