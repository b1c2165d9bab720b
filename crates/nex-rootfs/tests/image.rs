//! Images: what is in them, that they are always the same, and what is refused.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nex_rootfs::{Base, InitKind, Recipe, RootfsError, contents};
use support::{build, content, debugfs, recipe, tools};

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
    let recipe = Recipe { base: Some(Base::Folder(base)), ..recipe(folder.path(), "image") };
    let made = build(&recipe).unwrap();
    assert_eq!(contents(&recipe.output).unwrap(), made);
    assert_eq!((made.arch.as_str(), made.javascript.as_ref(), made.link), ("amd64", None, nex_protocol::link::VERSION));
    assert_eq!((made.init, made.script.as_ref(), made.agent.version.as_ref()), (InitKind::NexInit, None, None));
    assert!(
        made.base.as_ref().is_some_and(|base| base.reference == "folder" && base.digest.starts_with("tree:sha256:"))
    );
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
    assert!(small.to_string().contains("give 16 or more"), "{small}");
    let text = folder.path().join("text");
    let plain = folder.path().join("plain");
    std::process::Command::new("/usr/sbin/mke2fs").args(["-q", "-t", "ext4"]).arg(&plain).arg("16M").status().unwrap();
    for other in [&text, &plain] {
        let told = contents(other).unwrap_err().to_string();
        assert!(told.contains("no image that `nex rootfs` made") && told.contains("etc/nex-image.json"), "{told}");
    }
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
    let recipe = Recipe { base: Some(Base::Folder(base)), ..recipe(folder.path(), "image") };
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
    let within = Recipe { base: Some(Base::Folder(folder.path().to_owned())), ..recipe.clone() };
    assert!(matches!(build(&within).unwrap_err(), RootfsError::Inside { .. }));
    for name in ["a\n!touch pwned #", "a\tb", "\u{7f}"] {
        std::fs::write(base.join(name), "").unwrap();
        let refused = build(&Recipe { base: Some(Base::Folder(base.clone())), ..recipe.clone() }).unwrap_err();
        assert!(matches!(refused, RootfsError::Name { .. }), "{refused}");
        std::fs::remove_file(base.join(name)).unwrap();
    }
    if !tools() {
        return;
    }
    for name in ["a\" uid 5 \"b", "a\\b", "!x", "#x", " y ", "<2>", "\u{fc}"] {
        std::fs::write(base.join(name), "x").unwrap();
    }
    build(&Recipe { base: Some(Base::Folder(base)), ..recipe.clone() }).unwrap();
    assert_eq!(content(&recipe.output, "/a\"\" uid 5 \"\"b"), "x");
    assert!(debugfs(&recipe.output, "stat \"/ y \"").contains("User:     0"));
}
