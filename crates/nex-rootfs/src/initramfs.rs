//! An initramfs for kernels that have drivers and file systems as modules, as those of distributions do: `nex-init` and the
//! modules that a guest needs, in the order in which they are to be loaded.
//!
//! The archive is a cpio of the "new ASCII" form (<https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>),
//! not compressed: the kernel reads it from memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};

use crate::RootfsError;
use crate::error::file;

/// Modules that a guest needs, by name; what a kernel has built in is not looked for.
const WANTED: [&str; 8] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio_rng",
    "vmw_vsock_virtio_transport",
    "ext4",
    "overlay",
];

/// What an initramfs is made of.
#[derive(Debug, Clone)]
pub struct Initramfs {
    /// `nex-init`, linked statically.
    pub init: PathBuf,
    /// Folder of the kernel's modules: `/lib/modules/VERSION`.
    pub modules: PathBuf,
    /// The file to write.
    pub output: PathBuf,
}

/// Writes an initramfs; gives the names of the modules in it.
///
/// # Errors
/// [`RootfsError`]; there is no file then, or the one that was there before.
pub fn initramfs(recipe: &Initramfs) -> Result<Vec<String>, RootfsError> {
    crate::stage::check_static(&recipe.init)?;
    let modules = Modules::of(&recipe.modules)?;
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "run", "sbin", "modules"] {
        archive.add(folder, 0o040_755, (0, 0), b"");
    }
    // Without it the first process would have nowhere to say what is wrong.
    archive.add("dev/console", 0o020_600, (5, 1), b"");
    let init = fs::read(&recipe.init).map_err(file("cannot read", &recipe.init))?;
    archive.add("sbin/nex-init", 0o100_755, (0, 0), &init);
    let mut names = Vec::new();
    for wanted in WANTED {
        modules.load(wanted, &mut names, &mut archive)?;
    }
    let aside = recipe.output.with_extension("new");
    fs::write(&aside, archive.finish()).map_err(file("cannot write", &aside))?;
    fs::rename(&aside, &recipe.output).map_err(file("cannot write", &recipe.output))?;
    Ok(names)
}

/// The modules of a kernel.
struct Modules {
    folder: PathBuf,
    /// By name, `-` as `_`.
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl Modules {
    fn of(folder: &Path) -> Result<Self, RootfsError> {
        let list = folder.join("modules.builtin");
        let built_in = fs::read_to_string(&list).map_err(file("cannot read", &list))?;
        let built_in = built_in.lines().map(|line| module_name(Path::new(line))).collect();
        let mut files = BTreeMap::new();
        find(folder, &mut files).map_err(file("cannot read", folder))?;
        Ok(Self { folder: folder.to_owned(), files, built_in })
    }

    /// Adds a module after those it needs, unless it is there.
    fn load(&self, name: &str, names: &mut Vec<String>, archive: &mut Archive) -> Result<(), RootfsError> {
        if self.built_in.contains(name) || names.iter().any(|there| there == name) {
            return Ok(());
        }
        let unfit = |reason: String| RootfsError::Modules { path: self.folder.clone(), reason };
        let path = self
            .files
            .get(name)
            .ok_or_else(|| unfit(format!("there is no module {name}, and the kernel does not have it built in")))?;
        if path.extension().is_none_or(|extension| extension != "ko") {
            return Err(unfit(format!("{} is compressed: unpack the modules first", path.display())));
        }
        let bytes = fs::read(path).map_err(file("cannot read", path))?;
        let needs = needs(&bytes).ok_or_else(|| unfit(format!("{} is no kernel module", path.display())))?;
        for needed in needs {
            self.load(&needed, names, archive)?;
        }
        archive.add(&format!("modules/{:02}-{name}.ko", names.len()), 0o100_644, (0, 0), &bytes);
        names.push(name.to_owned());
        Ok(())
    }
}

fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            find(&path, files)?;
        } else if path.to_string_lossy().contains(".ko") {
            files.insert(module_name(&path), path);
        }
    }
    Ok(())
}

/// `kernel/…/virtio-rng.ko.xz` is the module `virtio_rng`.
fn module_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split(".ko").next().unwrap_or_default().replace('-', "_")
}

/// The modules that a module needs, as it says itself.
fn needs(module: &[u8]) -> Option<Vec<String>> {
    let parsed = object::File::parse(module).ok()?;
    let info = parsed.section_by_name(".modinfo")?.data().ok()?;
    let depends = info.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="))?;
    let depends = String::from_utf8_lossy(depends);
    Some(depends.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}

/// A cpio archive being written.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // Number, mode, owner, group, links, time, size, device of the file, device it is, length of the name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, length, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), b"");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_modules_call_each_other_by() {
        for (path, name) in [("kernel/a/virtio-rng.ko", "virtio_rng"), ("ext4.ko.zst", "ext4")] {
            assert_eq!(module_name(Path::new(path)), name);
        }
    }

    #[test]
    fn what_is_missing_compressed_or_no_module_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
        fs::write(folder.path().join("overlay.ko.xz"), "").unwrap();
        fs::write(folder.path().join("virtio_blk.ko"), "text").unwrap();
        let modules = Modules::of(folder.path()).unwrap();
        let load = |name: &str| modules.load(name, &mut Vec::new(), &mut Archive::default());
        load("ext4").unwrap();
        for (name, reason) in [("overlay", "unpack"), ("virtio_blk", "no kernel module"), ("virtio_net", "there is no")]
        {
            let error = load(name).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn an_archive_is_padded_and_ends_with_its_trailer() {
        let mut archive = Archive::default();
        archive.add("a", 0o100_644, (0, 0), b"xyz");
        let bytes = archive.finish();
        assert!(bytes.starts_with(b"070701") && bytes.len() % 4 == 0);
        assert!(bytes.windows(10).any(|part| part == b"TRAILER!!!"));
    }
}
