//! The staging folder: all that the image will hold, with modes as they shall be and times that are always the same.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Architecture, Endianness, Object, elf};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::{AGENT, CONTENTS, Contents, DENO, INIT, Recipe, RootfsError, file};

/// Folders of an image with their modes. Those that a base has keep theirs.
const FOLDERS: [(&str, u32); 13] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/libexec", 0o755),
    ("var", 0o755),
    ("var/lib", 0o755),
    ("var/lib/nex", 0o700),
];

/// Links that are followed for one name; more are a circle.
const LINKS: u32 = 40;

/// Fills the folder.
pub(crate) fn fill(root: &Path, recipe: &Recipe, contents: &Contents) -> Result<(), RootfsError> {
    match &recipe.base {
        Some(base) => copy_tree(base, root)?,
        None => make_folder(root, 0o755)?,
    }
    for (name, mode) in FOLDERS {
        let path = inside(root, Path::new(name))?;
        // `sbin` of a merged system is a link to `usr/sbin`.
        if !path.is_dir() {
            // A link of the base may lead to where nothing is.
            let above = path.parent().unwrap_or(root);
            fs::create_dir_all(above).map_err(file("cannot make", above))?;
            make_folder(&path, mode)?;
        }
    }
    let programs = [(&recipe.agent, AGENT), (&recipe.init, INIT)];
    for (from, to) in programs.into_iter().chain(recipe.deno.as_ref().map(|deno| (deno, DENO))) {
        let bytes = fs::read(from).map_err(file("cannot read", from))?;
        write(root, to, &bytes, 0o755)?;
    }
    accounts(root)?;
    let text = serde_json::to_string_pretty(contents).unwrap_or_default();
    write(root, CONTENTS, format!("{text}\n").as_bytes(), 0o644)?;
    settle(root)
}

/// The user that agent and workload run as, beside whoever is there.
fn accounts(root: &Path) -> Result<(), RootfsError> {
    for (name, root_line, ours) in [
        ("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\n", "nex:x:1000:1000:nex:/var/lib/nex:/sbin/nologin\n"),
        ("etc/group", "root:x:0:\n", "nex:x:1000:\n"),
    ] {
        let there = inside(root, Path::new(name))?;
        let mut text = fs::read_to_string(&there).unwrap_or_else(|_| root_line.to_owned());
        if !text.lines().any(|line| line.starts_with("nex:")) {
            text.push_str(ours);
        }
        write(root, name, text.as_bytes(), 0o644)?;
    }
    for (name, text) in [("etc/hosts", "127.0.0.1 localhost\n"), ("etc/resolv.conf", "")] {
        if !inside(root, Path::new(name))?.is_file() {
            write(root, name, text.as_bytes(), 0o644)?;
        }
    }
    Ok(())
}

/// Where a name leads in the image. The links of a base are those of its own root: followed from here, they would lead to
/// the files of the machine that builds.
fn inside(root: &Path, name: &Path) -> Result<PathBuf, RootfsError> {
    let mut left: Vec<OsString> = parts(name);
    let mut here: Vec<OsString> = Vec::new();
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == ".." {
            here.pop();
            continue;
        }
        here.push(part);
        let path = here.iter().fold(root.to_owned(), |path, part| path.join(part));
        if path.is_symlink() {
            links += 1;
            if links > LINKS {
                return Err(file("too many links at", &path)(io::ErrorKind::InvalidInput.into()));
            }
            let target = fs::read_link(&path).map_err(file("cannot read", &path))?;
            here.pop();
            if target.is_absolute() {
                here.clear();
            }
            left.extend(parts(&target));
        }
    }
    Ok(here.into_iter().fold(root.to_owned(), |path, part| path.join(part)))
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

/// Writes a file of the image anew, in place of whatever has its name.
fn write(root: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), RootfsError> {
    let name = Path::new(name);
    let folder = inside(root, name.parent().unwrap_or(Path::new("")))?;
    let path = folder.join(name.file_name().unwrap_or_default());
    if path.symlink_metadata().is_ok() {
        fs::remove_file(&path).map_err(file("cannot replace", &path))?;
    }
    let written = OpenOptions::new().write(true).create_new(true).open(&path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.set_permissions(Permissions::from_mode(mode))
    });
    written.map_err(file("cannot write", &path))
}

fn make_folder(path: &Path, mode: u32) -> Result<(), RootfsError> {
    // Whatever mask the builder has: the same image is to come out of it.
    let made = fs::create_dir(path).and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)));
    made.map_err(file("cannot make", path))
}

/// Copies folders, files and links; what else there is (devices, sockets) has no place in an image.
fn copy_tree(from: &Path, to: &Path) -> Result<(), RootfsError> {
    let mode = fs::metadata(from).map_err(file("cannot read", from))?.permissions().mode() & 0o7777;
    // The builder must be able to add to it, and to remove it afterwards.
    make_folder(to, mode | 0o700)?;
    for entry in fs::read_dir(from).map_err(file("cannot read", from))? {
        let entry = entry.map_err(file("cannot read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        // Names are written into a script of the tool that makes the file system.
        if !entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.chars().all(|c| c != '"' && c != '\\' && !c.is_control()))
        {
            return Err(RootfsError::Name { path: source });
        }
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
    Ok(())
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
