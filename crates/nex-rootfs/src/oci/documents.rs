//! The JSON documents of an image: index, manifest, configuration, as of the image specification 1.1 and of Docker's
//! version 2. What nex does not need of them is not read.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Digest;

/// Says which of the images of a layout an entry is.
const TAG: &str = "org.opencontainers.image.ref.name";

/// The same, as containerd writes it: the whole reference.
const NAME: &str = "io.containerd.image.name";

/// A piece of an image.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A piece that no manifest names.
    pub(super) fn of(digest: Digest, size: u64) -> Self {
        Self { media_type: String::new(), digest, size, platform: None, annotations: BTreeMap::new() }
    }

    /// The tag it has in a layout.
    pub(super) fn tag(&self) -> Option<&str> {
        self.annotations.get(TAG).or_else(|| self.annotations.get(NAME)).map(String::as_str)
    }

    /// Whether it is the image with this tag.
    pub(super) fn is(&self, tag: &str) -> bool {
        let named = |key: &str| self.annotations.get(key);
        named(TAG).is_some_and(|name| name == tag)
            || named(NAME).is_some_and(|name| name == tag || name.rsplit_once(':').is_some_and(|(_, last)| last == tag))
    }
}

/// What a manifest is for.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Platform {
    pub(super) os: String,
    pub(super) architecture: String,
}

/// Images for several architectures, or several images.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Index {
    pub(super) manifests: Vec<Descriptor>,
}

impl Index {
    /// The entry for an architecture.
    ///
    /// # Errors
    /// The reason: there is none.
    pub(super) fn choose(&self, arch: &str) -> Result<&Descriptor, String> {
        let fits = |entry: &&Descriptor| {
            entry.platform.as_ref().is_some_and(|there| there.os == "linux" && there.architecture == arch)
        };
        if let Some(entry) = self.manifests.iter().find(fits) {
            return Ok(entry);
        }
        // One that says nothing is looked into.
        if let [only] = self.manifests.as_slice()
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let there: Vec<_> = self
            .manifests
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .map(|platform| format!("{}/{}", platform.os, platform.architecture))
            .collect();
        let there = if there.is_empty() { "nothing".to_owned() } else { there.join(", ") };
        Err(format!("it is not there for linux/{arch}, but for: {there}"))
    }
}

/// One image.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// What a manifest's image is.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) architecture: String,
    pub(super) os: String,
    pub(super) rootfs: Layers,
}

/// The layers as they are when they are not compressed.
#[derive(Debug, Deserialize)]
pub(super) struct Layers {
    pub(super) diff_ids: Vec<Digest>,
}

/// An index or a manifest.
#[derive(Debug)]
pub(crate) enum Document {
    /// Leads to more.
    Index(Index),
    /// Leads to layers.
    Manifest(Manifest),
}

impl Document {
    /// Reads one, whichever it is.
    ///
    /// # Errors
    /// The reason: it is neither.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            schema_version: Option<u32>,
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
        }
        let broken = |error: serde_json::Error| format!("its manifest cannot be read: {error}");
        let shape: Shape = serde_json::from_slice(bytes).map_err(broken)?;
        match shape {
            Shape { manifests: Some(_), .. } => serde_json::from_slice(bytes).map(Self::Index).map_err(broken),
            Shape { layers: Some(_), .. } => serde_json::from_slice(bytes).map(Self::Manifest).map_err(broken),
            Shape { schema_version: Some(1), .. } => {
                Err("its manifest is of Docker's old first version: push it again with a newer tool".to_owned())
            }
            _ => Err("its manifest has no layers: it is no image of a system".to_owned()),
        }
    }
}
