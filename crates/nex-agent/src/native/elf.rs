//! Whether a file is a program this machine can run. Reads the headers only, and is total: any bytes give an answer.

use object::Endianness;
use object::elf::{self, FileHeader64};
use object::read::ReadRef;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};

/// Why a file is not to be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotRunnable {
    #[error("not an ELF program")]
    NotElf,
    #[error("a 32-bit program, this node runs 64-bit ones")]
    NotElf64,
    #[error("built for {theirs}, this node is {}", std::env::consts::ARCH)]
    Machine { theirs: String },
    #[error("an ELF file, but no program: it has no entry point")]
    NoProgram,
    #[error("a damaged ELF program: {0}")]
    Damaged(String),
    /// The text of Go Nex.
    #[error("native binary contains at least one dynamically linked dependency")]
    Dynamic,
}

impl From<object::read::Error> for NotRunnable {
    fn from(error: object::read::Error) -> Self {
        NotRunnable::Damaged(error.to_string())
    }
}

/// Checks a file.
pub(crate) fn check<'data, R: ReadRef<'data>>(file: R, require_static: bool) -> Result<(), NotRunnable> {
    let magic = file.read_bytes_at(0, 5).map_err(|()| NotRunnable::NotElf)?;
    match magic {
        [0x7f, b'E', b'L', b'F', 2] => {}
        [0x7f, b'E', b'L', b'F', 1] => return Err(NotRunnable::NotElf64),
        _ => return Err(NotRunnable::NotElf),
    }
    let header = FileHeader64::<Endianness>::parse(file)?;
    let endian = header.endian()?;
    let machine = header.e_machine(endian);
    if Some(machine) != this_machine() || endian != Endianness::default() {
        return Err(NotRunnable::Machine { theirs: machine_name(machine) });
    }
    if !matches!(header.e_type(endian), elf::ET_EXEC | elf::ET_DYN) || header.e_entry(endian) == 0 {
        return Err(NotRunnable::NoProgram);
    }
    let segments = header.program_headers(endian, file)?;
    if !segments.iter().any(|segment| segment.p_type(endian) == elf::PT_LOAD) {
        return Err(NotRunnable::NoProgram);
    }
    if require_static {
        for segment in segments {
            let needs =
                |entries: &[elf::Dyn64<Endianness>]| entries.iter().any(|entry| entry.d_tag(endian) == elf::DT_NEEDED);
            let dynamic = segment.dynamic(endian, file)?;
            if segment.p_type(endian) == elf::PT_INTERP || dynamic.is_some_and(needs) {
                return Err(NotRunnable::Dynamic);
            }
        }
    }
    Ok(())
}

fn this_machine() -> Option<elf::Machine> {
    match std::env::consts::ARCH {
        "x86_64" => Some(elf::EM_X86_64),
        "aarch64" => Some(elf::EM_AARCH64),
        "riscv64" => Some(elf::EM_RISCV),
        "s390x" => Some(elf::EM_S390),
        "powerpc64" => Some(elf::EM_PPC64),
        _ => None,
    }
}

fn machine_name(machine: elf::Machine) -> String {
    match machine {
        elf::EM_X86_64 => "x86_64".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_RISCV => "riscv64".to_owned(),
        elf::EM_S390 => "s390x".to_owned(),
        elf::EM_PPC64 => "powerpc64".to_owned(),
        other => format!("another machine (ELF machine {})", other.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;
    use std::io::Read;

    fn own_program() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn this_very_program_is_runnable_and_dynamic() {
        let program = own_program();
        assert_eq!(check(&program[..], false), Ok(()));
        let expected = if cfg!(target_env = "musl") { Ok(()) } else { Err(NotRunnable::Dynamic) };
        assert_eq!(check(&program[..], true), expected);
    }

    #[test]
    fn other_files_are_named_for_what_they_are() {
        assert_eq!(check(&b"#!/bin/sh\n"[..], false), Err(NotRunnable::NotElf));
        assert_eq!(check(&b""[..], false), Err(NotRunnable::NotElf));
        assert_eq!(check(&b"\x7fELF\x01rest"[..], false), Err(NotRunnable::NotElf64));
        let mut foreign = own_program();
        let other: u16 = if cfg!(target_arch = "x86_64") { 183 } else { 62 };
        foreign[18..20].copy_from_slice(&other.to_le_bytes());
        let why = check(&foreign[..], false).unwrap_err().to_string();
        assert!(why.starts_with("built for ") && why.contains(", this node is "), "{why}");
        assert!(matches!(check(&own_program()[..40], false), Err(NotRunnable::Damaged(_))));
    }

    proptest! {
        #[test]
        fn garbage_gives_an_answer(bytes: Vec<u8>) {
            let _ = check(&bytes[..], true);
        }

        #[test]
        fn a_program_with_any_byte_of_its_headers_changed_gives_an_answer(at in 0usize..1024, byte: u8) {
            // The headers are in the first pages; reading all of a test binary for each case would take seconds.
            let mut program = Vec::new();
            File::open(std::env::current_exe().unwrap()).unwrap().take(1 << 16).read_to_end(&mut program).unwrap();
            program[at] = byte;
            let _ = check(&program[..], true);
        }
    }
}
