//! An image in a tar file: a layout as a tar file, or what `docker save` and its likes write; either may be compressed.
//!
//! The older form of `docker save` has no digests of its layers as they lie there. It has those of the layers when they are
//! not compressed, which are compared for every image.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;
use tar::EntryType;

use super::layout::{pick, reference};
use super::notes::Notes;
use super::{Blob, DOCUMENT, Descriptor, Digest, Document, Index, Manifest, Source, compression};
use crate::base::Job;
use crate::error::{file, image};
use crate::tree::LONGEST;
use crate::{RootfsError, size};

/// Most files of an archive; an image has a few per layer.
const ENTRIES: usize = 10_000;

/// Links in an archive that are followed for one name.
const LINKS: usize = 8;

/// An archive, not compressed (any more).
pub(crate) struct Archive {
    what: String,
    file: File,
    entries: HashMap<String, Place>,
    /// Layers of the older form, by the digests that they were found to have.
    found: HashMap<Digest, (u64, u64)>,
    tag: Option<String>,
}

enum Place {
    At(u64, u64),
    Link(String),
}

/// An entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Archive {
    pub(crate) fn open(path: &Path, tag: Option<&str>, job: &Job<'_>) -> Result<Self, RootfsError> {
        let what = path.display().to_string();
        let file = unpacked(path, job)?;
        let unfit = |error: io::Error| {
            image(&what, format!("it is no image in a tar file, compressed with gzip or zstd or not: {error}"))
        };
        let mut entries = HashMap::new();
        let mut archive = tar::Archive::new(file.try_clone().map_err(unfit)?);
        let mut notes = Notes::default();
        for entry in archive.entries_with_seek().map_err(unfit)?.raw(true) {
            let mut entry = entry.map_err(unfit)?;
            if notes.read(&mut entry).map_err(unfit)? {
                continue;
            }
            let told = std::mem::take(&mut notes);
            if told.sparse || told.size.is_some_and(|size| size != entry.size()) {
                return Err(image(&what, "the length of a file in it is told twice, and differently"));
            }
            let (name, link) = (told.name(&entry), told.link(&entry).unwrap_or_default());
            if name.len().max(link.len()) > LONGEST {
                return Err(image(&what, format!("a file in it has a name longer than {LONGEST} bytes")));
            }
            let name = plain_name(&String::from_utf8_lossy(&name));
            let place = match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => Place::At(entry.raw_file_position(), entry.size()),
                EntryType::Symlink | EntryType::Link => {
                    let target = String::from_utf8_lossy(&link);
                    let symbolic = entry.header().entry_type() == EntryType::Symlink;
                    let folder = name.rsplit_once('/').filter(|_| symbolic).map_or("", |(folder, _)| folder);
                    Place::Link(plain_name(&format!("{folder}/{target}")))
                }
                _ => continue,
            };
            entries.insert(name, place);
            if entries.len() > ENTRIES {
                return Err(image(&what, "it has too many files for an image; is it the files of a system? Unpack it"));
            }
        }
        Ok(Self { what, file, entries, found: HashMap::new(), tag: tag.map(str::to_owned) })
    }

    fn place(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = name;
        for _ in 0..LINKS {
            match self.entries.get(name)? {
                Place::At(start, length) => return Some((*start, *length)),
                Place::Link(target) => name = target,
            }
        }
        None
    }

    fn piece(&self, (start, length): (u64, u64)) -> Result<Blob, RootfsError> {
        let file = self.file.try_clone().map_err(|error| image(&self.what, error.to_string()))?;
        let end = file.metadata().map_err(|error| image(&self.what, error.to_string()))?.len();
        if start.checked_add(length).is_none_or(|past| past > end) {
            return Err(image(&self.what, "it ends in the middle of a file: it was not copied as a whole"));
        }
        Ok(Blob::new(file, start, length))
    }

    /// A small file of the archive.
    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, RootfsError> {
        let Some(place) = self.place(name) else { return Ok(None) };
        if place.1 > DOCUMENT {
            return Err(image(&self.what, format!("its {name} is larger than {DOCUMENT} bytes")));
        }
        self.piece(place)?.bytes().map(Some)
    }

    /// What the older form says, as a manifest.
    fn saved(&mut self, bytes: &[u8]) -> Result<(Manifest, Digest), RootfsError> {
        let broken = |reason: String| image(self.what.clone(), reason);
        let images: Vec<Saved> = serde_json::from_slice(bytes)
            .map_err(|error| broken(format!("its manifest.json cannot be read: {error}")))?;
        let named = |image: &Saved| {
            self.tag.as_ref().is_none_or(|tag| {
                image.repo_tags.iter().flatten().any(|name| name == tag || name.ends_with(&format!(":{tag}")))
            })
        };
        let mut wanted = images.iter().filter(|image| named(image));
        let (Some(saved), None) = (wanted.next(), wanted.next()) else {
            let tags: Vec<_> = images.iter().flat_map(|image| image.repo_tags.iter().flatten().cloned()).collect();
            return Err(broken(format!("name one of its images as PATH:TAG; there are: {}", tags.join(", "))));
        };
        let mut layers = Vec::new();
        for name in std::iter::once(&saved.config).chain(&saved.layers) {
            let place = self.place(&plain_name(name)).ok_or_else(|| broken(format!("there is no {name} in it")))?;
            let blob = self.piece(place)?;
            let (digest, size) = (blob.digest(name)?, blob.length());
            layers.push(Descriptor::of(digest.clone(), size));
            self.found.insert(digest, place);
        }
        let config = layers.remove(0);
        // The file is named for its digest.
        let name = saved.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        if let Ok(named) = format!("sha256:{name}").parse::<Digest>() {
            named.check(&saved.config, &config.digest)?;
        }
        let digest = config.digest.clone();
        Ok((Manifest { config, layers }, digest))
    }
}

impl Source for Archive {
    fn reference(&self) -> String {
        reference("archive", self.tag.as_deref())
    }

    fn root(&mut self) -> Result<(Document, Digest), RootfsError> {
        if let Some(bytes) = self.document("index.json")? {
            let index: Index = serde_json::from_slice(&bytes)
                .map_err(|error| image(&self.what, format!("its index.json cannot be read: {error}")))?;
            return Ok((Document::Index(pick(&index, self.tag.as_deref())?), Digest::sha256(&bytes)));
        }
        let saved = self.document("manifest.json")?.ok_or_else(|| {
            image(&self.what, "it has neither an index.json nor a manifest.json: it is no image. Files of a system are unpacked into a folder, which --base takes")
        })?;
        let (manifest, digest) = self.saved(&saved)?;
        Ok((Document::Manifest(manifest), digest))
    }

    fn blob(&mut self, descriptor: &Descriptor) -> Result<Blob, RootfsError> {
        let (algorithm, hex) = descriptor.digest.parts();
        let name = format!("blobs/{algorithm}/{hex}");
        let place = self.found.get(&descriptor.digest).copied().or_else(|| self.place(&name));
        let place = place.ok_or_else(|| image(&self.what, format!("there is no {name} in it")))?;
        self.piece(place)?.checked(&name, &descriptor.digest, descriptor.size)
    }
}

/// The archive as it is without compression: in a file of its own, as pieces are read in any order.
fn unpacked(path: &Path, job: &Job<'_>) -> Result<File, RootfsError> {
    let mut packed = File::open(path).map_err(file("cannot read", path))?;
    let mut start = [0; 4];
    let read = packed.read(&mut start).map_err(file("cannot read", path))?;
    packed.seek(SeekFrom::Start(0)).map_err(file("cannot read", path))?;
    if !compression::is_compressed(start.get(..read).unwrap_or_default()) {
        return Ok(packed);
    }
    (job.progress)("Unpacking the archive");
    let mut plain = compression::plain(packed).map_err(file("cannot unpack", path))?.take(job.limit + 1);
    let mut whole = tempfile::tempfile_in(job.work).map_err(file("cannot make a file in", job.work))?;
    let length = io::copy(&mut plain, &mut whole).map_err(file("cannot unpack", path))?;
    if length > job.limit {
        return Err(RootfsError::TooLarge { limit: size(job.limit) });
    }
    whole.seek(SeekFrom::Start(0)).map_err(file("cannot unpack", path))?;
    Ok(whole)
}

/// A name without `.` and `..`, below the archive's root.
fn plain_name(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}
