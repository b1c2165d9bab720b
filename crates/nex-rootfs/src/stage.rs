//! The staging folder: all that the image will hold, with modes as they shall be and times that are always the same.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Architecture, Endianness, Object, elf};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::{AGENT, CONTENTS, Contents, DENO, INIT, Recipe, RootfsError, file};

/// Folders that a running guest mounts something on, or writes to.
const FOLDERS: [(&str, u32); 10] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o755),
    ("run", 0o755),
    ("sbin", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr/libexec", 0o755),
    ("var/lib/nex", 0o700),
    ("root", 0o700),
];

/// Fills the folder.
pub(crate) fn fill(root: &Path, recipe: &Recipe, contents: &Contents) -> Result<(), RootfsError> {
    match &recipe.base {
        Some(base) => copy_tree(base, root)?,
        None => fs::create_dir(root).map_err(file("cannot make", root))?,
    }
    for (name, mode) in FOLDERS {
        let path = root.join(name);
        // `sbin` of a merged system is a link to `usr/sbin`.
        if !path.is_dir() {
            fs::create_dir_all(&path).map_err(file("cannot make", &path))?;
        }
        fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(file("cannot set the mode of", &path))?;
    }
    let programs = [(&recipe.agent, AGENT), (&recipe.init, INIT)];
    for (from, to) in programs.into_iter().chain(recipe.deno.as_ref().map(|deno| (deno, DENO))) {
        let to = root.join(to);
        fs::copy(from, &to).map_err(file("cannot copy", from))?;
        fs::set_permissions(&to, Permissions::from_mode(0o755)).map_err(file("cannot set the mode of", &to))?;
    }
    accounts(root)?;
    let text = serde_json::to_string_pretty(contents).unwrap_or_default();
    write(&root.join(CONTENTS), &format!("{text}\n"))?;
    settle(root)
}

/// The user that agent and workload run as, beside whoever is there.
fn accounts(root: &Path) -> Result<(), RootfsError> {
    for (name, root_line, ours) in [
        ("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\n", "nex:x:1000:1000:nex:/var/lib/nex:/sbin/nologin\n"),
        ("etc/group", "root:x:0:\n", "nex:x:1000:\n"),
    ] {
        let path = root.join(name);
        let mut text = fs::read_to_string(&path).unwrap_or_else(|_| root_line.to_owned());
        if !text.lines().any(|line| line.starts_with("nex:")) {
            text.push_str(ours);
        }
        write(&path, &text)?;
    }
    for (name, text) in [("etc/hosts", "127.0.0.1 localhost\n"), ("etc/resolv.conf", "")] {
        let path = root.join(name);
        if path.symlink_metadata().is_err() {
            write(&path, text)?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), RootfsError> {
    fs::write(path, text).map_err(file("cannot write", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o644)).map_err(file("cannot set the mode of", path))
}

/// Copies folders, files and links; what else there is (devices, sockets) has no place in an image.
fn copy_tree(from: &Path, to: &Path) -> Result<(), RootfsError> {
    let mode = fs::metadata(from).map_err(file("cannot read", from))?.permissions().mode();
    fs::create_dir(to).map_err(file("cannot make", to))?;
    for entry in fs::read_dir(from).map_err(file("cannot read", from))? {
        let entry = entry.map_err(file("cannot read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(file("cannot read", &source))?;
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            let link = fs::read_link(&source).map_err(file("cannot read", &source))?;
            symlink(link, &target).map_err(file("cannot make", &target))?;
        } else if kind.is_file() {
            fs::copy(&source, &target).map_err(file("cannot copy", &source))?;
        }
    }
    fs::set_permissions(to, Permissions::from_mode(mode)).map_err(file("cannot set the mode of", to))
}

/// Sets every time to the same, so that the same files make the same image.
fn settle(path: &Path) -> Result<(), RootfsError> {
    if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        for entry in fs::read_dir(path).map_err(file("cannot read", path))?.flatten() {
            settle(&entry.path())?;
        }
    }
    let then = Timespec { tv_sec: 0, tv_nsec: 0 };
    let times = Timestamps { last_access: then, last_modification: then };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(io::Error::from)
        .map_err(file("cannot set the times of", path))
}

/// Checks that a program runs in an image that has no libraries; gives its architecture in Go's spelling.
pub(crate) fn check_static(path: &Path) -> Result<String, RootfsError> {
    let bytes = fs::read(path).map_err(file("cannot read", path))?;
    let unfit = |reason: &str| RootfsError::Program { path: path.to_owned(), reason: reason.to_owned() };
    let program = ElfFile64::<Endianness>::parse(&*bytes).map_err(|_| unfit("it is no 64-bit ELF program"))?;
    let endian = program.endian();
    let headers = program.elf_header().program_headers(endian, &*bytes).map_err(|_| unfit("its headers are broken"))?;
    if headers.iter().any(|header| header.p_type(endian) == elf::PT_INTERP) {
        return Err(unfit(
            "it is linked dynamically, and the image may have no libraries: build it for a musl target (`cargo xtask \
             guest`)",
        ));
    }
    match program.architecture() {
        Architecture::X86_64 => Ok("amd64".to_owned()),
        Architecture::Aarch64 => Ok("arm64".to_owned()),
        _ => Err(unfit("it is for an architecture that microVMs do not run on")),
    }
}
