//! What nex puts into every image beside the base: folders, accounts, its programs, and what the image says of itself.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Architecture, Endianness, Object, elf};
use sha2::{Digest, Sha256};

use crate::error::file;
use crate::tree::Tree;
use crate::{AGENT, AgentRecord, CONTENTS, Contents, INIT, Recipe, RootfsError};

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

/// The folders and accounts that the script and the guest find.
pub(crate) fn furnish(tree: &mut Tree) -> Result<(), RootfsError> {
    for (name, mode) in FOLDERS {
        tree.folder(name, mode)?;
    }
    accounts(tree)
}

/// The programs of nex, and what the image says of itself. Last, so that nothing of the base is in their place.
pub(crate) fn finish(tree: &mut Tree, recipe: &Recipe, contents: &Contents) -> Result<(), RootfsError> {
    for (from, to) in [(&recipe.agent, AGENT), (&recipe.init, INIT)] {
        tree.copy(from, to, 0o755)?;
    }
    let text = serde_json::to_string_pretty(contents).unwrap_or_default();
    tree.write(CONTENTS, format!("{text}\n").as_bytes(), 0o644)?;
    tree.settle()
}

/// The user that agent and workload run as, beside whoever is there.
fn accounts(tree: &mut Tree) -> Result<(), RootfsError> {
    for (name, root_line, ours) in [
        ("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\n", "nex:x:1000:1000:nex:/var/lib/nex:/sbin/nologin\n"),
        ("etc/group", "root:x:0:\n", "nex:x:1000:\n"),
    ] {
        let there = tree.inside(Path::new(name))?;
        let mut text = fs::read_to_string(&there).unwrap_or_else(|_| root_line.to_owned());
        if !text.lines().any(|line| line.starts_with("nex:")) {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(ours);
        }
        tree.write(name, text.as_bytes(), 0o644)?;
    }
    for (name, text) in [("etc/hosts", "127.0.0.1 localhost\n"), ("etc/resolv.conf", "")] {
        if !tree.inside(Path::new(name))?.is_file() {
            tree.write(name, text.as_bytes(), 0o644)?;
        }
    }
    Ok(())
}

/// What the image says of its agent.
pub(crate) fn agent(path: &Path) -> Result<AgentRecord, RootfsError> {
    let bytes = fs::read(path).map_err(file("cannot read", path))?;
    // One for another machine cannot be asked, and is no worse for it.
    let answer = path.canonicalize().and_then(|path| {
        Command::new(path).arg("--version").env_clear().stdin(Stdio::null()).stderr(Stdio::null()).output()
    });
    let version = answer.ok().and_then(|output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(text.strip_prefix("nex-agent ")?.lines().next()?.to_owned())
    });
    Ok(AgentRecord { version, sha256: hex::encode(Sha256::digest(bytes)) })
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
    architecture(program.architecture()).ok_or_else(|| unfit("it is for an architecture that microVMs do not run on"))
}

/// An architecture in Go's spelling, as images and nodes name it.
pub(crate) fn architecture(architecture: Architecture) -> Option<String> {
    match architecture {
        Architecture::X86_64 => Some("amd64".to_owned()),
        Architecture::Aarch64 => Some("arm64".to_owned()),
        _ => None,
    }
}
