//! Puts files at their places: written aside, with their modes, on disk, then renamed. Several appear together or not
//! at all.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::{NamedTempFile, TempPath};

/// A file could not be put at its place. What was there before is there again.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}{}", path.display(), rights(source))]
pub struct InstallError {
    path: PathBuf,
    source: io::Error,
}

/// What to do where a file may not be written.
pub(crate) fn rights(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (run it as root, or set bin_path and default_resource_dir to folders that you may write to)"
        }
        io::ErrorKind::StorageFull => " (free some room there)",
        _ => "",
    }
}

/// Files that are ready to be put at their places. Dropped, nothing of them is left.
#[derive(Default)]
pub(crate) struct Ready(Vec<(TempPath, PathBuf)>);

impl Ready {
    /// Writes a file beside its place.
    pub(crate) fn add(&mut self, target: &Path, mode: u32, content: &mut dyn Read) -> Result<(), InstallError> {
        let temporary = written(target, mode, content).map_err(at(target))?;
        self.0.push((temporary, target.to_owned()));
        Ok(())
    }

    /// Puts all of them at their places, or none.
    pub(crate) fn commit(self) -> Result<(), InstallError> {
        let mut done: Vec<Swapped> = Vec::new();
        for (temporary, target) in self.0 {
            match Swapped::new(temporary, &target) {
                Ok(swapped) => done.push(swapped),
                Err(source) => {
                    done.into_iter().rev().for_each(Swapped::undo);
                    return Err(at(&target)(source));
                }
            }
        }
        // The new names are to outlive a loss of power like the files themselves, on file systems that can do that for
        // folders.
        for folder in done.iter().filter_map(|swapped| swapped.target.parent()) {
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError { path, source }
}

fn written(target: &Path, mode: u32, content: &mut dyn Read) -> io::Result<TempPath> {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    if target.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "there is a folder of this name"));
    }
    let mut file = NamedTempFile::with_prefix_in(".nex-", folder)?;
    io::copy(content, &mut file)?;
    file.flush()?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file.into_temp_path())
}

/// A new file at its place; the one that was there before, if any, under the temporary name, which goes with this.
struct Swapped {
    temporary: TempPath,
    target: PathBuf,
    before: Before,
}

/// What was at a place before.
enum Before {
    Nothing,
    /// A file, which has the temporary name now.
    Kept,
    /// A file, on a file system that cannot exchange names.
    Gone,
}

impl Swapped {
    fn new(temporary: TempPath, target: &Path) -> io::Result<Self> {
        let before = match renameat_with(CWD, &*temporary, CWD, target, RenameFlags::EXCHANGE) {
            Ok(()) => Before::Kept,
            Err(Errno::NOENT) => {
                fs::rename(&temporary, target)?;
                Before::Nothing
            }
            Err(Errno::INVAL | Errno::NOSYS) => {
                let before = if target.exists() { Before::Gone } else { Before::Nothing };
                fs::rename(&temporary, target)?;
                before
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { temporary, target: target.to_owned(), before })
    }

    fn undo(self) {
        // Nothing more can be done where this fails.
        let _ = match self.before {
            Before::Nothing => fs::remove_file(&self.target),
            Before::Kept => fs::rename(&self.temporary, &self.target),
            Before::Gone => Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_get_their_modes_and_replace_older_ones() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("new/b"));
        fs::write(&a, "old").unwrap();
        let mut ready = Ready::default();
        ready.add(&a, 0o755, &mut &b"1"[..]).unwrap();
        ready.add(&b, 0o644, &mut &b"2"[..]).unwrap();
        assert_eq!(fs::read_to_string(&a).unwrap(), "old", "before it is said");
        ready.commit().unwrap();
        assert_eq!((fs::read_to_string(&a).unwrap().as_str(), fs::read_to_string(&b).unwrap().as_str()), ("1", "2"));
        assert_eq!(a.metadata().unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(b.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(names(folder.path()), ["a", "new"]);
        assert_eq!(names(&folder.path().join("new")), ["b"]);
    }

    #[test]
    fn when_one_cannot_be_put_the_others_are_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b, c) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
        fs::write(&a, "old").unwrap();
        let mut ready = Ready::default();
        for path in [&a, &b, &c] {
            ready.add(path, 0o755, &mut &b"new"[..]).unwrap();
        }
        // What was not so when the files were written aside: the last one is gone, and a folder has its name.
        fs::create_dir(&c).unwrap();
        fs::remove_file(&ready.0.last().unwrap().0).unwrap();
        ready.commit().unwrap_err();
        assert_eq!(fs::read_to_string(&a).unwrap(), "old");
        assert_eq!(names(folder.path()), ["a", "c"]);
    }

    #[test]
    fn what_was_not_committed_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut ready = Ready::default();
        ready.add(&folder.path().join("a"), 0o755, &mut &b"1"[..]).unwrap();
        drop(ready);
        assert!(names(folder.path()).is_empty());
        fs::create_dir(folder.path().join("d")).unwrap();
        assert!(Ready::default().add(&folder.path().join("d"), 0o755, &mut &b"1"[..]).is_err());
    }
}
