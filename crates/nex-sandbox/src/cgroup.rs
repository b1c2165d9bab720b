//! Control groups: what a process and everything it starts may take of processors and memory.
//!
//! Owns one group `nex-<node>` in each hierarchy it uses, and a group below it for each agent that is bounded; removes
//! both when they are empty, and what a dead node of the same name has left. Touches nothing else. Version 2 and
//! version 1 of the interface are served (<https://docs.kernel.org/admin-guide/cgroup-v2.html>,
//! <https://docs.kernel.org/admin-guide/cgroup-v1/>); where neither may be written to, the reason is kept and told.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::debug;

/// Where control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// Length of the period in which processor time is counted, microseconds.
const PERIOD_US: u64 = 100_000;

/// What a group may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// Memory, bytes.
    pub memory_bytes: Option<u64>,
}

impl Resources {
    /// Whether nothing is bounded.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Control groups cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// The groups of one node.
#[derive(Debug)]
pub struct Cgroups {
    layout: Layout,
}

/// The folders in which groups of agents are made.
#[derive(Debug)]
enum Layout {
    /// One hierarchy for everything.
    V2(PathBuf),
    /// One for each.
    V1 { cpu: PathBuf, memory: PathBuf },
}

impl Cgroups {
    /// Makes the groups of a node. `name` tells nodes of one machine apart.
    ///
    /// # Errors
    /// [`Unavailable`], with what could not be done.
    pub fn open(name: &str) -> Result<Self, Unavailable> {
        Self::below(Path::new(ROOT), name)
    }

    fn below(root: &Path, name: &str) -> Result<Self, Unavailable> {
        let name = format!("nex-{name}");
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let has = |controller: &str| controllers.split_whitespace().any(|found| found == controller);
        let layout = if has("cpu") && has("memory") {
            let own = root.join(&name);
            let failed = |error| unavailable(&own, &error);
            make(&own).map_err(failed)?;
            // Groups below may be bounded only when their parent passes the controllers on.
            let delegate = |folder: &Path| fs::write(folder.join("cgroup.subtree_control"), "+cpu +memory");
            delegate(root).and_then(|()| delegate(&own)).map_err(failed)?;
            Layout::V2(own)
        } else if root.join("cpu").is_dir() && root.join("memory").is_dir() {
            let (cpu, memory) = (root.join("cpu").join(&name), root.join("memory").join(&name));
            for folder in [&cpu, &memory] {
                make(folder).map_err(|error| unavailable(folder, &error))?;
            }
            Layout::V1 { cpu, memory }
        } else {
            return Err(Unavailable(format!("no control groups for cpu and memory are mounted on {}", root.display())));
        };
        Ok(Self { layout })
    }

    /// Puts a process, and with it everything it will start, into a group of its own.
    ///
    /// # Errors
    /// What the system says; the process is as it was then.
    pub fn bound(&self, id: &str, process: u32, resources: &Resources) -> io::Result<Cgroup> {
        let folders = match &self.layout {
            Layout::V2(own) => vec![own.join(id)],
            Layout::V1 { cpu, memory } => {
                let wanted = [(cpu, resources.cpu_millis), (memory, resources.memory_bytes)];
                wanted.into_iter().filter(|(_, limit)| limit.is_some()).map(|(own, _)| own.join(id)).collect()
            }
        };
        // From here on what was made is removed, whatever fails.
        let group = Cgroup { folders };
        for folder in &group.folders {
            make(folder)?;
        }
        self.write(&group, resources)?;
        for folder in &group.folders {
            fs::write(folder.join("cgroup.procs"), process.to_string())?;
        }
        Ok(group)
    }

    fn write(&self, group: &Cgroup, resources: &Resources) -> io::Result<()> {
        let quota = resources.cpu_millis.map(|millis| (millis * PERIOD_US / 1000).max(1000));
        match &self.layout {
            Layout::V2(_) => {
                let Some(folder) = group.folders.first() else { return Ok(()) };
                if let Some(quota) = quota {
                    fs::write(folder.join("cpu.max"), format!("{quota} {PERIOD_US}"))?;
                }
                if let Some(bytes) = resources.memory_bytes {
                    fs::write(folder.join("memory.max"), bytes.to_string())?;
                    // All of it or nothing: half of a workload is of no use. Machines without swap lack the second file.
                    fs::write(folder.join("memory.oom.group"), "1")?;
                    let _ = fs::write(folder.join("memory.swap.max"), "0");
                }
            }
            Layout::V1 { cpu, memory } => {
                for folder in &group.folders {
                    if let Some(quota) = quota.filter(|_| folder.starts_with(cpu)) {
                        fs::write(folder.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
                        fs::write(folder.join("cpu.cfs_quota_us"), quota.to_string())?;
                    }
                    if let Some(bytes) = resources.memory_bytes.filter(|_| folder.starts_with(memory)) {
                        fs::write(folder.join("memory.limit_in_bytes"), bytes.to_string())?;
                        let _ = fs::write(folder.join("memory.memsw.limit_in_bytes"), bytes.to_string());
                    }
                }
            }
        }
        Ok(())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let folders = match &self.layout {
            Layout::V2(own) => vec![own],
            Layout::V1 { cpu, memory } => vec![cpu, memory],
        };
        for folder in folders {
            remove_below(folder);
            let _ = fs::remove_dir(folder);
        }
    }
}

/// A group of one agent, removed when this is dropped. By then the agent must be gone: groups with processes stay.
#[derive(Debug)]
pub struct Cgroup {
    folders: Vec<PathBuf>,
}

impl Cgroup {
    /// Whether the kernel has killed something in the group for want of memory.
    pub fn ran_out_of_memory(&self) -> bool {
        // Version 2, then version 1: lines of a name and a number.
        self.folders.iter().any(|folder| {
            ["memory.events", "memory.oom_control"].iter().any(|file| {
                let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
                text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
            })
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            if let Err(error) = fs::remove_dir(folder)
                && error.kind() != io::ErrorKind::NotFound
            {
                // What was killed may still be dying; the next start of the node, or its end, removes the group.
                debug!(path = %folder.display(), %error, "cannot remove a control group yet");
            }
        }
    }
}

/// Makes a group, and removes the empty ones that a node of this name has left in it.
fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove_below(folder);
            Ok(())
        }
        other => other,
    }
}

fn remove_below(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        // The kernel's own files are not folders, and groups that are in use cannot be removed.
        let _ = fs::remove_dir(entry.path());
    }
}

fn unavailable(path: &Path, error: &io::Error) -> Unavailable {
    Unavailable(format!("control groups cannot be made below {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_control_groups_the_reason_is_told() {
        let root = tempfile::tempdir().unwrap();
        let error = Cgroups::below(root.path(), "t").unwrap_err();
        assert!(error.to_string().contains("no control groups"), "{error}");
    }

    /// The kernel's side played by plain files: what is written, and where.
    #[test]
    fn version_two_gets_quota_and_memory_in_one_group() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory pids").unwrap();
        let groups = Cgroups::below(root.path(), "t").unwrap();
        let resources = Resources { cpu_millis: Some(250), memory_bytes: Some(64 << 20) };
        let group = groups.bound("agent", 7, &resources).unwrap();
        let own = root.path().join("nex-t/agent");
        let read = |name: &str| fs::read_to_string(own.join(name)).unwrap();
        assert_eq!(read("cpu.max"), "25000 100000");
        assert_eq!((read("memory.max"), read("cgroup.procs")), ("67108864".into(), "7".into()));
        assert!(!group.ran_out_of_memory());
        fs::write(own.join("memory.events"), "low 0\noom 1\noom_kill 1\n").unwrap();
        assert!(group.ran_out_of_memory());
        drop(group);
    }

    #[test]
    fn version_one_makes_only_the_groups_that_bound_something() {
        let root = tempfile::tempdir().unwrap();
        for controller in ["cpu", "memory"] {
            fs::create_dir(root.path().join(controller)).unwrap();
        }
        let groups = Cgroups::below(root.path(), "t").unwrap();
        let group = groups.bound("agent", 7, &Resources { cpu_millis: Some(1500), memory_bytes: None }).unwrap();
        let cpu = root.path().join("cpu/nex-t/agent");
        assert_eq!(fs::read_to_string(cpu.join("cpu.cfs_quota_us")).unwrap(), "150000");
        assert!(!root.path().join("memory/nex-t/agent").exists());
        drop(group);
    }
}
