//! A folder of the builder's machine as a base: folders, files and links as they are, all of them root's.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::RootfsError;
use crate::error::file;
use crate::tree::{Tree, make_folder};

/// Copies it; what else there is (devices, sockets) has no place in an image.
pub(super) fn copy(from: &Path, tree: &mut Tree) -> Result<(), RootfsError> {
    let root = tree.root().to_owned();
    let mode = mode(from)?;
    tree.give(&root, (0, 0), mode)?;
    fill(from, &root, tree, &mut HashMap::new())
}

fn mode(path: &Path) -> Result<u32, RootfsError> {
    Ok(fs::metadata(path).map_err(file("cannot read", path))?.permissions().mode() & 0o7777)
}

/// Files with several names, by what identifies them: the first name they got.
type Linked = HashMap<(u64, u64), PathBuf>;

fn fill(from: &Path, to: &Path, tree: &mut Tree, linked: &mut Linked) -> Result<(), RootfsError> {
    for entry in fs::read_dir(from).map_err(file("cannot read", from))? {
        let entry = entry.map_err(file("cannot read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let meta = entry.metadata().map_err(file("cannot read", &source))?;
        if meta.is_dir() {
            // The builder must be able to add to it, and to remove it afterwards.
            make_folder(&target, 0o700)?;
            tree.give(&target, (0, 0), mode(&source)?)?;
            fill(&source, &target, tree, linked)?;
        } else if meta.is_symlink() {
            let link = fs::read_link(&source).map_err(file("cannot read", &source))?;
            symlink(link, &target).map_err(file("cannot make", &target))?;
        } else if meta.is_file() {
            let first = linked.get(&(meta.dev(), meta.ino()));
            if let Some(first) = first {
                fs::hard_link(first, &target).map_err(file("cannot make", &target))?;
                tree.mark(&target, tree.attributes(first));
                continue;
            }
            fs::copy(&source, &target).map_err(file("cannot copy", &source))?;
            tree.give(&target, (0, 0), mode(&source)?)?;
            if meta.nlink() > 1 {
                linked.insert((meta.dev(), meta.ino()), target);
            }
        }
    }
    Ok(())
}
