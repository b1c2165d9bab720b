//! Nodes of which there is nothing but the protocol: what a client sees of a hundred machines, without them.

use anyhow::Result;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use futures_util::stream::select_all;
use nex_protocol::control::auction::AuctionRequest;
use nex_protocol::control::deploy::{DeployRequest, RunResponse};
use nex_protocol::control::info::InfoResponse;
use nex_protocol::control::ping::{PingResponse, tag};
use nex_protocol::envelope::{self, kind};
use nex_protocol::subject;

/// The types that they claim to run.
const TYPES: [&str; 3] = ["native", "v8", "wasm"];

/// What a node says of itself.
fn node(number: usize) -> PingResponse {
    let tags = [
        (tag::NODE_NAME, format!("simulated-{number}")),
        (tag::OS, "linux".to_owned()),
        (tag::ARCH, "amd64".to_owned()),
        ("zone", format!("zone-{}", number % 3)),
    ];
    PingResponse {
        node_id: nex_identity::NodeKey::generate().public_key(),
        nexus: "nexus".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime: "1h0m0s".to_owned(),
        target_xkey: nex_identity::XKeyPair::generate().public_key(),
        tags: tags.map(|(name, value)| (name.to_owned(), value)).into(),
        running_machines: number,
    }
}

/// Answers PING, AUCTION, INFO and DEPLOY as so many nodes, for ever. Each has subscriptions of its own, as real ones do.
pub(crate) async fn answer(url: &str, count: usize, ready: impl FnOnce()) -> Result<()> {
    let client = async_nats::connect(url).await?;
    let mut nodes = Vec::new();
    for number in 0..count {
        let node = node(number);
        let pings = client.subscribe(subject::PING).await?;
        let auctions = client.subscribe(subject::AUCTION).await?;
        let infos = client.subscribe(subject::info("*", &node.node_id)).await?;
        let deploys = client.subscribe(subject::deploy("*", &node.node_id)).await?;
        let client = client.clone();
        nodes.push(async move {
            let mut asked = select_all([pings, auctions, infos, deploys]);
            let mut deployed = 0;
            while let Some(message) = asked.next().await {
                let Some(reply) = message.reply else { continue };
                let body = match message.subject.as_str() {
                    subject::PING => envelope::success(kind::PING, &node)?,
                    subject::AUCTION if !AuctionRequest::lenient(&message.payload).accepts(&node, &TYPES) => continue,
                    subject::AUCTION => envelope::success(kind::AUCTION, &node)?,
                    deploy if deploy.contains(".DEPLOY.") => {
                        deployed += 1;
                        envelope::success(kind::RUN, &run(&message.payload, number, deployed)?)?
                    }
                    _ => envelope::success(kind::INFO, &info(&node))?,
                };
                client.publish(reply, body.into()).await?;
            }
            anyhow::Ok(())
        });
    }
    nex_e2e::round_trip(&client).await?;
    ready();
    try_join_all(nodes).await?;
    Ok(())
}

/// The answer to a deploy request that can be read. Whether it may run would be for a node to judge.
fn run(request: &[u8], number: usize, deployed: usize) -> Result<RunResponse> {
    let request: DeployRequest = serde_json::from_slice(request)?;
    anyhow::ensure!(request.location.is_some(), "a deploy request without a location");
    Ok(RunResponse { started: true, id: format!("simulated-{number}-{deployed}"), ..RunResponse::default() })
}

fn info(node: &PingResponse) -> InfoResponse {
    InfoResponse {
        version: node.version.clone(),
        uptime: node.uptime.clone(),
        public_xkey: node.target_xkey.clone(),
        tags: node.tags.clone(),
        supported_workload_types: TYPES.map(str::to_owned).to_vec(),
        ..InfoResponse::default()
    }
}
