//! Container images as a base: found in a layout, an archive or a registry, checked from the first byte to the last, and
//! unpacked layer by layer. Only their files are taken: environment, entry point and user of an image are for containers.
//!
//! ```text
//! source (layout, archive, registry) -> index -> manifest for the architecture -> configuration -> layers -> staging folder
//! ```
//! Nothing in an image is trusted: sizes are bounded, every digest is compared, and no name leads out of the staging folder.

mod archive;
mod blob;
mod compression;
mod documents;
mod http;
mod layer;
mod layout;
mod notes;
mod reference;
mod registry;

use crate::base::{BaseRecord, Job};
use crate::error::image;
use crate::tree::Tree;
use crate::{RootfsError, size};

pub(crate) use archive::Archive;
use blob::{Blob, Digest};
use documents::{Config, Descriptor, Document, Index, Manifest};
pub(crate) use layer::Budget;
pub(crate) use layout::Layout;
pub use reference::{BadReference, Reference};
pub(crate) use registry::Registry;

/// Most bytes of an index, a manifest or a configuration.
const DOCUMENT: u64 = 4 << 20;

/// Most layers of an image.
const LAYERS: usize = 256;

/// How deep indexes lie in each other.
const DEPTH: usize = 4;

/// Where the pieces of an image come from.
pub(crate) trait Source {
    /// What the image says of where it is from.
    fn reference(&self) -> String;
    /// The first document, and its digest.
    fn root(&mut self) -> Result<(Document, Digest), RootfsError>;
    /// A piece, its digest compared.
    fn blob(&mut self, descriptor: &Descriptor) -> Result<Blob, RootfsError>;
}

/// Unpacks an image into the staging folder.
pub(crate) fn unpack(source: &mut dyn Source, job: &Job<'_>, tree: &mut Tree) -> Result<BaseRecord, RootfsError> {
    let (manifest, digest) = manifest(source, job.arch)?;
    let what = format!("the image {}", source.reference());
    let config: Config = document(source, &manifest.config)?;
    if config.os != "linux" || config.architecture != job.arch {
        return Err(image(
            what,
            format!(
                "it is for {}/{}, the agent is for linux/{}: take an image that has that platform",
                config.os, config.architecture, job.arch
            ),
        ));
    }
    let diffs = &config.rootfs.diff_ids;
    if manifest.layers.len() != diffs.len() || diffs.len() > LAYERS {
        let (layers, named) = (manifest.layers.len(), diffs.len());
        return Err(image(
            what,
            format!("it has {layers} layers and a configuration for {named}; {LAYERS} are the most there may be"),
        ));
    }
    let mut budget = Budget::new(job.limit);
    for (number, (descriptor, diff)) in manifest.layers.iter().zip(diffs).enumerate() {
        if descriptor.media_type.contains("encrypted") {
            return Err(image(what, format!("layer {} is encrypted", number + 1)));
        }
        if descriptor.size > job.limit {
            return Err(RootfsError::TooLarge { limit: size(job.limit) });
        }
        let layer = format!("layer {} of {}", number + 1, diffs.len());
        (job.progress)(&format!("Unpacking {layer}"));
        let blob = source.blob(descriptor)?;
        layer::apply(&layer, blob, diff, tree, &mut budget)?;
    }
    Ok(BaseRecord { reference: source.reference(), digest: digest.to_string() })
}

/// The manifest for an architecture, and its digest.
fn manifest(source: &mut dyn Source, arch: &str) -> Result<(Manifest, Digest), RootfsError> {
    let what = format!("the image {}", source.reference());
    let (mut found, mut digest) = source.root()?;
    for _ in 0..DEPTH {
        let index = match found {
            Document::Manifest(manifest) => return Ok((manifest, digest)),
            Document::Index(index) => index,
        };
        let chosen = index.choose(arch).map_err(|reason| image(what.clone(), reason))?;
        digest = chosen.digest.clone();
        found = Document::parse(&bytes(source, chosen)?).map_err(|reason| image(what.clone(), reason))?;
    }
    Err(image(what, "its indexes lie in each other without end"))
}

fn document<T: serde::de::DeserializeOwned>(source: &mut dyn Source, wanted: &Descriptor) -> Result<T, RootfsError> {
    serde_json::from_slice(&bytes(source, wanted)?)
        .map_err(|error| image(format!("{} of the image", wanted.digest), format!("it cannot be read: {error}")))
}

fn bytes(source: &mut dyn Source, wanted: &Descriptor) -> Result<Vec<u8>, RootfsError> {
    if wanted.size > DOCUMENT {
        return Err(image(
            format!("{} of the image", wanted.digest),
            format!("it has {} bytes, and documents have at most {DOCUMENT}", wanted.size),
        ));
    }
    source.blob(wanted)?.bytes()
}
