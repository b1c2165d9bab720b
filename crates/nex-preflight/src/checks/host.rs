//! Limits of the machine: open files, memory, disk, control groups, user ids.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::{Finding, Group, Machines, Monitor, Wanted};

/// Files a node has open without any agent.
const FILES: u64 = 256;

/// Files it has open for an agent.
const FILES_PER_AGENT: u64 = 16;

/// Memory of a monitor beside that of its guest, MiB.
const MONITOR: u64 = 32;

/// Memory of a monitor that translates, MiB.
const TRANSLATOR: u64 = 128;

/// Memory of an agent that is a process, MiB.
const AGENT: u64 = 16;

/// Room for the node's state, MiB.
const STATE: u64 = 256;

pub(super) fn host(wanted: &Wanted) -> Vec<Finding> {
    let pool = wanted.pool_size as u64;
    let mut found = vec![
        files(getrlimit(Resource::Nofile).current, pool),
        memory(available_mib(), pool, each(wanted.machines.as_ref())),
        disk(wanted, pool),
        groups(Path::new("/sys/fs/cgroup")),
    ];
    if let Some(Monitor::Firecracker { jailed: true, shared_users, .. }) = wanted.machines.as_ref().map(|m| &m.monitor)
    {
        found.push(users(shared_users));
    }
    found
}

fn files(limit: Option<u64>, pool: u64) -> Finding {
    let needs = FILES + FILES_PER_AGENT * pool;
    match limit {
        Some(limit) if limit < needs => Finding::wrong(
            Group::Host,
            "open_files",
            format!("open files: {limit} allowed, {needs} needed for a pool of {pool}"),
            format!("raise the limit before the node starts: `ulimit -n {needs}`, or LimitNOFILE of its systemd unit"),
        ),
        Some(limit) => Finding::ok(Group::Host, "open_files", format!("open files: {limit} allowed")),
        None => Finding::ok(Group::Host, "open_files", "open files: not limited"),
    }
}

/// Memory of one agent with what is around it, MiB.
fn each(machines: Option<&Machines>) -> u64 {
    match machines {
        None => AGENT,
        Some(machines) => {
            let monitor = if matches!(machines.monitor, Monitor::Qemu { .. }) { TRANSLATOR } else { MONITOR };
            machines.memory_mib + monitor
        }
    }
}

fn available_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    value.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kilobytes| kilobytes / 1024)
}

fn memory(available: Option<u64>, pool: u64, each: u64) -> Finding {
    let needs = pool * each;
    match available {
        Some(available) if available < needs => Finding::wrong(
            Group::Host,
            "memory",
            format!("memory: {available} MiB available, {needs} needed ({pool} ready, {each} MiB each)"),
            "lower machine_pool_size or machine_template.memsize_mib, or free memory",
        ),
        Some(available) => {
            Finding::ok(Group::Host, "memory", format!("memory: {available} MiB available, {needs} needed"))
        }
        None => Finding::ok(Group::Host, "memory", "memory: the machine does not say how much it has"),
    }
}

/// The nearest folder above that exists: the path itself is made when it is needed.
fn existing(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn disk(wanted: &Wanted, pool: u64) -> Finding {
    let scratch = wanted.machines.as_ref().map_or(0, |machines| machines.scratch_mib * pool);
    let needs = STATE + scratch;
    let folder = existing(&wanted.state_dir);
    let finding = match rustix::fs::statvfs(&folder) {
        Ok(room) => {
            let free = room.f_bavail.saturating_mul(room.f_frsize) >> 20;
            if free < needs {
                let detail = format!("disk: {free} MiB free for the node's state, {needs} needed");
                Finding::wrong(Group::Host, "disk", detail, "free some, or set state_dir to a folder with more room")
            } else {
                Finding::ok(Group::Host, "disk", format!("disk: {free} MiB free for the node's state, {needs} needed"))
            }
        }
        Err(error) => Finding::wrong(
            Group::Host,
            "disk",
            format!("disk: the room for the node's state is not known: {error}"),
            "set state_dir to a folder that can be read",
        ),
    };
    finding.at(&wanted.state_dir)
}

/// User ids of jailed machines, which nobody else should have.
fn users(shared: &[String]) -> Finding {
    let name = "jailer_users";
    if shared.is_empty() {
        return Finding::ok(Group::Host, name, "user ids of machines: given to nobody in /etc/subuid and /etc/subgid");
    }
    let detail = format!("user ids of machines are given to others: {}", shared.join("; "));
    let mend = "set jailer_users.first so that jailer_users.count ids from there are in no line of /etc/subuid and \
                /etc/subgid, or take them from who has them (usermod --del-subuids, --del-subgids)";
    Finding::wrong(Group::Host, name, detail, mend).needed(false)
}

/// Control groups bound single workloads and the monitors of microVMs; a node runs without them, and says so.
fn groups(root: &Path) -> Finding {
    let controllers = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    let has = |name: &str| controllers.split_whitespace().any(|controller| controller == name);
    let version_1 = || root.join("cpu").is_dir() && root.join("memory").is_dir();
    let writable = |folder: &Path| rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok();
    let name = "cgroups";
    let mend =
        "mount control groups with cpu and memory, and run the node as root or in a systemd unit with Delegate=yes";
    let (version, folder) = if has("cpu") && has("memory") {
        (2, root.to_owned())
    } else if version_1() {
        (1, root.join("memory"))
    } else {
        let detail = "control groups: none for cpu and memory; --cpu and --memory of workloads will be refused, and nothing \
                      bounds the monitor of a microVM";
        return Finding::missing(Group::Host, name, detail, mend).at(root).needed(false);
    };
    let finding = if writable(&folder) {
        Finding::ok(Group::Host, name, format!("control groups, version {version}"))
    } else {
        let detail = format!("control groups, version {version}: this user may not make any");
        Finding::wrong(Group::Host, name, detail, mend)
    };
    finding.at(root).needed(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;

    #[test]
    fn limits_are_compared_with_what_the_pool_takes() {
        assert_eq!(files(Some(1024), 1).state, State::Ok);
        assert_eq!(files(None, 4096).state, State::Ok);
        let few = files(Some(1024), 100);
        assert_eq!(few.state, State::Wrong);
        assert!(few.mend.unwrap().contains("ulimit -n 1856"));
        assert_eq!(memory(Some(1000), 3, 288).state, State::Ok);
        assert_eq!(memory(Some(800), 3, 288).state, State::Wrong);
        assert_eq!(memory(None, 3, 288).state, State::Ok);
    }

    #[test]
    fn ids_that_somebody_else_has_are_named_with_him_and_are_no_reason_not_to_start() {
        assert_eq!(users(&[]).state, State::Ok);
        let found = users(&["/etc/subuid gives 1900000000 to 1900065535 to alice".to_owned()]);
        assert!(found.state == State::Wrong && !found.blocks());
        assert!(found.detail.contains("alice") && found.mend.unwrap().contains("jailer_users.first"));
    }

    #[test]
    fn both_versions_of_control_groups_are_known() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(groups(root.path()).state, State::Missing);
        assert!(!groups(root.path()).blocks());
        std::fs::create_dir(root.path().join("cpu")).unwrap();
        std::fs::create_dir(root.path().join("memory")).unwrap();
        assert!(groups(root.path()).detail.contains("version 1"));
        std::fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        assert!(groups(root.path()).detail.contains("version 2"));
    }

    #[test]
    fn a_folder_that_is_yet_to_be_made_is_judged_by_the_one_above() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(existing(&root.path().join("a/b/c")), root.path());
        assert!(existing(Path::new("nowhere-at-all")).is_dir());
    }
}
