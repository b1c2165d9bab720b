//! One suite for the real backends and their twins: every case runs against both.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "conformance/http.rs"]
mod http_cases;

use std::time::Duration;

use bytes::Bytes;
use common::{Done, World, tenant, watch};
use http_cases::{http_decodes, http_is_bounded, http_is_intact, http_redirects};
use nex_host_services::{Settings, Tenant};
use nex_protocol::link::host::{HostErrorCode, HostReply, KvRequest, MessagingRequest, ObjectRequest};

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.kv.max_bytes = 64 << 10;
    settings.object_store.max_bytes = 8 << 20;
    settings.messaging.max_reply_bytes = 10_000;
    settings.http.max_body_bytes = 100_000;
    settings.http.max_redirects = 3;
    settings
}

macro_rules! conformance {
    ($($case:ident),* $(,)?) => {
        mod nats { $(#[tokio::test] async fn $case() { super::$case(&super::World::real(super::settings()).await).await; })* }
        mod memory { $(#[tokio::test] async fn $case() { super::$case(&super::World::twin(super::settings())).await; })* }
    };
}

conformance!(
    kv_sets_and_gets,
    kv_compares_and_swaps,
    kv_validates,
    kv_lists,
    kv_expires,
    kv_watches,
    kv_is_bounded,
    kv_first_use_is_concurrent,
    objects_are_stored_whole,
    objects_have_any_name,
    objects_are_bounded,
    an_aborted_upload_stores_nothing,
    messages_are_answered,
    many_answers_are_collected,
    messages_are_checked,
    answers_are_bounded,
    http_is_intact,
    http_redirects,
    http_decodes,
    http_is_bounded,
    a_late_call_times_out,
    disabled_is_unsupported,
);

fn me() -> Tenant {
    tenant("a", "b")
}

fn revision(done: Done) -> u64 {
    match done.unwrap().0 {
        HostReply::Revision { revision } => revision,
        other => panic!("{other:?}"),
    }
}

fn code(done: Done) -> HostErrorCode {
    done.unwrap_err().code
}

async fn kv_sets_and_gets(world: &World) {
    let me = &me();
    assert_eq!(world.get(me, "a").await.unwrap().0, HostReply::Missing);
    let first = revision(world.set(me, "a", b"1").await);
    let second = revision(world.set(me, "a", b"").await);
    assert!(second > first);
    let (reply, value) = world.get(me, "a").await.unwrap();
    assert_eq!((reply, value.len()), (HostReply::Revision { revision: second }, 0));
    let exists = |key: &str| KvRequest::Exists { key: key.into() };
    assert_eq!(world.kv(me, exists("a"), b"").await.unwrap().0, HostReply::Flag { value: true });
    for _ in 0..2 {
        let delete = KvRequest::Delete { key: "a".into() };
        assert_eq!(world.kv(me, delete, b"").await.unwrap().0, HostReply::Done);
    }
    assert_eq!(world.kv(me, exists("a"), b"").await.unwrap().0, HostReply::Flag { value: false });
    assert_eq!(world.get(me, "a").await.unwrap().0, HostReply::Missing);
}

async fn kv_compares_and_swaps(world: &World) {
    let me = &me();
    let create = || KvRequest::Create { key: "a".into(), ttl_ms: None };
    let update = |revision| KvRequest::Update { key: "a".into(), revision };
    let first = revision(world.kv(me, create(), b"1").await);
    assert_eq!(code(world.kv(me, create(), b"2").await), HostErrorCode::Conflict);
    let second = revision(world.kv(me, update(first), b"3").await);
    assert_eq!(code(world.kv(me, update(first), b"4").await), HostErrorCode::Conflict);
    assert_eq!(world.get(me, "a").await.unwrap(), (HostReply::Revision { revision: second }, Bytes::from_static(b"3")));
    world.kv(me, KvRequest::Delete { key: "a".into() }, b"").await.unwrap();
    let third = revision(world.kv(me, create(), b"5").await);
    assert!(third > second);
    // Of many who see the same revision, one wins.
    let racers = (0..16).map(|_| world.kv(me, update(third), b"6"));
    let won = futures_util::future::join_all(racers).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(won, 1);
}

async fn kv_validates(world: &World) {
    for key in ["", "a b", "*", ">", "a.*", ".a", "a.", "a..b", "ü", "\0", "a\r\nb"] {
        assert_eq!(code(world.set(&me(), key, b"").await), HostErrorCode::Invalid, "{key:?}");
        assert_eq!(code(world.get(&me(), key).await), HostErrorCode::Invalid, "{key:?}");
        assert_eq!(code(world.kv(&me(), KvRequest::Delete { key: key.into() }, b"").await), HostErrorCode::Invalid);
    }
    let none = KvRequest::Set { key: "a".into(), ttl_ms: Some(0) };
    assert_eq!(code(world.kv(&me(), none, b"").await), HostErrorCode::Invalid);
}

async fn kv_lists(world: &World) {
    let me = &me();
    assert!(world.keys(me).await.is_empty());
    for key in ["b", "a.x", "a", "z/9"] {
        world.set(me, key, b"v").await.unwrap();
    }
    world.kv(me, KvRequest::Delete { key: "b".into() }, b"").await.unwrap();
    assert_eq!(world.keys(me).await, ["a", "a.x", "z/9"]);
}

async fn kv_expires(world: &World) {
    let me = &me();
    let mut watching = watch(&world.services, me, Some("gone.*"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let create = |ttl_ms| KvRequest::Create { key: "gone.a".into(), ttl_ms: Some(ttl_ms) };
    world.kv(me, create(1000), b"1").await.unwrap();
    world.kv(me, KvRequest::Set { key: "stays".into(), ttl_ms: Some(60_000) }, b"1").await.unwrap();
    assert_eq!(world.keys(me).await, ["gone.a", "stays"]);
    let (set, value) = watching.events.recv().await.unwrap();
    assert!(!set.unwrap().deleted && &value[..] == b"1");
    let gone = tokio::time::timeout(Duration::from_secs(6), watching.events.recv()).await.unwrap().unwrap().0.unwrap();
    assert!(gone.deleted && gone.key == "gone.a");
    assert_eq!(world.keys(me).await, ["stays"]);
    assert_eq!(world.get(me, "gone.a").await.unwrap().0, HostReply::Missing);
    world.kv(me, create(60_000), b"2").await.unwrap();
}

async fn kv_watches(world: &World) {
    let me = &me();
    world.set(me, "a.before", b"0").await.unwrap();
    let mut watching = watch(&world.services, me, Some("a.*"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let first = revision(world.set(me, "a.x", b"1").await);
    world.set(me, "b.x", b"2").await.unwrap();
    world.set(&tenant("a", "other"), "a.x", b"other").await.unwrap();
    world.kv(me, KvRequest::Delete { key: "a.x".into() }, b"").await.unwrap();
    let (event, value) = watching.events.recv().await.unwrap();
    let event = event.unwrap();
    assert_eq!((event.key.as_str(), event.revision, event.deleted, &value[..]), ("a.x", first, false, &b"1"[..]));
    let (event, _) = watching.events.recv().await.unwrap();
    assert!(event.unwrap().deleted);
    // Nobody listening ends it, and so does dropping it.
    drop(watching.events);
    tokio::time::timeout(Duration::from_secs(5), watching.task).await.unwrap().unwrap().unwrap();
    let bad = KvRequest::Watch { key: Some("a>".into()) };
    assert_eq!(code(world.kv(me, bad, b"").await), HostErrorCode::Invalid);
}

async fn kv_is_bounded(world: &World) {
    let me = &me();
    let full = 'full: {
        for i in 0..100 {
            if let Err(error) = world.set(me, &format!("k{i}"), &[0; 4000]).await {
                break 'full error;
            }
        }
        panic!("the bucket never was full");
    };
    assert_eq!(full.code, HostErrorCode::TooLarge);
    assert!(full.message.contains("65536") && !full.retry, "{full}");
    for i in 0..100 {
        world.kv(me, KvRequest::Delete { key: format!("k{i}") }, b"").await.unwrap();
    }
    world.set(me, "again", &[0; 4000]).await.unwrap();
    world.set(&tenant("a", "other"), "k", &[0; 4000]).await.unwrap();
}

async fn kv_first_use_is_concurrent(world: &World) {
    let me = tenant("first", "use");
    let all = (0..24).map(|i| {
        let me = me.clone();
        async move { world.set(&me, &format!("k{i}"), b"v").await }
    });
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
    assert_eq!(world.keys(&me).await.len(), 24);
}

async fn objects_are_stored_whole(world: &World) {
    let me = &me();
    let (done, _) = world.fetch(me, "none").await;
    assert_eq!(done.unwrap().0, HostReply::Missing);
    let info = |name: &str| ObjectRequest::Info { name: name.into() };
    assert_eq!(world.object(me, info("none")).await.unwrap().0, HostReply::Missing);
    let chunks: Vec<Bytes> = (0..20_u8).map(|i| Bytes::from(vec![i; 65_536])).collect();
    let HostReply::Object { info: put } = world.put(me, "big", chunks.clone()).await.unwrap().0 else { panic!() };
    assert_eq!(put.size, 20 * 65_536);
    assert!(put.digest.as_ref().unwrap().starts_with("SHA-256=") && put.modified.is_some());
    let (done, bytes) = world.fetch(me, "big").await;
    assert_eq!(done.unwrap().0, HostReply::Object { info: put.clone() });
    assert_eq!(bytes, chunks.concat());
    world.put(me, "big", vec![Bytes::from_static(b"small")]).await.unwrap();
    assert_eq!(world.fetch(me, "big").await.1, b"small");
    world.put(me, "empty", Vec::new()).await.unwrap();
    let (done, bytes) = world.fetch(me, "empty").await;
    assert!(matches!(done.unwrap().0, HostReply::Object { info } if info.size == 0) && bytes.is_empty());
    assert_eq!(world.names(me).await, ["big", "empty"]);
    for _ in 0..2 {
        let delete = ObjectRequest::Delete { name: "big".into() };
        assert_eq!(world.object(me, delete).await.unwrap().0, HostReply::Done);
    }
    assert_eq!(world.names(me).await, ["empty"]);
    assert_eq!(world.object(me, info("big")).await.unwrap().0, HostReply::Missing);
}

async fn objects_have_any_name(world: &World) {
    let me = &me();
    let names = ["../../etc/passwd", "..", "a b", "a/b/c", "ünï/çødé", ">", "*", "$O.x.M.>", "\n", "/"];
    for name in names {
        world.put(me, name, vec![Bytes::copy_from_slice(name.as_bytes())]).await.unwrap();
    }
    for name in names {
        assert_eq!(world.fetch(me, name).await.1, name.as_bytes(), "{name:?}");
    }
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(world.names(me).await, sorted);
    assert!(world.names(&tenant("b", "a")).await.is_empty());
    for bad in ["", &"n".repeat(1025)] {
        assert_eq!(code(world.put(me, bad, Vec::new()).await), HostErrorCode::Invalid);
    }
}

async fn objects_are_bounded(world: &World) {
    let me = &me();
    let chunks = |count: usize| vec![Bytes::from(vec![7; 65_536]); count];
    assert_eq!(code(world.put(me, "large", chunks(160)).await), HostErrorCode::TooLarge);
    assert!(world.names(me).await.is_empty());
    // What was stored of it is gone: there is room.
    world.put(me, "fits", chunks(100)).await.unwrap();
}

async fn an_aborted_upload_stores_nothing(world: &World) {
    let me = &me();
    world.put(me, "doc", vec![Bytes::from_static(b"old")]).await.unwrap();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let request = ObjectRequest::Put { name: "doc".into() };
    let mut call = common::call(nex_protocol::link::host::HostRequest::ObjectStore(request), b"");
    call.upload = Some(nex_host_services::Upload { chunks: receiver, taken: Box::new(|| ()) });
    sender.send(Bytes::from_static(b"new")).await.unwrap();
    drop(sender);
    assert_eq!(code(world.services.call(me, call).await), HostErrorCode::Invalid);
    assert_eq!(world.fetch(me, "doc").await.1, b"old");
}

fn request(subject: &str, timeout_ms: u64) -> MessagingRequest {
    let headers = vec![("X-One".to_owned(), "1".to_owned())];
    MessagingRequest::Request { subject: subject.into(), headers, timeout_ms: Some(timeout_ms) }
}

async fn messages_are_answered(world: &World) {
    world.echo("echo.*", 1, Duration::ZERO).await;
    let (reply, body) = world.message(request("echo.a", 2000), b"hello").await.unwrap();
    let HostReply::Messages { messages } = reply else { panic!() };
    assert_eq!((messages.len(), messages[0].length, &body[..]), (1, 5, &b"hello"[..]));
    assert_eq!(messages[0].headers, [("X-One".to_owned(), "1".to_owned())]);
    assert_eq!(code(world.message(request("nobody", 2000), b"").await), HostErrorCode::NoResponders);
    world.echo("silent", 0, Duration::ZERO).await;
    assert_eq!(code(world.message(request("silent", 100), b"").await), HostErrorCode::Timeout);
    let publish = MessagingRequest::Publish { subject: "nobody".into(), headers: Vec::new() };
    assert_eq!(world.message(publish, b"x").await.unwrap().0, HostReply::Done);
}

fn many(subject: &str, max: Option<u32>, stall: Option<u64>, timeout: u64) -> MessagingRequest {
    MessagingRequest::RequestMany {
        subject: subject.into(),
        headers: Vec::new(),
        max_messages: max,
        stall_ms: stall,
        timeout_ms: Some(timeout),
    }
}

fn count(done: Done) -> usize {
    match done.unwrap() {
        (HostReply::Messages { messages }, body) => {
            assert_eq!(messages.iter().map(|head| head.length).sum::<usize>(), body.len());
            messages.len()
        }
        other => panic!("{other:?}"),
    }
}

async fn many_answers_are_collected(world: &World) {
    world.echo("many", 5, Duration::from_millis(20)).await;
    assert_eq!(count(world.message(many("many", Some(3), None, 5000), b"abc").await), 3);
    assert_eq!(count(world.message(many("many", Some(1), None, 5000), b"abc").await), 1);
    let start = tokio::time::Instant::now();
    assert_eq!(count(world.message(many("many", None, Some(400), 5000), b"abc").await), 5);
    assert!(start.elapsed() < Duration::from_secs(3), "the stall ends it");
    assert_eq!(count(world.message(many("many", None, None, 1000), b"abc").await), 5);
    assert_eq!(count(world.message(many("many", None, Some(u64::MAX), 600), b"").await), 5);
    assert_eq!(code(world.message(many("nobody", None, None, 1000), b"").await), HostErrorCode::NoResponders);
    world.echo("mute", 0, Duration::ZERO).await;
    assert_eq!(count(world.message(many("mute", None, None, 100), b"").await), 0);
    assert_eq!(code(world.message(many("many", Some(0), None, 100), b"").await), HostErrorCode::Invalid);
}

async fn messages_are_checked(world: &World) {
    let publish = |subject: &str, headers: &[(&str, &str)]| MessagingRequest::Publish {
        subject: subject.into(),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    for bad in ["", "a b", "a.*", "a.>", ">", "a..b", ".a", "a.", "a\r\nPUB x 0", "a\t", "a*b"] {
        assert_eq!(code(world.message(publish(bad, &[]), b"").await), HostErrorCode::Invalid, "{bad:?}");
        assert_eq!(code(world.message(request(bad, 100), b"").await), HostErrorCode::Invalid, "{bad:?}");
    }
    for (name, value) in [("", "x"), ("a:b", "x"), ("a", "b\r\nc: d"), ("a b", "x"), ("ü", "x")] {
        assert_eq!(code(world.message(publish("s", &[(name, value)]), b"").await), HostErrorCode::Invalid, "{name:?}");
    }
    let huge = "v".repeat(70_000);
    assert_eq!(code(world.message(publish("s", &[("a", &huge)]), b"").await), HostErrorCode::TooLarge);
}

async fn answers_are_bounded(world: &World) {
    world.echo("large", 9, Duration::ZERO).await;
    let body = [0; 4000];
    assert_eq!(count(world.message(many("large", Some(2), None, 2000), &body).await), 2);
    assert_eq!(code(world.message(many("large", None, None, 2000), &body).await), HostErrorCode::TooLarge);
}

async fn a_late_call_times_out(world: &World) {
    let request = nex_protocol::link::host::HostRequest::Kv(KvRequest::Watch { key: None });
    let (sender, _events) = tokio::sync::mpsc::channel(4);
    let mut call = common::call(request, b"");
    call.download = sender;
    call.deadline = tokio::time::Instant::now() + Duration::from_millis(300);
    let error = world.services.call(&me(), call).await.unwrap_err();
    assert!(error.code == HostErrorCode::Timeout && error.retry);
    assert_eq!((error.service.as_str(), error.method.as_str()), ("kv", "watch"));
}

async fn disabled_is_unsupported(_: &World) {
    let mut settings = settings();
    settings.kv.enabled = false;
    settings.http.enabled = false;
    let world = World::twin(settings);
    assert_eq!(code(world.get(&me(), "a").await), HostErrorCode::Unsupported);
    assert_eq!(code(world.http("GET", "http://1.1.1.1/", &[], b"").await), HostErrorCode::Unsupported);
    assert!(world.names(&me()).await.is_empty());
}
