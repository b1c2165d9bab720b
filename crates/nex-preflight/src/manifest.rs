//! Where the pieces come from: releases of their makers, with size and SHA-256. Data, checked before it is believed.
//!
//! The manifest of this release is part of the program; another can be given. It never says where a file goes on the
//! machine, only which file of a download is which.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::Digest;

/// The manifest of this release.
const EMBEDDED: &str = include_str!("../manifest.json");

/// Something that can be downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Piece {
    /// Firecracker and its jailer.
    Firecracker,
    /// A kernel for guests.
    Kernel,
    /// Network plugins `ptp` and `host-local`.
    CniPlugins,
    /// NATS server.
    NatsServer,
    /// Deno.
    Deno,
}

impl Piece {
    /// All of them.
    pub const ALL: [Piece; 5] = [Piece::Firecracker, Piece::Kernel, Piece::CniPlugins, Piece::NatsServer, Piece::Deno];

    /// Its name in the manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Piece::Firecracker => "firecracker",
            Piece::Kernel => "kernel",
            Piece::CniPlugins => "cni-plugins",
            Piece::NatsServer => "nats-server",
            Piece::Deno => "deno",
        }
    }

    /// The files it consists of.
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Piece::Firecracker => &["firecracker", "jailer"],
            Piece::Kernel => &["vmlinux"],
            Piece::CniPlugins => &["ptp", "host-local"],
            Piece::NatsServer => &["nats-server"],
            Piece::Deno => &["deno"],
        }
    }
}

/// Where the pieces come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pieces: BTreeMap<Piece, Release>,
}

/// A release of a piece.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Its version.
    pub version: String,
    /// What to download, by architecture (`x86_64`, `aarch64`).
    pub sources: BTreeMap<String, Source>,
}

/// A file to download.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Where its maker has it.
    pub url: Url,
    /// Its SHA-256. Without one it is not downloaded: somebody has to look at it first.
    pub sha256: Option<Digest>,
    /// Its size.
    pub bytes: Option<u64>,
    /// Its largest size, where the size is not known.
    pub at_most: Option<u64>,
    /// What is in it.
    pub holds: Holds,
}

/// What is in a download.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Holds {
    /// The file itself.
    File,
    /// A compressed tar archive: the piece's files, and their paths in it.
    TarGz {
        /// File of the piece, path in the archive.
        members: BTreeMap<String, String>,
    },
    /// A zip archive, likewise.
    Zip {
        /// File of the piece, path in the archive.
        members: BTreeMap<String, String>,
    },
}

/// A manifest that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not what a manifest looks like.
    #[error("the manifest cannot be read: {0}")]
    Json(String),
    /// A source is described wrongly.
    #[error("the manifest's {piece} for {arch} {reason}")]
    Source {
        /// The piece.
        piece: &'static str,
        /// The architecture.
        arch: String,
        /// What is wrong.
        reason: String,
    },
}

impl Manifest {
    /// The manifest of this release.
    ///
    /// # Errors
    /// None, as a test of this crate makes sure.
    pub fn embedded() -> Result<Self, ManifestError> {
        Self::parse(EMBEDDED)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(json: &str) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_str(json).map_err(|error| ManifestError::Json(error.to_string()))?;
        for (piece, release) in &manifest.pieces {
            for (arch, source) in &release.sources {
                source.check(*piece).map_err(|reason| ManifestError::Source {
                    piece: piece.as_str(),
                    arch: arch.clone(),
                    reason,
                })?;
            }
        }
        Ok(manifest)
    }

    /// A piece for this machine's architecture.
    pub fn find(&self, piece: Piece) -> Option<(&Release, &Source)> {
        let release = self.pieces.get(&piece)?;
        Some((release, release.sources.get(std::env::consts::ARCH)?))
    }
}

impl Source {
    /// Its name as a file: the last part of its URL.
    pub fn file_name(&self) -> &str {
        self.url.path().rsplit('/').next().unwrap_or_default()
    }

    /// The most it may have, bytes.
    pub fn limit(&self) -> u64 {
        self.bytes.or(self.at_most).unwrap_or_default()
    }

    fn check(&self, piece: Piece) -> Result<(), String> {
        if !matches!(self.url.scheme(), "http" | "https") {
            return Err(format!("comes from {}, which is neither http nor https", self.url));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        if self.file_name().is_empty() || self.file_name().starts_with('.') || !self.file_name().chars().all(plain) {
            return Err(format!("comes from {}, whose last part is no plain file name", self.url));
        }
        if self.limit() == 0 {
            return Err("says neither bytes nor at_most".to_owned());
        }
        match &self.holds {
            Holds::File if piece.files().len() == 1 => Ok(()),
            Holds::File => Err("is one file, and has to be several".to_owned()),
            Holds::TarGz { members } | Holds::Zip { members } => {
                let missing = piece.files().iter().find(|file| !members.contains_key(**file));
                missing.map_or(Ok(()), |file| Err(format!("does not say where {file} is in the archive")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_of_this_release_has_every_piece_for_both_architectures_with_digests() {
        let manifest = Manifest::embedded().unwrap();
        for piece in Piece::ALL {
            let release = manifest.pieces.get(&piece).unwrap_or_else(|| panic!("{piece:?}"));
            for arch in ["x86_64", "aarch64"] {
                let source = release.sources.get(arch).unwrap_or_else(|| panic!("{piece:?} {arch}"));
                assert!(source.sha256.is_some(), "{piece:?} {arch}");
                assert_eq!(source.url.scheme(), "https", "{piece:?} {arch}");
                assert!(source.url.path().contains(&release.version), "{piece:?} {arch}");
            }
        }
    }

    #[test]
    fn what_is_described_wrongly_is_refused_with_its_place() {
        let one = |piece: &str, source: &str| {
            let json = format!(r#"{{"pieces":{{"{piece}":{{"version":"1","sources":{{"x86_64":{source}}}}}}}}}"#);
            Manifest::parse(&json).map(|_| ()).unwrap_err().to_string()
        };
        for (piece, source, said) in [
            ("kernel", r#"{"url":"https://x/k","holds":{"kind":"file"}}"#, "neither bytes nor at_most"),
            ("kernel", r#"{"url":"ftp://x/k","bytes":1,"holds":{"kind":"file"}}"#, "neither http nor https"),
            ("kernel", r#"{"url":"https://x/..%2fk","bytes":1,"holds":{"kind":"file"}}"#, "no plain file name"),
            ("kernel", r#"{"url":"https://x/","bytes":1,"holds":{"kind":"file"}}"#, "no plain file name"),
            ("firecracker", r#"{"url":"https://x/f","bytes":1,"holds":{"kind":"file"}}"#, "has to be several"),
            (
                "firecracker",
                r#"{"url":"https://x/f","bytes":1,"holds":{"kind":"tar-gz","members":{"firecracker":"f"}}}"#,
                "where jailer is",
            ),
            ("kernel", r#"{"url":"https://x/k","sha256":"ab","bytes":1,"holds":{"kind":"file"}}"#, "64 hexadecimal"),
            ("kernel", r#"{"url":"https://x/k","bytes":1,"holds":{"kind":"rar"}}"#, "rar"),
            ("vmlinuz", r#"{"url":"https://x/k","bytes":1,"holds":{"kind":"file"}}"#, "vmlinuz"),
        ] {
            let text = one(piece, source);
            assert!(text.contains(said), "{source}: {text}");
        }
    }

    #[test]
    fn a_piece_without_a_digest_is_a_piece_all_the_same() {
        let json = format!(
            r#"{{"pieces":{{"kernel":{{"version":"1","sources":{{"{}":
               {{"url":"https://x/k","sha256":null,"bytes":1,"holds":{{"kind":"file"}}}}}}}}}}}}"#,
            std::env::consts::ARCH
        );
        let manifest = Manifest::parse(&json).unwrap();
        assert_eq!(manifest.find(Piece::Kernel).map(|(_, source)| source.sha256), Some(None));
        assert!(manifest.find(Piece::Deno).is_none());
    }
}
