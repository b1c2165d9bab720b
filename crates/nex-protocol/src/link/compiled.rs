//! Compiled code on the link: a machine is gone after its workload, what its agent has compiled is not.
//!
//! ```text
//! agent                     node
//!                   <-  Compiled…         before Start, when it has some from an earlier machine
//!   Started         ->
//!   Compiled        ->                    the first piece, when the agent had to compile
//!                   <-  CompiledMore      a piece was taken: the next one
//!   Compiled…       ->                    until all of it has come, or the node asks no more
//! ```
//! Each piece names the engine and the size of the whole. One piece of an agent's is on its way at a time, so it stands in
//! the way of a reply for no longer than a piece takes. To the node the bytes mean nothing.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Largest piece from an agent, bytes.
pub const PIECE: usize = 64 << 10;

/// Most compiled code of one artifact that is sent, bytes.
pub const MOST: u64 = 64 << 20;

/// Compiled code that even an empty artifact may have, bytes: functions to enter and leave the host, tables, alignment.
const BASE: u64 = 4 << 20;

/// Compiled code is a few times as large as what it was compiled from; so many times would be something else.
const TIMES: u64 = 32;

/// Most compiled code of an artifact of this size.
pub fn limit(artifact_bytes: u64) -> u64 {
    artifact_bytes.saturating_mul(TIMES).saturating_add(BASE).min(MOST)
}

/// Everything that compiled code depends on besides its artifact: engine version, settings, processor. 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EngineName([u8; 16]);

/// The text names no engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an engine's name has 32 lower-case hex digits")]
pub struct NotAnEngine;

impl From<[u8; 16]> for EngineName {
    fn from(digest: [u8; 16]) -> Self {
        Self(digest)
    }
}

impl From<EngineName> for [u8; 16] {
    fn from(name: EngineName) -> Self {
        name.0
    }
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<EngineName> for String {
    fn from(name: EngineName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for EngineName {
    type Error = NotAnEngine;

    fn try_from(text: String) -> Result<Self, NotAnEngine> {
        let mut digest = [0; 16];
        let digits = text.as_bytes().chunks_exact(2);
        if text.len() != 32 || !digits.remainder().is_empty() {
            return Err(NotAnEngine);
        }
        for (byte, pair) in digest.iter_mut().zip(digits) {
            for digit in pair {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return Err(NotAnEngine),
                };
                *byte = *byte << 4 | value;
            }
        }
        Ok(Self(digest))
    }
}

/// A piece of compiled code, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// Who compiled it.
    pub engine: EngineName,
    /// Bytes of all pieces together.
    pub size: u64,
    /// The bytes.
    pub piece: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engines_name_is_32_hex_digits_and_nothing_else() {
        let text = "00ff1234567890abcdef00112233aabb";
        let name = EngineName::try_from(text.to_owned()).unwrap();
        assert_eq!(name.to_string(), text);
        assert_eq!(EngineName::from(<[u8; 16]>::from(name)), name);
        let not = ["", "00", "../../../../../../../etc/passwd.", &text.to_uppercase(), &format!("{text}00"), "ä"];
        for text in not {
            assert_eq!(EngineName::try_from(text.to_owned()), Err(NotAnEngine), "{text}");
        }
    }

    #[test]
    fn the_limit_grows_with_the_artifact_and_ends() {
        assert_eq!(limit(0), 4 << 20);
        assert_eq!(limit(1 << 20), 36 << 20);
        assert_eq!(limit(u64::MAX), 64 << 20);
    }
}
