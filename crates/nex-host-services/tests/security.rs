//! Tried as an attacker would: other tenants' data, denied subjects, the node's own network, uploads left half.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use common::{World, http, listen, response, tenant, watch};
use futures_util::future::BoxFuture;
use nex_host_services::http::{Resolve, WebClient};
use nex_host_services::kv::Expect;
use nex_host_services::{Backends, HostServices, Settings, Upload};
use nex_protocol::link::host::{HostErrorCode, HostReply, HostRequest, KvRequest, MessagingRequest, ObjectRequest};

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let world = World::real(Settings::default()).await;
    let tenants =
        [("a", "b"), ("a", "c"), ("b", "a"), ("a_b", "c"), ("a", "b_c"), ("a-b", "c"), ("a", "b_kv"), ("A", "b")];
    for (namespace, workload) in tenants {
        let who = tenant(namespace, workload);
        let mine = format!("{namespace}.{workload}");
        world.set(&who, "secret", mine.as_bytes()).await.unwrap();
        world.put(&who, "secret", vec![Bytes::from(mine.clone())]).await.unwrap();
    }
    for (namespace, workload) in tenants {
        let who = tenant(namespace, workload);
        let mine = format!("{namespace}.{workload}");
        assert_eq!(&world.get(&who, "secret").await.unwrap().1[..], mine.as_bytes());
        assert_eq!(world.fetch(&who, "secret").await.1, mine.as_bytes());
        assert_eq!(world.keys(&who).await, ["secret"]);
        assert_eq!(world.names(&who).await, ["secret"]);
    }
    let me = tenant("a", "b");
    for trick in
        ["../secret", "..", "$KV.hs_b_a_kv.secret", "hs_b_a_kv.secret", "*", ">", "*.secret", "hs_b_a_kv/secret"]
    {
        let got = world.get(&me, trick).await;
        let harmless = match &got {
            Ok((HostReply::Missing, _)) => true,
            Err(error) => error.code == HostErrorCode::Invalid,
            Ok(_) => false,
        };
        assert!(harmless, "{trick}: {got:?}");
        assert_eq!(world.fetch(&me, trick).await.0.unwrap().0, HostReply::Missing, "{trick}");
        let _ = world.kv(&me, KvRequest::Delete { key: trick.into() }, b"").await;
        let _ = world.object(&me, ObjectRequest::Delete { name: trick.into() }).await;
    }
    assert_eq!(&world.get(&tenant("b", "a"), "secret").await.unwrap().1[..], b"b.a");
    assert_eq!(world.fetch(&tenant("b", "a"), "secret").await.1, b"b.a");
}

#[tokio::test]
async fn denied_subjects_are_refused() {
    let settings = Settings { denied_subjects: vec!["private.>".parse().unwrap()], ..Settings::default() };
    let world = World::real(settings).await;
    for subject in [
        "$SYS.REQ.SERVER.PING",
        "$JS.API.STREAM.LIST",
        "$JS.domain.API.INFO",
        "$JS.ACK.x",
        "$NEX.PING",
        "$NEX.DEPLOY.a.b",
        "_INBOX.abc",
        "_INBOX.a.b",
        "$O.hs_b_a_obj.C.x",
        "$KV.hs_b_a_kv.secret",
        "private.a",
        "$MQTT.x",
    ] {
        let publish = MessagingRequest::Publish { subject: subject.into(), headers: Vec::new() };
        assert_eq!(world.message(publish, b"x").await.unwrap_err().code, HostErrorCode::Denied, "{subject}");
        let request = MessagingRequest::Request { subject: subject.into(), headers: Vec::new(), timeout_ms: Some(100) };
        assert_eq!(world.message(request, b"x").await.unwrap_err().code, HostErrorCode::Denied, "{subject}");
    }
    let fine = MessagingRequest::Publish { subject: "private".into(), headers: Vec::new() };
    world.message(fine, b"x").await.unwrap();
}

/// Gives a public address first, and the loopback ever after.
struct Rebinding(AtomicUsize);

impl Resolve for Rebinding {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
        let address = match host {
            "mapped.example" => "::ffff:127.0.0.1",
            "metadata.example" => "169.254.169.254",
            // Nobody answers at a discard prefix, which a rule of the test allows.
            "rebind.example" if first => "127.0.0.2",
            _ => "127.0.0.1",
        };
        Box::pin(async move { Ok(vec![address.parse().unwrap()]) })
    }
}

fn with_resolver(allow: &[&str]) -> HostServices {
    let mut settings = Settings::default();
    settings.http.allow = allow.iter().map(|rule| rule.parse().unwrap()).collect();
    let mut backends = Backends::in_memory(&settings);
    backends.http = Arc::new(WebClient::with_resolver(&settings.http, Arc::new(Rebinding(AtomicUsize::new(0)))));
    HostServices::with_backends(backends, settings)
}

#[tokio::test]
async fn the_nodes_own_network_is_out_of_reach() {
    let (port, connections) = listen(Arc::new(|_| response(200, &[], b"secret"))).await;
    let closed = with_resolver(&[]);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "10.0.0.1",
        "192.168.0.1",
        "172.16.0.1",
        "100.64.0.1",
        "224.0.0.1",
        "[fe80::1]",
        "localhost",
        "LOCALHOST.",
        "mapped.example",
        "metadata.example",
        "rebind.example",
        "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
        "127\u{3002}0\u{3002}0\u{3002}1",
    ] {
        let error = http(&closed, "GET", &format!("http://{host}:{port}/"), &[], b"").await.unwrap_err();
        assert_eq!(error.code, HostErrorCode::Denied, "{host}: {error}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_judged_by_the_one_connected_to() {
    let (port, connections) = listen(Arc::new(|_| response(200, &[], b"secret"))).await;
    // The first answer is allowed (and nobody is there); the second one is not.
    let services = with_resolver(&["127.0.0.2"]);
    let url = format!("http://rebind.example:{port}/");
    assert_eq!(http(&services, "GET", &url, &[], b"").await.unwrap_err().code, HostErrorCode::Unavailable);
    assert_eq!(http(&services, "GET", &url, &[], b"").await.unwrap_err().code, HostErrorCode::Denied);
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_redirect_does_not_get_past_the_rules() {
    let (inside, connections) = listen(Arc::new(|_| response(200, &[], b"secret"))).await;
    let (port, _) = listen(Arc::new(move |exchange| {
        let to = match exchange.url.path() {
            "/name" => format!("http://localhost:{inside}/"),
            "/mapped" => format!("http://[::ffff:127.0.0.1]:{inside}/"),
            "/metadata" => "http://169.254.169.254/latest/meta-data/".to_owned(),
            _ => format!("http://127.0.0.1:{inside}/"),
        };
        response(302, &[("location", &to)], b"")
    }))
    .await;
    let services = with_resolver(&[&format!("127.0.0.1:{port}")]);
    for path in ["name", "mapped", "metadata", "literal"] {
        let error = http(&services, "GET", &format!("http://127.0.0.1:{port}/{path}"), &[], b"").await.unwrap_err();
        assert_eq!(error.code, HostErrorCode::Denied, "{path}: {error}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn secrets_are_not_redirected_to_strangers_and_connections_are_used_again() {
    let (there, _) = listen(Arc::new(|exchange| {
        let seen = format!("{:?}", exchange.headers.get("authorization"));
        response(200, &[], seen.as_bytes())
    }))
    .await;
    let (port, connections) = listen(Arc::new(move |exchange| match exchange.url.path() {
        "/away" => response(302, &[("location", &format!("http://127.0.0.1:{there}/"))], b""),
        _ => response(200, &[], b"ok"),
    }))
    .await;
    let services = with_resolver(&["127.0.0.1"]);
    let url = format!("http://127.0.0.1:{port}");
    for _ in 0..5 {
        http(&services, "GET", &url, &[], b"").await.unwrap();
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    let done = http(&services, "GET", &format!("{url}/away"), &[("authorization", "Bearer x")], b"").await.unwrap();
    assert_eq!(&done.1[..], b"None");
}

async fn messages_in(client: &async_nats::Client, stream: &str) -> u64 {
    let mut stream = jetstream::new(client.clone()).get_stream(stream).await.unwrap();
    stream.info().await.unwrap().state.messages
}

#[tokio::test]
async fn an_upload_given_up_leaves_no_chunks() {
    let settings = Settings::default();
    let world = World::real(settings).await;
    let (me, client) = (tenant("a", "b"), world.client.clone().unwrap());
    world.put(&me, "other", vec![Bytes::from_static(b"x")]).await.unwrap();
    let before = messages_in(&client, "OBJ_hs_a_b_obj").await;
    for aborted in [false, true] {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let request = ObjectRequest::Put { name: "half".into() };
        let mut call = common::call(HostRequest::ObjectStore(request), b"");
        let taken_one = move || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        call.upload = Some(Upload { chunks: receiver, taken: Box::new(taken_one) });
        let services = world.services.clone();
        let who = me.clone();
        let task = tokio::spawn(async move { services.call(&who, call).await });
        for _ in 0..4 {
            sender.send(Bytes::from(vec![1; 65_536])).await.unwrap();
        }
        while taken.load(Ordering::SeqCst) < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(messages_in(&client, "OBJ_hs_a_b_obj").await > before);
        if aborted {
            drop(sender);
            assert!(task.await.unwrap().is_err());
        } else {
            task.abort();
        }
        let end = tokio::time::Instant::now() + Duration::from_secs(5);
        while messages_in(&client, "OBJ_hs_a_b_obj").await != before {
            assert!(tokio::time::Instant::now() < end, "chunks were left");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // Objects that are replaced and removed leave nothing either, many at once included.
    let puts = (0..8_u8).map(|i| world.put(&me, "same", vec![Bytes::from(vec![i; 1000])]));
    assert!(futures_util::future::join_all(puts).await.iter().all(Result::is_ok));
    assert_eq!(messages_in(&client, "OBJ_hs_a_b_obj").await, before + 2);
    world.object(&me, ObjectRequest::Delete { name: "same".into() }).await.unwrap();
    assert_eq!(messages_in(&client, "OBJ_hs_a_b_obj").await, before);
}

#[tokio::test]
async fn damage_is_noticed_and_links_are_not_followed() {
    let world = World::real(Settings::default()).await;
    let (me, client) = (tenant("a", "b"), world.client.clone().unwrap());
    world.put(&me, "doc", vec![Bytes::from(vec![1; 1000]), Bytes::from(vec![2; 1000])]).await.unwrap();
    world.put(&tenant("b", "a"), "secret", vec![Bytes::from_static(b"secret")]).await.unwrap();
    let context = jetstream::new(client);
    let store = context.get_object_store("hs_a_b_obj").await.unwrap();
    // Another client reads what functions store.
    let info = store.info("doc").await.unwrap();
    assert_eq!((info.size, info.chunks), (2000, 2));
    let theirs = context.get_object_store("hs_b_a_obj").await.unwrap();
    store.add_link("link", &theirs.info("secret").await.unwrap()).await.unwrap();
    let error = world.fetch(&me, "link").await.0.unwrap_err();
    assert_eq!(error.code, HostErrorCode::Unsupported);
    let stream = context.get_stream("OBJ_hs_a_b_obj").await.unwrap();
    let chunk = stream.get_next_raw_message_by_subject(format!("$O.hs_a_b_obj.C.{}", info.nuid)).await.unwrap();
    stream.delete_message(chunk.sequence).await.unwrap();
    context.publish(format!("$O.hs_a_b_obj.C.{}", info.nuid), vec![3; 1000].into()).await.unwrap().await.unwrap();
    assert_eq!(world.fetch(&me, "doc").await.0.unwrap_err().code, HostErrorCode::Unavailable);
}

#[tokio::test]
async fn buckets_come_back_and_old_ones_are_used_as_they_are() {
    let world = World::real(Settings::default()).await;
    let (me, client) = (tenant("a", "b"), world.client.clone().unwrap());
    world.set(&me, "a", b"1").await.unwrap();
    world.put(&me, "a", Vec::new()).await.unwrap();
    let context = jetstream::new(client);
    for _ in 0..2 {
        context.delete_stream("KV_hs_a_b_kv").await.unwrap();
        context.delete_stream("OBJ_hs_a_b_obj").await.unwrap();
        assert_eq!(world.get(&me, "a").await.unwrap().0, HostReply::Missing);
        assert_eq!(world.fetch(&me, "a").await.0.unwrap().0, HostReply::Missing);
        context.delete_stream("KV_hs_a_b_kv").await.unwrap();
        context.delete_stream("OBJ_hs_a_b_obj").await.unwrap();
        world.set(&me, "a", b"2").await.unwrap();
        world.put(&me, "a", Vec::new()).await.unwrap();
    }
    let old = jetstream::kv::Config { bucket: "hs_old_w_kv".into(), ..Default::default() };
    context.create_key_value(old).await.unwrap();
    let (old, ttl) = (tenant("old", "w"), KvRequest::Set { key: "a".into(), ttl_ms: Some(1000) });
    assert_eq!(world.kv(&old, ttl, b"").await.unwrap_err().code, HostErrorCode::Unsupported);
    world.set(&old, "a", b"1").await.unwrap();
}

#[tokio::test]
async fn without_jit_provision_nothing_is_made() {
    let mut settings = Settings::default();
    settings.kv.jit_provision = false;
    for world in [World::real(settings.clone()).await, World::twin(settings.clone())] {
        let error = world.set(&tenant("a", "b"), "a", b"").await.unwrap_err();
        assert!(error.code == HostErrorCode::Unavailable && error.message.contains("jit_provision"), "{error}");
    }
}

#[tokio::test]
async fn a_short_call_takes_little_memory() {
    // A future is as large as the largest that it may wait for: making a bucket takes three times as much as the rest.
    let world = World::real(Settings::default()).await;
    let kv = Backends::on_nats(world.client.clone().unwrap(), &Settings::default()).kv;
    let sizes = [
        ("get", size_of_val(&*kv.get("bucket", "key"))),
        ("set", size_of_val(&*kv.set("bucket", "key", Bytes::new(), Expect::Any, None))),
        ("delete", size_of_val(&*kv.delete("bucket", "key"))),
    ];
    assert!(sizes.iter().all(|(_, size)| *size < 4 << 10), "{sizes:?}");
}

#[tokio::test]
async fn a_namespace_over_its_quota_is_refused_at_once() {
    let mut settings = Settings::default();
    settings.quota.calls_per_second = 5;
    let world = World::twin(settings);
    let mut refused = 0;
    for _ in 0..20 {
        if let Err(error) = world.get(&tenant("a", "b"), "a").await {
            assert!(error.code == HostErrorCode::Quota && error.retry);
            refused += 1;
        }
    }
    assert!(refused >= 14, "{refused}");
    world.get(&tenant("b", "b"), "a").await.unwrap();
}

#[tokio::test]
async fn errors_say_nothing_about_the_server() {
    let mut world = World::real(Settings::default()).await;
    let me = tenant("a", "b");
    world.set(&me, "a", b"1").await.unwrap();
    world.server.as_mut().unwrap().stop().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut call = common::call(HostRequest::Kv(KvRequest::Get { key: "a".into() }), b"");
    call.deadline = tokio::time::Instant::now() + Duration::from_millis(500);
    let error = world.services.call(&me, call).await.unwrap_err();
    assert!(matches!(error.code, HostErrorCode::Timeout | HostErrorCode::Unavailable) && error.retry);
    assert!(!error.message.contains("127.0.0.1") && !error.message.contains('\n'), "{error}");
    let publish = MessagingRequest::Publish { subject: "a".into(), headers: Vec::new() };
    assert_eq!(world.message(publish, b"").await.unwrap_err().code, HostErrorCode::Unavailable);
}

#[tokio::test]
async fn listing_and_watching_in_a_loop_leaves_no_consumers_at_the_server() {
    let world = World::real(Settings::default()).await;
    let me = tenant("a", "b");
    world.set(&me, "key", b"1").await.unwrap();
    world.put(&me, "object", vec![Bytes::from_static(b"1")]).await.unwrap();
    for _ in 0..20 {
        assert_eq!(world.keys(&me).await, ["key"]);
        assert_eq!(world.names(&me).await, ["object"]);
        // A watch that is given up while it goes on, which its first change shows.
        let mut watching = watch(&world.services, &me, None);
        let seen = async {
            while watching.events.try_recv().is_err() {
                world.set(&me, "key", b"2").await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap();
        watching.task.abort();
    }
    let context = jetstream::new(world.client.clone().unwrap());
    let mut left = usize::MAX;
    for _ in 0..100 {
        let keys = context.get_stream("KV_hs_a_b_kv").await.unwrap().get_info().await.unwrap().state.consumer_count;
        let objects =
            context.get_stream("OBJ_hs_a_b_obj").await.unwrap().get_info().await.unwrap().state.consumer_count;
        left = keys + objects;
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{left} consumers are left");
}

#[tokio::test]
async fn who_was_asked_once_cannot_answer_in_anothers_place() {
    let world = World::real(Settings::default()).await;
    let client = world.client.clone().unwrap();
    let mut asked = client.subscribe("ask.*").await.unwrap();
    client.flush().await.unwrap();
    let request =
        |subject: &str| MessagingRequest::Request { subject: subject.into(), headers: vec![], timeout_ms: Some(300) };
    let answering = async {
        let mut replies = vec![];
        for _ in 0..3 {
            let message = futures_util::StreamExt::next(&mut asked).await.unwrap();
            replies.push(message.reply.unwrap().to_string());
        }
        // Late, to one that was given up; nobody hears it.
        tokio::time::sleep(Duration::from_millis(400)).await;
        for reply in &replies {
            client.publish(reply.clone(), "late".into()).await.unwrap();
        }
        replies
    };
    let asking = async {
        for subject in ["ask.a", "ask.b", "ask.c"] {
            assert_eq!(world.message(request(subject), b"").await.unwrap_err().code, HostErrorCode::Timeout);
        }
    };
    let (replies, ()) = tokio::join!(answering, asking);
    let tokens: Vec<&str> = replies.iter().map(|reply| reply.rsplit('.').next().unwrap()).collect();
    // Letters and digits at random, more than 128 bits: what is seen of some tells nothing of others.
    let distance = |a: &str, b: &str| a.chars().zip(b.chars()).filter(|(a, b)| a != b).count();
    for pair in tokens.windows(2) {
        assert_eq!(pair[0].len(), 22);
        assert!(distance(pair[0], pair[1]) > 14, "{tokens:?}");
    }
    // The subscription takes what belongs to it and goes on.
    let mut echo = client.subscribe("echo").await.unwrap();
    let answered = tokio::spawn({
        let client = client.clone();
        async move {
            let message = futures_util::StreamExt::next(&mut echo).await.unwrap();
            client.publish(message.reply.unwrap(), "mine".into()).await.unwrap();
        }
    });
    client.flush().await.unwrap();
    assert_eq!(&world.message(request("echo"), b"").await.unwrap().1[..], b"mine");
    answered.await.unwrap();
}

#[tokio::test]
async fn a_namespace_holds_no_more_of_the_nodes_memory_than_it_may() {
    let mut settings = Settings::default();
    settings.quota.bytes_in_memory = 100_000;
    let world = World::real(settings).await;
    let (me, neighbour) = (tenant("a", "b"), tenant("b", "a"));
    for who in [&me, &neighbour] {
        world.set(who, "large", &[1; 60_000]).await.unwrap();
    }
    let (port, _) = listen(Arc::new(|_| response(200, &[], &[1; 60_000]))).await;
    let url = format!("http://127.0.0.1:{port}/");
    let first = world.get(&me, "large").await.unwrap();
    assert_eq!(world.get(&me, "large").await.unwrap_err().code, HostErrorCode::Quota, "the first has not left yet");
    assert_eq!(world.http("GET", &url, &[], b"").await.unwrap_err().code, HostErrorCode::Quota);
    assert_eq!(world.set(&me, "more", &[1; 60_000]).await.unwrap_err().code, HostErrorCode::Quota);
    world.get(&neighbour, "large").await.expect("another namespace has its own");
    drop(first);
    world.http("GET", &url, &[], b"").await.unwrap();
    world.get(&me, "large").await.unwrap();
}
