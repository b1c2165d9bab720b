//! Scripts that are run in an image: what they may and what they may not, as root and as an ordinary user.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};

use nex_rootfs::{Base, Contents, Recipe, RootfsError, Script};
use support::{
    Layer, Packing, build, build_on, content, is_root, is_there, layout, owned, recipe, sha256, system, tools,
};

const PROGRAMS: [&str; 9] = ["sh", "bash", "cat", "ls", "id", "chown", "chmod", "mkdir", "readlink"];

fn run(folder: &Path, base: &Path, script: &str, network: bool) -> Result<Contents, RootfsError> {
    let path = folder.join("script");
    fs::write(&path, script).unwrap();
    build(&Recipe {
        base: Some(Base::Folder(base.to_owned())),
        script: Some(Script { path, network }),
        ..recipe(folder, "image")
    })
}

/// Whether scripts can be run here at all: some machines allow users no namespaces.
fn namespaces() -> bool {
    let allowed =
        is_root() || Command::new("unshare").args(["-Ur", "true"]).status().is_ok_and(|status| status.success());
    if !allowed {
        eprintln!("SKIPPED: no script was run: this machine allows users no namespaces");
    }
    allowed && tools()
}

#[test]
fn a_script_is_root_in_the_image_and_alone_there() {
    if !namespaces() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = system(folder.path(), &PROGRAMS);
    let secret = folder.path().join("secret");
    fs::write(&secret, "x").unwrap();
    let script = format!(
        "set -e\n[ $(id -u) = 0 ]\n[ -z \"$SECRET$CARGO_MANIFEST_DIR\" ]\n[ ! -e {secret} ]\n[ \"$PWD\" = / ]\n\
         echo $PATH > /path\n[ $$ = 1 ]\nls /proc > /processes\ncat /dev/null; echo x > /dev/null\n\
         [ -c /dev/urandom ] && [ ! -e /dev/vda ] && [ ! -e /dev/mem ]\n\
         ls /sys > /sys-seen\ncat /proc/net/dev > /network\necho kept > /etc/kept\n! (echo 1 > /proc/sys/kernel/panic) 2> /dev/null\n\
         mkdir /shut; chmod 000 /shut; echo s > /sealed; chmod 4100 /sealed\n\
         grep -q nex /etc/passwd 2> /dev/null || cat /etc/passwd > /accounts\n",
        secret = secret.display()
    );
    let made = run(folder.path(), &base, &script, false).unwrap();
    assert_eq!(made.script.as_deref(), Some(sha256(script.as_bytes()).trim_start_matches("sha256:")));
    let image = folder.path().join("image");
    assert_eq!(content(&image, "/etc/kept"), "kept\n");
    assert_eq!(content(&image, "/path"), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
    assert!(content(&image, "/accounts").contains("nex:x:1000"));
    assert_eq!(content(&image, "/sys-seen"), "");
    let numbers = content(&image, "/processes");
    let processes = numbers.lines().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).count();
    assert!(processes <= 2, "other processes are seen: {numbers}");
    assert!(!content(&image, "/network").contains("eth"), "{}", content(&image, "/network"));
    assert_eq!(owned(&image, "/shut").0, "0000");
    assert_eq!(owned(&image, "/sealed").0, "04100");
    assert!(!is_there(&image, "/.nex-script") && !is_there(&image, "/dev/null"));
    assert_eq!(nex_rootfs::contents(&image).unwrap(), made);
}

#[test]
fn a_script_that_fails_is_told_with_its_status_and_leaves_no_image() {
    if !namespaces() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = system(folder.path(), &PROGRAMS);
    for (script, reason) in [
        ("exit 7", "status 7"),
        ("#!/bin/bash\n[[ a == a ]] && exit 9", "status 9"),
        ("mkdir /shut; echo x > /shut/x; chmod 000 /shut; exit 1", "status 1"),
        ("kill -9 $$; exit 3", "status 3"),
        ("bash -c 'kill -9 $$'", "status 137"),
        ("#!/usr/bin/python3\n", "no /usr/bin/python3 in the base"),
    ] {
        let error = run(folder.path(), &base, script, false).unwrap_err().to_string();
        assert!(error.contains(reason), "{script}: {error}");
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left.len(), 4, "{script}: {left:?}");
    }
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let error = run(folder.path(), &empty, "true", false).unwrap_err().to_string();
    assert!(error.contains("no /bin/sh in the base"), "{error}");
    fs::create_dir(empty.join("bin")).unwrap();
    fs::copy("/bin/sh", empty.join("bin/sh")).unwrap();
    let error = run(folder.path(), &empty, "true", false).unwrap_err().to_string();
    assert!(error.contains("what it needs is not there"), "{error}");
}

#[test]
fn the_builders_network_is_there_only_when_it_is_given() {
    if !namespaces() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = system(folder.path(), &PROGRAMS);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let script = format!("#!/bin/bash\nexec 3<> /dev/tcp/127.0.0.1/{}", listener.local_addr().unwrap().port());
    assert!(run(folder.path(), &base, &script, false).unwrap_err().to_string().contains("status 1"));
    run(folder.path(), &base, &script, true).unwrap();
    assert_eq!(content(&folder.path().join("image"), "/etc/resolv.conf"), "", "the builder's is not kept");
}

/// Run again as the build that is ended.
#[test]
fn what_a_build_left_that_was_ended_goes_with_the_next() {
    if !namespaces() {
        return;
    }
    let script =
        "mkdir /shut; echo x > /shut/x; chmod 000 /shut; echo started; while :; do read -t 60 < /dev/zero; done";
    if let Some(folder) = std::env::var_os("NEX_TEST_ENDED") {
        let folder = Path::new(&folder);
        let _ = run(folder, &folder.join("system"), &format!("#!/bin/bash\n{script}"), false);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = system(folder.path(), &PROGRAMS);
    let left = || {
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().is_some_and(|name| name.starts_with(".nex-rootfs-"))).count()
    };
    let mut build = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_a_build_left_that_was_ended_goes_with_the_next", "--nocapture"])
        .env("NEX_TEST_ENDED", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(build.stderr.take().unwrap()).lines();
    assert!(told.any(|line| line.is_ok_and(|line| line == "started")), "the script has run");
    run(folder.path(), &base, "true", false).unwrap();
    assert_eq!(left(), 1, "another build leaves it alone while it works");
    rustix::process::kill_process(rustix::process::Pid::from_child(&build), rustix::process::Signal::TERM).unwrap();
    build.wait().unwrap();
    assert_eq!(told.count(), 0, "the script ends with it");
    assert_eq!(left(), 1, "nobody was there to remove it");
    run(folder.path(), &base, "true", false).unwrap();
    assert_eq!(left(), 0);
}

/// Those belong to a network, and who is root in the script may be root to what listens there.
#[test]
fn abstract_sockets_of_the_machine_are_not_reached_with_its_network() {
    if !namespaces() {
        return;
    }
    let name = format!("nex-rootfs-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let connect = format!("socket(S, 1, 1, 0) or exit 3; connect(S, pack('S a*', 1, \"\\0{name}\")) or exit 4; exit 0");
    let Ok(reached) = Command::new("perl").args(["-e", &connect]).status() else {
        eprintln!("SKIPPED: no abstract socket was tried: there is no perl");
        return;
    };
    assert_eq!(reached.code(), Some(0), "it is there");
    // SAFETY: asks for the version, and touches no memory.
    let landlock = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) };
    if landlock < 6 {
        eprintln!("SKIPPED: no abstract socket was kept from a script: this kernel cannot (Landlock {landlock})");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = system(folder.path(), &["perl"]);
    let error = run(folder.path(), &base, &format!("#!/bin/perl\n{connect}\n"), true).unwrap_err().to_string();
    assert!(error.contains("status 4"), "{error}");
}

#[test]
fn owners_of_layers_and_of_the_script_are_kept() {
    if !namespaces() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = system(folder.path(), &PROGRAMS);
    let mut layer = Layer::default();
    let mut left = vec![base.clone()];
    while let Some(path) = left.pop() {
        let name = path.strip_prefix(&base).unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            layer = layer.folder(&format!("{name}/"));
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let bytes = fs::read(&path).unwrap();
            layer = layer.entry(tar::EntryType::Regular, &name, "", &bytes, |header| header.set_mode(0o755));
        }
    }
    for name in ["theirs", "changed"] {
        layer = layer.entry(tar::EntryType::Regular, name, "", b"x", |header| header.set_uid(55));
    }
    let base = layout(folder.path(), &[layer], Packing::Gzip);
    let path = folder.path().join("script");
    let give = if is_root() { "chown 66:77 /changed; echo y > /new; chown 88 /new" } else { "chmod 600 /changed" };
    fs::write(&path, give).unwrap();
    let recipe = Recipe {
        base: Some(Base::parse(&base).unwrap()),
        script: Some(Script { path, network: false }),
        ..recipe(folder.path(), "image")
    };
    build(&recipe).unwrap();
    let owner = |name: &str| owned(&recipe.output, name);
    assert_eq!(owner("/theirs"), ("0644".to_owned(), 55, 0));
    if is_root() {
        assert_eq!(owner("/changed"), ("0644".to_owned(), 66, 77));
        assert_eq!(owner("/new"), ("0644".to_owned(), 88, 0));
    } else {
        assert_eq!(owner("/changed"), ("0600".to_owned(), 0, 0));
    }
}

/// Run again as somebody who may nothing: all tests of this file and what containers need.
#[test]
fn an_ordinary_user_builds_the_same_and_runs_scripts() {
    if !is_root() || !namespaces() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("tests");
    // By another program: a file that a fork of these tests still holds open for writing cannot be run.
    assert!(Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&own).status().unwrap().success());
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let work = folder.path().join("work");
    fs::create_dir(&work).unwrap();
    fs::set_permissions(&work, fs::Permissions::from_mode(0o777)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"])
        .arg(&own)
        .args(["--skip", "an_ordinary_user", "--nocapture"])
        .env("TMPDIR", &work)
        .env("NEX_TEST_SAME", folder.path().join("image"))
        .current_dir(&work)
        .output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: nothing was done as an ordinary user: there is no setpriv");
        return;
    };
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !text.contains("SKIPPED"), "{text}");
    assert_eq!(fs::read_dir(&work).unwrap().count(), 1, "nothing but the image that is compared is left");
    // Whoever builds it, it is the same image.
    let ours = tempfile::tempdir().unwrap();
    same(ours.path());
    assert!(fs::read(work.join("same")).unwrap() == fs::read(ours.path().join("image")).unwrap());
}

fn same(folder: &Path) {
    let layer = Layer::default()
        .entry(tar::EntryType::Regular, "bin/su", "", b"x", |header| header.set_mode(0o4111))
        .entry(tar::EntryType::Directory, "shut", "", b"", |header| header.set_mode(0))
        .entry(tar::EntryType::Regular, "shut/mine", "", b"x", |header| {
            header.set_gid(42);
            header.set_mode(0o2040);
        });
    build_on(&layout(folder, &[layer], Packing::Gzip), folder).unwrap();
}

#[test]
fn modes_and_owners_do_not_depend_on_who_builds() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    same(folder.path());
    let image = folder.path().join("image");
    assert_eq!(owned(&image, "/shut/mine"), ("02040".to_owned(), 0, 42));
    assert_eq!(owned(&image, "/bin/su").0, "04111");
    assert_eq!(owned(&image, "/shut").0, "0000");
    if std::env::var_os("NEX_TEST_SAME").is_some() {
        fs::copy(&image, std::env::temp_dir().join("same")).unwrap();
    }
}
