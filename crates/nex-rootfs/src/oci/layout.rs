//! A layout of the Open Container Initiative in a folder: `oci-layout`, `index.json`, `blobs/ALGORITHM/DIGEST`.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Blob, DOCUMENT, Descriptor, Digest, Document, Index, Source};
use crate::RootfsError;
use crate::base::read_small;
use crate::error::{file, image};

/// A layout.
pub(crate) struct Layout {
    folder: PathBuf,
    index: Index,
    tag: Option<String>,
}

impl Layout {
    pub(crate) fn open(folder: &Path, tag: Option<&str>) -> Result<Self, RootfsError> {
        let path = folder.join("index.json");
        let bytes = read_small(&path, DOCUMENT)?;
        let index = serde_json::from_slice(&bytes)
            .map_err(|error| image(path.display().to_string(), format!("it cannot be read: {error}")))?;
        Ok(Self { folder: folder.to_owned(), index, tag: tag.map(str::to_owned) })
    }
}

impl Source for Layout {
    fn reference(&self) -> String {
        reference("layout", self.tag.as_deref())
    }

    fn root(&mut self) -> Result<(Document, Digest), RootfsError> {
        let index = pick(&self.index, self.tag.as_deref())?;
        Ok((Document::Index(index), Digest::sha256(b"")))
    }

    fn blob(&mut self, descriptor: &Descriptor) -> Result<Blob, RootfsError> {
        let (algorithm, hex) = descriptor.digest.parts();
        let path = self.folder.join("blobs").join(algorithm).join(hex);
        let opened = File::open(&path).map_err(file("cannot read", &path))?;
        let length = opened.metadata().map_err(file("cannot read", &path))?.len();
        Blob::new(opened, 0, length).checked(&format!("{}", path.display()), &descriptor.digest, descriptor.size)
    }
}

/// How an image on disk is called: where it lay is not told.
pub(super) fn reference(kind: &str, tag: Option<&str>) -> String {
    tag.map_or_else(|| kind.to_owned(), |tag| format!("{kind}:{tag}"))
}

/// The image with the tag, or the only one there is.
pub(super) fn pick(index: &Index, tag: Option<&str>) -> Result<Index, RootfsError> {
    let tags = || {
        let named = index.manifests.iter().filter_map(Descriptor::tag).collect::<Vec<_>>();
        if named.is_empty() { "none".to_owned() } else { named.join(", ") }
    };
    let manifests: Vec<_> = match tag {
        Some(tag) => index.manifests.iter().filter(|entry| entry.is(tag)).cloned().collect(),
        None => index.manifests.clone(),
    };
    let first = manifests.first().ok_or_else(|| match tag {
        Some(tag) => image("the layout", format!("it has no image with the tag {tag}; there are: {}", tags())),
        None => image("the layout", "there is no image in it"),
    })?;
    // Several tags may mean one image, and one image may be several, for as many platforms.
    let one = manifests.iter().all(|entry| entry.digest == first.digest);
    if tag.is_none() && !one && manifests.iter().any(|entry| entry.platform.is_none() || entry.tag() != first.tag()) {
        return Err(image("the layout", format!("it has several images: name one as PATH:TAG; there are: {}", tags())));
    }
    Ok(Index { manifests: if one { manifests.into_iter().take(1).collect() } else { manifests } })
}
