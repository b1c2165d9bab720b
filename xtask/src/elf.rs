//! Whether a program is linked statically: what nex asks of a service, checked where it is built.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

const PT_INTERP: u32 = 3;

/// An error when the program names an interpreter (the dynamic linker), or is no little-endian 64-bit ELF file.
pub(crate) fn expect_static(path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    match names_interpreter(&bytes) {
        Some(false) => Ok(()),
        Some(true) => bail!("{} is linked dynamically: a service must be linked statically", path.display()),
        None => bail!("{} is no 64-bit ELF program", path.display()),
    }
}

/// Whether one of the program headers is PT_INTERP; `None` when the headers make no sense.
fn names_interpreter(elf: &[u8]) -> Option<bool> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(field(elf, 32)?)).ok()?;
    let size = usize::from(u16::from_le_bytes(field(elf, 54)?));
    let count = usize::from(u16::from_le_bytes(field(elf, 56)?));
    for index in 0..count {
        let header = table.checked_add(index.checked_mul(size)?)?;
        if u32::from_le_bytes(field(elf, header)?) == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_is_linked_dynamically() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(names_interpreter(&own), Some(true));
    }

    #[test]
    fn what_is_no_program_is_told_apart() {
        assert_eq!(names_interpreter(b"#!/bin/sh\n"), None);
        assert_eq!(names_interpreter(b"\x7fELF\x02\x01 cut off"), None);
    }
}
