//! The staging folder as the root of a system: names are looked up in it as that system would, and nothing done to it gets
//! out of it. It also keeps what the builder's file system cannot: owners that are not the builder's, and modes that would
//! lock the builder out.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, Uid, chownat, utimensat};
use sha2::{Digest as _, Sha256};

use crate::RootfsError;
use crate::error::file;

/// Links that are followed for one name; more are a circle.
const LINKS: u32 = 40;

/// Most bytes of a path in an image.
pub(crate) const LONGEST: usize = 1024;

/// Most parts of one. Far more than any system has; mke2fs writes where it must not when folders lie some thousand deep.
pub(crate) const DEEPEST: usize = 64;

/// What a file shall be in the image where the staging folder says something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Attributes {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Permission bits; none where they are those of the staging folder.
    pub(crate) mode: Option<u32>,
}

/// The staging folder.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    /// By path below the root, links resolved. What is not here is root's.
    attributes: BTreeMap<PathBuf, Attributes>,
}

impl Tree {
    /// Makes the folder.
    pub(crate) fn create(root: &Path) -> Result<Self, RootfsError> {
        make_folder(root, 0o755)?;
        Ok(Self::at(root))
    }

    /// One that is there, whoever made it.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), attributes: BTreeMap::new() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What a file of the staging folder shall be in the image.
    pub(crate) fn attributes(&self, path: &Path) -> Attributes {
        self.attributes.get(self.below(path)).copied().unwrap_or_default()
    }

    fn below<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }

    /// Gives a file its owner and its mode; folders and files stay usable for the builder.
    pub(crate) fn give(&mut self, path: &Path, (uid, gid): (u32, u32), mode: u32) -> Result<(), RootfsError> {
        let meta = path.symlink_metadata().map_err(file("cannot read", path))?;
        let usable = usable(&meta, mode);
        if !meta.is_symlink() {
            fs::set_permissions(path, Permissions::from_mode(usable)).map_err(file("cannot set the mode of", path))?;
        }
        let attributes = Attributes { uid, gid, mode: (usable != mode && !meta.is_symlink()).then_some(mode) };
        self.mark(path, attributes);
        Ok(())
    }

    /// Notes owner and mode, and leaves the file.
    pub(crate) fn mark(&mut self, path: &Path, attributes: Attributes) {
        let name = self.below(path).to_owned();
        if attributes == Attributes::default() {
            self.attributes.remove(&name);
        } else {
            self.attributes.insert(name, attributes);
        }
    }

    /// Where a name leads in the image, followed to its end. The links of a base are those of its own root: followed from
    /// here, they would lead to the files of the machine that builds.
    pub(crate) fn inside(&self, name: &Path) -> Result<PathBuf, RootfsError> {
        let mut left: Vec<OsString> = parts(name);
        let mut here = self.root.clone();
        let mut depth = 0;
        let mut links = 0;
        while let Some(part) = left.pop() {
            // What is left counts too: links can make more of it than the name had.
            if depth + left.len() >= DEEPEST {
                return Err(RootfsError::Deep { path: name.to_owned() });
            }
            if part == ".." {
                if depth > 0 {
                    here.pop();
                    depth -= 1;
                }
                continue;
            }
            here.push(part);
            depth += 1;
            if here.is_symlink() {
                links += 1;
                if links > LINKS {
                    return Err(file("too many links at", &here)(io::ErrorKind::InvalidInput.into()));
                }
                let target = fs::read_link(&here).map_err(file("cannot read", &here))?;
                if target.is_absolute() {
                    here = self.root.clone();
                    depth = 0;
                } else {
                    here.pop();
                    depth -= 1;
                }
                left.extend(parts(&target));
            } else {
                self.check_bounds(&here)?;
            }
        }
        Ok(here)
    }

    /// Refuses what lies too deep or has too long a name: not all tools are prepared for it.
    fn check_bounds(&self, path: &Path) -> Result<(), RootfsError> {
        let below = self.below(path);
        if below.as_os_str().len() > LONGEST || below.components().count() > DEEPEST {
            return Err(RootfsError::Deep { path: below.to_owned() });
        }
        Ok(())
    }

    /// Where a name lies: the folder followed to its end and made where it is missing, the last part as it is.
    pub(crate) fn place(&self, name: &Path) -> Result<PathBuf, RootfsError> {
        self.place_counted(name).map(|(path, _)| path)
    }

    /// As [`Tree::place`], and how many folders were made.
    pub(crate) fn place_counted(&self, name: &Path) -> Result<(PathBuf, u64), RootfsError> {
        let folder = self.inside(name.parent().unwrap_or(Path::new("")))?;
        let path = folder.join(name.file_name().unwrap_or_default());
        self.check_bounds(&path)?;
        let mut made = 0;
        if !folder.is_dir() {
            let missing: Vec<_> = folder.ancestors().take_while(|path| path.symlink_metadata().is_err()).collect();
            for path in missing.into_iter().rev() {
                make_folder(path, 0o755)?;
                made += 1;
            }
        }
        Ok((path, made))
    }

    /// Makes a folder unless there is one.
    pub(crate) fn folder(&mut self, name: &str, mode: u32) -> Result<(), RootfsError> {
        // `sbin` of a merged system is a link to `usr/sbin`; it may lead to where nothing is yet.
        let path = self.inside(Path::new(name))?;
        if path.is_dir() {
            return Ok(());
        }
        let path = self.place(self.below(&path))?;
        make_folder(&path, mode)
    }

    /// Writes a file of the image anew, in place of whatever has its name.
    pub(crate) fn write(&mut self, name: &str, bytes: &[u8], mode: u32) -> Result<(), RootfsError> {
        let path = self.vacate(name)?;
        let written = OpenOptions::new().write(true).create_new(true).open(&path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.set_permissions(Permissions::from_mode(mode))
        });
        written.map_err(file("cannot write", &path))
    }

    /// Copies a file of the builder's machine into the image, in place of whatever has its name.
    pub(crate) fn copy(&mut self, from: &Path, name: &str, mode: u32) -> Result<(), RootfsError> {
        let path = self.vacate(name)?;
        let copied = fs::copy(from, &path).and_then(|_| fs::set_permissions(&path, Permissions::from_mode(mode)));
        copied.map_err(file("cannot copy", from))
    }

    /// Makes a link, in place of whatever has its name.
    pub(crate) fn link(&mut self, name: &str, target: &str) -> Result<(), RootfsError> {
        let path = self.vacate(name)?;
        std::os::unix::fs::symlink(target, &path).map_err(file("cannot make", &path))
    }

    fn vacate(&mut self, name: &str) -> Result<PathBuf, RootfsError> {
        let path = self.place(Path::new(name))?;
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).map_err(file("cannot replace", &path))?;
        }
        self.mark(&path, Attributes::default());
        Ok(path)
    }

    /// Removes a file, or a folder with all that is in it.
    pub(crate) fn remove(&mut self, path: &Path) -> Result<(), RootfsError> {
        let meta = path.symlink_metadata().map_err(file("cannot read", path))?;
        let removed = if meta.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.map_err(file("cannot remove", path))?;
        let name = self.below(path).to_owned();
        // A folder and what is in it follow one another in the order of paths.
        let gone: Vec<_> = self.attributes.range(name.clone()..).map(|(path, _)| path.clone()).collect();
        for path in gone.into_iter().take_while(|path| path.starts_with(&name)) {
            self.attributes.remove(&path);
        }
        Ok(())
    }

    /// Every path, a folder before what is in it, in an order that is always the same.
    pub(crate) fn walk(&self) -> Result<Vec<(PathBuf, Metadata)>, RootfsError> {
        let mut found = Vec::new();
        let meta = self.root.symlink_metadata().map_err(file("cannot read", &self.root))?;
        let mut left = vec![(self.root.clone(), meta)];
        while let Some((path, meta)) = left.pop() {
            if meta.is_dir() {
                let mut names = Vec::new();
                for entry in fs::read_dir(&path).map_err(file("cannot read", &path))? {
                    names.push(entry.map_err(file("cannot read", &path))?.path());
                }
                names.sort_unstable_by(|one, other| other.cmp(one));
                for path in names {
                    let meta = path.symlink_metadata().map_err(file("cannot read", &path))?;
                    left.push((path, meta));
                }
            }
            found.push((path, meta));
        }
        Ok(found)
    }

    /// Makes every folder and file usable for the builder, and notes the modes they had.
    pub(crate) fn open_up(&mut self) -> Result<(), RootfsError> {
        let mut left = vec![self.root.clone()];
        while let Some(path) = left.pop() {
            let meta = path.symlink_metadata().map_err(file("cannot read", &path))?;
            let mode = meta.permissions().mode() & 0o7777;
            let usable = usable(&meta, mode);
            if usable != mode && !meta.is_symlink() {
                fs::set_permissions(&path, Permissions::from_mode(usable))
                    .map_err(file("cannot set the mode of", &path))?;
                let kept = self.attributes(&path);
                self.mark(&path, Attributes { mode: kept.mode.or(Some(mode)), ..kept });
            }
            if meta.is_dir() {
                for entry in fs::read_dir(&path).map_err(file("cannot read", &path))? {
                    left.push(entry.map_err(file("cannot read", &path))?.path());
                }
            }
        }
        Ok(())
    }

    /// Takes owners and modes from the folder itself: whoever filled it was root and could set them.
    pub(crate) fn take_attributes(&mut self) -> Result<(), RootfsError> {
        self.attributes.clear();
        for (path, meta) in self.walk()? {
            self.mark(&path, Attributes { uid: meta.uid(), gid: meta.gid(), mode: None });
        }
        Ok(())
    }

    /// Gives the files of the folder their owners and modes; only root can.
    pub(crate) fn set_attributes(&self) -> Result<(), RootfsError> {
        for (path, meta) in self.walk()? {
            let Attributes { uid, gid, mode } = self.attributes(&path);
            let given =
                chownat(CWD, &path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW);
            given.map_err(io::Error::from).map_err(file("cannot give away", &path))?;
            if !meta.is_symlink() {
                // Giving a file away takes set-user bits off it.
                let mode = mode.unwrap_or(meta.permissions().mode() & 0o7777);
                fs::set_permissions(&path, Permissions::from_mode(mode))
                    .map_err(file("cannot set the mode of", &path))?;
            }
        }
        Ok(())
    }

    /// Forgets owners and modes of files that are not what they were.
    pub(crate) fn keep_attributes_of(&mut self, unchanged: &BTreeSet<(PathBuf, u64, u32)>) {
        let root = self.root.clone();
        self.attributes.retain(|name, _| {
            let now = root.join(name).symlink_metadata();
            now.is_ok_and(|meta| unchanged.contains(&(name.clone(), meta.ino(), meta.mode())))
        });
    }

    /// What the files with owners and modes of their own are, for [`Tree::keep_attributes_of`].
    pub(crate) fn marked(&self) -> BTreeSet<(PathBuf, u64, u32)> {
        let known = self.attributes.keys().filter_map(|name| {
            let meta = self.root.join(name).symlink_metadata().ok()?;
            Some((name.clone(), meta.ino(), meta.mode()))
        });
        known.collect()
    }

    /// The digest of all that is in the folder: names, kinds, modes, owners, contents.
    pub(crate) fn digest(&self) -> Result<String, RootfsError> {
        let mut hash = Sha256::new();
        for (path, meta) in self.walk()? {
            let Attributes { uid, gid, mode } = self.attributes(&path);
            let mode = mode.unwrap_or(meta.permissions().mode() & 0o7777);
            hash.update(self.below(&path).as_os_str().as_bytes());
            let kind = if meta.is_dir() {
                'd'
            } else if meta.is_symlink() {
                'l'
            } else {
                'f'
            };
            let length = if meta.is_dir() { 0 } else { meta.len() };
            hash.update(format!("\0{kind} {mode:o} {uid} {gid} {length}\0"));
            if meta.is_file() {
                let mut content = fs::File::open(&path).map_err(file("cannot read", &path))?;
                io::copy(&mut content, &mut hash).map_err(file("cannot read", &path))?;
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).map_err(file("cannot read", &path))?;
                hash.update(target.as_os_str().as_bytes());
            }
        }
        Ok(format!("tree:sha256:{}", hex::encode(hash.finalize())))
    }

    /// Takes out what has no place in an image, refuses what cannot be written down, and sets every time to the same, so
    /// that the same files make the same image.
    pub(crate) fn settle(&mut self) -> Result<(), RootfsError> {
        self.open_up()?;
        for (path, meta) in self.walk()? {
            self.check_bounds(&path)?;
            // Names are read from lines that the tool that makes the file system writes.
            if path.file_name().is_some_and(|name| name.as_bytes().iter().any(u8::is_ascii_control)) {
                return Err(RootfsError::Name { path: Path::new("/").join(self.below(&path)) });
            }
            if !(meta.is_dir() || meta.is_file() || meta.is_symlink()) {
                self.remove(&path)?;
            }
        }
        let then = Timespec { tv_sec: 0, tv_nsec: 0 };
        let times = Timestamps { last_access: then, last_modification: then };
        for (path, _) in self.walk()? {
            utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(io::Error::from)
                .map_err(file("cannot set the times of", &path))?;
        }
        Ok(())
    }
}

/// A mode with which the builder can still read and fill it.
fn usable(meta: &Metadata, mode: u32) -> u32 {
    if meta.is_dir() { mode | 0o700 } else { mode | 0o400 }
}

/// The parts of a path, last first.
fn parts(path: &Path) -> Vec<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    path.components().rev().filter_map(part).collect()
}

pub(crate) fn make_folder(path: &Path, mode: u32) -> Result<(), RootfsError> {
    // Whatever mask the builder has: the same image is to come out of it.
    let made = fs::create_dir(path).and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)));
    made.map_err(file("cannot make", path))
}
