//! Control groups with the kernel's side played by plain files: what is written, and where.

use super::*;

#[test]
fn without_control_groups_the_reason_is_told() {
    let root = tempfile::tempdir().unwrap();
    let error = Cgroups::below(root.path(), "t").unwrap_err();
    assert!(error.to_string().contains("no control groups"), "{error}");
}

#[test]
fn version_two_gets_quota_and_memory_in_one_group() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory pids").unwrap();
    let groups = Cgroups::below(root.path(), "t").unwrap();
    let resources = Resources { cpu_millis: Some(250), memory_bytes: Some(64 << 20), processes: Some(9) };
    let group = groups.bound("agent", 7, &resources).unwrap();
    let own = root.path().join("nex-t/agent");
    let read = |name: &str| fs::read_to_string(own.join(name)).unwrap();
    assert_eq!(read("cpu.max"), "25000 100000");
    assert_eq!((read("memory.max"), read("cgroup.procs")), ("67108864".into(), "7".into()));
    assert_eq!((read("memory.swap.max"), read("pids.max")), ("0".into(), "9".into()));
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
    let group = groups.bound("agent", 7, &Resources { cpu_millis: Some(1500), ..Resources::default() }).unwrap();
    let cpu = root.path().join("cpu/nex-t/agent");
    assert_eq!(fs::read_to_string(cpu.join("cpu.cfs_quota_us")).unwrap(), "150000");
    assert!(!root.path().join("memory/nex-t/agent").exists());
    drop(group);
}

#[test]
fn a_group_that_somebody_enters_is_tightened_later_by_what_is_named_and_no_more() {
    let root = tempfile::tempdir().unwrap();
    for controller in ["cpu", "memory", "pids"] {
        fs::create_dir(root.path().join(controller)).unwrap();
    }
    let groups = Cgroups::below(root.path(), "t").unwrap();
    assert!(groups.count_processes() && groups.folders().len() == 3);
    let machine = Resources { cpu_millis: None, memory_bytes: Some(300 << 20), processes: Some(129) };
    let mut group = groups.empty("m", &machine, Swap::AsMuch).unwrap();
    let read = |file: &str| fs::read_to_string(root.path().join(file)).unwrap();
    assert_eq!(read("memory/nex-t/m/memory.limit_in_bytes"), "314572800");
    assert_eq!(read("memory/nex-t/m/memory.memsw.limit_in_bytes"), "629145600");
    assert_eq!(read("pids/nex-t/m/pids.max"), "129");
    assert!(!root.path().join("cpu/nex-t/m").exists());
    for folder in ["memory/nex-t/m", "pids/nex-t/m"] {
        fs::write(root.path().join(folder).join(PROCESSES), "").unwrap();
    }
    assert_eq!(group.entrances().unwrap().len(), 2);
    fs::write(root.path().join("memory/nex-t/m/memory.usage_in_bytes"), "4096\n").unwrap();
    assert_eq!(group.memory_bytes(), Some(4096));

    let asked = Resources { cpu_millis: Some(500), ..Resources::default() };
    groups.tighten(&mut group, "m", 7, &asked).unwrap();
    assert_eq!(read("cpu/nex-t/m/cpu.cfs_quota_us"), "50000");
    assert_eq!(read("cpu/nex-t/m/cgroup.procs"), "7");
    assert_eq!(read("memory/nex-t/m/cgroup.procs"), "", "it is there already");
    assert_eq!(read("memory/nex-t/m/memory.limit_in_bytes"), "314572800");
}

#[test]
fn a_host_that_does_not_count_processes_bounds_the_rest() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("cgroup.controllers"), "cpu memory").unwrap();
    let groups = Cgroups::below(root.path(), "t").unwrap();
    assert!(!groups.count_processes());
    let machine = Resources { memory_bytes: Some(1 << 20), processes: Some(1), ..Resources::default() };
    let _group = groups.empty("m", &machine, Swap::AsMuch).unwrap();
    let own = root.path().join("nex-t/m");
    assert_eq!(fs::read_to_string(own.join("memory.swap.max")).unwrap(), "1048576");
    assert!(!own.join("pids.max").exists());
}
