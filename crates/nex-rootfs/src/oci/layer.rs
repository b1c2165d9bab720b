//! One layer: a tar file whose entries are laid over what is there. Everything in it may be hostile.
//!
//! Names are looked up below the root of the image, links in them included, so none leads out of it; `..` is refused. What
//! is removed by a layer (`.wh.NAME`, `.wh..wh..opq`) is removed from the layers before it. Devices and pipes have no place
//! in a root image and are left out; attributes besides owner and mode are too.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use tar::{Entry, EntryType};

use super::blob::Hasher;
use super::notes::Notes;
use super::{Blob, Digest, compression};
use crate::error::{file, image};
use crate::tree::{DEEPEST, LONGEST, Tree, make_folder};
use crate::{RootfsError, size};

/// Most files of an image.
const ENTRIES: u64 = 1_000_000;

/// What a layer may have besides the bytes of its files: headers and padding.
const BESIDE: u64 = 4 << 30;

/// Most bytes of a name in an error.
const SHOWN: usize = 200;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What is left of what an image may take.
pub(crate) struct Budget {
    limit: u64,
    bytes: u64,
    entries: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, bytes: limit, entries: ENTRIES }
    }

    fn take(&mut self, bytes: u64) -> Result<(), RootfsError> {
        let too_large = || RootfsError::TooLarge { limit: size(self.limit) };
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(too_large)?;
        self.take_files(1)
    }

    fn take_files(&mut self, count: u64) -> Result<(), RootfsError> {
        let too_many = || RootfsError::TooLarge { limit: format!("{ENTRIES} files") };
        self.entries = self.entries.checked_sub(count).ok_or_else(too_many)?;
        Ok(())
    }
}

/// Lays a layer over the staging folder, and compares it with its digest.
pub(super) fn apply(
    what: &str,
    blob: Blob,
    diff: &Digest,
    tree: &mut Tree,
    budget: &mut Budget,
) -> Result<(), RootfsError> {
    let unreadable = |error: io::Error| image(what, format!("it cannot be unpacked: {error}"));
    let plain = compression::plain(blob).map_err(unreadable)?;
    let mut plain = Hashed { from: plain.take(budget.bytes.saturating_add(BESIDE)), hasher: diff.hasher() };
    {
        let mut archive = tar::Archive::new(&mut plain);
        let mut layer = Layer { tree, budget, made: HashSet::new() };
        let mut notes = Notes::default();
        for entry in archive.entries().map_err(unreadable)?.raw(true) {
            let mut entry = entry.map_err(unreadable)?;
            if !notes.read(&mut entry).map_err(unreadable)? {
                let told = std::mem::take(&mut notes);
                layer.add(told, &mut entry).map_err(|refused| refused.of(what))?;
            }
        }
    }
    // What follows the last entry counts for the digest too.
    io::copy(&mut plain, &mut io::sink()).map_err(unreadable)?;
    diff.check(what, &plain.hasher.finish())
}

/// Makes the digest of what is read.
struct Hashed<R> {
    from: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// Why an entry was not taken.
enum Refused {
    Entry(String),
    Other(RootfsError),
}

impl Refused {
    fn of(self, what: &str) -> RootfsError {
        match self {
            Self::Entry(reason) => image(what, reason),
            Self::Other(error) => error,
        }
    }
}

impl From<RootfsError> for Refused {
    fn from(error: RootfsError) -> Self {
        Self::Other(error)
    }
}

struct Layer<'a> {
    tree: &'a mut Tree,
    budget: &'a mut Budget,
    /// What this layer has made: only what was there before can be removed by it.
    made: HashSet<PathBuf>,
}

impl Layer<'_> {
    fn add<R: Read>(&mut self, notes: Notes, entry: &mut Entry<'_, R>) -> Result<(), Refused> {
        let told = notes.name(entry);
        let name = clean(&told)?;
        let refuse = |reason: &str| Refused::Entry(format!("{}: {reason}", shown(&told)));
        let length = entry.size();
        if notes.size.is_some_and(|size| size != length) || notes.sparse {
            return Err(refuse("its length is told twice, and differently"));
        }
        let kind = match entry.header().entry_type() {
            // The oldest form of archives has no kind for folders.
            EntryType::Regular if told.ends_with(b"/") => EntryType::Directory,
            kind => kind,
        };
        let holds = matches!(kind, EntryType::Regular | EntryType::Continuous);
        self.budget.take(if holds { length } else { 0 })?;
        let Some(last) = name.file_name().map(OsStr::to_owned) else {
            // The root itself: it is a folder, whatever the layer says.
            let root = self.tree.root().to_owned();
            return Ok(self.own(&notes, entry, &root)?);
        };
        if last.as_bytes().starts_with(WHITEOUT) {
            return self.remove(&name, last.as_bytes());
        }
        let path = self.place(&name)?;
        self.note_folders(&path);
        match kind {
            EntryType::Directory => {
                if !path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                    self.clear(&path)?;
                    make_folder(&path, 0o700)?;
                }
                self.own(&notes, entry, &path)?;
            }
            EntryType::Regular | EntryType::Continuous => {
                self.clear(&path)?;
                let mut made =
                    OpenOptions::new().write(true).create_new(true).open(&path).map_err(file("cannot write", &path))?;
                let copied =
                    io::copy(entry, &mut made).map_err(|error| refuse(&format!("it cannot be unpacked: {error}")))?;
                if copied != length {
                    return Err(refuse("the layer ends in the middle of it"));
                }
                self.own(&notes, entry, &path)?;
            }
            EntryType::Symlink => {
                let target = notes.link(entry).ok_or_else(|| refuse("it is a link to nothing"))?;
                self.clear(&path)?;
                symlink(OsStr::from_bytes(&target), &path).map_err(file("cannot make", &path))?;
                self.own(&notes, entry, &path)?;
            }
            EntryType::Link => {
                let target = notes.link(entry).ok_or_else(|| refuse("it is a link to nothing"))?;
                let target = self.place(&clean(&target)?)?;
                let meta = target.symlink_metadata();
                if !meta.is_ok_and(|meta| meta.is_file() || meta.is_symlink()) {
                    return Err(refuse("it is another name of a file that is not there"));
                }
                if target != path {
                    self.clear(&path)?;
                    fs::hard_link(&target, &path).map_err(file("cannot make", &path))?;
                    self.tree.mark(&path, self.tree.attributes(&target));
                }
            }
            EntryType::Block | EntryType::Char | EntryType::Fifo => return Ok(()),
            EntryType::GNUSparse => return Err(refuse("it is a sparse file, which layers are not to have")),
            _ => return Err(refuse("it is of a kind that layers do not have")),
        }
        self.made.insert(path);
        Ok(())
    }

    /// Where an entry lies. The folders that it implies count as if they had entries of their own.
    fn place(&mut self, name: &Path) -> Result<PathBuf, RootfsError> {
        let (path, made) = self.tree.place_counted(name)?;
        self.budget.take_files(made)?;
        Ok(path)
    }

    /// Removes what is in the place of an entry. A folder's content of this layer goes with it, as the layer says so.
    fn clear(&mut self, path: &Path) -> Result<(), RootfsError> {
        if path.symlink_metadata().is_ok() { self.tree.remove(path) } else { Ok(()) }
    }

    /// Folders that hold something of this layer are not removed as a whole.
    fn note_folders(&mut self, path: &Path) {
        for folder in path.ancestors().skip(1).take_while(|folder| *folder != self.tree.root()) {
            if !self.made.insert(folder.to_owned()) {
                break;
            }
        }
    }

    fn own<R: Read>(&mut self, notes: &Notes, entry: &Entry<'_, R>, path: &Path) -> Result<(), RootfsError> {
        let header = entry.header();
        let told = |noted: Option<u64>, number: io::Result<u64>| {
            noted.or(number.ok()).and_then(|id| u32::try_from(id).ok()).unwrap_or(0)
        };
        let owner = (told(notes.uid, header.uid()), told(notes.gid, header.gid()));
        self.tree.give(path, owner, header.mode().unwrap_or(0o755) & 0o7777)
    }

    fn remove(&mut self, name: &Path, last: &[u8]) -> Result<(), Refused> {
        let folder = self.tree.inside(name.parent().unwrap_or(Path::new("")))?;
        if last == OPAQUE {
            return Ok(self.remove_older(&folder, true)?);
        }
        let hidden = last.strip_prefix(WHITEOUT).unwrap_or_default();
        // Other notes of the tools that made the layer.
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Refused::Entry(format!("{:?} is to remove no file", name.display())));
        }
        Ok(self.remove_older(&folder.join(OsStr::from_bytes(hidden)), false)?)
    }

    /// Removes what layers before this one have put there.
    fn remove_older(&mut self, path: &Path, keep: bool) -> Result<(), RootfsError> {
        let Ok(meta) = path.symlink_metadata() else { return Ok(()) };
        if !keep && !self.made.contains(path) {
            return self.tree.remove(path);
        }
        if meta.is_dir() {
            for entry in fs::read_dir(path).map_err(file("cannot read", path))? {
                let entry = entry.map_err(file("cannot read", path))?;
                self.remove_older(&entry.path(), false)?;
            }
        }
        Ok(())
    }
}

/// A name below the root; empty for the root itself.
fn clean(name: &[u8]) -> Result<PathBuf, Refused> {
    let refuse = |reason: &str| Refused::Entry(format!("{}: {reason}", shown(name)));
    if name.len() > LONGEST {
        return Err(refuse(&format!("its name is longer than {LONGEST} bytes")));
    }
    if name.contains(&0) {
        return Err(refuse("its name has a zero byte"));
    }
    let mut cleaned = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(part) => cleaned.push(part),
            Component::ParentDir => return Err(refuse("its name leads out of its folder")),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    if cleaned.components().count() > DEEPEST {
        return Err(refuse(&format!("it lies deeper than {DEEPEST} folders")));
    }
    Ok(cleaned)
}

/// A name for an error, and no more of it than one reads.
fn shown(name: &[u8]) -> String {
    let start = name.get(..SHOWN).unwrap_or(name);
    let more = if start.len() < name.len() { "…" } else { "" };
    format!("{:?}{more}", String::from_utf8_lossy(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_a_name_implies_count_as_files() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = Tree::create(&folder.path().join("root")).unwrap();
        let mut budget = Budget { entries: 8, ..Budget::new(1) };
        let mut layer = Layer { tree: &mut tree, budget: &mut budget, made: HashSet::new() };
        layer.place(Path::new("a/b/c/x")).unwrap();
        layer.place(Path::new("a/b/c/y")).unwrap();
        assert_eq!(layer.budget.entries, 5, "each once");
        layer.place(Path::new("a/1/2/3/4/5/x")).unwrap();
        let error = layer.place(Path::new("b/x")).unwrap_err();
        assert!(matches!(error, RootfsError::TooLarge { .. }), "{error}");
    }
}
