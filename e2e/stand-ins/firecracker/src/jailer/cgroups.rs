//! `--cgroup`: files of control groups, in the hierarchy of the version that was named. Version 1 is the default, and
//! on a host that has only version 2 it is an error to leave it so.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::is_plain;

/// Not understood, or not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("{0} is an invalid cgroup version specifier")]
    Version(String),
    #[error("Invalid format for cgroups: {0}")]
    Format(String),
    #[error("Cgroup invalid file: {0}")]
    File(String),
    #[error("Hierarchy not found: No hierarchy found for this cgroup version.")]
    NoHierarchy,
    #[error("Controller {0} is unavailable")]
    Controller(String),
    #[error("Failed to move process to cgroup ({0}): {1}")]
    Move(PathBuf, io::Error),
    #[error("Failed to write to {0}: {1}")]
    Write(PathBuf, io::Error),
    #[error("Failed to create directory {0}: {1}")]
    Create(PathBuf, io::Error),
}

/// Which group, and what is written into it.
#[derive(Debug)]
pub(crate) struct Cgroups {
    /// Folder of each group, the file that takes a process in it, and what is set.
    groups: BTreeMap<PathBuf, Group>,
    /// An existing group to go into when nothing is set.
    join: Option<PathBuf>,
}

#[derive(Debug)]
struct Group {
    takes: &'static str,
    /// Root of the hierarchy in which controllers are switched on from above.
    switched: Option<PathBuf>,
    values: Vec<(String, String)>,
}

impl Cgroups {
    pub(crate) fn new(version: &str, given: &[String], parent: &Path, id: &str) -> Result<Self, CgroupError> {
        let number: u8 = version.parse().map_err(|_| CgroupError::Version(version.to_owned()))?;
        let mut cgroups = Self { groups: BTreeMap::new(), join: None };
        if given.is_empty() && number != 2 {
            return Ok(cgroups);
        }
        if !matches!(number, 1 | 2) {
            return Err(CgroupError::Version(version.to_owned()));
        }
        let hierarchies = hierarchies(number);
        let first = hierarchies.first().ok_or(CgroupError::NoHierarchy)?;
        if given.is_empty() {
            cgroups.join = Some(first.0.join(parent)).filter(|group| group.exists());
            return Ok(cgroups);
        }
        for setting in given {
            let (file, value) = match setting.split('=').collect::<Vec<_>>().as_slice() {
                [file, value] if !value.is_empty() => ((*file).to_owned(), (*value).to_owned()),
                _ => return Err(CgroupError::Format(setting.clone())),
            };
            let controller = file.split_once('.').map(|(controller, _)| controller);
            let controller = controller.filter(|_| is_plain(Path::new(&file)));
            let controller = controller.ok_or_else(|| CgroupError::File(setting.clone()))?;
            let found = hierarchies.iter().find(|(_, has)| has.iter().any(|has| has == controller));
            let root = &found.ok_or_else(|| CgroupError::Controller(controller.to_owned()))?.0;
            let group = cgroups.groups.entry(root.join(parent).join(id)).or_insert_with(|| Group {
                takes: if number == 2 { "cgroup.procs" } else { "tasks" },
                switched: (number == 2).then(|| root.clone()),
                values: Vec::new(),
            });
            group.values.push((file, value));
        }
        Ok(cgroups)
    }

    /// Makes the groups and goes into them.
    pub(crate) fn install(&self) -> Result<(), CgroupError> {
        let itself = std::process::id().to_string();
        if let Some(group) = &self.join {
            let file = group.join("cgroup.procs");
            fs::write(file, &itself).map_err(|error| CgroupError::Move(group.clone(), error))?;
        }
        for (folder, group) in &self.groups {
            fs::create_dir_all(folder).map_err(|error| CgroupError::Create(folder.clone(), error))?;
            for (file, value) in &group.values {
                if let Some(root) = &group.switched {
                    let controller = file.split('.').next().unwrap_or_default();
                    switch_on(root, folder, controller)?;
                }
                write(&folder.join(file), value)?;
            }
        }
        for (folder, group) in &self.groups {
            write(&folder.join(group.takes), &itself)?;
        }
        Ok(())
    }
}

fn write(file: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(file, format!("{value}\n")).map_err(|error| CgroupError::Write(file.to_owned(), error))
}

/// Switches the controller on in every group from the root to the one above the folder.
fn switch_on(root: &Path, folder: &Path, controller: &str) -> Result<(), CgroupError> {
    let above: Vec<&Path> = folder.ancestors().skip(1).take_while(|group| group.starts_with(root)).collect();
    above.iter().rev().try_for_each(|group| write(&group.join("cgroup.subtree_control"), &format!("+{controller}")))
}

/// Where control groups of this version are mounted, and the controllers that each has.
fn hierarchies(version: u8) -> Vec<(PathBuf, Vec<String>)> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let wanted = if version == 2 { "cgroup2" } else { "cgroup" };
    let found = mounts.lines().filter_map(|line| match line.split(' ').collect::<Vec<_>>().as_slice() {
        [_, folder, kind, options, ..] if *kind == wanted => {
            let folder = PathBuf::from(folder);
            let controllers = if version == 2 {
                let has = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
                has.split_whitespace().map(str::to_owned).collect()
            } else {
                options.split(',').map(str::to_owned).collect()
            };
            Some((folder, controllers))
        }
        _ => None,
    });
    found.collect()
}
