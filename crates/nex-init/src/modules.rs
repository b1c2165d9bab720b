//! Kernel modules, for kernels that have drivers and file systems as modules: an initramfs carries them, in the order in
//! which they are to be loaded, in `/modules`.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::system::finit_module;

use crate::{Failure, doing};

/// Folder of the modules, named `00-virtio.ko`, `01-…`; kernels that need none have none.
const FOLDER: &str = "/modules";

/// Loads them all, in the order of their names. One that is there already is as good.
pub(crate) fn load(command_line: &str) -> Result<(), Failure> {
    let mut files: Vec<_> = fs::read_dir(FOLDER).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    for path in files {
        let loaded: io::Result<()> = CString::new(parameters(&path, command_line))
            .map_err(|_| io::ErrorKind::InvalidInput.into())
            .and_then(|words| Ok(finit_module(File::open(&path)?, &words, 0)?));
        match loaded {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(doing(format!("load the kernel module {}", path.display()))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The words of the command line that are for a module, `virtio_mmio.device=…`: the kernel gives them only to what is built
/// in.
fn parameters(path: &Path, command_line: &str) -> String {
    let file = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = file.split_once('-').map_or("", |(_, name)| name);
    let words = command_line.split_ascii_whitespace().filter_map(|word| word.strip_prefix(name)?.strip_prefix('.'));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_gets_its_own_words() {
        let line = "quiet virtio_mmio.device=512@0x1:5 virtio_mmio.device=512@0x2:6 virtio.x=1 nex.link=serial";
        let words = |file: &str| parameters(Path::new(file), line);
        assert_eq!(words("/modules/02-virtio_mmio.ko"), "device=512@0x1:5 device=512@0x2:6");
        assert_eq!(words("/modules/00-virtio.ko"), "x=1");
        assert_eq!(words("/modules/03-ext4.ko"), "");
    }
}
