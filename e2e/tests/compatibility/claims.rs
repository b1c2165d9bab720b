//! Claims: which keys may sign, and who may stop a workload, when and for how long.

use anyhow::Result;
use nex_e2e::{World, eventually, unix_now};
use nex_identity::{Claims, Issuer};
use nex_protocol::Code;
use nex_protocol::WorkloadType::V8;
use nex_protocol::control::stop::StopResponse;
use nex_protocol::envelope::{self, kind};
use nex_testkit::NexNode;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::{deployed, function, refusal, subject};

/// A request to stop a workload, with a claim as the clients of Go Nex sign it.
fn stop(id: &str, jwt: &str) -> String {
    json!({"workload_id": id, "workload_jwt": jwt}).to_string()
}

async fn stopped(world: &World, request: String) -> Result<StopResponse> {
    let reply = world.call(&subject(world, "STOP"), request).await?;
    Ok(envelope::open(kind::STOP, &reply.payload)?)
}

#[tokio::test]
async fn a_key_of_any_kind_may_sign() -> Result<()> {
    let world = World::start().await?;
    for (name, key) in [("user", KeyPair::new_user()), ("server", KeyPair::new_server())] {
        let mut request = function(&world, name).await?;
        let hash = Claims::verify(request["workload_jwt"].as_str().unwrap(), unix_now())?.hash().unwrap().to_owned();
        request["workload_jwt"] = json!(Claims::deploy(name, &hash).sign_by(&key, unix_now())?);
        let workload = deployed(&world, &request).await?;
        assert_eq!(workload.issuer, key.public_key());
        let request = stop(&workload.id, &Claims::stop(name).sign_by(&key, unix_now())?);
        assert!(stopped(&world, request).await?.stopped);
    }
    Ok(())
}

#[tokio::test]
async fn a_stop_counts_in_its_time_alone() -> Result<()> {
    let world = World::start().await?;
    let workload = deployed(&world, &function(&world, "f").await?).await?;
    let expired = Claims { exp: unix_now() - 1, ..Claims::stop("f") };
    let early = Claims { nbf: unix_now() + 3600, ..Claims::stop("f") };
    for (claims, text) in [
        (expired, "Invalid stop request: the claim has expired"),
        (early, "Invalid stop request: the claim is not valid yet"),
    ] {
        let request = stop(&workload.id, &claims.sign(&world.issuer, unix_now())?);
        let refused = refusal(&world, &subject(&world, "STOP"), kind::STOP, request).await;
        assert_eq!(refused, (Code::InvalidStopClaim, text.to_owned()));
    }
    let timely = Claims { exp: unix_now() + 60, nbf: unix_now() - 60, ..Claims::stop("f") };
    assert!(stopped(&world, stop(&workload.id, &timely.sign(&world.issuer, unix_now())?)).await?.stopped);
    Ok(())
}

#[tokio::test]
async fn a_workload_whose_issuer_was_taken_off_the_list_is_stopped_by_who_is_on_it() -> Result<()> {
    let (old, new, stranger) = (Issuer::generate(), Issuer::generate(), Issuer::generate());
    let list = |issuers: &[&Issuer]| -> Value {
        json!({"valid_issuers": issuers.iter().map(|issuer| issuer.public_key()).collect::<Vec<_>>()})
    };
    let mut world = World::with(list(&[&old, &new])).await?;
    world.issuer = old;
    let workload = world.function("f", V8, b"() => 1", "f").await?;
    let request = |issuer: &Issuer| stop(&workload.id, &Claims::stop("f").sign(issuer, unix_now()).unwrap());
    let on = subject(&world, "STOP");
    let (code, text) = refusal(&world, &on, kind::STOP, request(&new)).await;
    assert_eq!(code, Code::InvalidStopClaim, "while the one who deployed it is on the list too: {text}");

    world.node.terminate().await?;
    let again = NexNode::builder(&world.server).await?.state_dir(world.node.state_dir());
    let again = again.config(list(&[&new])).start().await?;
    assert_eq!(again.id(), world.node.id());
    eventually("the workload is back", || async {
        world.info().await.is_ok_and(|info| info.machines.iter().any(|machine| machine.healthy))
    })
    .await?;
    for nobody in [&world.issuer, &stranger] {
        let refused = refusal(&world, &on, kind::STOP, request(nobody)).await;
        let text = format!("invalid workload issuer: {}", nobody.public_key());
        assert_eq!(refused, (Code::UntrustedIssuer, text));
    }
    assert!(stopped(&world, request(&new)).await?.stopped);
    Ok(())
}
