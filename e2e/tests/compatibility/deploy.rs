//! What a deploy says: what is taken, what is refused, in which words and in which order.

use anyhow::Result;
use nex_client::lame_duck_request;
use nex_e2e::{BUCKET, World, body, unix_now};
use nex_identity::claims::{Action, Scope};
use nex_identity::{Claims, Issuer};
use nex_protocol::envelope::kind;
use nex_protocol::{Code, Environment};
use serde_json::{Value, json};

use crate::{deployed, function, not_deployed, refusal, subject};

#[tokio::test]
async fn a_description_has_at_most_4096_bytes() -> Result<()> {
    let world = World::start().await?;
    let mut request = function(&world, "f").await?;
    request["description"] = json!("x".repeat(4097));
    let text = "Unable to deserialize deploy request: the description has more than 4096 bytes";
    assert_eq!(not_deployed(&world, &request).await, (Code::BadRequest, text.to_owned()));
    request["description"] = json!("x".repeat(4096));
    deployed(&world, &request).await?;
    assert_eq!(world.info().await?.machines[0].workload.description.len(), 4096);
    Ok(())
}

#[tokio::test]
async fn types_are_taken_in_any_case_and_elf_is_native() -> Result<()> {
    let world = World::start().await?;
    let mut request = function(&world, "script").await?;
    request["type"] = json!("V8");
    let script = deployed(&world, &request).await?;
    let sha256 = world.put("shell", &std::fs::read("/bin/sh")?).await?;
    let service = json!({
        "type": "elf",
        "location": format!("nats://{BUCKET}/shell"),
        "argv": ["-c", "exec /bin/sleep 1000"],
        "workload_jwt": Claims::deploy("service", &sha256).sign(&world.issuer, unix_now())?,
    });
    let service = deployed(&world, &service).await?;
    let info = world.info().await?;
    let kind = |id: &str| info.machines.iter().find(|m| m.id == id).map(|m| m.workload.r#type.as_str());
    assert_eq!((kind(&script.id), kind(&service.id)), (Some("v8"), Some("native")));
    Ok(())
}

#[tokio::test]
async fn an_empty_environment_needs_no_sender() -> Result<()> {
    let world = World::start().await?;
    for (name, environment) in [("empty", json!("")), ("null", Value::Null)] {
        let mut request = function(&world, name).await?;
        request["environment"] = environment;
        deployed(&world, &request).await?;
        assert_eq!(body(&world.call(name, "").await?)?, name.as_bytes());
    }
    Ok(())
}

#[tokio::test]
async fn a_name_that_cannot_be_one_of_a_variable_is_refused() -> Result<()> {
    let world = World::start().await?;
    let xkey = world.info().await?.public_xkey;
    for (name, shown) in [("A=B", "A=B"), ("", ""), ("A\0B", "A\0B")] {
        let mut environment = Environment::default();
        environment.set(name, "x");
        let mut request = function(&world, "f").await?;
        request["environment"] = json!(world.publisher.seal(&environment, &xkey)?);
        request["sender_public_key"] = json!(world.publisher.public_key());
        let text =
            format!("Failed to decrypt environment for deploy request: '{shown}' cannot be the name of a variable");
        assert_eq!(not_deployed(&world, &request).await, (Code::EnvironmentSealed, text));
    }
    Ok(())
}

#[tokio::test]
async fn a_function_has_at_most_64_triggers() -> Result<()> {
    let world = World::start().await?;
    let mut request = function(&world, "f").await?;
    let triggers = |count: usize| (0..count).map(|number| format!("many.{number}")).collect::<Vec<_>>();
    request["trigger_subjects"] = json!(triggers(65));
    let text = "Unable to deserialize deploy request: there are more than 64 trigger subjects";
    assert_eq!(not_deployed(&world, &request).await, (Code::BadRequest, text.to_owned()));
    request["trigger_subjects"] = json!(triggers(64));
    deployed(&world, &request).await?;
    assert_eq!(body(&world.call("many.63", "").await?)?, b"f");
    Ok(())
}

#[tokio::test]
async fn a_name_beside_the_claim_must_be_that_of_the_claim() -> Result<()> {
    let world = World::start().await?;
    let mut request = function(&world, "f").await?;
    for other in ["g", "F", ""] {
        request["workload_name"] = json!(other);
        let text = "Invalid deploy request: the claim is for a workload of another name";
        assert_eq!(not_deployed(&world, &request).await, (Code::InvalidClaim, text.to_owned()), "'{other}'");
    }
    request["workload_name"] = json!("f");
    assert_eq!(deployed(&world, &request).await?.name, "f");
    Ok(())
}

#[tokio::test]
async fn a_hash_beside_the_claim_must_be_written_as_in_the_claim_but_for_its_case() -> Result<()> {
    let world = World::start().await?;
    let request = function(&world, "f").await?;
    let hash = Claims::verify(request["workload_jwt"].as_str().unwrap(), unix_now())?.hash().unwrap().to_owned();
    let beside = |hash: Value| {
        let mut request = request.clone();
        request["hash"] = hash;
        request
    };
    // Another hash, and the same one in another spelling: Go Nex 0.3.0-rc1 compares texts.
    let spelled = format!("SHA-256={}", base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE, hex::decode(&hash)?));
    for other in ["ab".repeat(32), spelled, "TBD".to_owned()] {
        let text = "Invalid deploy request: artifact hash claim does not match request";
        assert_eq!(not_deployed(&world, &beside(json!(other))).await, (Code::HashMismatch, text.to_owned()), "{other}");
    }
    for (name, hash) in [("upper", json!(hash.to_uppercase())), ("empty", json!("")), ("null", Value::Null)] {
        let mut request = beside(hash);
        let claims = Claims::verify(request["workload_jwt"].as_str().unwrap(), unix_now())?;
        // A claim is good once.
        request["workload_jwt"] = json!(Claims { sub: name.to_owned(), ..claims }.sign(&world.issuer, unix_now())?);
        deployed(&world, &request).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_claim_of_a_stop_runs_nothing_where_no_hash_is_asked_for() -> Result<()> {
    let world = World::with(json!({"require_artifact_hash": false})).await?;
    let mut request = function(&world, "f").await?;
    request["workload_jwt"] = json!(Claims::stop("f").sign(&world.issuer, unix_now())?);
    let text = "Invalid deploy request: the claim is not one to deploy";
    assert_eq!(not_deployed(&world, &request).await, (Code::InvalidClaim, text.to_owned()));
    // The placeholder of Go Nex 0.2.7 is a deploy's.
    request["workload_jwt"] = json!(Claims::deploy("f", "TBD").sign(&world.issuer, unix_now())?);
    deployed(&world, &request).await?;
    Ok(())
}

#[tokio::test]
async fn an_essential_function_is_refused_in_the_words_of_go_nex() -> Result<()> {
    let world = World::start().await?;
    let mut request = function(&world, "f").await?;
    request["essential"] = json!(true);
    let text = "Invalid deploy request: essential flag is not supported for workload type: v8";
    assert_eq!(not_deployed(&world, &request).await, (Code::BadRequest, text.to_owned()));
    Ok(())
}

#[tokio::test]
async fn of_two_deploys_at_once_one_takes_the_last_place() -> Result<()> {
    let world = World::with(json!({"node_limits": {"max_workloads": 1}})).await?;
    let subject = subject(&world, "DEPLOY");
    let requests = [function(&world, "a").await?, function(&world, "b").await?];
    let [a, b] = requests.map(|request| world.call(&subject, request.to_string()));
    let (a, b) = tokio::try_join!(a, b)?;
    let answers = [a, b].map(|reply| serde_json::from_slice::<Value>(&reply.payload).unwrap());
    assert_eq!(answers.iter().filter(|answer| answer["data"]["started"] == true).count(), 1, "{answers:?}");
    let refused = answers.iter().find(|answer| answer.get("error").is_some()).unwrap();
    assert_eq!(refused["error"], "Node is at maximum workload limit. Deploy request denied");
    assert_eq!(refused["code"], Code::WorkloadLimit.number());
    assert_eq!(world.info().await?.machines.len(), 1);
    Ok(())
}

#[tokio::test]
async fn artifacts_over_the_limits_are_refused_in_the_words_of_go_nex() -> Result<()> {
    let world =
        World::with(json!({"node_limits": {"max_workload_bytes": 100_000, "max_total_bytes": 150_000}})).await?;
    let sized = async |name: &str, size: usize| -> Result<Value> {
        let mut request = function(&world, name).await?;
        let sha256 = world.put(name, script(name, size).as_bytes()).await?;
        request["workload_jwt"] = json!(Claims::deploy(name, &sha256).sign(&world.issuer, unix_now())?);
        Ok(request)
    };
    let refused = not_deployed(&world, &sized("large", 100_001).await?).await;
    assert_eq!(refused, (Code::ArtifactTooLarge, "Workload file size would exceed node limitations".to_owned()));
    deployed(&world, &sized("fits", 100_000).await?).await?;
    let refused = not_deployed(&world, &sized("more", 50_001).await?).await;
    assert_eq!(refused, (Code::TotalBytesLimit, "Workload file size would exceed node total limitations".to_owned()));
    deployed(&world, &sized("last", 50_000).await?).await?;
    Ok(())
}

/// A function of so many bytes.
fn script(name: &str, size: usize) -> String {
    let start = format!("() => '{name}' //");
    let rest = "x".repeat(size - start.len());
    start + &rest
}

/// A claim that leaves nothing open, for an artifact in the bucket.
fn bound(world: &World, name: &str, sha256: &str, key: &str) -> Claims {
    let location = format!("nats://{BUCKET}/{key}");
    let scope = Scope {
        action: Action::Deploy,
        node: world.node.id(),
        namespace: Some("default"),
        location: Some(&location),
        workload: None,
    };
    Claims::deploy(name, sha256).bound(&scope, unix_now())
}

#[tokio::test]
async fn checks_come_in_the_order_of_the_table() -> Result<()> {
    let trusted = Issuer::generate();
    let mut world = World::with(json!({
        "node_limits": {"max_workloads": 2, "max_workload_bytes": 100_000, "max_total_bytes": 150_000},
        "allow_duplicate_workloads": false,
        "artifact_buckets": [BUCKET],
        "valid_issuers": [trusted.public_key()],
        "claims": "strict",
    }))
    .await?;
    world.issuer = trusted;
    let node = world.node.id().to_owned();
    let on = |namespace: &str| format!("$NEX.DEPLOY.{namespace}.{node}");
    let signed = |claims: Claims| claims.sign(&world.issuer, unix_now()).unwrap();
    let put = async |key: &str, source: String| world.put(key, source.as_bytes()).await;
    let at = |key: &str| format!("nats://{BUCKET}/{key}");

    // Two run: the node is full. One of them stays to the end.
    let (used, tiny) = (put("used", script("used", 60_000)).await?, put("tiny", script("tiny", 100)).await?);
    let used_claim = signed(bound(&world, "f", &used, "used"));
    let mut running = Vec::new();
    for (key, jwt) in [("used", used_claim.clone()), ("tiny", signed(bound(&world, "tiny", &tiny, "tiny")))] {
        let request = json!({"type": "v8", "location": at(key), "trigger_subjects": [key], "workload_jwt": jwt});
        running.push(deployed(&world, &request).await?);
    }

    // The body is nonsense all the while.
    let nonsense = async |namespace: &str| refusal(&world, &on(namespace), kind::RUN, "nonsense").await;
    let subject_refused = "Invalid subject for workload deployment";
    assert_eq!(nonsense("a$b").await, (Code::InvalidSubject, subject_refused.to_owned()));
    assert_eq!(nonsense("system").await.0, Code::InvalidSubject);
    let full = "Node is at maximum workload limit. Deploy request denied";
    assert_eq!(nonsense("default").await, (Code::WorkloadLimit, full.to_owned()));
    world.stop(&running[1]).await?;
    assert_eq!(nonsense("default").await.0, Code::BadRequest);

    // From here on everything is wrong, and mended one after the other.
    let (large, much) = (put("large", script("large", 100_001)).await?, put("much", script("much", 95_000)).await?);
    put("other", script("other", 1000)).await?;
    let bad = put("bad", "(".to_owned()).await?;
    let stranger = Issuer::generate();
    let expired = Claims { exp: unix_now() - 1, ..Claims::deploy("a.b", "TBD") }.sign(&stranger, unix_now() - 2)?;
    let nameless = Claims::deploy("a.b", "TBD").sign(&stranger, unix_now())?;
    let hashless = || Claims::deploy("f", "TBD");
    let mut for_another = Claims::deploy("f", &used);
    for_another.nats.insert("namespace".to_owned(), "elsewhere".into());
    let [nothing_there, too_large, too_much, other_bytes] =
        [("nothing", &used), ("large", &large), ("much", &much), ("other", &used)]
            .map(|(key, sha256)| json!({"location": at(key), "workload_jwt": signed(bound(&world, "f", sha256, key))}));
    let duplicate = json!({"location": at("used"), "workload_jwt": signed(bound(&world, "f", &used, "used"))});
    let no_script = json!({"location": at("bad"), "workload_jwt": signed(bound(&world, "f", &bad, "bad"))});
    let good = json!({"location": at("tiny"), "workload_jwt": signed(bound(&world, "f", &tiny, "tiny"))});
    let mut request = json!({
        "description": "x".repeat(4097),
        "trigger_subjects": vec!["a..b"; 65],
        "jsdomain": "a.b",
        "type": "oci",
        "environment": "%%%",
        "workload_jwt": "",
        "workload_name": "g",
        "hash": "beside",
        "target_node": "NOTHER",
        "location": Value::Null,
        "essential": true,
        "limits": {"max_instances": 5000},
    });
    let unreadable = "Unable to deserialize deploy request: ";
    let invalid = "Invalid deploy request: ";
    let steps = [
        (Code::BadRequest, format!("{unreadable}the description has"), json!({"description": ""})),
        (Code::BadRequest, format!("{unreadable}there are more than 64"), json!({"trigger_subjects": ["a..b"]})),
        (Code::BadRequest, format!("{unreadable}jsdomain is no name"), json!({"jsdomain": ""})),
        (Code::UnsupportedType, "Unsupported workload type on this node: oci".to_owned(), json!({"type": "native"})),
        (
            Code::TriggersUnsupported,
            "Unsupported workload type for trigger subject registration: native".to_owned(),
            json!({"type": "v8", "trigger_subjects": []}),
        ),
        (
            Code::InvalidTrigger,
            format!("{invalid}a function needs at least one trigger subject"),
            json!({"trigger_subjects": ["a..b", "$SYS.a"]}),
        ),
        (
            Code::InvalidTrigger,
            format!("{invalid}'a..b' is not a valid NATS subject"),
            json!({"trigger_subjects": ["$SYS.a"]}),
        ),
        (
            Code::TriggerDenied,
            "The trigger subject $SYS.a overlaps with subject(s) in this node's deny list".to_owned(),
            json!({"trigger_subjects": ["f"]}),
        ),
        (
            Code::EnvironmentSealed,
            "Failed to decrypt environment for deploy request: ".to_owned(),
            json!({"environment": ""}),
        ),
        (Code::InvalidClaim, format!("{invalid}the claim is missing"), json!({"workload_jwt": expired})),
        (Code::InvalidClaim, format!("{invalid}the claim has expired"), json!({"workload_jwt": nameless})),
        (
            Code::InvalidClaim,
            format!("{invalid}'a.b' is no workload name"),
            json!({"workload_jwt": hashless().sign(&stranger, unix_now())?}),
        ),
        (
            Code::InvalidClaim,
            format!("{invalid}the claim is for a workload of another name"),
            json!({"workload_name": "f"}),
        ),
        (
            Code::UntrustedIssuer,
            format!("invalid workload issuer: {}", stranger.public_key()),
            json!({"workload_jwt": signed(hashless())}),
        ),
        (
            Code::HashMissing,
            format!("{invalid}the claim holds no SHA-256 of the artifact"),
            json!({"workload_jwt": signed(for_another)}),
        ),
        (
            Code::HashMismatch,
            format!("{invalid}artifact hash claim does not match request"),
            json!({"hash": Value::Null}),
        ),
        (Code::WrongTarget, format!("{invalid}it is for node NOTHER"), json!({"target_node": node})),
        (Code::BadRequest, format!("{unreadable}location is missing"), json!({"location": "nats://OTHER/used"})),
        (
            Code::ArtifactUnavailable,
            format!("{invalid}namespace default takes no artifacts from bucket 'OTHER'"),
            json!({"location": at("used")}),
        ),
        (
            Code::BadRequest,
            format!("{invalid}essential flag is not supported for workload type: v8"),
            json!({"essential": false}),
        ),
        (Code::LimitExceeded, format!("{invalid}limits.max_instances is 5000"), json!({"limits": {}})),
        (
            Code::ClaimElsewhere,
            format!("{invalid}the claim is for another namespace"),
            json!({"workload_jwt": signed(Claims::deploy("f", &used))}),
        ),
        (Code::ClaimIncomplete, format!("{invalid}the claim does not say"), json!({"workload_jwt": used_claim})),
        (Code::ClaimUsed, format!("{invalid}the claim was used before"), nothing_there),
        (Code::ArtifactUnavailable, "Failed to cache workload bytes: there is no object".to_owned(), too_large),
        (Code::ArtifactTooLarge, "Workload file size would exceed node limitations".to_owned(), too_much),
        (Code::TotalBytesLimit, "Workload file size would exceed node total limitations".to_owned(), other_bytes),
        (Code::HashMismatch, format!("{invalid}{} has SHA-256", at("other")), duplicate),
        (Code::Duplicate, "Failed to deploy workload: attempted to deploy duplicate".to_owned(), no_script),
        (Code::StartFailed, "Failed to deploy workload: workload rejected by agent: ".to_owned(), good),
    ];
    for (code, start, mended) in steps {
        let (got, text) = not_deployed(&world, &request).await;
        assert_eq!(got, code, "expected '{start}', got '{text}'");
        assert!(text.starts_with(&start), "expected '{start}', got '{text}'");
        request.as_object_mut().unwrap().extend(mended.as_object().unwrap().clone());
    }
    deployed(&world, &request).await?;

    // Lame duck mode comes before the number of workloads, and behind the subject.
    assert_eq!(nonsense("default").await.0, Code::WorkloadLimit);
    world.client.lame_duck(&lame_duck_request(Some(&world.issuer), &node, None)?, &node).await?;
    let lame = "Node is in lame duck mode. Workload deploy request denied";
    assert_eq!(nonsense("default").await, (Code::LameDuck, lame.to_owned()));
    assert_eq!(nonsense("a$b").await, (Code::InvalidSubject, subject_refused.to_owned()));
    Ok(())
}
