//! Which node is meant: by its id, the beginning of its id, or its name.

use anyhow::{Result, bail};
use nex_client::Client;
use nex_protocol::control::ping::{PingResponse, tag};

/// Shortest beginning of an id that is looked up: it must not be taken for a name by accident.
const SHORTEST_PREFIX: usize = 4;

/// Length of a public nkey.
const ID_LENGTH: usize = 56;

/// The id of the node that `reference` means. A whole id is taken as it is, without asking anybody.
pub(super) async fn resolve(client: &Client, reference: &str) -> Result<String> {
    let is_id = reference.len() == ID_LENGTH
        && reference.starts_with('N')
        && reference.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    if is_id {
        return Ok(reference.to_owned());
    }
    let nodes = client.ping_nodes().await?;
    if nodes.is_empty() {
        bail!("{}", nobody(client.server()));
    }
    choose(&nodes, reference)
}

/// The text for "nobody is there".
pub(super) fn nobody(server: &str) -> String {
    format!("no node answered on {server}: is one running? start one with `nex node up`, see `nex node ls`")
}

fn choose(nodes: &[PingResponse], reference: &str) -> Result<String> {
    let named = |node: &&PingResponse| node.tags.get(tag::NODE_NAME).is_some_and(|name| name == reference);
    let begins = |node: &&PingResponse| {
        reference.len() >= SHORTEST_PREFIX
            && node.node_id.get(..reference.len()).is_some_and(|start| start.eq_ignore_ascii_case(reference))
    };
    let mut matching: Vec<&str> = nodes.iter().filter(named).map(|node| node.node_id.as_str()).collect();
    if matching.is_empty() {
        matching = nodes.iter().filter(begins).map(|node| node.node_id.as_str()).collect();
    }
    match matching.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => bail!(
            "no node has the name '{reference}' or an id that begins with it ({SHORTEST_PREFIX} characters or more): \
             `nex node ls` lists the nodes"
        ),
        several => bail!("'{reference}' means {} nodes: {}; give more of the id", several.len(), several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, name: &str) -> PingResponse {
        PingResponse {
            node_id: id.into(),
            tags: [(tag::NODE_NAME.to_owned(), name.to_owned())].into(),
            ..PingResponse::default()
        }
    }

    #[test]
    fn names_come_before_prefixes_and_both_must_be_unique() {
        let nodes = [node("NABCD1", "fox"), node("NABCE2", "NABCD"), node("NXYZ", "fox2")];
        assert_eq!(choose(&nodes, "fox").unwrap(), "NABCD1");
        assert_eq!(choose(&nodes, "NABCD").unwrap(), "NABCE2");
        assert_eq!(choose(&nodes, "nxyz").unwrap(), "NXYZ");
        assert!(choose(&nodes, "NABC").unwrap_err().to_string().contains("means 2 nodes"));
        assert!(choose(&nodes, "NXY").unwrap_err().to_string().contains("nex node ls"), "too short");
        assert!(choose(&nodes, "ÄÖÜäöü").is_err());
    }
}
