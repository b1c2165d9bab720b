//! What a file is: guessed from its first bytes, else from its name.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nex_protocol::WorkloadType;

const ELF: &[u8] = b"\x7fELF";
const WASM: &[u8] = b"\0asm";

/// A workload type, and the architecture a native program was built for, in Go's spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ArtifactKind {
    pub(crate) workload_type: WorkloadType,
    pub(crate) arch: Option<&'static str>,
}

impl ArtifactKind {
    /// Examines a file. A `wanted` type wins over the guess, but not over content that plainly is something else.
    pub(crate) fn of_file(path: &Path, wanted: Option<WorkloadType>) -> Result<Self> {
        let mut head = Vec::with_capacity(64);
        let metadata = std::fs::metadata(path).with_context(|| path.display().to_string())?;
        if !metadata.is_file() {
            bail!("{}: this is no file", path.display());
        }
        File::open(path)
            .and_then(|file| file.take(64).read_to_end(&mut head))
            .with_context(|| path.display().to_string())?;
        if head.is_empty() {
            bail!("{}: the file is empty", path.display());
        }
        Self::of_content(&head, path, wanted)
    }

    fn of_content(head: &[u8], path: &Path, wanted: Option<WorkloadType>) -> Result<Self> {
        let found = if head.starts_with(ELF) {
            Some(WorkloadType::Native)
        } else if head.starts_with(WASM) {
            Some(WorkloadType::Wasm)
        } else {
            None
        };
        let named = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
        let script = matches!(named.as_deref(), Some("js" | "mjs" | "cjs" | "ts" | "mts"));
        let workload_type = match (wanted, found) {
            (Some(wanted), Some(found)) if wanted != found => {
                bail!("{}: --type {wanted} was given, but the content is that of type {found}", path.display())
            }
            (Some(WorkloadType::Native), None) => {
                bail!("{}: not an ELF program, so no node can run it as a native service", path.display())
            }
            // Wasm may come as text; the node says what is wrong with it.
            (Some(wanted), _) => wanted,
            (None, Some(found)) => found,
            (None, None) if script => WorkloadType::V8,
            (None, None) => bail!(
                "{}: neither an ELF program nor a WebAssembly module, and its name does not end in .js, .mjs, .cjs \
                 or .ts: say what it is with --type native, v8 or wasm",
                path.display()
            ),
        };
        let arch = if workload_type == WorkloadType::Native { elf_arch(head) } else { None };
        Ok(Self { workload_type, arch })
    }
}

/// The machine an ELF program was built for, if it is one that nodes run on.
fn elf_arch(head: &[u8]) -> Option<&'static str> {
    let machine: [u8; 2] = head.get(18..20)?.try_into().ok()?;
    let big_endian = head.get(5) == Some(&2);
    match if big_endian { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) } {
        3 => Some("386"),
        40 => Some("arm"),
        62 => Some("amd64"),
        183 => Some("arm64"),
        243 => Some("riscv64"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(head: &[u8], name: &str, wanted: Option<WorkloadType>) -> Result<ArtifactKind> {
        ArtifactKind::of_content(head, Path::new(name), wanted)
    }

    fn elf(machine: u8) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18] = machine;
        head
    }

    #[test]
    fn content_comes_before_the_name() {
        let native = guess(&elf(62), "fn.js", None).unwrap();
        assert_eq!(native, ArtifactKind { workload_type: WorkloadType::Native, arch: Some("amd64") });
        assert_eq!(guess(&elf(183), "x", None).unwrap().arch, Some("arm64"));
        assert_eq!(guess(b"\0asm\x01", "x.bin", None).unwrap().workload_type, WorkloadType::Wasm);
        for name in ["a.js", "a.mjs", "a.cjs", "a.ts", "A.JS"] {
            assert_eq!(guess(b"(s, p) => p", name, None).unwrap().workload_type, WorkloadType::V8, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_guessed_asks_for_the_flag() {
        assert!(guess(b"hello", "x.txt", None).unwrap_err().to_string().contains("--type"));
        assert_eq!(guess(b"hello", "x.txt", Some(WorkloadType::V8)).unwrap().workload_type, WorkloadType::V8);
    }

    #[test]
    fn a_flag_that_contradicts_the_content_is_an_error() {
        assert!(guess(&elf(62), "x", Some(WorkloadType::V8)).is_err());
        assert!(guess(b"#!/bin/sh", "x", Some(WorkloadType::Native)).unwrap_err().to_string().contains("ELF"));
    }

    #[test]
    fn missing_empty_and_special_files_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ArtifactKind::of_file(dir.path(), None).is_err());
        assert!(ArtifactKind::of_file(&dir.path().join("none"), None).is_err());
        let empty = dir.path().join("e.js");
        std::fs::write(&empty, "").unwrap();
        assert!(ArtifactKind::of_file(&empty, None).unwrap_err().to_string().ends_with("the file is empty"));
    }
}
