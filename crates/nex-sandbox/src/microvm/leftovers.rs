//! Files that machines of an earlier configuration have shared: copies of kernels and images that were replaced
//! (`machines.shared`), and empty drives of former sizes (`machines.blank`).
//!
//! Looked for once, at a node's start, after the machines of an earlier life were reclaimed. Removed is what has a name that is
//! given here only, is a plain file, is not named by the configuration, and is linked by no machine that still lives.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tracing::{info, warn};

use super::firecracker::jail::{copy_name, is_copy_name};
use super::scratch::{blank_name, is_blank_name};
use super::{MachineSettings, ScratchSpace};

/// Removes what these settings do not use. `snapshots` are files of snapshots, which may have been copied, too.
pub(super) fn remove(settings: &MachineSettings, snapshots: &[impl AsRef<Path>]) {
    let files = [Some(&settings.kernel), settings.initrd.as_ref(), Some(&settings.root_image)];
    let files = files.into_iter().flatten().map(|file| file.as_path()).chain(snapshots.iter().map(AsRef::as_ref));
    let copies: Vec<_> = files.filter_map(|file| Some(copy_name(&fs::metadata(file).ok()?))).collect();
    sweep(&settings.machines_dir.with_extension("shared"), is_copy_name, &copies);
    let drive = match settings.scratch {
        ScratchSpace::Memory { .. } => None,
        ScratchSpace::Drive { mib } => Some(blank_name(mib)),
    };
    sweep(&settings.machines_dir.with_extension("blank"), is_blank_name, drive.as_slice());
}

fn sweep(folder: &Path, is_ours: fn(&str) -> bool, wanted: &[String]) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_ours(name) && !wanted.iter().any(|wanted| wanted == name))
        else {
            continue;
        };
        // A machine has a link of its own to what it uses.
        if !entry.metadata().is_ok_and(|meta| meta.is_file() && meta.nlink() == 1) {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Ok(()) => info!(folder = %folder.display(), name, "removed a file that no machine needs any more"),
            Err(error) => warn!(folder = %folder.display(), name, %error, "a file that is of no use cannot be removed"),
        }
    }
    // It is made again when something is put there.
    let _ = fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Scene {
        folder: tempfile::TempDir,
        settings: MachineSettings,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let settings = MachineSettings {
                kernel: folder.path().join("vmlinux"),
                root_image: folder.path().join("rootfs.ext4"),
                ..MachineSettings::for_tests(&folder.path().join("machines"))
            };
            for file in [&settings.kernel, &settings.root_image] {
                fs::write(file, "now").unwrap();
            }
            for name in ["machines.shared", "machines.blank"] {
                fs::create_dir(folder.path().join(name)).unwrap();
            }
            Self { folder, settings }
        }

        fn put(&self, folder: &str, name: &str) -> PathBuf {
            let path = self.folder.path().join(folder).join(name);
            fs::write(&path, "then").unwrap();
            path
        }
    }

    #[test]
    fn copies_of_replaced_files_go_and_those_that_are_named_or_used_stay() {
        let scene = Scene::new();
        let current = copy_name(&fs::metadata(&scene.settings.kernel).unwrap());
        let snapshot = scene.put(".", "machine.memory");
        let of_snapshot = copy_name(&fs::metadata(&snapshot).unwrap());
        let stay = [
            scene.put("machines.shared", &current),
            scene.put("machines.shared", &of_snapshot),
            scene.put("machines.shared", "fe01-1f-400-5f"),
            scene.put("machines.shared", "somebody's notes"),
            scene.put("machines.shared", "fe01-2-3"),
        ];
        fs::hard_link(&stay[2], scene.folder.path().join("of a machine that lives")).unwrap();
        fs::create_dir(scene.folder.path().join("machines.shared/1-2-3-4")).unwrap();
        let go = [
            scene.put("machines.shared", "fe01-20-400-5f3a"),
            // An attempt that a killed node has left.
            scene.put("machines.shared", "fe01-21-400-5f3a.new"),
        ];
        remove(&scene.settings, &[snapshot]);
        assert!(stay.iter().all(|path| path.exists()), "{stay:?}");
        assert!(!go.iter().any(|path| path.exists()), "{go:?}");
        assert!(scene.folder.path().join("machines.shared/1-2-3-4").is_dir());
    }

    #[test]
    fn drives_of_former_sizes_go_and_their_folder_when_there_are_to_be_none() {
        let scene = Scene::new();
        let (former, current) =
            (scene.put("machines.blank", "blank-64.ext4"), scene.put("machines.blank", "blank-128.ext4"));
        let half = scene.put("machines.blank", "blank-256.new");
        let settings = MachineSettings { scratch: ScratchSpace::Drive { mib: 128 }, ..scene.settings.clone() };
        remove(&settings, &[] as &[PathBuf]);
        assert!(current.exists() && !former.exists() && !half.exists());
        let settings = MachineSettings { scratch: ScratchSpace::Memory { mib: 128 }, ..settings };
        remove(&settings, &[] as &[PathBuf]);
        assert!(!scene.folder.path().join("machines.blank").exists());
    }
}
