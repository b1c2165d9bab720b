//! `nex workload ls` and `nex node probe`: the workloads of the namespace on all nodes.

use anyhow::Result;
use nex_protocol::control::ping::tag;
use nex_protocol::control::workload_ping::WorkloadPingResponse;
use serde::Serialize;

use super::session::Session;
use crate::args::{GlobalArgs, ProbeArgs, WorkloadLsArgs};
use crate::output::{self, Table};

/// A workload, and where it is.
#[derive(Debug, Serialize)]
struct Found<'a> {
    id: &'a str,
    name: &'a str,
    r#type: &'a str,
    namespace: &'a str,
    state: &'a str,
    uptime: &'a str,
    restarts: u32,
    node_id: &'a str,
    node_name: &'a str,
}

pub(super) async fn list(global: &GlobalArgs, args: &WorkloadLsArgs) -> Result<()> {
    let session = Session::open(global).await?;
    let nodes = session.client.workload_ping(None).await?;
    let found = found(&nodes);
    if args.json {
        return output::json(&found);
    }
    if found.is_empty() {
        return output::line(format!("No workloads in namespace {}", session.client.namespace()));
    }
    let mut table = Table::new("Workloads", &["ID", "Name", "Type", "State", "Uptime", "Node Name", "Restarts"]);
    for workload in &found {
        let cells = [workload.id, workload.name, workload.r#type, workload.state, workload.uptime, workload.node_name];
        table.row(cells.into_iter().map(str::to_owned).chain([workload.restarts.to_string()]).collect());
    }
    table.last_is_number();
    output::line(table.render(output::to_terminal()))
}

pub(super) async fn probe(global: &GlobalArgs, args: &ProbeArgs) -> Result<()> {
    let session = Session::open(global).await?;
    let nodes = session.client.workload_ping(args.workload.as_deref()).await?;
    if args.json {
        return output::json(&nodes);
    }
    let found = found(&nodes);
    if found.is_empty() {
        return output::line("No workloads matched");
    }
    let mut table = Table::new("Discovered Workloads", &["ID", "Name", "Type", "Namespace", "Node Name"]);
    for workload in &found {
        let cells = [workload.id, workload.name, workload.r#type, workload.namespace, workload.node_name];
        table.row(cells.into_iter().map(str::to_owned).collect());
    }
    output::line(table.render(output::to_terminal()))
}

fn found(nodes: &[WorkloadPingResponse]) -> Vec<Found<'_>> {
    let mut found: Vec<Found<'_>> = nodes
        .iter()
        .flat_map(|node| {
            node.running_machines.iter().map(move |machine| Found {
                id: &machine.id,
                name: &machine.name,
                r#type: &machine.r#type,
                namespace: &machine.namespace,
                state: &machine.state,
                uptime: &machine.uptime,
                restarts: machine.restarts,
                node_id: &node.node_id,
                node_name: node.tags.get(tag::NODE_NAME).map_or("no-name", String::as_str),
            })
        })
        .collect();
    found.sort_by(|a, b| (a.name, a.node_id, a.id).cmp(&(b.name, b.node_id, b.id)));
    found
}
