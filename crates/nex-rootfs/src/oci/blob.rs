//! Bytes with a name: digests, and pieces of an image that are known to be what their digests say.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::str::FromStr;

use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha512};

use crate::RootfsError;
use crate::error::image;

/// A digest of bytes. It is also part of paths and addresses, so nothing else fits into it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Digest {
    algorithm: Algorithm,
    hex: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl Digest {
    pub(super) fn sha256(bytes: &[u8]) -> Self {
        Self { algorithm: Algorithm::Sha256, hex: hex::encode(Sha256::digest(bytes)) }
    }

    /// Name of the algorithm and the digest, as a layout has them.
    pub(super) fn parts(&self) -> (&'static str, &str) {
        (self.algorithm.name(), &self.hex)
    }

    /// Compares what was found with it.
    pub(super) fn check(&self, what: &str, found: &Self) -> Result<(), RootfsError> {
        if self == found {
            return Ok(());
        }
        Err(RootfsError::Digest { what: what.to_owned(), wanted: self.to_string(), found: found.to_string() })
    }

    /// Something that makes such a digest.
    pub(super) fn hasher(&self) -> Hasher {
        match self.algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// That is no digest, or one of an unknown kind.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no digest (sha256: or sha512:, then small hexadecimal digits)")]
pub(crate) struct BadDigest(String);

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let bad = || BadDigest(text.chars().take(80).collect());
        let (name, hex) = text.split_once(':').ok_or_else(bad)?;
        let algorithm = [Algorithm::Sha256, Algorithm::Sha512].into_iter().find(|known| known.name() == name);
        let algorithm = algorithm.ok_or_else(bad)?;
        let digits = hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if hex.len() != algorithm.length() || !digits {
            return Err(bad());
        }
        Ok(Self { algorithm, hex: hex.to_owned() })
    }
}

impl TryFrom<String> for Digest {
    type Error = BadDigest;

    fn try_from(text: String) -> Result<Self, BadDigest> {
        text.parse()
    }
}

/// A digest being made.
pub(super) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest { algorithm: Algorithm::Sha256, hex: hex::encode(hash.finalize()) },
            Self::Sha512(hash) => Digest { algorithm: Algorithm::Sha512, hex: hex::encode(hash.finalize()) },
        }
    }
}

/// Part of a file.
#[derive(Debug)]
pub(crate) struct Blob {
    file: File,
    start: u64,
    left: u64,
}

impl Blob {
    pub(super) fn new(file: File, start: u64, length: u64) -> Self {
        Self { file, start, left: length }
    }

    /// The same bytes, after they were compared with their digest and length.
    pub(super) fn checked(self, what: &str, digest: &Digest, size: u64) -> Result<Self, RootfsError> {
        if self.left != size {
            return Err(image(what, format!("it has {} bytes, and the manifest says {size}", self.left)));
        }
        let again = Self { file: self.file.try_clone().map_err(|error| unreadable(what, &error))?, ..self };
        digest.check(what, &self.hashed(what, digest.hasher())?)?;
        Ok(again)
    }

    fn hashed(mut self, what: &str, mut hasher: Hasher) -> Result<Digest, RootfsError> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = self.read(&mut buffer).map_err(|error| unreadable(what, &error))?;
            match buffer.get(..read) {
                Some(bytes) if read > 0 => hasher.update(bytes),
                _ => return Ok(hasher.finish()),
            }
        }
    }

    /// The digest of bytes whose name says nothing of them.
    pub(super) fn digest(&self, what: &str) -> Result<Digest, RootfsError> {
        let file = self.file.try_clone().map_err(|error| unreadable(what, &error))?;
        Self { file, start: self.start, left: self.left }.hashed(what, Hasher::Sha256(Sha256::new()))
    }

    pub(super) fn length(&self) -> u64 {
        self.left
    }

    /// All of it; whoever asks has looked at how long it is.
    pub(super) fn bytes(mut self) -> Result<Vec<u8>, RootfsError> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(|error| unreadable("a piece of the image", &error))?;
        Ok(bytes)
    }
}

fn unreadable(what: &str, error: &io::Error) -> RootfsError {
    image(what, format!("it cannot be read: {error}"))
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most) else { return Ok(0) };
        let read = self.file.read_at(buffer, self.start)?;
        self.start += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_have_one_spelling() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(good.parse::<Digest>().unwrap().to_string(), good);
        for bad in [
            "sha256:00".to_owned(),
            format!("sha256:{}", "0A".repeat(32)),
            format!("sha256:../{}", "a".repeat(61)),
            format!("md5:{}", "a".repeat(32)),
            "a".repeat(64),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
