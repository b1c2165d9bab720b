//! The control interface: what a tenant does with its own namespace, and tries with another's and with the node.

use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream;
use nex_client::{lame_duck_request, stop_request};
use nex_e2e::body;
use nex_protocol::subject;

use super::{ECHO, deployed};
use crate::party::{Ear, Party, Refusal};
use crate::stage::Stage;

/// What the operator's ear has heard by now that begins with one of these.
async fn heard_among(ear: &mut Ear, admin: &Party, subjects: &[String]) -> Result<Vec<String>> {
    let mut heard = ear.heard(admin).await?;
    heard.retain(|heard| subjects.iter().any(|subject| heard.starts_with(subject.as_str())));
    Ok(heard)
}

pub(crate) async fn a_tenant_deploys_lists_calls_follows_and_stops_what_is_its_own(stage: &Stage) -> Result<()> {
    let Stage { shop, node, .. } = stage;
    let mut events = shop.listen("$NEX.events.shop.*").await?;
    let mut logs = shop.listen("$NEX.logs.shop.>").await?;

    let nodes = shop.nex.ping_nodes().await?;
    assert_eq!(nodes.iter().map(|node| node.node_id.as_str()).collect::<Vec<_>>(), [node.id()]);
    assert_eq!(shop.nex.auction(&Default::default()).await?.len(), 1);
    let second = stage.another_node().await?;
    assert_eq!(shop.nex.ping_nodes().await?.len(), 2, "all nodes answer, not only the first");
    drop(second);
    let echo = deployed(stage, shop, "echo", ECHO).await?;
    assert_eq!(events.next().await?.subject.as_str(), "$NEX.events.shop.artifact_fetched");
    assert_eq!(events.next().await?.subject.as_str(), "$NEX.events.shop.workload_deployed");
    assert_eq!(shop.workloads().await?, ["echo"]);
    let found = shop.nex.workload_ping(None).await?;
    assert_eq!(found[0].running_machines[0].id, echo.id);
    assert_eq!(shop.nex.workload_ping(Some("echo")).await?.len(), 1);

    assert_eq!(body(&shop.call("shop.echo", "hey").await?)?, b"hey");
    assert_eq!(events.next().await?.subject.as_str(), "$NEX.events.shop.function_exec_succeeded");
    let line = logs.next().await?;
    assert_eq!(line.subject.to_string(), format!("$NEX.logs.shop.{}.{}.echo", node.id(), echo.id));
    assert!(String::from_utf8_lossy(&line.payload).contains("called on shop.echo"), "{:?}", line.payload);

    shop.stop(&echo).await?;
    assert_eq!(events.next().await?.subject.as_str(), "$NEX.events.shop.workload_undeployed");
    if let Some(domain) = shop.jsdomain {
        // With any client that knows object stores, not only with ours.
        let store = jetstream::with_domain(shop.nats.clone(), domain).get_object_store("shop").await?;
        let large = vec![7; 3 << 20];
        store.put("large", &mut &large[..]).await?;
        store.put("large", &mut &large[..]).await?;
        assert_eq!(store.info("large").await?.size, large.len());
    }
    assert!(shop.workloads().await?.is_empty());
    // What its user may do is enough for the node.
    let denied: Vec<String> = node.log().lines().into_iter().filter(|line| line.contains("iolation")).collect();
    assert!(denied.is_empty(), "{denied:#?}");
    Ok(())
}

pub(crate) async fn a_tenant_commands_nothing_in_another_namespace_nor_the_node(stage: &Stage) -> Result<()> {
    let Stage { admin, shop, lab, node, .. } = stage;
    let echo = deployed(stage, lab, "echo", ECHO).await?;
    let xkey = shop.info().await?.public_xkey;
    let node = node.id();
    let lab_name = lab.namespace();

    // Everything is as it should be but for the one who sends it.
    let sha256 = stage.put(lab, "more", ECHO).await?;
    let deploy = lab.function("more", &sha256)?.request(&shop.issuer, &shop.publisher, lab_name, node, &xkey)?;
    let stop = stop_request(&lab.issuer, lab_name, node, &echo.id, &echo.name)?;
    let leave = lame_duck_request(Some(&shop.issuer), node, Some(Duration::from_millis(1)))?;
    let deploy = serde_json::to_vec(&deploy)?;
    let mut tries = vec![
        (subject::deploy("lab", node), deploy.clone()),
        (subject::stop("lab", node), serde_json::to_vec(&stop)?),
        (subject::info("lab", node), vec![]),
        (subject::workload_ping(lab_name, None), vec![]),
        (subject::workload_ping(lab_name, Some("echo")), vec![]),
        (subject::lame_duck(node), serde_json::to_vec(&leave)?),
        (subject::lame_duck(node), vec![]),
    ];
    // Namespaces that hold more than one token, or stand for more than one.
    for namespace in ["*", ">", "shop.lab", "lab.shop", "Lab", "SHOP", "lab.*", "system"] {
        tries.push((subject::deploy(namespace, node), deploy.clone()));
        tries.push((subject::info(namespace, node), vec![]));
        tries.push((format!("$NEX.WPING.{namespace}"), vec![]));
    }
    tries.retain(|(subject, _)| !subject.ends_with("WPING.shop.lab"));
    let mut wire = admin.listen("$NEX.>").await?;
    for (subject, payload) in &tries {
        let refused = shop.is_refused(subject, payload.clone()).await?;
        assert_eq!(refused, stage.refusal(), "{subject}");
    }
    let subjects: Vec<String> = tries.iter().map(|(subject, _)| subject.clone()).collect();
    assert_eq!(heard_among(&mut wire, admin, &subjects).await?, Vec::<String>::new(), "something got through");
    assert_eq!(lab.workloads().await?, ["echo"]);
    assert_eq!(lab.info().await?.machines[0].id, echo.id);
    assert_eq!(body(&lab.call("lab.echo", "still here").await?)?, b"still here");
    assert!(!admin.nex.ping_nodes().await?[0].tag_is("nex.lameduck", "true"));
    Ok(())
}

pub(crate) async fn a_tenant_hears_nothing_of_another(stage: &Stage) -> Result<()> {
    let Stage { admin, shop, lab, .. } = stage;
    let mut ears = vec![];
    for subject in [
        ">",
        "*.>",
        "$NEX.>",
        "$NEX.events.>",
        "$NEX.events.*.*",
        "$NEX.events.lab.*",
        "$NEX.events.system.*",
        "$NEX.logs.>",
        "$NEX.logs.lab.>",
        "$NEX.DEPLOY.>",
        "$NEX.STOP.lab.*",
        "$NEX.*.lab.*",
        "_INBOX.>",
        "_INBOX.*.>",
        "_INBOX.lab.>",
        "_INBOX.node.>",
        "_INBOX.admin.>",
        "lab.>",
        "*.echo",
        "$O.lab.>",
        "$KV.>",
        "$JS.>",
        "$SRV.>",
    ] {
        ears.push(shop.listen(subject).await?);
        if stage.refusal() == Refusal::Violation {
            shop.violation("subscription", subject).await?;
        }
    }
    let mut events = lab.listen("$NEX.events.lab.*").await?;
    let mut logs = lab.listen("$NEX.logs.lab.>").await?;
    let echo = deployed(stage, lab, "echo", ECHO).await?;
    assert_eq!(body(&lab.call("lab.echo", "between us").await?)?, b"between us");
    logs.next().await?;
    lab.stop(&echo).await?;
    while events.next().await?.subject.as_str() != "$NEX.events.lab.workload_undeployed" {}
    admin.nex.ping_nodes().await?;

    for ear in &mut ears {
        assert_eq!(ear.heard(shop).await?, Vec::<String>::new(), "on {}", ear.subject);
    }
    Ok(())
}

pub(crate) async fn a_tenant_cannot_answer_or_speak_for_the_node(stage: &Stage) -> Result<()> {
    let Stage { admin, shop, lab, node, .. } = stage;
    let node = node.id();
    let mut ears = vec![];
    for subject in [
        "$NEX.PING",
        "$NEX.PING.*",
        "$NEX.AUCTION",
        "$NEX.INFO.*.*",
        "$NEX.INFO.lab.*",
        "$NEX.DEPLOY.lab.*",
        "$NEX.WPING.>",
    ] {
        ears.push(shop.listen(subject).await?);
        if stage.refusal() == Refusal::Violation {
            shop.violation("subscription", subject).await?;
        }
    }
    assert_eq!(lab.nex.ping_nodes().await?.len(), 1);
    assert_eq!(lab.nex.auction(&Default::default()).await?.len(), 1);
    lab.info().await?;
    for ear in &mut ears {
        assert_eq!(ear.heard(shop).await?, Vec::<String>::new(), "on {}", ear.subject);
    }
    drop(ears);
    shop.settle().await?;

    let mut wire = admin.listen(">").await?;
    let mut events = lab.listen("$NEX.events.lab.*").await?;
    let mut logs = lab.listen("$NEX.logs.lab.>").await?;
    let forged = [
        "$NEX.events.lab.workload_undeployed".to_owned(),
        "$NEX.events.system.node_stopped".to_owned(),
        "$NEX.events.shop.workload_deployed".to_owned(),
        format!("$NEX.logs.lab.{node}.id.echo"),
        format!("$NEX.logs.shop.{node}.id.echo"),
        "_INBOX.lab.x".to_owned(),
        "lab.echo".to_owned(),
    ];
    for subject in &forged {
        shop.nats.publish(subject.clone(), "{}".into()).await?;
        if stage.refusal() == Refusal::Violation {
            shop.violation("publish", subject).await?;
        }
    }
    shop.settle().await?;
    let subjects = forged.to_vec();
    assert_eq!(heard_among(&mut wire, admin, &subjects).await?, Vec::<String>::new());
    assert_eq!(events.heard(lab).await?, Vec::<String>::new());
    assert_eq!(logs.heard(lab).await?, Vec::<String>::new());
    Ok(())
}
