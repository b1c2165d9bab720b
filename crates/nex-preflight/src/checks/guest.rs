//! What guests boot: a kernel of the right kind, its initramfs, and a root image whose agent speaks this release's link.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use nex_protocol::control::ping::go_arch;
use nex_protocol::link;
use nex_rootfs::{Contents, RootfsError};

use super::programs::with_package;
use crate::{Finding, Group, Machines, Monitor, Piece, Remedy};

/// What is looked at of a kernel, bytes.
const HEAD: u64 = 1024;

/// Machine of an ELF file: x86-64.
const X86_64: u8 = 62;

pub(super) fn files(machines: &Machines, javascript: bool) -> Vec<Finding> {
    let firecracker = matches!(machines.monitor, Monitor::Firecracker { .. });
    let mut found = vec![kernel(&machines.kernel, firecracker).remedied_by(Remedy::Download(Piece::Kernel))];
    if let Some(initrd) = &machines.initrd {
        let mend = "`nex rootfs initramfs /lib/modules/VERSION` makes one of a kernel's modules; a kernel made for guests needs \
                    none (leave initrd_filepath out)";
        found.push(readable(initrd, "initrd", "the kernel's initramfs", mend));
    }
    let mut image = image(&machines.root_image, javascript);
    if machines.guest_programs.is_some() {
        image = image.remedied_by(Remedy::BuildImage);
    } else if let Some(mend) = &mut image.mend {
        mend.push_str("; preflight would, if this release's guest/nex-agent and guest/nex-init lay beside nex");
    }
    found.push(image);
    found
}

/// The tools that root images are made and read with.
pub(super) fn tools() -> Vec<Finding> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    // Where root's programs are not on the path.
    let folders: Vec<_> = std::env::split_paths(&places).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    let tool = |name: &'static str| {
        let what = "makes and reads root images";
        match folders.iter().map(|folder| folder.join(name)).find(|path| crate::wanted::executable(path)) {
            Some(path) => Finding::ok(Group::Binaries, name, what).at(path),
            None => with_package(Finding::missing(Group::Binaries, name, what, "or put it on the path"), "e2fsprogs"),
        }
    };
    vec![tool("mke2fs"), tool("debugfs")]
}

fn readable(path: &Path, name: &'static str, what: &str, mend: &str) -> Finding {
    match File::open(path) {
        Ok(_) => Finding::ok(Group::Files, name, what),
        Err(error) if error.kind() == ErrorKind::NotFound => Finding::missing(Group::Files, name, what, mend),
        Err(error) => Finding::wrong(Group::Files, name, format!("{what}: it cannot be read: {error}"), mend),
    }
    .at(path)
}

/// What a file is, as far as kernels go.
#[derive(Debug, PartialEq, Eq)]
enum Kernel {
    /// An ELF file for this machine number.
    Elf(u8),
    /// A compressed one of x86.
    Compressed,
    /// An image of 64-bit ARM.
    Arm,
    Other,
}

fn kind(head: &[u8]) -> Kernel {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    if at(0, b"\x7fELF") {
        return Kernel::Elf(head.get(18).copied().unwrap_or_default());
    }
    match () {
        () if at(0x202, b"HdrS") => Kernel::Compressed,
        () if at(0x38, b"ARM\x64") => Kernel::Arm,
        () => Kernel::Other,
    }
}

fn kernel(path: &Path, firecracker: bool) -> Finding {
    let (name, what) = ("kernel", "kernel for guests");
    let mend = "set kernel_filepath to a kernel made for guests";
    let finding = readable(path, name, what, mend);
    if finding.state != crate::State::Ok {
        return finding;
    }
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    let fault = match (read, kind(&head)) {
        (Err(error), _) => format!("it cannot be read: {error}"),
        (_, Kernel::Elf(X86_64)) if cfg!(target_arch = "x86_64") => return finding,
        (_, Kernel::Compressed) if cfg!(target_arch = "x86_64") && !firecracker => return finding,
        (_, Kernel::Compressed) if cfg!(target_arch = "x86_64") => {
            "it is compressed (vmlinuz, bzImage), and Firecracker takes only the ELF file (vmlinux)".to_owned()
        }
        (_, Kernel::Arm) if cfg!(target_arch = "aarch64") => return finding,
        (_, Kernel::Other) => "it is no kernel".to_owned(),
        _ => format!("it is one for another architecture than {}", std::env::consts::ARCH),
    };
    Finding::wrong(Group::Files, name, format!("{what}: {fault}"), mend).at(path)
}

fn image(path: &Path, javascript: bool) -> Finding {
    let (name, what) = ("root_image", "root image");
    let mend = format!("`nex rootfs -o {}` makes one", path.display());
    let finding = readable(path, name, what, &mend);
    if finding.state != crate::State::Ok {
        return finding;
    }
    let wrong =
        |fault: &str, mend: String| Finding::wrong(Group::Files, name, format!("{what}: {fault}"), mend).at(path);
    match nex_rootfs::contents(path) {
        Ok(contents) => match fault(&contents, javascript) {
            None => {
                let javascript = if contents.javascript.is_some() { " and JavaScript" } else { "" };
                let detail = format!("{what}, agent {}{javascript}", contents.nex);
                Finding { detail, ..finding }
            }
            Some(Fault::NoJavaScript) => wrong(
                "it has no Deno, and workload_types has JavaScript functions",
                format!("`nex rootfs -o {}` makes one with it; or name other workload_types", path.display()),
            ),
            Some(Fault::Other(fault)) => wrong(&fault, mend),
        },
        Err(RootfsError::Tool(tool)) => wrong(&format!("it cannot be looked into without {tool}"), mend),
        Err(error) => wrong(&error.to_string(), mend),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    NoJavaScript,
    Other(String),
}

fn fault(contents: &Contents, javascript: bool) -> Option<Fault> {
    if contents.arch != go_arch() {
        return Some(Fault::Other(format!("it is for {}, and this machine is {}", contents.arch, go_arch())));
    }
    if contents.link != link::VERSION {
        let (theirs, ours) = (contents.link, link::VERSION);
        let text =
            format!("its agent, of nex {}, speaks version {theirs} of the link and this nex {ours}", contents.nex);
        return Some(Fault::Other(text));
    }
    (javascript && contents.javascript.is_none()).then_some(Fault::NoJavaScript)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;
    use nex_rootfs::{AgentRecord, InitKind};

    fn contents() -> Contents {
        Contents {
            nex: "0.1.0".to_owned(),
            agent: AgentRecord { version: None, sha256: String::new() },
            link: link::VERSION,
            arch: go_arch().to_owned(),
            javascript: None,
            init: InitKind::NexInit,
            base: None,
            script: None,
        }
    }

    #[test]
    fn an_image_of_another_link_or_architecture_or_without_javascript_is_told() {
        assert_eq!(fault(&contents(), false), None);
        assert_eq!(fault(&contents(), true), Some(Fault::NoJavaScript));
        assert_eq!(fault(&Contents { javascript: Some("2.9.8".to_owned()), ..contents() }, true), None);
        let other = |contents: Contents| match fault(&contents, false) {
            Some(Fault::Other(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(other(Contents { link: link::VERSION - 1, ..contents() }).contains("version"));
        assert!(other(Contents { arch: "s390x".to_owned(), ..contents() }).contains("s390x"));
    }

    #[test]
    fn kernels_are_told_from_what_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, head: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, head).unwrap();
            path
        };
        let mut elf = vec![0u8; 64];
        elf[..4].copy_from_slice(b"\x7fELF");
        elf[18] = X86_64;
        let mut compressed = vec![0u8; 1024];
        compressed[0x202..0x206].copy_from_slice(b"HdrS");
        let mut arm = vec![0u8; 64];
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert_eq!(kind(&elf), Kernel::Elf(X86_64));
        assert_eq!(kind(&compressed), Kernel::Compressed);
        assert_eq!(kind(&arm), Kernel::Arm);
        assert_eq!(kernel(&folder.path().join("none"), true).state, State::Missing);
        assert!(kernel(&file("text", b"not a kernel"), true).detail.contains("no kernel"));
        assert!(kernel(&file("empty", b""), true).detail.contains("no kernel"));
        if cfg!(target_arch = "x86_64") {
            assert_eq!(kernel(&file("elf", &elf), true).state, State::Ok);
            assert!(kernel(&file("bz", &compressed), true).detail.contains("compressed"));
            assert_eq!(kernel(&file("bz", &compressed), false).state, State::Ok);
            assert!(kernel(&file("arm", &arm), true).detail.contains("another architecture"));
        }
    }

    #[test]
    fn what_is_no_image_of_ours_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rootfs.ext4");
        std::fs::write(&path, vec![0u8; 4096]).unwrap();
        let finding = image(&path, false);
        assert_eq!(finding.state, State::Wrong, "{finding:?}");
        assert_eq!(image(&folder.path().join("none"), false).state, State::Missing);
    }
}
