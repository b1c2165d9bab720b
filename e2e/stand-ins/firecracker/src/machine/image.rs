//! Kernels and images, looked at as far as the start needs.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The kernel cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    #[error("Invalid Elf magic number")]
    Magic,
    #[error("the ELF file is for another processor (machine {0})")]
    Processor(u16),
    #[error("the file ends before its header does")]
    Short,
}

/// Only an uncompressed ELF of x86-64 is loaded; what distributions have in `/boot` is a bzImage and is not.
pub(crate) fn check_kernel(path: &Path) -> Result<(), KernelError> {
    let mut head = [0_u8; 64];
    let mut file = File::open(path)?;
    file.read_exact(&mut head).map_err(|_| KernelError::Short)?;
    let [0x7f, b'E', b'L', b'F', class, order, ..] = head else { return Err(KernelError::Magic) };
    let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, low, high, ..] = head;
    let processor = u16::from_le_bytes([low, high]);
    if class != 2 || order != 1 || processor != 62 {
        return Err(KernelError::Processor(processor));
    }
    Ok(())
}

/// Whether a guest could mount it.
pub(crate) fn is_ext4(path: &Path) -> bool {
    let magic = || -> io::Result<[u8; 2]> {
        let mut file = File::open(path)?;
        let mut magic = [0; 2];
        file.seek(SeekFrom::Start(0x438))?;
        file.read_exact(&mut magic)?;
        Ok(magic)
    };
    magic().is_ok_and(|magic| magic == [0x53, 0xef])
}
