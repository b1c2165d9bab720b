//! Deno in the image, and the C library it needs.
//!
//! A base with that library is used as it is. What it lacks, all of it where there is no base or one with another C library,
//! is copied from the machine that builds: the loader to where Deno looks for it, the libraries to where that loader looks.
//! Nothing of the base is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::elf::Linked;
use crate::error::file;
use crate::stage::architecture;
use crate::tree::Tree;
use crate::{DENO, RootfsError};

/// Where loaders look by themselves.
const FOLDERS: [&str; 10] = [
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "usr/lib64",
    "lib",
    "usr/lib",
    "usr/local/lib64",
    "usr/local/lib",
];

/// What says where else they look.
const SETTINGS: &str = "etc/ld.so.conf";

/// How deep such files include each other.
const INCLUDED: u32 = 4;

/// Puts Deno into the image; gives its version.
pub(crate) fn install(deno: &Path, arch: &str, tree: &mut Tree) -> Result<String, RootfsError> {
    let program = Linked::read(deno)?;
    let unfit = |reason: String| RootfsError::Program { path: deno.to_owned(), reason };
    if architecture(program.architecture).as_deref() != Some(arch) {
        return Err(unfit(format!("it is not for {arch}, as the agent is")));
    }
    let version = version(deno).map_err(unfit)?;
    tree.copy(deno, DENO, 0o755)?;
    if let Some(loader) = program.interpreter.clone() {
        libraries(&program, &loader, tree)?;
    }
    Ok(version)
}

/// The version that Deno says it is.
fn version(deno: &Path) -> Result<String, String> {
    let deno = deno.canonicalize().map_err(|error| error.to_string())?;
    let mut command = Command::new(deno);
    command.arg("--version").env_clear().env("DENO_NO_UPDATE_CHECK", "1").stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("it cannot be run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.strip_prefix("deno ").and_then(|rest| rest.split_ascii_whitespace().next());
    version.map(str::to_owned).ok_or_else(|| "it does not say that it is Deno".to_owned())
}

/// Sees to it that loader and libraries are there, in versions that fit each other.
fn libraries(program: &Linked, loader: &str, tree: &mut Tree) -> Result<(), RootfsError> {
    let based = tree.inside(Path::new(loader))?.is_file();
    let place = Place::of(Path::new("/"), None)?;
    let in_base = Place::of(tree.root(), Some(tree))?;
    let mut found: BTreeMap<String, Linked> = BTreeMap::new();
    let mut copies: Vec<(PathBuf, String)> = Vec::new();
    let mut left = program.needed.clone();
    // With a loader of its own the base has a C library: only what is missing is added. Else what is there is another's.
    let own_loader = Path::new(loader).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !based {
        copies.push((host_loader(loader)?, loader.to_owned()));
        left.push("libc.so.6".to_owned());
    }
    let mut folder = None;
    let mut missing = Vec::new();
    while let Some(name) = left.pop() {
        if found.contains_key(&name) {
            continue;
        }
        let there = if name == own_loader && based {
            Some(tree.inside(Path::new(loader))?)
        } else if based {
            in_base.find(&name, program, Some(tree))?
        } else {
            None
        };
        let path = match there {
            Some(path) => path,
            None if name == own_loader => host_loader(loader)?,
            None => {
                let path = place.find(&name, program, None)?.ok_or_else(|| lacking(&name))?;
                if name.starts_with("libc.so") {
                    folder = path.parent().map(Path::to_owned);
                }
                missing.push((path.clone(), name.clone()));
                path
            }
        };
        let linked = Linked::read(&path)?;
        left.extend(linked.needed.iter().cloned());
        found.insert(name, linked);
    }
    check_versions(program, &found)?;
    if based && let Some(libc) = in_base.find("libc.so.6", program, Some(tree))? {
        let name = libc.strip_prefix(tree.root()).unwrap_or(&libc).to_owned();
        folder = name.parent().map(|folder| Path::new("/").join(folder));
    }
    // The loader's own folders differ from system to system; its C library lies in one of them for sure.
    let folder = folder.ok_or_else(|| lacking("libc.so.6"))?;
    copies.extend(missing.into_iter().map(|(path, name)| (path, folder.join(name).to_string_lossy().into_owned())));
    for (from, to) in copies {
        if tree.inside(Path::new(&to))?.exists() {
            return Err(RootfsError::JavaScript(format!(
                "the base has a {to} that belongs to another C library than Deno's: take another base"
            )));
        }
        tree.copy(&from, &to, 0o755)?;
    }
    Ok(())
}

fn lacking(name: &str) -> RootfsError {
    RootfsError::JavaScript(format!(
        "Deno needs {name}, which neither the base nor this machine has: build on a machine with the GNU C library, take a \
         base that has it (--base)"
    ))
}

fn host_loader(loader: &str) -> Result<PathBuf, RootfsError> {
    Path::new(loader).canonicalize().map_err(|_| lacking(loader))
}

/// Whether every version of a symbol that something wants is there.
fn check_versions(program: &Linked, found: &BTreeMap<String, Linked>) -> Result<(), RootfsError> {
    for linked in std::iter::once(program).chain(found.values()) {
        for (library, versions) in &linked.wants {
            let has: BTreeSet<_> = found.get(library).map(|library| library.has.clone()).unwrap_or_default();
            if let Some(version) = versions.iter().find(|version| !has.contains(*version)) {
                return Err(RootfsError::JavaScript(format!(
                    "Deno needs {library} with {version}, and that of the base is older: take a newer base, or an older \
                     Deno (--deno)"
                )));
            }
        }
    }
    Ok(())
}

/// Where libraries are looked for: the machine that builds, or the base.
struct Place {
    root: PathBuf,
    folders: Vec<PathBuf>,
}

impl Place {
    fn of(root: &Path, tree: Option<&Tree>) -> Result<Self, RootfsError> {
        let mut folders: Vec<_> = FOLDERS.iter().map(PathBuf::from).collect();
        settings(root, Path::new(SETTINGS), tree, INCLUDED, &mut folders)?;
        Ok(Self { root: root.to_owned(), folders })
    }

    fn find(&self, name: &str, program: &Linked, tree: Option<&Tree>) -> Result<Option<PathBuf>, RootfsError> {
        // A name with a slash is a path; no library of Deno's is.
        if name.contains('/') {
            return Ok(None);
        }
        for folder in &self.folders {
            let path = at(&self.root, &folder.join(name), tree)?;
            let fits =
                path.is_file() && Linked::read(&path).is_ok_and(|library| library.architecture == program.architecture);
            if fits {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

fn at(root: &Path, name: &Path, tree: Option<&Tree>) -> Result<PathBuf, RootfsError> {
    match tree {
        Some(tree) => tree.inside(name),
        None => Ok(root.join(name.strip_prefix("/").unwrap_or(name))),
    }
}

/// Reads `ld.so.conf`: a folder a line, and files that are included, `*` standing for any names.
fn settings(
    root: &Path,
    name: &Path,
    tree: Option<&Tree>,
    deep: u32,
    folders: &mut Vec<PathBuf>,
) -> Result<(), RootfsError> {
    let path = at(root, name, tree)?;
    let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(included) = line.strip_prefix("include ") else {
            if line.starts_with('/') {
                folders.push(PathBuf::from(line.trim_start_matches('/')));
            }
            continue;
        };
        let included = Path::new("etc").join(included.trim());
        let Some(deep) = deep.checked_sub(1) else { continue };
        let pattern = included.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((start, end)) = pattern.split_once('*') else {
            settings(root, &included, tree, deep, folders)?;
            continue;
        };
        let folder = included.parent().unwrap_or(Path::new("etc")).to_owned();
        let listed = at(root, &folder, tree)?;
        let mut names = Vec::new();
        for entry in fs::read_dir(&listed).into_iter().flatten() {
            names.push(entry.map_err(file("cannot read", &listed))?.file_name());
        }
        names.sort();
        for name in names {
            let text = name.to_string_lossy();
            if text.starts_with(start) && text.ends_with(end) {
                settings(root, &folder.join(&name), tree, deep, folders)?;
            }
        }
    }
    Ok(())
}
