//! Programs: there, executable, and of a version that will do.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::wanted::executable;
use crate::{Finding, Group, Machines, Monitor, Piece, Program, Remedy, Wanted};

/// Oldest Firecracker that is driven.
const OLDEST_FIRECRACKER: (u64, u64) = (1, 7);

/// Deno's oldest version that will do: earlier ones take no types out of TypeScript, and need more memory.
const OLDEST_DENO: (u64, u64) = (2, 9);

/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most that is read of what it says, bytes.
const MOST: u64 = 16 << 10;

pub(super) fn monitor(monitor: &Monitor) -> Vec<Finding> {
    match monitor {
        Monitor::Firecracker { firecracker, jailer, jailed, .. } => {
            let remedy = Remedy::Download(Piece::Firecracker);
            let (first, version) = versioned(firecracker, "Firecracker VM monitor", |it| fits(it, OLDEST_FIRECRACKER));
            let same = |other: &str| match &version {
                Some(version) if version != other => Err(format!("of another release than firecracker, {version}")),
                _ => fits(other, OLDEST_FIRECRACKER),
            };
            let (second, _) = versioned(jailer, "Firecracker's jailer", same);
            let mut found = vec![first.remedied_by(remedy), second.needed(*jailed).remedied_by(remedy)];
            if *jailed && !rustix::process::geteuid().is_root() {
                let what = "root, for Firecracker's jailer: this user is not";
                let mend =
                    "run the node, and this check, as root; or set no_jailer, and machines run as the node's user";
                found.push(Finding::wrong(Group::Binaries, "root", what, mend));
            }
            found
        }
        Monitor::Qemu { qemu } => {
            let (finding, _) = versioned(qemu, "QEMU", |_| Ok(()));
            vec![with_package(finding, "qemu-system-x86")]
        }
    }
}

/// The agent of a node without a sandbox, of this release.
pub(super) fn agent(agent: &Program) -> Finding {
    let mend = "it comes with nex and lies beside it: copy it there, or set agent_path";
    present(agent, "nex agent", mend)
}

/// Deno and nats-server: needed by some nodes, useful to others.
pub(super) fn services(wanted: &Wanted) -> Vec<Finding> {
    let mut found = Vec::new();
    // In a sandbox it runs from the root image, into which it has to be put once.
    let in_image = |machines: &Machines| {
        nex_rootfs::contents(&machines.root_image).is_ok_and(|contents| contents.javascript.is_some())
    };
    if wanted.machines.as_ref().is_none_or(|machines| wanted.javascript && !in_image(machines)) {
        let (deno, _) = versioned(&wanted.deno, "Deno, for JavaScript functions", |version| fits(version, OLDEST_DENO));
        found.push(deno.needed(wanted.javascript).remedied_by(Remedy::Download(Piece::Deno)));
    }
    let (nats, _) = versioned(&wanted.nats_server, "NATS server, for a node that brings its own", |_| Ok(()));
    found.push(nats.needed(wanted.own_nats).remedied_by(Remedy::Download(Piece::NatsServer)));
    found
}

pub(super) fn with_package(mut finding: Finding, package: &str) -> Finding {
    if let Some(mend) = &mut finding.mend {
        *mend = format!("Debian and Ubuntu: `apt-get install {package}`; {mend}");
    }
    finding
}

/// Whether a version is no older than that one.
fn fits(version: &str, oldest: (u64, u64)) -> Result<(), String> {
    let mut numbers = version.split('.').map(|part| part.parse::<u64>().unwrap_or_default());
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if (major, minor) >= oldest { Ok(()) } else { Err(format!("too old: {}.{} or later", oldest.0, oldest.1)) }
}

/// Whether a program is there and can be executed.
fn present(program: &Program, what: &str, mend: &str) -> Finding {
    match program.find() {
        None => {
            let finding = Finding::missing(Group::Binaries, program.name, what.to_owned(), mend.to_owned());
            finding.at(program.target())
        }
        Some(path) if !executable(&path) => {
            let detail = format!("{what}: it cannot be executed");
            Finding::wrong(Group::Binaries, program.name, detail, format!("`chmod +x {}`", path.display())).at(path)
        }
        Some(path) => Finding::ok(Group::Binaries, program.name, what.to_owned()).at(path),
    }
}

/// A program that says its version, and whether that will do. Gives the version too.
fn versioned(program: &Program, what: &str, fits: impl Fn(&str) -> Result<(), String>) -> (Finding, Option<String>) {
    let mend = format!("install it, or set {} in the configuration", program.key);
    let mut finding = present(program, what, &mend);
    let Some(path) = finding.path.clone().filter(|_| finding.state == crate::State::Ok) else { return (finding, None) };
    let wrong = |detail: String| Finding::wrong(Group::Binaries, program.name, detail, mend.clone()).at(path.clone());
    let version = match said(&path) {
        Ok(text) => version_in(&text),
        Err(reason) => return (wrong(format!("{what}: {reason}")), None),
    };
    let Some(version) = version else { return (wrong(format!("{what}: it does not say its version")), None) };
    finding.detail = format!("{what} {version}");
    match fits(&version) {
        Ok(()) => (finding, Some(version)),
        Err(reason) => (wrong(format!("{what} {version}: {reason}")), Some(version)),
    }
}

/// What a program says when it is asked for its version.
fn said(path: &Path) -> Result<String, String> {
    let mut child = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    let output = child.stdout.take();
    // Read aside: a program that says nothing and does not end must not hold up the checklist.
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = output.map(|output| output.take(MOST).read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                let _ = child.kill().and_then(|()| child.wait());
                return Err(format!("it does not say its version within {} s", PATIENCE.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    if !status.success() {
        return Err(format!("it does not say its version ({status})"));
    }
    reader.join().map_err(|_| "it does not say its version".to_owned())
}

/// The first word that looks like a version: `Firecracker v1.16.1`, `deno 2.9.7 (…)`, `nats-server: v2.14.3`.
fn version_in(text: &str) -> Option<String> {
    let words = text.lines().take(3).flat_map(str::split_whitespace);
    words.map(|word| word.trim_start_matches('v').trim_end_matches([',', ')'])).find_map(|word| {
        let mut parts = word.split('.');
        let number = |part: Option<&str>| part.is_some_and(|part| part.parse::<u64>().is_ok());
        (number(parts.next()) && number(parts.next())).then(|| word.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    fn program(folder: &Path, name: &'static str, says: &str) -> Program {
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{says}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        there(folder, name)
    }

    fn there(folder: &Path, name: &'static str) -> Program {
        Program {
            name,
            key: "the_key",
            configured: None,
            search: vec![folder.to_owned()],
            install_dir: folder.to_owned(),
        }
    }

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (text, version) in [
            ("Firecracker v1.16.1\n\nSupported snapshot data format versions: v8.0.0\n", Some("1.16.1")),
            ("nats-server: v2.14.3\n", Some("2.14.3")),
            ("deno 2.9.7 (stable, release, x86_64-unknown-linux-gnu)\nv8 14.1", Some("2.9.7")),
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u16)", Some("7.2.22")),
            ("usage: x [-v]", None),
            ("", None),
        ] {
            assert_eq!(version_in(text).as_deref(), version, "{text}");
        }
    }

    #[test]
    fn a_version_is_compared_by_its_numbers() {
        for (version, new_enough) in
            [("2.9.0", true), ("2.10.1", true), ("3.0.0", true), ("2.8.3", false), ("1.46.3", false)]
        {
            assert_eq!(fits(version, OLDEST_DENO).is_ok(), new_enough, "{version}");
        }
        assert_eq!(fits("2.8.3", OLDEST_DENO), Err("too old: 2.9 or later".to_owned()));
    }

    #[test]
    fn firecracker_has_to_be_new_enough_and_of_one_release_with_its_jailer() {
        let folder = tempfile::tempdir().unwrap();
        let pair = |one: &str, other: &str| {
            let monitor = Monitor::Firecracker {
                firecracker: program(folder.path(), "firecracker", &format!("echo Firecracker v{one}")),
                jailer: program(folder.path(), "jailer", &format!("echo Jailer v{other}")),
                jailed: true,
                shared_users: Vec::new(),
            };
            super::monitor(&monitor)
        };
        let states = |found: &[Finding]| found.iter().map(|finding| finding.state).collect::<Vec<_>>();
        assert_eq!(states(&pair("1.7.0", "1.7.0")), [State::Ok, State::Ok]);
        assert_eq!(states(&pair("2.0.1", "2.0.1")), [State::Ok, State::Ok]);
        let old = pair("1.6.0", "1.6.0");
        assert_eq!(states(&old), [State::Wrong, State::Wrong]);
        assert!(old[0].detail.contains("too old"), "{old:?}");
        let mixed = pair("1.16.1", "1.15.0");
        assert_eq!(states(&mixed), [State::Ok, State::Wrong]);
        assert!(mixed[1].detail.contains("another release"), "{mixed:?}");
    }

    #[test]
    fn a_program_that_is_missing_or_useless_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let of = |program: &Program| versioned(program, "a tool", |_| Ok(())).0;
        let missing = of(&there(folder.path(), "gone"));
        assert_eq!((missing.state, missing.path), (State::Missing, Some(folder.path().join("gone"))));
        assert!(missing.mend.unwrap().contains("the_key"));
        let fails = of(&program(folder.path(), "fails", "exit 3"));
        assert!(fails.state == State::Wrong && fails.detail.contains("exit status: 3"), "{fails:?}");
        let plain = program(folder.path(), "plain", "echo 1.2.3");
        let path = folder.path().join("plain");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let finding = of(&plain);
        assert!(finding.state == State::Wrong && finding.mend.unwrap().contains("chmod +x"));
        let named =
            Program { configured: Some(PathBuf::from("/nowhere/x")), ..program(folder.path(), "x", "echo 1.2") };
        assert_eq!(of(&named).path, Some(PathBuf::from("/nowhere/x")), "what is named is looked for nowhere else");
    }
}
