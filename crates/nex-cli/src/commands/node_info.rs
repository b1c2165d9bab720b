//! `nex node info`: one node, and the workloads of the namespace on it.

use anyhow::Result;
use nex_protocol::control::info::{InfoResponse, MachineSummary, PoolSummary};
use serde::Serialize;

use super::node_reference;
use super::session::Session;
use crate::args::{GlobalArgs, InfoArgs};
use crate::output::{self, Block, grouped};

/// The reply, and whose it is.
#[derive(Serialize)]
struct NodeInfo<'a> {
    node_id: &'a str,
    #[serde(flatten)]
    info: &'a InfoResponse,
}

pub(super) async fn run(global: &GlobalArgs, args: &InfoArgs) -> Result<()> {
    let session = Session::open(global).await?;
    let node = node_reference::resolve(&session.client, &args.node).await?;
    let info = session.client.node_info(&node).await?;
    if args.json {
        return output::json(&NodeInfo { node_id: &node, info: &info });
    }
    output::line(block(&node, &info, args.full).render())
}

fn block(node: &str, info: &InfoResponse, full: bool) -> Block {
    let mut block = Block::default();
    block.heading("NEX Node Information");
    block.value("Node", node);
    block.value("Xkey", &info.public_xkey);
    block.value("Version", &info.version);
    block.value("Uptime", &info.uptime);
    let tags: Vec<String> = info.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !tags.is_empty() {
        block.value("Tags", tags.join(", "));
    }
    if full && !info.supported_workload_types.is_empty() {
        block.value("Workload Types", info.supported_workload_types.join(", "));
    }
    if full {
        block.value("Ready Agents", info.available_agents.to_string());
        if let Some(pool) = &info.pool {
            block.value("Pool", pool_line(pool));
            if let Some(error) = &pool.last_error {
                block.value("Pool Error", error);
            }
        }
    }
    if let Some(memory) = &info.memory {
        block.heading("Memory in kB:");
        block.value("Free", grouped(memory.free));
        block.value("Available", grouped(memory.available));
        block.value("Total", grouped(memory.total));
    }
    if !info.machines.is_empty() {
        block.heading("Workloads:");
        for machine in &info.machines {
            workload(&mut block, machine, full);
        }
    }
    block
}

fn pool_line(pool: &PoolSummary) -> String {
    let PoolSummary { ready, target, claims, misses, failures, .. } = pool;
    format!("{ready} of {target} ready; {claims} claimed, {misses} of them after a wait; {failures} failed to start")
}

fn workload(block: &mut Block, machine: &MachineSummary, full: bool) {
    let workload = &machine.workload;
    block.value("Id", &machine.id);
    block.value("Healthy", machine.healthy.to_string());
    block.value("Runtime", &workload.runtime);
    block.value("Name", &workload.name);
    block.value("Description", &workload.description);
    if full {
        block.value("Type", &workload.r#type);
        if !workload.state.is_empty() {
            block.value("State", &workload.state);
        }
        block.value("Uptime", &machine.uptime);
        block.value("Restarts", workload.restarts.to_string());
        if let Some(instances) = workload.instances {
            block.value("Instances", instances.to_string());
        }
        if !workload.trigger_subjects.is_empty() {
            block.value("Triggers", workload.trigger_subjects.join(", "));
        }
        block.value("Hash", &workload.hash);
    }
    block.gap();
}

#[cfg(test)]
mod tests {
    use super::*;
    use nex_protocol::control::info::{Memory, WorkloadSummary};

    #[test]
    fn the_block_is_that_of_the_documentation() {
        let info = InfoResponse {
            version: "0.1.0".into(),
            uptime: "8m47s".into(),
            public_xkey: "XASQ".into(),
            tags: [("nex.os".to_owned(), "linux".to_owned()), ("simple".to_owned(), "true".to_owned())].into(),
            memory: Some(Memory { total: 63_883_232, free: 33_545_884, available: 56_529_000 }),
            machines: vec![MachineSummary {
                id: "cmji".into(),
                healthy: true,
                workload: WorkloadSummary {
                    name: "echoservice".into(),
                    description: "Workload published in devmode".into(),
                    runtime: "8m47s".into(),
                    ..WorkloadSummary::default()
                },
                ..MachineSummary::default()
            }],
            ..InfoResponse::default()
        };
        let expected = "\
NEX Node Information

         Node: NBS3
         Xkey: XASQ
      Version: 0.1.0
       Uptime: 8m47s
         Tags: nex.os=linux, simple=true

Memory in kB:

         Free: 33,545,884
    Available: 56,529,000
        Total: 63,883,232

Workloads:

           Id: cmji
      Healthy: true
      Runtime: 8m47s
         Name: echoservice
  Description: Workload published in devmode";
        assert_eq!(block("NBS3", &info, false).render(), expected);
    }

    #[test]
    fn the_pool_is_shown_when_all_is_asked_for_and_the_node_tells() {
        let pool = PoolSummary {
            ready: 1,
            target: 2,
            claims: 9,
            misses: 3,
            failures: 1,
            last_error: Some("no kernel".into()),
        };
        let told = InfoResponse { pool: Some(pool), ..InfoResponse::default() };
        let full = block("NBS3", &told, true).render();
        assert!(full.contains("Pool: 1 of 2 ready; 9 claimed, 3 of them after a wait; 1 failed to start"), "{full}");
        assert!(full.contains("Pool Error: no kernel"), "{full}");
        assert!(!block("NBS3", &told, false).render().contains("Pool"));
        assert!(!block("NBS3", &InfoResponse::default(), true).render().contains("Pool"), "a node of Go Nex");
    }
}
