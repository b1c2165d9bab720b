//! Where an artifact lies: `nats://BUCKET/key`.
//!
//! On the wire Go Nex marshals a `url.URL` struct; a plain string is accepted too. We always send the struct, so that
//! a Go node understands us.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest names, bytes. Both are part of subjects, and a server ends the connection of who sends a line of more than 4 KiB.
const MAX_BUCKET: usize = 200;
const MAX_KEY: usize = 1024;

/// An object in a NATS object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    bucket: String,
    key: String,
}

/// Why a text or struct is no location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Another scheme than `nats`.
    #[error("location must be nats://BUCKET/key, its scheme is '{0}'")]
    Scheme(String),
    /// No bucket, or one that no bucket can be called.
    #[error("location must be nats://BUCKET/key, '{0}' is no bucket name (letters, digits, - and _)")]
    Bucket(String),
    /// No key.
    #[error("location must be nats://BUCKET/key, the key is missing")]
    Key,
    /// Names no server takes.
    #[error("location must be nats://BUCKET/key, with at most {MAX_BUCKET} bytes of bucket and {MAX_KEY} of key")]
    Length,
}

impl Location {
    /// A location in a bucket.
    ///
    /// # Errors
    /// [`LocationError`] when the bucket's name is not valid, the key is empty, or one of them is too long.
    pub fn new(bucket: &str, key: &str) -> Result<Self, LocationError> {
        // Slashes at the ends belong to the URL, not to the key (Go Nex trims them too).
        let key = key.trim_matches('/');
        if bucket.is_empty() || !bucket.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            return Err(LocationError::Bucket(bucket.to_owned()));
        }
        if key.is_empty() {
            return Err(LocationError::Key);
        }
        if bucket.len() > MAX_BUCKET || key.len() > MAX_KEY {
            return Err(LocationError::Length);
        }
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() })
    }

    /// The object store bucket.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The object's name in it.
    pub fn key(&self) -> &str {
        &self.key
    }

    fn from_parts(scheme: &str, host: &str, path: &str) -> Result<Self, LocationError> {
        if !scheme.eq_ignore_ascii_case("nats") {
            return Err(LocationError::Scheme(scheme.to_owned()));
        }
        Self::new(host, path)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nats://{}/{}", self.bucket, self.key)
    }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(LocationError::Scheme(text.to_owned()));
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        Self::from_parts(scheme, host, path)
    }
}

/// Go's `url.URL`, with the field names Go's encoder gives it.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct GoUrl {
    scheme: String,
    opaque: String,
    user: Option<serde_json::Value>,
    host: String,
    path: String,
    raw_path: String,
    omit_host: bool,
    force_query: bool,
    raw_query: String,
    fragment: String,
    raw_fragment: String,
}

impl Serialize for Location {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let url = GoUrl {
            scheme: "nats".to_owned(),
            host: self.bucket.clone(),
            path: format!("/{}", self.key),
            ..GoUrl::default()
        };
        url.serialize(serializer)
    }
}

impl JsonSchema for Location {
    fn schema_name() -> Cow<'static, str> {
        "Location".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where an artifact lies: nats://BUCKET/KEY, as text or as Go encodes a URL.",
            "anyOf": [
                {"type": "string", "pattern": "^[nN][aA][tT][sS]://[^/]+/.+"},
                {
                    "type": "object",
                    "properties": {
                        "Scheme": {"const": "nats"},
                        "Host": {"description": "The bucket.", "type": "string", "minLength": 1},
                        "Path": {"description": "The key, after a slash.", "type": "string", "minLength": 2},
                    },
                    "required": ["Scheme", "Host", "Path"],
                },
            ],
        })
    }
}

impl<'de> Deserialize<'de> for Location {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Url(Box<GoUrl>),
        }
        let location = match Either::deserialize(deserializer)? {
            Either::Text(text) => text.parse(),
            Either::Url(url) => Location::from_parts(&url.scheme, &url.host, &url.path),
        };
        location.map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO: &str = r#"{"Scheme":"nats","Opaque":"","User":null,"Host":"NEXCLIFILES","Path":"/echoservice","RawPath":"","OmitHost":false,"ForceQuery":false,"RawQuery":"","Fragment":"","RawFragment":""}"#;

    #[test]
    fn what_we_send_is_gos_struct_byte_for_byte() {
        let location: Location = "nats://NEXCLIFILES/echoservice".parse().unwrap();
        assert_eq!(serde_json::to_string(&location).unwrap(), GO);
        assert_eq!(serde_json::from_str::<Location>(GO).unwrap(), location);
    }

    #[test]
    fn a_string_and_a_subset_of_the_struct_decode() {
        let text: Location = serde_json::from_str(r#""nats://B/dir/key""#).unwrap();
        let part: Location = serde_json::from_str(r#"{"Scheme":"NATS","Host":"B","Path":"/dir/key"}"#).unwrap();
        assert_eq!(text, part);
        assert_eq!(text.key(), "dir/key");
    }

    #[test]
    fn other_schemes_missing_keys_bad_buckets_and_endless_names_are_refused() {
        for text in ["http://b/k", "nats://b", "nats:///k", "nats://a.b/k", "b/k", ""] {
            assert!(text.parse::<Location>().is_err(), "{text}");
        }
        for (bucket, key, fits) in [(MAX_BUCKET, MAX_KEY, true), (MAX_BUCKET + 1, 1, false), (1, MAX_KEY + 1, false)] {
            assert_eq!(Location::new(&"b".repeat(bucket), &"k".repeat(key)).is_ok(), fits);
        }
    }
}
