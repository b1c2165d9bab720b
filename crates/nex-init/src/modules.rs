//! Kernel modules, for kernels that have drivers and file systems as modules: an initramfs carries them, in the order in
//! which they are to be loaded, in `/modules`.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;

use rustix::system::finit_module;

use crate::{Failure, doing};

/// Folder of the modules, named `00-virtio.ko`, `01-…`; kernels that need none have none.
const FOLDER: &str = "/modules";

/// Loads them all, in the order of their names. One that is there already is as good.
pub(crate) fn load() -> Result<(), Failure> {
    let mut files: Vec<_> = fs::read_dir(FOLDER).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    let none = CString::default();
    for path in files {
        let loaded = File::open(&path).and_then(|file| Ok(finit_module(&file, &none, 0)?));
        match loaded {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(doing(format!("load the kernel module {}", path.display()))(error));
            }
            _ => {}
        }
    }
    Ok(())
}
