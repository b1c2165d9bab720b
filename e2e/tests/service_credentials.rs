//! Native services that ask for host services: what they are given, and what that lets them do.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream::{self, kv};
use futures_util::StreamExt;
use nex_e2e::{Operator, World, eventually};
use nex_protocol::WorkloadType::Native;
use nex_protocol::control::deploy::NatsConnection;
use nex_protocol::control::deploy::RunResponse;
use serde_json::json;

/// Deploys a service that writes its environment to a file, and reads it from there.
async fn environment(
    world: &World,
    folder: &Path,
    name: &str,
    own: Option<NatsConnection>,
) -> Result<(RunResponse, HashMap<String, String>)> {
    let sha256 = world.put(name, &std::fs::read("/bin/sh")?).await?;
    let mut deployment = world.deployment(name, Native, &sha256)?;
    let (file, whole) = (folder.join(format!("{name}.tmp")), folder.join(name));
    let script = format!("env > {0} && mv {0} {1}; exec sleep 1000", file.display(), whole.display());
    deployment.argv = vec!["-c".to_owned(), script];
    deployment.wants_host_services = true;
    deployment.host_services = own;
    let response = world.send(&deployment).await?;
    eventually("the service has written its environment", || async { whole.exists() }).await?;
    let text = std::fs::read_to_string(&whole)?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok((response, pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
}

/// Connects as the service would.
async fn connect(given: &HashMap<String, String>) -> Result<async_nats::Client> {
    let key = std::sync::Arc::new(nkeys::KeyPair::from_seed(&given["NEX_HOSTSERVICES_NATS_USER_SEED"])?);
    let sign = move |nonce: Vec<u8>| {
        let key = key.clone();
        async move { key.sign(&nonce).map_err(async_nats::AuthError::new) }
    };
    let options = async_nats::ConnectOptions::with_jwt(given["NEX_HOSTSERVICES_NATS_USER_JWT"].clone(), sign)
        .custom_inbox_prefix(given["NEX_HOSTSERVICES_NATS_INBOX_PREFIX"].clone())
        .request_timeout(Some(Duration::from_millis(500)));
    Ok(options.connect(given["NEX_HOSTSERVICES_NATS_SERVER"].as_str()).await?)
}

/// Waits until the server has handled what a client sent, by something that all of them may ask.
async fn settle(client: &async_nats::Client) -> Result<()> {
    client.request("$JS.API.STREAM.INFO.KV_hs_default_svc_kv", "".into()).await?;
    Ok(())
}

/// Whether what one client publishes to a subject reaches another that listens there.
async fn arrives(from: &async_nats::Client, to: &async_nats::Client, subject: &str) -> Result<bool> {
    let mut heard = to.subscribe(subject.to_owned()).await?;
    settle(to).await?;
    from.publish(subject.to_owned(), "x".into()).await?;
    settle(from).await?;
    Ok(tokio::time::timeout(Duration::from_millis(300), heard.next()).await.is_ok_and(|message| message.is_some()))
}

#[tokio::test]
async fn a_service_gets_a_user_of_its_own_that_stays_within_its_namespace() -> Result<()> {
    let (server, operator) = Operator::start().await?;
    let credentials = json!({"account_seed_file": operator.signing_file(), "account": operator.account});
    let world = World::operated(server, &operator, json!({"host_services": {"credentials": credentials}})).await?;
    let folder = tempfile::tempdir()?;
    let (_, given) = environment(&world, folder.path(), "svc", None).await?;
    assert_eq!(given["NEX_HOSTSERVICES_NATS_SERVER"], world.server.url());
    assert_eq!(given["NEX_HOSTSERVICES_KV_BUCKET"], "hs_default_svc_kv");
    assert_eq!(given["NEX_HOSTSERVICES_OBJECTSTORE_BUCKET"], "hs_default_svc_obj");
    assert!(!given.contains_key("NATS_CREDS"), "the node's own stay the node's");

    let service = connect(&given).await?;
    // Its own bucket, which others of the account see, and its namespace's subjects.
    let bucket = jetstream::new(service.clone()).get_key_value("hs_default_svc_kv").await?;
    bucket.put("a", "1".into()).await?;
    assert_eq!(bucket.get("a").await?.unwrap(), "1");
    let seen = jetstream::new(world.nats.clone()).get_key_value("hs_default_svc_kv").await?;
    assert_eq!(seen.get("a").await?.unwrap(), "1");
    assert!(arrives(&service, &world.nats, "default.news").await?);
    assert!(arrives(&world.nats, &service, "default.orders").await?);
    // Answers go to whoever asked.
    let mut asked = service.subscribe("default.ask").await?;
    settle(&service).await?;
    let answering = tokio::spawn({
        let service = service.clone();
        async move {
            let message = asked.next().await.unwrap();
            service.publish(message.reply.unwrap(), "answer".into()).await
        }
    });
    let answer = world.nats.request("default.ask", "".into()).await;
    assert_eq!(answer?.payload, "answer");
    answering.await??;

    // Nothing else.
    for subject in ["other.news", "$NEX.PING", "$KV.hs_default_other_kv.a", "_INBOX.somebody", "news"] {
        assert!(!arrives(&service, &world.nats, subject).await?, "publishes to {subject}");
    }
    for subject in ["other.orders", "_INBOX.somebody.1", "$KV.hs_default_other_kv.a", "orders"] {
        assert!(!arrives(&world.nats, &service, subject).await?, "hears {subject}");
    }
    let context = jetstream::new(world.nats.clone());
    context.create_key_value(kv::Config { bucket: "hs_other_svc_kv".into(), ..Default::default() }).await?;
    let own = jetstream::new(service.clone());
    assert!(own.get_key_value("hs_other_svc_kv").await.is_err(), "another's bucket");
    let copy = jetstream::stream::Config {
        name: "KV_hs_default_svc_kv".into(),
        mirror: Some(jetstream::stream::Source { name: "KV_hs_other_svc_kv".into(), ..Default::default() }),
        ..Default::default()
    };
    assert!(
        own.create_stream(copy.clone()).await.is_err() && own.update_stream(copy).await.is_err(),
        "a stream of its own"
    );
    let push = jetstream::consumer::push::Config { deliver_subject: "other.news".into(), ..Default::default() };
    assert!(bucket.stream.create_consumer(push).await.is_err(), "a consumer that delivers elsewhere");
    Ok(())
}

#[tokio::test]
async fn two_services_do_not_reach_each_others_buckets() -> Result<()> {
    let (server, operator) = Operator::start().await?;
    let credentials = json!({"account_seed_file": operator.signing_file(), "account": operator.account});
    let world = World::operated(server, &operator, json!({"host_services": {"credentials": credentials}})).await?;
    let folder = tempfile::tempdir()?;
    let (_, one) = environment(&world, folder.path(), "one", None).await?;
    let (_, two) = environment(&world, folder.path(), "two", None).await?;
    let (one, two) = (connect(&one).await?, connect(&two).await?);
    let bucket = jetstream::new(one).get_key_value("hs_default_one_kv").await?;
    bucket.put("secret", "mine".into()).await?;
    assert!(jetstream::new(two.clone()).get_key_value("hs_default_one_kv").await.is_err());
    two.publish("$KV.hs_default_one_kv.secret", "forged".into()).await?;
    two.flush().await?;
    assert!(
        two.request("$JS.API.DIRECT.GET.KV_hs_default_one_kv.$KV.hs_default_one_kv.secret", "".into()).await.is_err()
    );
    assert_eq!(bucket.get("secret").await?.unwrap(), "mine");
    Ok(())
}

#[tokio::test]
async fn a_node_that_has_none_to_give_refuses_and_says_what_to_do() -> Result<()> {
    let world = World::start().await?;
    let folder = tempfile::tempdir()?;
    let refused = environment(&world, folder.path(), "svc", None).await.unwrap_err();
    let text = format!("{refused:#}");
    assert!(
        text.contains("no credentials for host services: this node has no account to make credentials with"),
        "{text}"
    );
    let error = refused.downcast_ref::<nex_client::ClientError>().unwrap();
    let nex_client::ClientError::Refused { code, help, .. } = error else { panic!("{error:?}") };
    assert_eq!(*code, Some(nex_protocol::Code::HostServicesUnavailable));
    assert!(help.as_ref().unwrap().contains("--hs_url"), "{help:?}");
    Ok(())
}

#[tokio::test]
async fn the_deploys_own_connection_is_given_as_it_is() -> Result<()> {
    let world = World::start().await?;
    let folder = tempfile::tempdir()?;
    let own = NatsConnection {
        nats_url: "nats://elsewhere.example:4222".into(),
        nats_user_jwt: "a.b.c".into(),
        nats_user_seed: "SUSEED".into(),
    };
    let (_, given) = environment(&world, folder.path(), "svc", Some(own)).await?;
    assert_eq!(given["NEX_HOSTSERVICES_NATS_SERVER"], "nats://elsewhere.example:4222");
    assert_eq!(given["NEX_HOSTSERVICES_NATS_USER_JWT"], "a.b.c");
    assert_eq!(given["NEX_HOSTSERVICES_NATS_USER_SEED"], "SUSEED");
    Ok(())
}
