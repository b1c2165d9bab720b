//! Archives, images and descriptions: what is installed, together or not at all, and what is left to people.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]
#![allow(dead_code, unreachable_pub, reason = "the support is that of two tests")]

mod support;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nex_preflight::{GuestPrograms, Manifest, Origin, Piece, Plan, State, Step, examine};
use support::{Machine, kernel, manifest, sha256};

const MEMBERS: &str =
    r#"{"kind":"tar-gz","members":{"firecracker":"release/firecracker-v9","jailer":"release/jailer-v9"}}"#;

fn script(says: &str) -> Vec<u8> {
    format!("#!/bin/sh\necho {says}\n").into_bytes()
}

fn tar_gz(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

/// A folder with a download in it, and a manifest that means it.
fn offered(piece: &str, holds: &str, archive: &[u8]) -> (tempfile::TempDir, Manifest) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("download"), archive).unwrap();
    let manifest = manifest(piece, "http://127.0.0.1:9/download", &sha256(archive), archive.len(), holds);
    (folder, manifest)
}

fn from(folder: &tempfile::TempDir) -> Origin {
    Origin::Folder(folder.path().to_owned())
}

#[test]
fn what_is_in_an_archive_is_installed_with_modes_and_the_rest_of_it_is_not() {
    let archive = tar_gz(&[
        ("release/README", b"text".to_vec()),
        ("./release/firecracker-v9", script("Firecracker v9.9.0")),
        ("release/jailer-v9", script("Jailer v9.9.0")),
        ("release/seccompiler", script("x")),
    ]);
    let (folder, manifest) = offered("firecracker", MEMBERS, &archive);
    let machine = Machine::without_firecracker();
    assert_eq!(machine.finding(&manifest, "firecracker").state, State::Missing);
    let made = machine.mend(&manifest, from(&folder)).unwrap();
    assert_eq!(made, [machine.path("bin/firecracker"), machine.path("bin/jailer")]);
    assert_eq!(machine.names(), ["firecracker", "jailer", "vmlinux"]);
    for name in ["firecracker", "jailer"] {
        let mode = machine.path("bin").join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{name}");
        let finding = machine.finding(&manifest, name);
        assert!(finding.state == State::Ok && finding.detail.contains("9.9.0"), "{finding:?}");
    }
}

#[test]
fn an_archive_without_one_of_the_files_installs_none() {
    for archive in [
        tar_gz(&[("release/firecracker-v9", script("Firecracker v9.9.0"))]),
        tar_gz(&[]),
        b"no archive at all".to_vec(),
        tar_gz(&[("release/firecracker-v9", kernel()), ("release/jailer-v9", kernel())])[..5000].to_vec(),
    ] {
        let (folder, manifest) = offered("firecracker", MEMBERS, &archive);
        let machine = Machine::without_firecracker();
        let error = machine.mend(&manifest, from(&folder)).unwrap_err();
        assert!(error.contains("download cannot be unpacked"), "{error}");
        assert_eq!(machine.names(), ["vmlinux"]);
    }
}

#[test]
fn a_link_in_an_archive_is_no_file() {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    archive.append_link(&mut header, "release/firecracker-v9", "/etc/passwd").unwrap();
    let archive = archive.into_inner().unwrap().finish().unwrap();
    let (folder, manifest) = offered("firecracker", MEMBERS, &archive);
    let machine = Machine::without_firecracker();
    assert!(machine.mend(&manifest, from(&folder)).unwrap_err().contains("is no file"));
    assert_eq!(machine.names(), ["vmlinux"]);
}

#[test]
fn zip_archives_are_read_and_what_is_not_needed_comes_only_when_it_is_asked_for() {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("deno", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(&script("deno 2.9.7")).unwrap();
    let archive = zip.finish().unwrap().into_inner();
    let (folder, manifest) = offered("deno", r#"{"kind":"zip","members":{"deno":"deno"}}"#, &archive);
    let mut machine = Machine::without_firecracker();
    machine.wanted.machines = None;
    let findings = examine(&machine.wanted, &manifest);
    let plan = |also: &[Piece]| Plan::new(&machine.wanted, &manifest, &findings, also, false);
    assert!(plan(&[]).is_empty());
    assert_eq!(plan(&[Piece::Deno]).steps.len(), 1);
    machine.wanted.javascript = true;
    machine.mend(&manifest, from(&folder)).unwrap();
    assert!(machine.finding(&manifest, "deno").detail.contains("2.9.7"));
}

#[test]
fn what_has_no_digest_is_not_downloaded_and_the_words_say_what_to_do() {
    let arch = std::env::consts::ARCH;
    let manifest = Manifest::parse(&format!(
        r#"{{"pieces":{{"kernel":{{"version":"9","sources":{{"{arch}":
           {{"url":"https://maker.example/vmlinux-9","sha256":null,"bytes":9,"holds":{{"kind":"file"}}}}}}}}}}}}"#
    ))
    .unwrap();
    let machine = Machine::without_a_kernel();
    let finding = machine.finding(&manifest, "kernel");
    assert_eq!((finding.state, finding.remedy), (State::Missing, None));
    let mend = finding.mend.unwrap();
    assert!(mend.contains("https://maker.example/vmlinux-9") && mend.contains("no SHA-256"), "{mend}");
    assert!(machine.plan(&manifest).is_empty());
    let none = Manifest::parse(r#"{"pieces":{}}"#).unwrap();
    assert!(machine.finding(&none, "kernel").mend.unwrap().contains("has no kernel"));
}

#[test]
fn what_is_there_and_wrong_is_replaced_only_when_that_is_said() {
    let content = kernel();
    let (_folder, manifest) = offered("kernel", r#"{"kind":"file"}"#, &content);
    let machine = Machine::without_a_kernel();
    std::fs::write(machine.path("vmlinux"), "somebody's").unwrap();
    let findings = examine(&machine.wanted, &manifest);
    assert!(Plan::new(&machine.wanted, &manifest, &findings, &[], false).is_empty());
    let plan = Plan::new(&machine.wanted, &manifest, &findings, &[], true);
    assert!(matches!(plan.steps.as_slice(), [Step::Download { piece: Piece::Kernel, .. }]), "{plan:?}");
}

#[test]
fn a_folder_that_cannot_be_written_to_is_named_and_is_not_the_downloads_fault() {
    let archive = tar_gz(&[("release/firecracker-v9", script("x")), ("release/jailer-v9", script("x"))]);
    let (folder, manifest) = offered("firecracker", MEMBERS, &archive);
    let machine = Machine::without_firecracker();
    // Something that is no folder stands where the programs are to go.
    std::fs::remove_dir(machine.path("bin")).unwrap();
    std::fs::write(machine.path("bin"), "").unwrap();
    let error = machine.mend(&manifest, from(&folder)).unwrap_err();
    assert!(error.contains(&machine.path("bin").display().to_string()), "{error}");
}

#[test]
fn plugins_and_the_description_of_their_network_are_installed() {
    let archive =
        tar_gz(&[("./ptp", script("ptp")), ("./host-local", script("host-local")), ("./bridge", script("x"))]);
    let holds = r#"{"kind":"tar-gz","members":{"ptp":"ptp","host-local":"host-local"}}"#;
    let (folder, manifest) = offered("cni-plugins", holds, &archive);
    let mut machine = Machine::without_a_kernel();
    let cni = machine.path("cni");
    machine.cni(&cni);
    machine.mend(&manifest, from(&folder)).unwrap();
    for name in ["ptp", "host-local", "conflist"] {
        assert_eq!(machine.finding(&manifest, name).state, State::Ok, "{name}");
    }
    assert!(!cni.join("bridge").exists());
    let tap = machine.finding(&manifest, "tc-redirect-tap");
    assert!(tap.state == State::Missing && tap.mend.unwrap().contains("go install"));
}

#[test]
fn the_root_image_is_built_of_this_releases_programs() {
    if std::process::Command::new("/usr/sbin/mke2fs").arg("-V").output().is_err() {
        eprintln!("SKIPPED: no image was built: there is no mke2fs");
        return;
    }
    let mut machine = Machine::without_a_kernel();
    let guest = machine.path("guest");
    std::fs::create_dir(&guest).unwrap();
    let programs = GuestPrograms { agent: guest.join("nex-agent"), init: guest.join("nex-init") };
    let none = Manifest::parse(r#"{"pieces":{}}"#).unwrap();
    for path in [&programs.agent, &programs.init] {
        std::fs::write(path, "no program").unwrap();
    }
    machine.guest_programs(programs.clone());
    assert!(machine.mend(&none, Origin::Upstream).unwrap_err().contains("root image"));
    assert!(!machine.path("rootfs.ext4").exists());
    for path in [&programs.agent, &programs.init] {
        write_static(path);
    }
    assert_eq!(machine.mend(&none, Origin::Upstream).unwrap(), [machine.path("rootfs.ext4")]);
    let finding = machine.finding(&none, "root_image");
    assert_eq!(finding.state, State::Ok, "{finding:?}");
}

/// The smallest program there is: an ELF header for this machine and no more.
fn write_static(path: &Path) {
    let mut header = vec![0u8; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header[16] = 2;
    header[18] = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    header[20] = 1;
    header[52] = 64;
    header[54] = 56;
    std::fs::write(path, header).unwrap();
}
