//! `nex node ls`: who answers.

use anyhow::Result;
use nex_protocol::control::ping::{PingResponse, tag};

use super::session::Session;
use crate::args::{GlobalArgs, LsArgs};
use crate::output::{self, Table};

pub(super) async fn run(global: &GlobalArgs, args: &LsArgs) -> Result<()> {
    let session = Session::open(global).await?;
    let mut nodes = session.client.ping_nodes().await?;
    nodes.sort_by(|a, b| (&a.nexus, name(a), &a.node_id).cmp(&(&b.nexus, name(b), &b.node_id)));
    if args.json {
        return output::json(&nodes);
    }
    if nodes.is_empty() {
        return output::line("No nodes discovered");
    }
    output::line(table(&nodes, args.full).render(output::to_terminal()))
}

fn name(node: &PingResponse) -> &str {
    node.tags.get(tag::NODE_NAME).map_or("no-name", String::as_str)
}

fn table(nodes: &[PingResponse], full: bool) -> Table {
    let mut columns = vec!["ID"];
    if full {
        columns.extend(["Nexus", "Name", "Version", "Uptime", "Sandboxed", "OS", "Arch", "Workloads"]);
    } else {
        columns.extend(["Name", "Version", "Workloads"]);
    }
    let mut table = Table::new("NATS Execution Nodes", &columns);
    for node in nodes {
        let lame_duck = if node.tag_is(tag::LAME_DUCK, "true") { "*" } else { "" };
        let tag = |tag: &str| node.tags.get(tag).cloned().unwrap_or_default();
        let mut cells = vec![format!("{}{lame_duck}", node.node_id)];
        if full {
            let nexus = if node.nexus.is_empty() { "-" } else { &node.nexus };
            let sandboxed = !node.tag_is(tag::UNSAFE, "true");
            cells.extend([nexus.to_owned(), name(node).to_owned(), node.version.clone(), node.uptime.clone()]);
            cells.extend([sandboxed.to_string(), tag(tag::OS), tag(tag::ARCH)]);
        } else {
            cells.extend([name(node).to_owned(), node.version.clone()]);
        }
        cells.push(node.running_machines.to_string());
        table.row(cells);
    }
    table.last_is_number();
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lame_ducks_are_marked_and_full_shows_more() {
        let tags = [(tag::LAME_DUCK, "true"), (tag::UNSAFE, "true"), (tag::OS, "linux"), (tag::ARCH, "amd64")];
        let node = PingResponse {
            node_id: "N1".into(),
            version: "0.1.0".into(),
            uptime: "5s".into(),
            tags: tags.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            running_machines: 3,
            ..PingResponse::default()
        };
        let words = |full| {
            let text = table(std::slice::from_ref(&node), full).render(false);
            text.lines().last().unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(words(false), ["N1*", "no-name", "0.1.0", "3"]);
        assert_eq!(words(true), ["N1*", "-", "no-name", "0.1.0", "5s", "false", "linux", "amd64", "3"]);
    }
}
