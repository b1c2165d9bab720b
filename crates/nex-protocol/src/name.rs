//! Names: of workloads, namespaces and workload types. Parsed once, at the edge.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest name or namespace, in bytes. Go Nex sets none; a subject with longer tokens helps nobody.
pub const MAX_NAME: usize = 128;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty or too long.
    #[error("a {0} has 1 to {MAX_NAME} characters")]
    Length(&'static str),
    /// A character outside the allowed ones.
    #[error("'{text}' is no {what}: only letters, digits, - and _ are allowed")]
    Character {
        /// What was being named.
        what: &'static str,
        /// The text.
        text: String,
    },
}

fn check(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > MAX_NAME {
        return Err(NameError::Length(what));
    }
    // The expression of Go Nex: ^[a-zA-Z0-9_-]+$
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Err(NameError::Character { what, text: text.to_owned() });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                check($what, text).map(|()| Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                check($what, &text).map(|()| Self(text.into()))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Name of a workload: unique per namespace and node by convention, one subject token.
    WorkloadName, "workload name"
}

name! {
    /// Unit of tenancy: one subject token, taken from the subject a request arrives on.
    Namespace, "namespace"
}

impl Default for Namespace {
    fn default() -> Self {
        Self("default".into())
    }
}

/// What kind of workload an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WorkloadType {
    /// A long-running native program (`elf` before Go Nex 0.2.4).
    #[serde(rename = "native", alias = "elf")]
    Native,
    /// A JavaScript or TypeScript function.
    #[serde(rename = "v8")]
    V8,
    /// A WebAssembly function.
    #[serde(rename = "wasm")]
    Wasm,
}

/// The text names no workload type of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no workload type: use native, v8 or wasm")]
pub struct UnknownType(pub String);

impl WorkloadType {
    /// All of them.
    pub const ALL: [WorkloadType; 3] = [WorkloadType::Native, WorkloadType::V8, WorkloadType::Wasm];

    /// The spelling on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkloadType::Native => "native",
            WorkloadType::V8 => "v8",
            WorkloadType::Wasm => "wasm",
        }
    }

    /// Functions run when triggered; services run from deploy to stop.
    pub fn is_function(self) -> bool {
        self != WorkloadType::Native
    }
}

impl fmt::Display for WorkloadType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for WorkloadType {
    type Err = UnknownType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "native" | "elf" => Ok(WorkloadType::Native),
            "v8" => Ok(WorkloadType::V8),
            "wasm" => Ok(WorkloadType::Wasm),
            _ => Err(UnknownType(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_subject_token_of_plain_characters() {
        for good in ["a", "echofunctionjs", "A-b_9"] {
            assert!(good.parse::<WorkloadName>().is_ok());
        }
        for bad in ["", "a.b", "a b", "*", ">", "ä", &"x".repeat(129)] {
            assert!(bad.parse::<WorkloadName>().is_err(), "{bad}");
            assert!(bad.parse::<Namespace>().is_err(), "{bad}");
        }
    }
}
