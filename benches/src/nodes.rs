//! Many nodes: how long until all of them are listed, until all that fit have bid, and until a workload of many replicas is
//! spread over them.
//!
//! A client cannot know how many nodes there are. It waits until no answer has come for a while (300 ms when answers come
//! fast), so listing takes that long at least; "last answer" is the part that depends on the number of nodes.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use nex_client::{Client, Deployment};
use nex_e2e::PATIENCE;
use nex_identity::{Issuer, XKeyPair};
use nex_protocol::control::auction::AuctionRequest;
use nex_protocol::{Location, Namespace, WorkloadType, subject};
use nex_testkit::NatsServer;

use crate::cli::{nex, succeed};
use crate::effort::Effort;
use crate::figures::{median, millis, nanos, timed};
use crate::report::{Figure, Report};
use crate::roles::Role;

const NAME: &str = "nodes";

/// Measures all of it.
pub(crate) async fn run(effort: Effort, report: &mut Report) -> Result<()> {
    for count in [1, 10, 100] {
        let server = NatsServer::start().await?;
        let _nodes = Role::Nodes { url: server.url(), count }.start().await?;
        let nats = server.client().await?;
        let client = Client::new(nats.clone(), Namespace::default(), PATIENCE);
        let wanted = AuctionRequest {
            arch: Some("amd64".to_owned()),
            workload_types: vec!["wasm".to_owned()],
            ..AuctionRequest::default()
        };
        let rounds = effort.choose(20, 2);
        let mut add = |what: &str, samples: &[u64]| -> Result<()> {
            let what = format!("{count} simulated: {what}");
            let worst = samples.iter().copied().max().unwrap_or_default();
            report.add_figure(Figure::new(NAME, what, millis(median(samples)?), "ms").worst(millis(worst)));
            Ok(())
        };

        let asked = timed(rounds * 5, async || answers(&nats, subject::PING, Bytes::new(), count).await).await?;
        add("last answer to a ping", &asked)?;
        let body = Bytes::from(serde_json::to_vec(&wanted)?);
        let bid = timed(rounds * 5, async || answers(&nats, subject::AUCTION, body.clone(), count).await).await?;
        add("last bid of an auction", &bid)?;

        let listed = timed(rounds, async || {
            let found = client.ping_nodes().await?.len();
            ensure!(found == count, "{found} of {count} nodes were found");
            Ok(())
        })
        .await?;
        add("list by the client library", &listed)?;
        let bids = timed(rounds, async || {
            let found = client.auction(&wanted).await?.len();
            ensure!(found == count, "{found} of {count} nodes bid");
            Ok(())
        })
        .await?;
        add("auction by the client library", &bids)?;

        let applied = timed(rounds.div_ceil(4), async || apply(&client, &wanted, count).await).await?;
        add("apply of 1,000 replicas", &applied)?;

        let mut shown = Vec::new();
        for _ in 0..rounds {
            let mut command = nex(&server.url())?;
            command.args(["node", "ls", "--json"]);
            let begun = Instant::now();
            let text = succeed(command).await?;
            shown.push(nanos(begun.elapsed()));
            let found = text.matches("simulated-").count();
            ensure!(found >= count, "`nex node ls` shows {found} of {count} nodes");
        }
        add("`nex node ls`", &shown)?;
    }
    Ok(())
}

/// A workload of so many replicas.
const REPLICAS: usize = 1000;

/// Deploy requests in flight.
const IN_FLIGHT: usize = 64;

/// Puts all replicas of a workload on the nodes: one auction, then a signed and sealed request for each, spread over the
/// bids. What a command that applies a description will have to do at least.
async fn apply(client: &Client, wanted: &AuctionRequest, count: usize) -> Result<()> {
    let bids = client.auction(wanted).await?;
    ensure!(bids.len() == count, "{} of {count} nodes bid", bids.len());
    let (issuer, publisher) = (Issuer::generate(), XKeyPair::generate());
    let sha256 = "0".repeat(64);
    let deployment =
        Deployment::new("replicated".parse()?, WorkloadType::Wasm, Location::new("BENCH", "replicated")?, &sha256);
    let deploys = bids.iter().cycle().take(REPLICAS).map(|bid| {
        let request = deployment.request(&issuer, &publisher, client.namespace(), &bid.node_id, &bid.target_xkey);
        async move {
            let run = client.deploy(&request?, &bid.node_id).await?;
            ensure!(run.started, "a replica was not started");
            Ok(())
        }
    });
    futures_util::stream::iter(deploys).buffer_unordered(IN_FLIGHT).try_collect::<()>().await
}

/// Sends a request to all and takes so many answers.
async fn answers(nats: &async_nats::Client, subject: &'static str, body: Bytes, count: usize) -> Result<()> {
    let inbox = nats.new_inbox();
    let answers = nats.subscribe(inbox.clone()).await?;
    nats.publish_with_reply(subject, inbox, body).await?;
    let mut answers = answers.take(count);
    let all = async { while answers.next().await.is_some() {} };
    tokio::time::timeout(PATIENCE, all).await.context("not all nodes answered")
}
