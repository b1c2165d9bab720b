//! Claims, tried as an attacker would who reads the wire: what he repeats, changes or carries elsewhere is refused.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use anyhow::Result;
use async_nats::jetstream;
use nex_client::{Client, ClientError, stop_request};
use nex_e2e::{PATIENCE, World, unix_now};
use nex_identity::claims::{Action, LIFETIME, MAX_LIFETIME, Scope};
use nex_identity::{Claims, Issuer};
use nex_protocol::control::deploy::DeployRequest;
use nex_protocol::control::stop::StopRequest;
use nex_protocol::{Code, WorkloadType};
use nex_testkit::NexNode;
use serde_json::json;

const SOURCE: &[u8] = b"() => 'hi'";

/// A request as our client makes it, for the function `f`.
async fn request(world: &World) -> Result<DeployRequest> {
    let sha256 = world.put("f", SOURCE).await?;
    let mut deployment = world.deployment("f", WorkloadType::V8, &sha256)?;
    deployment.trigger_subjects = vec!["f".parse()?];
    let xkey = world.info().await?.public_xkey;
    Ok(deployment.request(&world.issuer, &world.publisher, world.client.namespace(), world.node.id(), &xkey)?)
}

fn scope<'a>(world: &'a World, location: &'a str) -> Scope<'a> {
    Scope {
        action: Action::Deploy,
        node: world.node.id(),
        namespace: Some("default"),
        location: Some(location),
        workload: None,
    }
}

async fn refusal<T: std::fmt::Debug>(answer: impl Future<Output = Result<T, ClientError>>) -> (Option<Code>, String) {
    let error = answer.await.unwrap_err();
    (error.code(), error.to_string())
}

#[tokio::test]
async fn a_request_that_was_overheard_is_good_once_and_nowhere_else() -> Result<()> {
    let world = World::with(json!({"allow_duplicate_workloads": true})).await?;
    let other_node = NexNode::builder(&world.server).await?.start().await?;
    let overheard = request(&world).await?;
    let node = world.node.id();

    // In another namespace, on another node, with another artifact: before the claim is used.
    let elsewhere = Client::new(world.nats.clone(), "elsewhere".parse()?, PATIENCE);
    let (code, text) = refusal(elsewhere.deploy(&overheard, node)).await;
    assert_eq!(code, Some(Code::ClaimElsewhere), "{text}");
    let readdressed = DeployRequest { target_node: other_node.id().to_owned(), ..overheard.clone() };
    let (code, text) = refusal(world.client.deploy(&readdressed, other_node.id())).await;
    // It cannot even be opened there: the environment is sealed for the first node.
    assert_eq!(code, Some(Code::EnvironmentSealed), "{text}");
    jetstream::new(world.nats.clone())
        .create_object_store(jetstream::object_store::Config { bucket: "EVIL".into(), ..Default::default() })
        .await?
        .put("f", &mut &SOURCE[..])
        .await?;
    let moved = DeployRequest { location: Some("nats://EVIL/f".parse()?), ..overheard.clone() };
    let (code, text) = refusal(world.client.deploy(&moved, node)).await;
    assert_eq!(code, Some(Code::ClaimElsewhere), "{text}");
    assert!(text.contains("another location"), "{text}");

    let workload = world.client.deploy(&overheard, node).await?;
    let (code, text) = refusal(world.client.deploy(&overheard, node)).await;
    assert_eq!(code, Some(Code::ClaimUsed), "{text}");
    world.stop(&workload).await?;
    let (code, text) = refusal(world.client.deploy(&overheard, node)).await;
    assert_eq!(code, Some(Code::ClaimUsed), "what was stopped is not brought back by repeating its deploy: {text}");
    Ok(())
}

#[tokio::test]
async fn a_used_claim_stays_used_when_the_node_starts_again() -> Result<()> {
    let config = json!({"allow_duplicate_workloads": true});
    let world = World::with(config.clone()).await?;
    let overheard = request(&world).await?;
    let workload = world.client.deploy(&overheard, world.node.id()).await?;
    world.node.kill().await?;
    let again = NexNode::builder(&world.server).await?.state_dir(world.node.state_dir()).config(config).start().await?;
    assert_eq!(again.id(), world.node.id());
    let (code, text) = refusal(world.client.deploy(&overheard, again.id())).await;
    assert_eq!(code, Some(Code::ClaimUsed), "{text}");
    // Also that of a workload which is gone by then.
    world.stop(&workload).await?;
    again.terminate().await?;
    let third = NexNode::builder(&world.server).await?.state_dir(world.node.state_dir()).start().await?;
    let (code, text) = refusal(world.client.deploy(&overheard, third.id())).await;
    assert_eq!(code, Some(Code::ClaimUsed), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_claim_of_a_deploy_that_failed_can_be_used_again() -> Result<()> {
    let world = World::start().await?;
    let request = request(&world).await?;
    let store = jetstream::new(world.nats.clone()).get_object_store(nex_e2e::BUCKET).await?;
    store.delete("f").await?;
    let (code, text) = refusal(world.client.deploy(&request, world.node.id())).await;
    assert_eq!(code, Some(Code::ArtifactUnavailable), "{text}");
    world.put("f", SOURCE).await?;
    world.client.deploy(&request, world.node.id()).await?;
    Ok(())
}

#[tokio::test]
async fn an_expired_claim_and_one_whose_time_has_not_come_are_refused() -> Result<()> {
    let world = World::start().await?;
    let good = request(&world).await?;
    let location = good.location.clone().unwrap().to_string();
    let sha256 = Claims::verify(&good.workload_jwt, unix_now())?.hash().unwrap().to_owned();
    let bound = |at: i64| Claims::deploy("f", &sha256).bound(&scope(&world, &location), at);
    let old = bound(unix_now() - LIFETIME - 1).sign(&world.issuer, unix_now() - LIFETIME - 1)?;
    let early = Claims { nbf: unix_now() + 3600, ..bound(unix_now()) }.sign(&world.issuer, unix_now())?;
    for (jwt, reason) in [(old, "the claim has expired"), (early, "the claim is not valid yet")] {
        let request = DeployRequest { workload_jwt: jwt, ..good.clone() };
        let (code, text) = refusal(world.client.deploy(&request, world.node.id())).await;
        assert_eq!(code, Some(Code::InvalidClaim), "{text}");
        assert!(text.contains(reason), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_strict_node_wants_claims_that_leave_nothing_open() -> Result<()> {
    let world = World::with(json!({"claims": "strict"})).await?;
    let good = request(&world).await?;
    let node = world.node.id();
    let location = good.location.clone().unwrap().to_string();
    let sha256 = Claims::verify(&good.workload_jwt, unix_now())?.hash().unwrap().to_owned();
    let bound = || Claims::deploy("f", &sha256).bound(&scope(&world, &location), unix_now());
    let without = |part: &str| {
        let mut claims = bound();
        claims.nats.remove(part).unwrap();
        claims
    };
    let of_go = Claims::deploy("f", &sha256);
    let lasting = Claims { exp: unix_now() + MAX_LIFETIME + 60, ..bound() };
    let endless = Claims { exp: 0, ..bound() };
    let mut open: Vec<Claims> = ["action", "node", "namespace", "location", "nonce"].map(without).into();
    open.extend([of_go, lasting, endless]);
    for claims in open {
        let request = DeployRequest { workload_jwt: claims.clone().sign(&world.issuer, unix_now())?, ..good.clone() };
        let (code, text) = refusal(world.client.deploy(&request, node)).await;
        assert_eq!(code, Some(Code::ClaimIncomplete), "{claims:?}: {text}");
    }
    let workload = world.client.deploy(&good, node).await?;

    let stop = StopRequest {
        workload_id: workload.id.clone(),
        workload_jwt: Claims::stop("f").sign(&world.issuer, unix_now())?,
        target_node: node.to_owned(),
    };
    let (code, text) = refusal(world.client.stop(&stop, node)).await;
    assert_eq!(code, Some(Code::ClaimIncomplete), "{text}");
    assert!(world.stop(&workload).await?.stopped);
    Ok(())
}

#[tokio::test]
async fn a_claim_does_not_do_for_anything_but_what_it_was_signed_for() -> Result<()> {
    let world = World::with(json!({"allow_duplicate_workloads": true})).await?;
    let good = request(&world).await?;
    let node = world.node.id();
    let workload = world.client.deploy(&good, node).await?;
    let second = world.function("f", WorkloadType::V8, SOURCE, "f2").await?;

    // A deploy's claim, which lies open on the wire, ends nothing.
    let stop = |jwt: &str, id: &str| StopRequest {
        workload_id: id.to_owned(),
        workload_jwt: jwt.to_owned(),
        target_node: node.to_owned(),
    };
    let (code, text) = refusal(world.client.stop(&stop(&good.workload_jwt, &workload.id), node)).await;
    assert_eq!(code, Some(Code::InvalidStopClaim), "{text}");
    // A stop's claim runs nothing, and ends no other workload of the same name.
    let of_first = stop_request(&world.issuer, world.client.namespace(), node, &workload.id, "f")?;
    let (code, text) = refusal(world.client.stop(&stop(&of_first.workload_jwt, &second.id), node)).await;
    assert_eq!(code, Some(Code::ClaimElsewhere), "{text}");
    let disguised = DeployRequest { workload_jwt: of_first.workload_jwt.clone(), ..good };
    let (code, text) = refusal(world.client.deploy(&disguised, node)).await;
    assert!(matches!(code, Some(Code::HashMissing | Code::ClaimElsewhere)), "{text}");
    assert!(world.client.stop(&of_first, node).await?.stopped);
    let (code, text) = refusal(world.client.stop(&of_first, node)).await;
    assert_eq!(code, Some(Code::NoSuchWorkload), "{text}");
    Ok(())
}

#[tokio::test]
async fn who_is_not_on_the_list_neither_runs_nor_stops_anything() -> Result<()> {
    let trusted = Issuer::generate();
    let mut world = World::with(json!({"valid_issuers": [trusted.public_key()]})).await?;
    let refused = world.function("f", WorkloadType::V8, SOURCE, "f").await.unwrap_err();
    assert!(refused.to_string().contains("invalid workload issuer"), "{refused}");
    let stranger = std::mem::replace(&mut world.issuer, trusted);
    let workload = world.function("f", WorkloadType::V8, SOURCE, "f").await?;
    let stop = stop_request(&stranger, world.client.namespace(), world.node.id(), &workload.id, "f")?;
    let (code, text) = refusal(world.client.stop(&stop, world.node.id())).await;
    assert_eq!(code, Some(Code::UntrustedIssuer), "{text}");
    assert!(world.stop(&workload).await?.stopped);
    Ok(())
}
