//! Control groups: what a process and everything it starts may take of processors, memory and processes.
//!
//! Owns one group `nex-<node>` in each hierarchy it uses, and a group below it for each agent that is bounded; removes
//! both when they are empty, and what a dead node of the same name has left. Touches nothing else.
//!
//! ```text
//! made, with its limits --a process is put in, or enters by itself before it becomes another program--> in use
//!   --tightened, any number of times--> in use --everything in it has ended--> removed
//! ```
//! Version 2 and version 1 of the interface are served (<https://docs.kernel.org/admin-guide/cgroup-v2.html>,
//! <https://docs.kernel.org/admin-guide/cgroup-v1/>); where neither may be written to, the reason is kept and told.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::debug;

/// Where control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// File of a group whose processes it lists, and to which those that come are written.
const PROCESSES: &str = "cgroup.procs";

/// Time that what was killed in a group has to be gone.
const DYING: Duration = Duration::from_secs(2);

/// Time between two attempts to remove a group.
const LOOK: Duration = Duration::from_millis(10);

/// Length of the period in which processor time is counted, microseconds.
const PERIOD_US: u64 = 100_000;

/// What a group may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// Memory, bytes.
    pub memory_bytes: Option<u64>,
    /// Processes, and threads: each counts.
    pub processes: Option<u64>,
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

/// The folders in which groups of agents are made. Not every host counts processes.
#[derive(Debug)]
enum Layout {
    /// One hierarchy for everything.
    V2 { own: PathBuf, pids: bool },
    /// One for each.
    V1 { cpu: PathBuf, memory: PathBuf, pids: Option<PathBuf> },
}

/// Memory that was moved to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swap {
    /// Counts: half of a workload is of no use.
    None,
    /// May be as much again: what is idle can make room.
    AsMuch,
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
            let pids = has("pids");
            let wanted = if pids { "+cpu +memory +pids" } else { "+cpu +memory" };
            // Groups below may be bounded only when their parent passes the controllers on.
            let delegate = |folder: &Path| fs::write(folder.join("cgroup.subtree_control"), wanted);
            delegate(root).and_then(|()| delegate(&own)).map_err(failed)?;
            Layout::V2 { own, pids }
        } else if root.join("cpu").is_dir() && root.join("memory").is_dir() {
            let [cpu, memory, pids] = ["cpu", "memory", "pids"].map(|controller| root.join(controller).join(&name));
            for folder in [&cpu, &memory] {
                make(folder).map_err(|error| unavailable(folder, &error))?;
            }
            let pids = make(&pids).is_ok().then_some(pids);
            Layout::V1 { cpu, memory, pids }
        } else {
            return Err(Unavailable(format!("no control groups for cpu and memory are mounted on {}", root.display())));
        };
        Ok(Self { layout })
    }

    /// Whether processes can be bounded, too.
    pub fn count_processes(&self) -> bool {
        match &self.layout {
            Layout::V2 { pids, .. } => *pids,
            Layout::V1 { pids, .. } => pids.is_some(),
        }
    }

    /// The node's own folders, one in each hierarchy; groups are made in them.
    pub fn folders(&self) -> Vec<PathBuf> {
        match &self.layout {
            Layout::V2 { own, .. } => vec![own.clone()],
            Layout::V1 { cpu, memory, pids } => [cpu, memory].into_iter().chain(pids).cloned().collect(),
        }
    }

    /// Removes groups in which nothing lives any more.
    pub(crate) fn sweep(&self) {
        self.folders().iter().for_each(|folder| remove_below(folder));
    }

    /// Puts a process, and with it everything it will start, into a group of its own.
    ///
    /// # Errors
    /// What the system says; the process is as it was then.
    pub fn bound(&self, id: &str, process: u32, resources: &Resources) -> io::Result<Cgroup> {
        let mut group = Cgroup::default();
        self.tighten(&mut group, id, process, resources)?;
        Ok(group)
    }

    /// Makes a group in which nobody is yet.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn empty(&self, id: &str, resources: &Resources, swap: Swap) -> io::Result<Cgroup> {
        let mut group = Cgroup::default();
        group.extend(self.wanted(id, resources))?;
        self.write(&group, resources, swap)?;
        Ok(group)
    }

    /// Gives a group with this process in it other limits; those that are not named stay.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn tighten(&self, group: &mut Cgroup, id: &str, process: u32, resources: &Resources) -> io::Result<()> {
        let added = group.extend(self.wanted(id, resources))?;
        self.write(group, resources, Swap::None)?;
        added.iter().try_for_each(|folder| fs::write(folder.join(PROCESSES), process.to_string()))
    }

    /// The folders that take part in bounding these.
    fn wanted(&self, id: &str, resources: &Resources) -> Vec<PathBuf> {
        match &self.layout {
            Layout::V2 { own, .. } => vec![own.join(id)],
            Layout::V1 { cpu, memory, pids } => {
                let wanted = [
                    (Some(cpu), resources.cpu_millis),
                    (Some(memory), resources.memory_bytes),
                    (pids.as_ref(), resources.processes),
                ];
                let bounded = wanted.into_iter().filter(|(_, limit)| limit.is_some());
                bounded.filter_map(|(own, _)| Some(own?.join(id))).collect()
            }
        }
    }

    fn write(&self, group: &Cgroup, resources: &Resources, swap: Swap) -> io::Result<()> {
        let quota = resources.cpu_millis.map(|millis| (millis * PERIOD_US / 1000).max(1000));
        let swapped = |memory: u64| if swap == Swap::None { 0 } else { memory };
        match &self.layout {
            Layout::V2 { pids, .. } => {
                let Some(folder) = group.folders.first() else { return Ok(()) };
                if let Some(quota) = quota {
                    fs::write(folder.join("cpu.max"), format!("{quota} {PERIOD_US}"))?;
                }
                if let Some(bytes) = resources.memory_bytes {
                    fs::write(folder.join("memory.max"), bytes.to_string())?;
                    // All of it or nothing: half of a workload is of no use. Machines without swap lack the second file.
                    fs::write(folder.join("memory.oom.group"), "1")?;
                    let _ = fs::write(folder.join("memory.swap.max"), swapped(bytes).to_string());
                }
                if let Some(processes) = resources.processes.filter(|_| *pids) {
                    fs::write(folder.join("pids.max"), processes.to_string())?;
                }
            }
            Layout::V1 { cpu, memory, pids } => {
                for folder in &group.folders {
                    if let Some(quota) = quota.filter(|_| folder.starts_with(cpu)) {
                        fs::write(folder.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
                        fs::write(folder.join("cpu.cfs_quota_us"), quota.to_string())?;
                    }
                    if let Some(bytes) = resources.memory_bytes.filter(|_| folder.starts_with(memory)) {
                        fs::write(folder.join("memory.limit_in_bytes"), bytes.to_string())?;
                        let both = bytes.saturating_add(swapped(bytes));
                        let _ = fs::write(folder.join("memory.memsw.limit_in_bytes"), both.to_string());
                    }
                    let counts = pids.as_ref().is_some_and(|pids| folder.starts_with(pids));
                    if let Some(processes) = resources.processes.filter(|_| counts) {
                        fs::write(folder.join("pids.max"), processes.to_string())?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for folder in self.folders() {
            remove_below(&folder);
            let _ = fs::remove_dir(folder);
        }
    }
}

/// A group of one agent, removed when this is dropped. By then the agent must be gone: groups with processes stay.
#[derive(Debug, Default)]
pub struct Cgroup {
    folders: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes those of these folders that it does not have yet. What was made is removed with it, whatever fails.
    fn extend(&mut self, wanted: Vec<PathBuf>) -> io::Result<Vec<PathBuf>> {
        let new: Vec<_> = wanted.into_iter().filter(|folder| !self.folders.contains(folder)).collect();
        self.folders.extend(new.iter().cloned());
        new.iter().try_for_each(|folder| make(folder))?;
        Ok(new)
    }

    /// Files by which a process puts itself into the group: it writes 0 to each.
    pub(crate) fn entrances(&self) -> io::Result<Vec<OwnedFd>> {
        let opened = self.folders.iter().map(|folder| fs::OpenOptions::new().write(true).open(folder.join(PROCESSES)));
        opened.map(|file| file.map(OwnedFd::from)).collect()
    }

    /// Memory that is charged to it now, what the host keeps of its files included; none when it is not counted.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        self.folders.iter().find_map(|folder| {
            let files = ["memory.current", "memory.usage_in_bytes"];
            files.iter().find_map(|file| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok())
        })
    }

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

    /// Removes it, and waits for what is still dying in it, within bounds.
    pub(crate) async fn remove(mut self) {
        let until = Instant::now() + DYING;
        while !remove_all(&mut self.folders) && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !remove_all(&mut self.folders) {
            // What was killed may still be dying; the next start of the node, or its end, removes the group.
            debug!(folders = ?self.folders, "cannot remove a control group yet");
        }
    }
}

/// Removes groups; whether none is left. Those that are in use are.
fn remove_all(folders: &mut Vec<PathBuf>) -> bool {
    folders.retain(|folder| fs::remove_dir(folder).is_err_and(|error| error.kind() != io::ErrorKind::NotFound));
    folders.is_empty()
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

/// Removes the groups of machines with these names from the folders of a node, and waits for what is still dying in them,
/// within bounds.
pub(crate) fn remove_of(folders: &[PathBuf], machines: &[OsString]) {
    let until = Instant::now() + DYING;
    let mut groups: Vec<_> = machines.iter().flat_map(|name| folders.iter().map(move |own| own.join(name))).collect();
    while !remove_all(&mut groups) && Instant::now() < until {
        std::thread::sleep(LOOK);
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
mod tests;
