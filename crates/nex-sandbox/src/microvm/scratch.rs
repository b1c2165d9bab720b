//! Scratch drives: an empty file system per machine, as large as configured and taking room on the host only for what is
//! written to it.
//!
//! The file system is made once (`mke2fs`) and copied, holes left out, for each machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use rustix::io::Errno;

/// A machine's drive, in the folder of its monitor.
pub(super) const DRIVE: &str = "scratch.ext4";

/// Bytes copied at a time.
const PIECE: usize = 1 << 20;

/// The file system that drives are copies of.
#[derive(Debug, Clone)]
pub(super) struct Blank(PathBuf);

impl Blank {
    /// Makes it, if it is not there.
    ///
    /// # Errors
    /// What the system says, or `mke2fs`.
    pub(super) fn make(folder: &Path, mib: u64) -> io::Result<Self> {
        crate::process::make_dir(folder)?;
        let path = folder.join(blank_name(mib));
        if path.exists() {
            return Ok(Self(path));
        }
        let aside = path.with_extension("new");
        let _ = fs::remove_file(&aside);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.set_len(mib << 20)?;
        // No journal: what is written does not outlive its machine.
        let made = Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1"])
            .arg(&aside)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| io::Error::new(error.kind(), format!("mke2fs (package e2fsprogs): {error}")))?;
        if !made.status.success() {
            return Err(io::Error::other(format!("mke2fs: {}", String::from_utf8_lossy(&made.stderr).trim())));
        }
        fs::rename(&aside, &path)?;
        Ok(Self(path))
    }

    /// A drive like it.
    pub(super) fn copy_to(&self, target: &Path) -> io::Result<()> {
        copy(&self.0, target)
    }
}

/// What the empty drive of a size is called.
pub(super) fn blank_name(mib: u64) -> String {
    format!("blank-{mib}.ext4")
}

/// Whether a file was named by [`blank_name`], or is an attempt at such a drive.
pub(super) fn is_blank_name(name: &str) -> bool {
    let size = name.strip_suffix(".ext4").or_else(|| name.strip_suffix(".new"));
    size.and_then(|name| name.strip_prefix("blank-")).is_some_and(|size| size.parse::<u64>().is_ok())
}

/// Copies a file with its holes; where the file system can, without copying at all.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    if ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < length {
        let start = match seek(&source, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(&source, SeekFrom::Hole(start))?;
        copy_range(&source, &target, start, end, &mut buffer)?;
        at = end;
    }
    Ok(())
}

fn copy_range(source: &File, target: &File, start: u64, end: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut at = start;
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
        let piece = buffer.get_mut(..wanted).ok_or(ErrorKind::InvalidInput)?;
        source.read_exact_at(piece, at)?;
        target.write_all_at(piece, at)?;
        at += wanted as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_copy_has_the_same_bytes_and_the_same_holes() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"start", 0).unwrap();
        file.write_all_at(b"middle", 40 << 20).unwrap();
        copy(&from, &to).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20, "the holes take no room");
        assert!(copy(&from, &to).is_err(), "nothing is overwritten");
    }

    #[test]
    fn a_drive_is_an_empty_file_system_that_takes_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let Ok(blank) = Blank::make(folder.path(), 512) else {
            eprintln!("SKIPPED: there is no mke2fs");
            return;
        };
        let drive = folder.path().join("drive");
        blank.copy_to(&drive).unwrap();
        let meta = fs::metadata(&drive).unwrap();
        assert!(meta.len() == 512 << 20 && meta.blocks() * 512 < 8 << 20, "{meta:?}");
        let mut magic = [0; 2];
        File::open(&drive).unwrap().read_exact_at(&mut magic, 0x438).unwrap();
        assert_eq!(magic, [0x53, 0xef]);
    }
}
