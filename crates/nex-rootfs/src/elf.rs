//! What a dynamically linked program needs, as it says itself: its loader, its libraries, and the versions of their symbols.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Architecture, Endianness, Object, ObjectSection, elf};

use crate::RootfsError;
use crate::error::file;

/// A program or a library.
#[derive(Debug)]
pub(crate) struct Linked {
    pub(crate) architecture: Architecture,
    /// The loader, for a program that is linked dynamically.
    pub(crate) interpreter: Option<String>,
    /// Names of libraries.
    pub(crate) needed: Vec<String>,
    /// Versions of symbols that it wants, by library.
    pub(crate) wants: BTreeMap<String, BTreeSet<String>>,
    /// Versions of symbols that it has.
    pub(crate) has: BTreeSet<String>,
}

impl Linked {
    /// Reads one.
    pub(crate) fn read(path: &Path) -> Result<Self, RootfsError> {
        let bytes = fs::read(path).map_err(file("cannot read", path))?;
        Self::parse(&bytes).ok_or_else(|| RootfsError::Program {
            path: path.to_owned(),
            reason: "it is no 64-bit ELF program or library".to_owned(),
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let program = ElfFile64::<Endianness>::parse(bytes).ok()?;
        let endian = program.endian();
        let mut interpreter = None;
        for header in program.elf_header().program_headers(endian, bytes).ok()? {
            if let Some(name) = header.interpreter(endian, bytes).ok().flatten() {
                interpreter = Some(String::from_utf8(name.to_vec()).ok()?);
            }
        }
        let strings = program.section_by_name(".dynstr").and_then(|section| section.data().ok()).unwrap_or_default();
        let mut needed = Vec::new();
        let dynamic = program.section_by_name(".dynamic").and_then(|section| section.data().ok()).unwrap_or_default();
        for entry in dynamic.chunks_exact(16) {
            let (tag, value) = (number(entry, 0, 8)?, number(entry, 8, 8)?);
            if tag == 0 {
                break;
            }
            if tag == elf::DT_NEEDED.0.unsigned_abs() {
                needed.push(text(strings, value)?);
            }
        }
        let (mut wants, mut has) = (BTreeMap::new(), BTreeSet::new());
        if let Some(section) = program.section_by_name(".gnu.version_r") {
            wanted(section.data().ok()?, strings, &mut wants)?;
        }
        if let Some(section) = program.section_by_name(".gnu.version_d") {
            defined(section.data().ok()?, strings, &mut has)?;
        }
        Some(Self { architecture: program.architecture(), interpreter, needed, wants, has })
    }
}

/// A number of a file in the order of the machines that images are for.
fn number(bytes: &[u8], at: u64, length: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let part = bytes.get(at..at.checked_add(length)?)?;
    Some(part.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn text(strings: &[u8], at: u64) -> Option<String> {
    let rest = strings.get(usize::try_from(at).ok()?..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    String::from_utf8(rest.get(..end)?.to_vec()).ok()
}

/// Verneed: per library a list of versions, each record with the distance to the next.
fn wanted(bytes: &[u8], strings: &[u8], wants: &mut BTreeMap<String, BTreeSet<String>>) -> Option<()> {
    let mut at = 0;
    loop {
        let library = text(strings, number(bytes, at + 4, 4)?)?;
        let mut version = at + number(bytes, at + 8, 4)?;
        let versions = wants.entry(library).or_default();
        for _ in 0..number(bytes, at + 2, 2)? {
            // A weak version is wanted by nothing that must work.
            if number(bytes, version + 4, 2)? & u64::from(elf::VER_FLG_WEAK.0) == 0 {
                versions.insert(text(strings, number(bytes, version + 8, 4)?)?);
            }
            version += number(bytes, version + 12, 4)?;
        }
        match number(bytes, at + 12, 4)? {
            0 => return Some(()),
            next => at += next,
        }
    }
}

/// Verdef: a list of versions, the first name of each being its own.
fn defined(bytes: &[u8], strings: &[u8], has: &mut BTreeSet<String>) -> Option<()> {
    let mut at = 0;
    loop {
        let name = at + number(bytes, at + 12, 4)?;
        has.insert(text(strings, number(bytes, name, 4)?)?);
        match number(bytes, at + 16, 4)? {
            0 => return Some(()),
            next => at += next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_what_it_needs() {
        let own = Linked::read(&std::env::current_exe().unwrap()).unwrap();
        assert!(own.interpreter.is_some_and(|name| name.starts_with('/')));
        assert!(own.needed.iter().any(|name| name.starts_with("libc.")), "{:?}", own.needed);
    }

    #[test]
    fn what_is_no_program_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        fs::write(&path, "#!/bin/sh").unwrap();
        assert!(Linked::read(&path).unwrap_err().to_string().contains("no 64-bit ELF"));
    }
}
