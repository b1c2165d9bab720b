//! Choosing a node for `devrun`: by auction, then the one with the least to do.

use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::future::join_all;
use nex_client::Client;
use nex_protocol::control::auction::AuctionRequest;
use nex_protocol::control::info::MachineSummary;
use nex_protocol::control::ping::{PingResponse, tag};
use nex_protocol::{WorkloadName, WorkloadType};

use super::node_reference;
use crate::artifact_kind::ArtifactKind;

/// Nodes that are asked whether they run an older workload of the same name.
const ASKED_AT_MOST: usize = 32;

/// How long bids are waited for after everybody who is there has answered a ping. Longer than the longest silence
/// that a scatter waits for, so that an auction with bids ends by itself.
const GRACE_FOR_BIDS: Duration = Duration::from_millis(1200);

/// The operating system that services are built for; functions run anywhere.
const SERVICE_OS: &str = "linux";

/// A node, and the older workloads that the new one replaces.
pub(super) struct Placement {
    pub(super) node: PingResponse,
    pub(super) replaced: Vec<MachineSummary>,
}

/// Chooses a node. With `replacing`, one that runs a workload of this name already is preferred: deployed elsewhere,
/// the new one would run beside the old one.
pub(super) async fn choose(
    client: &Client,
    kind: ArtifactKind,
    name: &WorkloadName,
    replacing: bool,
) -> Result<Placement> {
    let (bids, present) = auction(client, &needs(kind)).await?;
    let mut candidates: Vec<PingResponse> = bids.iter().filter(|node| !is_lame_duck(node)).cloned().collect();
    candidates.sort_by(|a, b| (a.running_machines, &a.node_id).cmp(&(b.running_machines, &b.node_id)));
    let Some(least_busy) = candidates.first().cloned() else {
        let present = if present.is_empty() { client.ping_nodes().await? } else { present };
        bail!("{}", nobody_fits(client.server(), kind, bids.len(), &present));
    };
    if !replacing {
        return Ok(Placement { node: least_busy, replaced: Vec::new() });
    }
    let asked = candidates.iter().take(ASKED_AT_MOST);
    let answers = join_all(asked.map(|node| async move { (node, client.node_info(&node.node_id).await) })).await;
    for (node, info) in answers {
        // A node that does not answer this is not the one to send a workload to either; the auction has others.
        let machines = info.map(|info| info.machines).unwrap_or_default();
        let replaced: Vec<MachineSummary> =
            machines.into_iter().filter(|machine| machine.workload.name == name.as_str()).collect();
        if !replaced.is_empty() {
            return Ok(Placement { node: node.clone(), replaced });
        }
    }
    Ok(Placement { node: least_busy, replaced: Vec::new() })
}

/// Asks for bids, and at the same time who is there at all. Nodes that do not fit stay silent, so an auction that
/// nobody fits would wait for the whole timeout; it is over some time after everybody present has spoken.
async fn auction(client: &Client, needs: &AuctionRequest) -> Result<(Vec<PingResponse>, Vec<PingResponse>)> {
    let everybody = async {
        let present = client.ping_nodes().await?;
        tokio::time::sleep(GRACE_FOR_BIDS).await;
        Ok::<_, anyhow::Error>(present)
    };
    tokio::select! {
        bids = client.auction(needs) => Ok((bids?, Vec::new())),
        present = everybody => Ok((Vec::new(), present?)),
    }
}

fn needs(kind: ArtifactKind) -> AuctionRequest {
    let service = !kind.workload_type.is_function();
    AuctionRequest {
        os: service.then(|| SERVICE_OS.to_owned()),
        arch: kind.arch.map(str::to_owned),
        workload_types: vec![kind.workload_type.to_string()],
        ..AuctionRequest::default()
    }
}

fn is_lame_duck(node: &PingResponse) -> bool {
    node.tag_is(tag::LAME_DUCK, "true")
}

/// Which of the needs nobody meets, as far as that can be told from here.
fn nobody_fits(server: &str, kind: ArtifactKind, bids: usize, present: &[PingResponse]) -> String {
    if present.is_empty() {
        return node_reference::nobody(server);
    }
    if bids > 0 {
        return "every node that fits is in lame duck mode and takes no new work: start another with `nex node up`"
            .to_owned();
    }
    let count = match present.len() {
        1 => "1 node answered, but it does not run".to_owned(),
        several => format!("{several} nodes answered, but none runs"),
    };
    let platform = match kind.arch {
        Some(arch) => format!(" on {SERVICE_OS}/{arch}"),
        None if kind.workload_type.is_function() => String::new(),
        None => format!(" on {SERVICE_OS}"),
    };
    let mut platforms: Vec<String> = present
        .iter()
        .filter_map(|node| Some(format!("{}/{}", node.tags.get(tag::OS)?, node.tags.get(tag::ARCH)?)))
        .collect();
    platforms.sort();
    platforms.dedup();
    let fits = kind.arch.is_none_or(|arch| platforms.contains(&format!("{SERVICE_OS}/{arch}")));
    let advice = if fits && kind.workload_type == WorkloadType::V8 {
        "see that it finds Deno (its log says so at start) and that workload_types in its configuration has \"v8\""
            .to_owned()
    } else if fits {
        format!("add \"{}\" to workload_types in the node's configuration", kind.workload_type)
    } else {
        format!("build it for {} or start a node there", platforms.join(" or "))
    };
    format!("{count} {} workloads{platform}: {advice}", kind.workload_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(workload_type: WorkloadType, arch: Option<&'static str>) -> ArtifactKind {
        ArtifactKind { workload_type, arch }
    }

    fn node() -> PingResponse {
        let tags = [(tag::OS, "linux"), (tag::ARCH, "amd64")];
        PingResponse { tags: tags.map(|(k, v)| (k.to_owned(), v.to_owned())).into(), ..PingResponse::default() }
    }

    #[test]
    fn functions_run_anywhere_and_services_where_they_were_built_for() {
        assert_eq!(needs(kind(WorkloadType::V8, None)).os, None);
        let service = needs(kind(WorkloadType::Native, Some("arm64")));
        assert_eq!((service.os.as_deref(), service.arch.as_deref()), (Some("linux"), Some("arm64")));
    }

    #[test]
    fn the_need_that_nobody_meets_is_named() {
        let message = |kind, bids, nodes: &[PingResponse]| nobody_fits("nats://x", kind, bids, nodes);
        let v8 = kind(WorkloadType::V8, None);
        assert!(message(v8, 0, &[]).starts_with("no node answered on nats://x: is one running?"));
        assert!(message(v8, 1, &[node()]).contains("lame duck"));
        let wasm = kind(WorkloadType::Wasm, None);
        assert_eq!(
            message(wasm, 0, &[node(), node()]),
            "2 nodes answered, but none runs wasm workloads: add \"wasm\" to workload_types in the node's configuration"
        );
        assert!(message(v8, 0, &[node()]).contains("Deno"));
        assert_eq!(
            message(kind(WorkloadType::Native, Some("arm64")), 0, &[node()]),
            "1 node answered, but it does not run native workloads on linux/arm64: build it for linux/amd64 or start \
             a node there"
        );
    }
}
