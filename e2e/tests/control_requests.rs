//! Bad requests on the control interface: each is answered with its own error, and the node goes on.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use anyhow::Result;
use nex_e2e::{World, unix_now};
use nex_identity::{Claims, Issuer, XKeyPair};
use nex_protocol::envelope::{self, EnvelopeError, kind};
use nex_protocol::{Code, WorkloadType};
use nex_testkit::NatsServer;
use serde_json::{Value, json};

const BIG_SERVER: &str = "max_payload: 16777216";

/// The refusal on a subject.
async fn refusal(world: &World, subject: &str, kind: &str, body: Vec<u8>) -> (Option<Code>, String) {
    let reply = world.call(subject, body).await.unwrap();
    match envelope::open::<Value>(kind, &reply.payload) {
        Err(EnvelopeError::Refused { code, message, .. }) => (code, message),
        other => panic!("{subject}: expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn garbage_null_empty_and_huge_requests_are_answered_on_every_subject() -> Result<()> {
    let server = NatsServer::builder().config(BIG_SERVER).start().await?;
    let world = World::on(server, json!({})).await?;
    let id = world.node.id().to_owned();
    let bodies = || [b"\xff\xfe garbage {".to_vec(), b"null".to_vec(), vec![], b"[1,2,3]".to_vec(), b"\"x\"".to_vec()];
    for (subject, kind, start) in [
        (format!("$NEX.DEPLOY.default.{id}"), kind::RUN, "Unable to deserialize deploy request: "),
        (format!("$NEX.STOP.default.{id}"), kind::STOP, "Unable to deserialize stop request: "),
    ] {
        for body in bodies() {
            let (code, message) = refusal(&world, &subject, kind, body).await;
            assert_eq!(code, Some(Code::BadRequest));
            assert!(message.starts_with(start), "{message}");
        }
        let (code, _) = refusal(&world, &subject, kind, vec![b'x'; 10 << 20]).await;
        assert_eq!(code, Some(Code::RequestTooLarge));
    }
    for (subject, kind) in [
        ("$NEX.PING".to_owned(), kind::PING),
        (format!("$NEX.PING.{id}"), kind::PING),
        (format!("$NEX.INFO.default.{id}"), kind::INFO),
        ("$NEX.AUCTION".to_owned(), kind::AUCTION),
    ] {
        for body in bodies() {
            let reply = world.call(&subject, body).await?;
            envelope::open::<Value>(kind, &reply.payload)?;
        }
        let (code, _) = refusal(&world, &subject, kind, vec![b'x'; 10 << 20]).await;
        assert_eq!(code, Some(Code::RequestTooLarge));
    }
    assert!(world.info().await.is_ok());
    Ok(())
}

#[tokio::test]
async fn an_auction_is_answered_only_by_a_node_that_fits() -> Result<()> {
    let world = World::with(json!({"workload_types": ["wasm"], "tags": {"zone": "EU"}})).await?;
    // A node that does not fit is silent: short patience is enough, and nobody answering ends the wait.
    let client = nex_client::Client::new(world.nats.clone(), Default::default(), std::time::Duration::from_millis(500));
    let nodes = |request: Value| {
        let client = &client;
        async move { client.auction(&serde_json::from_value(request).unwrap()).await.unwrap().len() }
    };
    assert_eq!(nodes(json!({})).await, 1);
    assert_eq!(nodes(json!({"workload_types": ["wasm"], "tags": {"zone": "eu"}, "os": "LINUX"})).await, 1);
    assert_eq!(nodes(json!({"workload_types": ["native"]})).await, 0);
    assert_eq!(nodes(json!({"sandboxed": true})).await, 0);
    assert_eq!(nodes(json!({"arch": "s390x"})).await, 0);
    Ok(())
}

/// A deploy request as JSON, to be spoilt by a test. Its claim is as the original's clients sign it, bound to name and
/// hash alone, so that each field is refused for its own sake.
async fn request(world: &World) -> Result<Value> {
    let sha256 = world.put("f", b"(s, p) => p").await?;
    let mut deployment = world.deployment("f", WorkloadType::V8, &sha256)?;
    deployment.trigger_subjects = vec!["f".parse()?];
    let xkey = world.info().await?.public_xkey;
    let namespace = world.client.namespace();
    let request = deployment.request(&world.issuer, &world.publisher, namespace, world.node.id(), &xkey)?;
    let mut request = serde_json::to_value(request)?;
    request["workload_jwt"] = json!(Claims::deploy("f", &sha256).sign(&world.issuer, unix_now())?);
    Ok(request)
}

#[tokio::test]
async fn every_wrong_field_of_a_deploy_has_its_own_refusal() -> Result<()> {
    let world = World::with(json!({"deny_trigger_subjects": ["internal.>"]})).await?;
    let good = request(&world).await?;
    let subject = format!("$NEX.DEPLOY.default.{}", world.node.id());
    let stranger = XKeyPair::generate();
    let now = 1_700_000_000;
    let (sha256, endless, unreadable) = ("ab".repeat(32), "e".repeat(5000), "Unable to deserialize deploy request: ");
    let wrong_hash = Claims::deploy("f", &sha256).sign(&world.issuer, now)?;
    let no_hash = Claims::stop("f").sign(&world.issuer, now)?;
    let bad_name = Claims::deploy("a.b", &sha256).sign(&world.issuer, now)?;
    let expired = Claims { exp: now, ..Claims::deploy("f", &sha256) }.sign(&world.issuer, now - 1)?;
    let jwt = good["workload_jwt"].as_str().unwrap();
    let tampered = format!("{}A.{}", &jwt[..jwt.len() / 2], &jwt[jwt.len() / 2..]);
    let cases = [
        ("type", json!("oci"), Code::UnsupportedType, "Unsupported workload type on this node: oci"),
        ("type", Value::Null, Code::UnsupportedType, "Unsupported workload type on this node: "),
        ("type", json!("native"), Code::TriggersUnsupported, "Unsupported workload type for trigger subject"),
        ("trigger_subjects", json!([]), Code::InvalidTrigger, "Invalid deploy request: a function needs at least one"),
        ("trigger_subjects", json!(["a..b"]), Code::InvalidTrigger, "Invalid deploy request: 'a..b' is not"),
        ("trigger_subjects", json!(["$SYS.a"]), Code::TriggerDenied, "The trigger subject $SYS.a overlaps"),
        ("trigger_subjects", json!(["*.x"]), Code::TriggerDenied, "The trigger subject *.x overlaps"),
        ("environment", json!("%%%"), Code::EnvironmentSealed, "Failed to decrypt environment for deploy request: "),
        ("sender_public_key", json!(stranger.public_key()), Code::EnvironmentSealed, "Failed to decrypt environment"),
        ("sender_public_key", json!(""), Code::EnvironmentSealed, "Failed to decrypt environment"),
        ("workload_jwt", json!(""), Code::InvalidClaim, "Invalid deploy request: the claim is missing"),
        ("workload_jwt", json!("a.b.c"), Code::InvalidClaim, "Invalid deploy request: the claim is not a JWT"),
        ("workload_jwt", json!(tampered), Code::InvalidClaim, "Invalid deploy request: "),
        ("workload_jwt", json!(expired), Code::InvalidClaim, "Invalid deploy request: the claim has expired"),
        ("workload_jwt", json!(bad_name), Code::InvalidClaim, "Invalid deploy request: 'a.b' is no workload name"),
        ("workload_jwt", json!(no_hash), Code::HashMissing, "Invalid deploy request: the claim holds no SHA-256"),
        ("workload_jwt", json!(wrong_hash), Code::HashMismatch, "Invalid deploy request: nats://E2E/f has SHA-256"),
        ("target_node", json!("NOTHER"), Code::WrongTarget, "Invalid deploy request: it is for node NOTHER"),
        ("location", Value::Null, Code::BadRequest, "Unable to deserialize deploy request: location is missing"),
        ("location", json!("http://a/b"), Code::BadRequest, "Unable to deserialize deploy request: location must be"),
        // A subject made of one of these would be more than the server takes, and would cost the node its connection.
        ("location", json!(format!("nats://E2E/{endless}")), Code::BadRequest, unreadable),
        ("location", json!(format!("nats://{endless}/f")), Code::BadRequest, unreadable),
        ("jsdomain", json!(endless), Code::BadRequest, "Unable to deserialize deploy request: jsdomain is no name"),
        ("jsdomain", json!("API.STREAM.x"), Code::BadRequest, "Unable to deserialize deploy request: jsdomain is no"),
        (
            "location",
            json!("nats://E2E/nothing"),
            Code::ArtifactUnavailable,
            "Failed to cache workload bytes: there is no",
        ),
        (
            "location",
            json!("nats://NOBUCKET/f"),
            Code::ArtifactUnavailable,
            "Failed to cache workload bytes: object store",
        ),
    ];
    for (field, value, code, start) in cases {
        let mut bad = good.clone();
        bad[field] = value.clone();
        let (got, message) = refusal(&world, &subject, kind::RUN, serde_json::to_vec(&bad)?).await;
        assert_eq!(got, Some(code), "{field}={value}: {message}");
        assert!(message.starts_with(start), "{field}={value}: {message}");
    }
    assert!(world.info().await?.machines.is_empty(), "nothing is left of a refused deploy");
    let reply = world.call(&subject, serde_json::to_vec(&good)?).await?;
    envelope::open::<Value>(kind::RUN, &reply.payload)?;
    Ok(())
}

#[tokio::test]
async fn an_untrusted_issuer_is_refused_by_its_key() -> Result<()> {
    let trusted = Issuer::generate();
    let mut world = World::with(json!({"valid_issuers": [trusted.public_key()]})).await?;
    let error = world.function("f", WorkloadType::V8, b"() => 1", "f").await.unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("invalid workload issuer: {}", world.issuer.public_key())),
        "{error}"
    );
    world.issuer = trusted;
    world.function("f", WorkloadType::V8, b"() => 1", "f").await?;
    Ok(())
}

#[tokio::test]
async fn only_who_deployed_a_workload_may_stop_it() -> Result<()> {
    let world = World::start().await?;
    let workload = world.function("f", WorkloadType::V8, b"() => 1", "f").await?;
    let subject = |namespace: &str| format!("$NEX.STOP.{namespace}.{}", world.node.id());
    let now = unix_now();
    let body = |id: &str, claims: Claims, issuer: &Issuer, at: i64| {
        let jwt = claims.sign(issuer, at).unwrap();
        json!({"workload_id": id, "workload_jwt": jwt, "target_node": world.node.id()}).to_string().into_bytes()
    };
    let (own, other, id) = (&world.issuer, Issuer::generate(), workload.id.as_str());
    let (default, others) = (subject("default"), subject("others"));
    let invalid = Code::InvalidStopClaim;
    let deploy = Claims::deploy("f", &"ab".repeat(32));
    let cases = [
        (&default, body(id, Claims::stop("f"), &other, now), invalid, "Invalid stop request: the issuer"),
        (&default, body(id, Claims::stop("g"), own, now), invalid, "Invalid stop request: the claim is for another"),
        (&default, body(id, deploy, own, now), invalid, "Invalid stop request: the claim is one to deploy"),
        (&default, body(id, Claims::stop("f"), own, now - 60), invalid, "Invalid stop request: the claim is older"),
        (&default, body("nothing", Claims::stop("f"), own, now), Code::NoSuchWorkload, "No such workload"),
        (&others, body(id, Claims::stop("f"), own, now), Code::NoSuchWorkload, "No such workload"),
    ];
    for (subject, body, code, start) in cases {
        let (got, message) = refusal(&world, subject, kind::STOP, body).await;
        assert_eq!(got, Some(code), "{message}");
        assert!(message.starts_with(start), "{message}");
    }
    assert_eq!(world.info().await?.machines.len(), 1);
    // In the same second as the deploy, which Go Nex refuses.
    assert!(world.stop(&workload).await?.stopped);
    assert!(world.info().await?.machines.is_empty());
    Ok(())
}
