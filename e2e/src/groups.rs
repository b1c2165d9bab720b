//! Control groups of a node's machines, as the kernel shows them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::World;

/// The control group of a process that bounds this, version 2 or 1.
pub fn group(pid: u32, controller: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let found = text.lines().find_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        let root = Path::new("/sys/fs/cgroup");
        let root = match controllers {
            "" if root.join("cgroup.controllers").exists() => root.to_owned(),
            _ if controllers.split(',').any(|one| one == controller) => root.join(controller),
            _ => return None,
        };
        Some(root.join(path.trim_start_matches('/')))
    });
    found.filter(|group| group.parent().is_some_and(|own| own.to_string_lossy().contains("/nex-")))
}

/// What the first of these files of a group says.
pub fn limit(group: &Path, files: [&str; 2]) -> Option<u64> {
    files.iter().find_map(|file| fs::read_to_string(group.join(file)).ok()?.trim().parse().ok())
}

/// Where nobody may make control groups the node says so, and there is nothing to look for.
///
/// # Errors
/// When the node does not answer.
pub async fn has_control_groups(world: &World) -> Result<bool> {
    let unbounded = world.info().await?.tags.get("nex.unbounded").cloned();
    if let Some(what) = &unbounded {
        eprintln!("SKIPPED: this machine has no control groups for machines ({what})");
    }
    Ok(unbounded.is_none())
}
