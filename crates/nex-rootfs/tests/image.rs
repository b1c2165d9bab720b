//! Images: what is in them, that they are always the same, and what is refused.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nex_rootfs::{Recipe, RootfsError, build, contents};

/// The smallest program there is: an ELF header for x86-64 and no more.
fn program(folder: &Path, name: &str) -> PathBuf {
    let mut header = vec![0u8; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header[16] = 2;
    header[18] = 62;
    header[20] = 1;
    header[52] = 64;
    header[54] = 56;
    let path = folder.join(name);
    std::fs::write(&path, header).unwrap();
    path
}

fn recipe(folder: &Path, output: &str) -> Recipe {
    Recipe {
        base: None,
        agent: program(folder, "agent"),
        init: program(folder, "init"),
        deno: None,
        size_mib: None,
        output: folder.join(output),
    }
}

/// Whether the tools are there. Where they are not, a test tells so and ends.
fn tools() -> bool {
    let found = Command::new("/usr/sbin/mke2fs").arg("-V").output().is_ok();
    if !found {
        eprintln!("SKIPPED: no image was made: there is no mke2fs");
    }
    found
}

fn debugfs(image: &Path, command: &str) -> String {
    let output = Command::new("/usr/sbin/debugfs").arg("-R").arg(command).arg(image).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_image_has_agent_first_process_and_user_and_says_what_it_is() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    std::fs::create_dir_all(base.join("opt/a b")).unwrap();
    std::fs::write(base.join("opt/a b/tool"), "x").unwrap();
    std::fs::set_permissions(base.join("opt/a b/tool"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::symlink("tool", base.join("opt/a b/link")).unwrap();
    let recipe = Recipe { base: Some(base), ..recipe(folder.path(), "image") };
    let made = build(&recipe).unwrap();
    assert_eq!(contents(&recipe.output).unwrap(), made);
    assert_eq!((made.arch.as_str(), made.javascript, made.link), ("amd64", false, nex_protocol::link::VERSION));
    assert!(debugfs(&recipe.output, "cat /etc/passwd").contains("nex:x:1000:1000:"));
    for name in ["/sbin/nex-init", "/usr/libexec/nex-agent", "\"/opt/a b/tool\""] {
        let stat = debugfs(&recipe.output, &format!("stat {name}"));
        assert!(stat.contains("Type: regular") && stat.contains("User:     0   Group:     0"), "{name}: {stat}");
    }
    assert!(debugfs(&recipe.output, "stat \"/opt/a b/link\"").contains("Type: symlink"));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 4, "nothing is left of the work: {left:?}");
}

#[test]
fn the_same_files_make_the_same_image() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (recipe(folder.path(), "first"), recipe(folder.path(), "second"));
    build(&first).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    build(&second).unwrap();
    assert!(std::fs::read(first.output).unwrap() == std::fs::read(second.output).unwrap());
}

#[test]
fn programs_that_could_not_run_and_sizes_that_do_not_do_are_refused() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let good = recipe(folder.path(), "image");
    let dynamic = build(&Recipe { agent: "/bin/sh".into(), ..good.clone() }).unwrap_err();
    assert!(dynamic.to_string().contains("musl"), "{dynamic}");
    std::fs::write(folder.path().join("text"), "#!/bin/sh").unwrap();
    let text = build(&Recipe { init: folder.path().join("text"), ..good.clone() }).unwrap_err();
    assert!(text.to_string().contains("no 64-bit ELF"), "{text}");
    let small = build(&Recipe { size_mib: Some(2), ..good.clone() }).unwrap_err();
    assert!(matches!(small, RootfsError::TooSmall { given: 2, .. }), "{small}");
    assert!(!good.output.exists(), "there is no half of an image");
    let other = contents(&folder.path().join("text")).unwrap_err();
    assert!(other.to_string().contains("nex rootfs") || other.to_string().contains("debugfs"), "{other}");
}

#[test]
fn links_of_the_base_lead_nowhere_on_the_machine_that_builds() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (base, victim) = (folder.path().join("base"), folder.path().join("victim"));
    std::fs::create_dir_all(base.join("usr/libexec")).unwrap();
    std::fs::create_dir_all(victim.join("etc")).unwrap();
    std::fs::write(victim.join("etc/passwd"), "mine").unwrap();
    std::fs::write(victim.join("program"), "mine").unwrap();
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, base.join(name)).unwrap();
    link(&victim.join("etc"), "etc");
    link(Path::new("/usr/sbin"), "sbin");
    link(&victim, "var");
    link(&victim.join("program"), "usr/libexec/nex-agent");
    std::fs::create_dir(base.join("usr/sbin")).unwrap();
    let recipe = Recipe { base: Some(base), ..recipe(folder.path(), "image") };
    build(&recipe).unwrap();
    for name in ["etc/passwd", "program"] {
        assert_eq!(std::fs::read_to_string(victim.join(name)).unwrap(), "mine", "{name}");
    }
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 2, "nothing was put there");
    assert!(debugfs(&recipe.output, "stat /usr/sbin/nex-init").contains("Type: regular"));
}

#[test]
fn names_that_a_script_would_take_for_more_and_a_base_around_the_image_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    std::fs::create_dir(&base).unwrap();
    let recipe = recipe(folder.path(), "image");
    let within = Recipe { base: Some(folder.path().to_owned()), ..recipe.clone() };
    assert!(matches!(build(&within).unwrap_err(), RootfsError::Inside { .. }));
    for name in ["a\n!touch pwned #", "a\"b", "a\\b"] {
        std::fs::write(base.join(name), "").unwrap();
        let refused = build(&Recipe { base: Some(base.clone()), ..recipe.clone() }).unwrap_err();
        assert!(matches!(refused, RootfsError::Name { .. }), "{refused}");
        std::fs::remove_file(base.join(name)).unwrap();
    }
}
