//! The series of a snapshot made by hand: names, labels, and each happening counted once.

use std::collections::BTreeSet;
use std::time::Duration;

use nex_protocol::WorkloadType;
use nex_sandbox::PoolStatus;
use nex_sandbox::microvm::Counts;

use super::*;
use crate::config::MachineTemplate;
use crate::metrics::Requests;

fn service(namespace: &str, name: &str, state: State) -> Workload {
    let agents = u32::from(state == State::Running);
    Workload {
        namespace: namespace.into(),
        name: name.into(),
        kind: WorkloadType::Native,
        state,
        restarts: 1,
        bytes: 100,
        agents,
        machine: MachineTemplate { vcpu_count: 2, memsize_mib: 256 },
        function: None,
    }
}

fn function(name: &str, calls: u64) -> Workload {
    let function = Function {
        succeeded: calls,
        failed: 1,
        runtime: Duration::from_nanos(1500),
        running: 2,
        waiting: 3,
        instances: 4,
        cold_starts: 5,
        grown: 6,
        starting: Duration::from_millis(250),
    };
    let plain = service("shop", name, State::Running);
    Workload { kind: WorkloadType::Wasm, agents: 4, function: Some(function), ..plain }
}

fn full() -> Snapshot {
    Snapshot {
        node_id: "NABC".into(),
        version: "0.1.0",
        workloads: vec![
            service("shop", "web", State::Running),
            service("lab", "web", State::Failed),
            function("resize", 10),
            function("resize", 1),
        ],
        machines: Some(Counts { running: 11, ..Counts::default() }),
        counts_in_monitors: true,
        pool: PoolStatus { ready: 2, target: 3, claims: 4, misses: 1, failures: 7, lost: 8, ..PoolStatus::default() },
        pending_bytes: 4096,
        requests: vec![Requests { endpoint: "PING", all: 3, refused: 1, took: Duration::from_millis(1500) }],
        process: Some(Process { most_files: Some(1024), ..Process::default() }),
    }
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
}

#[test]
fn what_go_nex_counts_has_its_names_and_is_counted_once() {
    let text = full().to_string();
    for line in [
        "nex_vm_count 11",
        r#"nex_workload_count{namespace="shop",workload_type="native"} 1"#,
        r#"nex_workload_count{namespace="shop",workload_type="wasm"} 2"#,
        r#"nex_workload_count{namespace="lab",workload_type="native"} 1"#,
        r#"nex_deployed_bytes_count{namespace="shop"} 300"#,
        r#"nex_total_memory_allocation_mib_count{namespace="shop"} 2304"#,
        r#"nex_total_memory_allocation_mib_count{namespace="lab"} 0"#,
        r#"nex_total_vcpu_allocation_count{namespace="shop"} 18"#,
        r#"nex_function_trigger_total{namespace="shop",workload_name="resize"} 11"#,
        r#"nex_function_failed_trigger_total{namespace="shop",workload_name="resize"} 2"#,
        r#"nex_function_runtime_nanosec_total{namespace="shop",workload_name="resize"} 3000"#,
    ] {
        has(&text, line);
    }
}

#[test]
fn instances_queues_cold_starts_pool_and_requests_are_told() {
    let text = full().to_string();
    for line in [
        r#"nex_node_info{id="NABC",version="0.1.0"} 1"#,
        "nex_pending_bytes 4096",
        r#"nex_function_instances{namespace="shop",workload_name="resize"} 8"#,
        r#"nex_function_calls_running{namespace="shop",workload_name="resize"} 4"#,
        r#"nex_function_calls_waiting{namespace="shop",workload_name="resize"} 6"#,
        r#"nex_function_cold_starts_total{namespace="shop",workload_name="resize",cause="call"} 10"#,
        r#"nex_function_cold_starts_total{namespace="shop",workload_name="resize",cause="queue"} 12"#,
        r#"nex_function_starting_seconds_total{namespace="shop",workload_name="resize"} 0.5"#,
        r#"nex_workload_restarts_total{namespace="lab",workload_name="web"} 1"#,
        r#"nex_workload_up{namespace="shop",workload_name="web",workload_type="native",state="running"} 1"#,
        r#"nex_workload_up{namespace="lab",workload_name="web",workload_type="native",state="failed"} 0"#,
        "nex_pool_ready 2",
        "nex_pool_target 3",
        "nex_pool_claims_total 4",
        "nex_pool_misses_total 1",
        "nex_pool_failures_total 7",
        "nex_pool_lost_total 8",
        r#"nex_control_requests_total{endpoint="PING"} 3"#,
        r#"nex_control_refusals_total{endpoint="PING"} 1"#,
        r#"nex_control_request_seconds_total{endpoint="PING"} 1.5"#,
        "process_open_fds 0",
    ] {
        has(&text, line);
    }
}

#[test]
fn every_series_has_one_sample_under_its_description_and_counters_end_with_total() {
    let text = full().to_string();
    let (mut seen, mut families, mut current) = (BTreeSet::new(), BTreeSet::new(), ("", ""));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            current = rest.split_once(' ').unwrap();
            assert!(families.insert(current.0), "{line} twice");
            assert_eq!(current.1 == "counter", current.0.ends_with("_total"), "{line}");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(seen.insert(series), "{series} twice");
            assert_eq!(series.split('{').next(), Some(current.0), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(families.len() > 30, "{families:?}");
}

#[test]
fn a_node_without_workloads_and_machines_tells_of_none() {
    let text = Snapshot::default().to_string();
    has(&text, "nex_vm_count 0");
    for name in ["nex_function", "nex_workload", "nex_total", "nex_deployed", "nex_control", "nex_machine", "process_"]
    {
        assert!(!text.contains(name), "{name} in:\n{text}");
    }
}
