//! The birth message: a line of JSON that tells a guest who and when it is. A restored guest has the randomness and the
//! clock of the one that was frozen, so entropy that another guest of the same snapshot had is an error here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Bytes of entropy.
const ENTROPY: usize = 32;

/// A clock that is off by more was not set from the host's.
const CLOCK_TOLERANCE_MS: u64 = 60_000;

/// The message. Fields that are not known are for a later first process.
#[derive(Debug, Deserialize)]
pub(super) struct Birth {
    clock_unix_ms: u64,
    entropy: String,
    name: String,
    #[serde(deserialize_with = "present")]
    network: Option<Map<String, Value>>,
}

/// `null` is a value here, and a missing field is not.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Map<String, Value>>, D::Error> {
    Option::deserialize(from)
}

/// The guest does not take it.
#[derive(Debug, thiserror::Error)]
pub(super) enum BirthError {
    #[error("the birth message is not understood: {0}")]
    Parse(#[from] serde_json::Error),
    #[error("the entropy is not {ENTROPY} bytes in lowercase hexadecimal, or has only one digit")]
    Entropy,
    #[error("another guest of this snapshot was born with the same entropy")]
    Again,
    #[error("the clock is {0} ms off")]
    Clock(u64),
    #[error("the machine has no name")]
    Name,
    #[error("the network is an empty object: null says that there is none")]
    Network,
    #[error("cannot note the entropy in {0}: {1}")]
    Note(String, io::Error),
}

/// Reads and checks it; `births` has what the guests of the same snapshot were born with.
pub(super) fn check(line: &[u8], births: Option<&Path>) -> Result<(), BirthError> {
    let birth: Birth = serde_json::from_slice(line)?;
    let lowercase = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    let digits = birth.entropy.as_bytes();
    let plain = digits.iter().all(|digit| digits.first() == Some(digit));
    if digits.len() != 2 * ENTROPY || !digits.iter().copied().all(lowercase) || plain {
        return Err(BirthError::Entropy);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let off = u64::try_from(now).unwrap_or(u64::MAX).abs_diff(birth.clock_unix_ms);
    if off > CLOCK_TOLERANCE_MS {
        return Err(BirthError::Clock(off));
    }
    if birth.name.is_empty() {
        return Err(BirthError::Name);
    }
    if birth.network.as_ref().is_some_and(Map::is_empty) {
        return Err(BirthError::Network);
    }
    if let Some(births) = births {
        let fresh =
            note(births, &birth.entropy).map_err(|error| BirthError::Note(births.display().to_string(), error))?;
        if !fresh {
            return Err(BirthError::Again);
        }
    }
    Ok(())
}

/// Notes it; whether it is new.
fn note(births: &Path, entropy: &str) -> io::Result<bool> {
    let mut file = open(births, entropy)?;
    flock(&file, FlockOperation::LockExclusive)?;
    let mut noted = String::new();
    file.rewind()?;
    file.read_to_string(&mut noted)?;
    if noted.lines().any(|line| line == entropy) {
        return Ok(false);
    }
    writeln!(file, "{entropy}")?;
    Ok(true)
}

/// Machines of the same snapshot have users of their own, and any of them may be the first: the file gets its name
/// only once all may write to it.
fn open(births: &Path, entropy: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    match options.open(births) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let unnamed = births.with_extension(entropy);
    let file = File::create_new(&unnamed)?;
    let named = file
        .set_permissions(std::fs::Permissions::from_mode(0o666))
        .and_then(|()| std::fs::hard_link(&unnamed, births));
    std::fs::remove_file(&unnamed)?;
    match named {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => options.open(births),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        json!({
            "clock_unix_ms": u64::try_from(now).unwrap(), "entropy": "0123456789abcdef".repeat(4), "name": "m",
            "network": null,
        })
    }

    fn verdict(birth: &Value, births: Option<&Path>) -> Result<(), BirthError> {
        check(birth.to_string().as_bytes(), births)
    }

    #[test]
    fn what_is_incomplete_or_stale_is_refused() {
        verdict(&good(), None).unwrap();
        for field in ["clock_unix_ms", "entropy", "name", "network"] {
            let mut birth = good();
            birth.as_object_mut().unwrap().remove(field);
            assert!(matches!(verdict(&birth, None), Err(BirthError::Parse(_))), "{field}");
        }
        let wrong = [
            ("clock_unix_ms", json!(0)),
            ("entropy", json!("0".repeat(64))),
            ("entropy", json!("0123456789ABCDEF".repeat(4))),
            ("entropy", json!("01")),
            ("name", json!("")),
            ("network", json!({})),
        ];
        for (field, value) in wrong {
            let mut birth = good();
            birth[field] = value;
            verdict(&birth, None).expect_err(field);
        }
    }

    #[test]
    fn entropy_is_taken_once_for_each_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let births = folder.path().join("a.births");
        verdict(&good(), Some(&births)).unwrap();
        assert!(matches!(verdict(&good(), Some(&births)), Err(BirthError::Again)));
        verdict(&good(), Some(&folder.path().join("b.births"))).unwrap();
    }
}
