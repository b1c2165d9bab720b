//! Deno in images, with a base and without. With the real Deno, where there is one.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nex_rootfs::{Base, Recipe};
use support::{build, content, debugfs, is_root, is_there, program, recipe, system, tools};

/// Deno as the project's set-up installs it, else on the path.
fn deno() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join(".tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::var_os("NEX_DENO").map(PathBuf::from);
    let found = named.or_else(|| {
        std::iter::once(own)
            .chain(std::env::split_paths(&path))
            .map(|folder| folder.join("deno"))
            .find(|path| path.is_file())
    });
    if found.is_none() {
        eprintln!("SKIPPED: nothing was done with JavaScript: there is no Deno (`cargo xtask setup` installs it)");
    }
    found.filter(|_| tools())
}

/// Runs Deno in what was unpacked of an image.
fn run_in(image: &Path, folder: &Path) -> Option<String> {
    if !is_root() {
        eprintln!("SKIPPED: Deno was not run in the image: only root can change its root");
        return None;
    }
    let root = folder.join("unpacked");
    fs::create_dir(&root).unwrap();
    debugfs(image, &format!("rdump / {}", root.display()));
    let mut command = Command::new("chroot");
    command.arg(&root).args(["/usr/libexec/deno", "eval", "console.log(Deno.version.deno, 6 * 7)"]);
    let output = command.env_clear().env("PATH", "/usr/sbin:/usr/bin").env("DENO_DIR", "/tmp/deno").output().unwrap();
    fs::remove_dir_all(&root).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn javascript_works_without_any_base() {
    let Some(deno) = deno() else { return };
    let folder = tempfile::tempdir().unwrap();
    let recipe = Recipe { deno: Some(deno), ..recipe(folder.path(), "image") };
    let made = build(&recipe).unwrap();
    let version = made.javascript.unwrap();
    if let Some(printed) = run_in(&recipe.output, folder.path()) {
        assert_eq!(printed, format!("{version} 42\n"));
    }
    // What is in it decides its size; one that is too small is told what it takes.
    let small = build(&Recipe { size_mib: Some(64), ..recipe.clone() }).unwrap_err().to_string();
    let needed: u64 = small.split_once(": give ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    build(&Recipe { size_mib: Some(needed), ..recipe }).unwrap();
}

#[test]
fn a_base_with_another_c_library_gets_denos_beside_its_own() {
    let Some(deno) = deno() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    fs::create_dir_all(base.join("lib")).unwrap();
    fs::write(base.join("lib/ld-musl-x86_64.so.1"), "musl").unwrap();
    let recipe = Recipe { base: Some(Base::Folder(base)), deno: Some(deno), ..recipe(folder.path(), "image") };
    build(&recipe).unwrap();
    assert_eq!(content(&recipe.output, "/lib/ld-musl-x86_64.so.1"), "musl");
    run_in(&recipe.output, folder.path());
}

#[test]
fn a_base_with_the_c_library_keeps_its_own_and_gets_what_it_lacks() {
    let Some(deno) = deno() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = system(folder.path(), &["cat"]);
    let recipe = Recipe { base: Some(Base::Folder(base.clone())), deno: Some(deno), ..recipe(folder.path(), "image") };
    build(&recipe).unwrap();
    run_in(&recipe.output, folder.path());
    let libraries: Vec<_> = debugfs(&recipe.output, "ls -p /lib/x86_64-linux-gnu").lines().map(str::to_owned).collect();
    if cfg!(target_arch = "x86_64") && Path::new("/lib/x86_64-linux-gnu/libgcc_s.so.1").exists() {
        assert!(libraries.iter().any(|line| line.contains("libgcc_s.so.1")), "{libraries:?}");
    }
    // A C library that is older than Deno wants, or none of its kind: it is told, and nothing of the base is replaced.
    let libc = walk(&base).into_iter().find(|path| path.ends_with("libc.so.6")).unwrap();
    fs::copy(walk(&base).into_iter().find(|path| path.to_string_lossy().contains("ld-linux")).unwrap(), &libc).unwrap();
    let error = build(&recipe).unwrap_err().to_string();
    assert!(error.contains("older") && error.contains("--without js"), "{error}");
}

#[test]
fn what_is_no_deno_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let with =
        |deno: PathBuf| build(&Recipe { deno: Some(deno), ..recipe(folder.path(), "image") }).unwrap_err().to_string();
    fs::write(folder.path().join("text"), "deno").unwrap();
    assert!(with(folder.path().join("text")).contains("no 64-bit ELF"));
    assert!(with(folder.path().join("nothing")).contains("cannot read"));
    assert!(with("/bin/true".into()).contains("does not say that it is Deno"));
    let other = program(folder.path(), "other");
    let mut bytes = fs::read(&other).unwrap();
    bytes[18] = 183;
    fs::write(&other, bytes).unwrap();
    assert!(with(other).contains("not for amd64"));
}

#[test]
fn without_javascript_there_is_no_deno() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), "image");
    assert_eq!(build(&recipe).unwrap().javascript, None);
    assert!(!is_there(&recipe.output, "/usr/libexec/deno") && !is_there(&recipe.output, "/lib64"));
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() { found.extend(walk(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}
