//! What lies in JetStream, and who could be had to write there: artifacts, keys, replies.

use anyhow::Result;
use async_nats::jetstream::{self, object_store::ObjectStore};
use futures_util::StreamExt;
use nex_e2e::{PATIENCE, body};
use nex_protocol::{Code, subject};
use tokio::io::AsyncReadExt;

use super::{ECHO, deployed, refused_with};
use crate::party::{Party, Refusal};
use crate::stage::{Layout, Stage};

pub(crate) async fn a_reply_subject_has_nobody_else_write_where_its_sender_may_not(stage: &Stage) -> Result<()> {
    let Stage { admin, shop, lab, node, .. } = stage;
    stage.put(lab, "mine", "lab's own").await?;
    deployed(stage, shop, "echo", ECHO).await?;
    let mut events = lab.listen("$NEX.events.lab.*").await?;
    let mut calls = lab.listen("lab.>").await?;
    // Between accounts an answer comes back to the account that asked, whatever it is called there.
    let mut own = match stage.layout {
        Layout::Users => None,
        Layout::Accounts | Layout::Operator => {
            Some((shop.listen("lab.orders").await?, shop.listen("$NEX.events.lab.forged").await?))
        }
    };
    // An event of lab, a purge of its bucket, another description of its artifact, an order to the node, a key of a
    // function of lab: none of which shop may send itself.
    let internal = ["$NEX.events.lab.forged", "$JS.API.STREAM.PURGE.OBJ_lab", "$O.lab.M.bWluZQ==", "$KV.hs_lab_a_kv.k"];
    let asked = [subject::PING.to_owned(), subject::AUCTION.to_owned(), subject::info("shop", node.id())];
    for subject in asked.iter().map(String::as_str).chain(["shop.echo"]) {
        for reply in internal.into_iter().chain(["lab.orders"]) {
            shop.nats.publish_with_reply(subject.to_owned(), reply, "{}".into()).await?;
        }
    }
    shop.settle().await?;
    match &mut own {
        None => stage.has_ignored(asked.len() * internal.len()).await?,
        Some((orders, forged)) => {
            let mut answers = Vec::new();
            for _ in &asked {
                answers.push(orders.next().await?.payload);
                forged.next().await?;
            }
            answers.push(orders.next().await?.payload);
            // Node and function answer in any order.
            assert_eq!(answers.iter().filter(|answer| *answer == "{}").count(), 1, "the function's answer");
        }
    }
    for subject in ["$JS.API.STREAM.INFO.OBJ_shop", "$JS.nex.API.STREAM.INFO.OBJ_shop", "$O.shop.M.x"] {
        shop.nats.publish_with_reply(subject, "$JS.API.STREAM.PURGE.OBJ_lab", "{}".into()).await?;
        shop.nats.publish_with_reply(subject, "$O.lab.M.bWluZQ==", "{}".into()).await?;
        if stage.refusal() == Refusal::Violation {
            shop.violation("publish", subject).await?;
        }
    }
    shop.settle().await?;

    assert_eq!(events.heard(lab).await?, Vec::<String>::new());
    assert_eq!(calls.heard(lab).await?, Vec::<String>::new());
    assert_eq!(read(&bucket(admin, "lab").await?, "mine").await?, "lab's own");
    Ok(())
}

async fn bucket(admin: &Party, name: &str) -> Result<ObjectStore> {
    Ok(jetstream::new(admin.nats.clone()).get_object_store(name).await?)
}

async fn read(bucket: &ObjectStore, key: &str) -> Result<String> {
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, bucket.get(key).await?.read_to_string(&mut text)).await??;
    Ok(text)
}

pub(crate) async fn a_tenant_neither_reads_nor_changes_anothers_artifacts(stage: &Stage) -> Result<()> {
    let Stage { admin, shop, lab, .. } = stage;
    let sha256 = stage.put(lab, "recipe", ECHO).await?;
    let lies = bucket(admin, "lab").await?;
    let meta = "$O.lab.M.cmVjaXBl";
    let copy = r#"{"name":"COPY","subjects":["x.y"],"mirror":{"name":"OBJ_lab"}}"#;
    let consumer = r#"{"stream_name":"OBJ_lab","config":{"deliver_subject":"_INBOX.shop.x"}}"#;
    for prefix in stage.jetstream() {
        for (request, payload) in [
            ("STREAM.INFO.OBJ_lab", ""),
            ("STREAM.MSG.GET.OBJ_lab", r#"{"seq":1}"#),
            (&format!("DIRECT.GET.OBJ_lab.{meta}"), ""),
            ("CONSUMER.CREATE.OBJ_lab", consumer),
            ("STREAM.PURGE.OBJ_lab", ""),
            ("STREAM.DELETE.OBJ_lab", ""),
            ("STREAM.MSG.DELETE.OBJ_lab", r#"{"seq":1}"#),
            ("STREAM.CREATE.COPY", copy),
            ("STREAM.UPDATE.OBJ_shop", copy),
            ("CONSUMER.CREATE.OBJ_shop", consumer),
            ("STREAM.LIST", ""),
        ] {
            let refused = shop.is_refused(&format!("{prefix}.{request}"), payload).await?;
            assert_eq!(refused, stage.refusal(), "{prefix}.{request}");
        }
    }
    if stage.refusal() == Refusal::NobodyThere {
        // The account has a JetStream of its own, in which there is none of it.
        let answer = shop.call("$JS.API.STREAM.INFO.OBJ_lab", "").await?;
        assert!(String::from_utf8_lossy(&answer.payload).contains("stream not found"), "{:?}", answer.payload);
    }
    for subject in [meta, "$O.lab.C.x", "$O.lab.M.bmV3"] {
        assert_eq!(shop.is_refused(subject, "overwritten").await?, stage.refusal(), "{subject}");
    }

    // The node may read every bucket, and must not do it for everybody.
    let mut borrowed = shop.function("recipe", &sha256)?;
    borrowed.location = lab.location("recipe")?;
    for hash in [sha256.as_str(), &"0".repeat(64)] {
        hash.clone_into(&mut borrowed.sha256);
        let (code, text) = refused_with(shop.send(&borrowed)).await?;
        assert_eq!(code, Code::ArtifactUnavailable);
        assert!(text.contains("namespace shop takes no artifacts from bucket 'lab'"), "{text}");
    }
    assert!(shop.workloads().await?.is_empty());
    assert_eq!(read(&lies, "recipe").await?, ECHO);
    assert_eq!(lies.list().await?.count().await, 1);
    Ok(())
}

pub(crate) async fn a_tenant_does_not_reach_the_buckets_of_anothers_functions(stage: &Stage) -> Result<()> {
    const KEEPER: &str = "(s, p) => { const kv = this.hostServices.kv; const old = kv.get('secret'); \
                          if (p.length) kv.set('secret', p); return old ?? 'nothing'; }";
    let Stage { shop, lab, .. } = stage;
    for tenant in [lab, shop] {
        deployed(stage, tenant, "keeper", KEEPER).await?;
    }
    assert_eq!(body(&lab.call("lab.keeper", "lab's").await?)?, b"nothing");
    assert_eq!(body(&lab.call("lab.keeper", "").await?)?, b"lab's");
    // The same code under the same name has another bucket in another namespace.
    assert_eq!(body(&shop.call("shop.keeper", "").await?)?, b"nothing");
    let key = "$KV.hs_lab_keeper_kv.secret";
    let mut tries = vec![(key.to_owned(), stage.refusal())];
    for prefix in stage.jetstream() {
        for request in ["STREAM.INFO.KV_hs_lab_keeper_kv", &format!("DIRECT.GET.KV_hs_lab_keeper_kv.{key}")] {
            tries.push((format!("{prefix}.{request}"), stage.refusal()));
        }
    }
    for (subject, expected) in &tries {
        assert_eq!(&shop.is_refused(subject, "forged").await?, expected, "{subject}");
    }
    assert_eq!(body(&lab.call("lab.keeper", "").await?)?, b"lab's");
    Ok(())
}
