//! Host calls with the test in the node's place, at the far end of a link.

use super::*;
use nex_link::{Receiver, open};
use nex_protocol::link::frame::MAX_LINK_FRAME;
use nex_protocol::link::host::{CHUNK, ObjectInfo, WINDOW};
use nex_protocol::link::message::ToAgent;

struct Fixture {
    host: Host,
    answers: Answers,
    node: Receiver<ToNode>,
    _far: Sender<ToAgent>,
}

fn fixture(limit: u64) -> Fixture {
    let (near, far) = tokio::io::duplex(1 << 20);
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = tokio::io::split(far);
    let (sender, _receiver) = open::<ToAgent, ToNode>(near_read, near_write, MAX_LINK_FRAME);
    let (_far, node) = open::<ToNode, ToAgent>(far_read, far_write, MAX_LINK_FRAME);
    let (host, answers) = connect(sender, limit);
    Fixture { host, answers, node, _far }
}

fn get(key: &str) -> HostRequest {
    HostRequest::Kv(KvRequest::Get { key: key.to_owned() })
}

async fn number(node: &mut Receiver<ToNode>) -> u64 {
    match node.receive().await.unwrap().unwrap() {
        ToNode::HostCall(number, 7, ..) => number,
        other => panic!("{other:?}"),
    }
}

fn start(host: &Host, request: HostRequest) -> tokio::task::JoinHandle<Result<(HostReply, Bytes), HostError>> {
    let host = host.clone();
    tokio::spawn(async move { host.call(7, request, Bytes::new()).await })
}

#[tokio::test]
async fn answers_find_their_calls_in_any_order_and_others_are_ignored() {
    let mut f = fixture(100);
    let (first, second) = (start(&f.host, get("a")), start(&f.host, get("b")));
    let (one, two) = (number(&mut f.node).await, number(&mut f.node).await);
    f.answers.reply(two, Ok(HostReply::Missing), Bytes::new());
    f.answers.reply(two, Ok(HostReply::Done), Bytes::new());
    f.answers.reply(99, Ok(HostReply::Done), Bytes::new());
    f.answers.reply(one, Ok(HostReply::Revision { revision: 3 }), Bytes::from_static(b"v"));
    let mut got = [first.await.unwrap().unwrap(), second.await.unwrap().unwrap()];
    got.sort_by_key(|(reply, _)| matches!(reply, HostReply::Missing));
    assert_eq!(got[0], (HostReply::Revision { revision: 3 }, Bytes::from_static(b"v")));
    assert_eq!(got[1].0, HostReply::Missing);
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_at_the_node() {
    let mut f = fixture(100);
    let call = start(&f.host, get("a"));
    let one = number(&mut f.node).await;
    call.abort();
    assert_eq!(f.node.receive().await.unwrap(), Some(ToNode::HostCancel(one)));
}

#[tokio::test]
async fn an_upload_goes_no_further_than_its_window_until_the_node_takes_it() {
    let mut f = fixture(100);
    let host = f.host.clone();
    let request = HostRequest::ObjectStore(ObjectRequest::Put { name: "o".into() });
    let call = tokio::spawn(async move { host.call(7, request, Bytes::from(vec![1; CHUNK * 6])).await });
    let one = number(&mut f.node).await;
    for _ in 0..WINDOW {
        assert!(matches!(f.node.receive().await.unwrap(), Some(ToNode::HostData(..))));
    }
    let more = tokio::time::timeout(std::time::Duration::from_millis(50), f.node.receive()).await;
    assert!(more.is_err(), "{more:?}");
    for _ in 0..3 {
        f.answers.more(one);
    }
    let sizes = [f.node.receive().await, f.node.receive().await, f.node.receive().await].map(|data| match data {
        Ok(Some(ToNode::HostData(_, chunk))) => chunk.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(sizes, [CHUNK, CHUNK, 0], "an empty chunk ends it");
    let info = ObjectInfo { name: "o".into(), size: 0, digest: None, modified: None };
    f.answers.reply(one, Ok(HostReply::Object { info }), Bytes::new());
    assert!(call.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_download_over_the_limit_fails_and_the_end_of_the_link_fails_what_is_open() {
    let mut f = fixture(10);
    let call = start(&f.host, HostRequest::ObjectStore(ObjectRequest::Get { name: "a".into() }));
    let one = number(&mut f.node).await;
    f.answers.data(one, None, Bytes::from_static(b"0123456"));
    f.answers.data(one, None, Bytes::from_static(b"0123456"));
    assert_eq!(call.await.unwrap().unwrap_err().code, HostErrorCode::TooLarge);
    assert_eq!(f.node.receive().await.unwrap(), Some(ToNode::HostMore(one)), "the first was taken");
    assert_eq!(f.node.receive().await.unwrap(), Some(ToNode::HostCancel(one)));
    let open = start(&f.host, get("b"));
    number(&mut f.node).await;
    f.answers.close();
    assert_eq!(open.await.unwrap().unwrap_err().code, HostErrorCode::Unavailable);
    assert_eq!(f.host.call(7, get("c"), Bytes::new()).await.unwrap_err().code, HostErrorCode::Unavailable);
}

#[tokio::test]
async fn an_upload_in_pieces_is_whole_or_given_up() {
    let mut f = fixture(100);
    let put = || HostRequest::ObjectStore(ObjectRequest::Put { name: "o".into() });
    let upload = |pieces| {
        let host = f.host.clone();
        tokio::spawn(async move { host.upload(7, put(), pieces).await })
    };
    let (sender, pieces) = tokio::sync::mpsc::channel(4);
    let call = upload(pieces);
    let one = number(&mut f.node).await;
    for piece in [vec![1; CHUNK + 5], vec![]] {
        sender.send(Bytes::from(piece)).await.unwrap();
    }
    for size in [CHUNK, 5, 0] {
        let sent = f.node.receive().await.unwrap();
        assert!(matches!(&sent, Some(ToNode::HostData(_, chunk)) if chunk.len() == size), "{size}");
    }
    f.answers.reply(one, Ok(HostReply::Done), Bytes::new());
    assert_eq!(call.await.unwrap().unwrap(), HostReply::Done);

    let (sender, pieces) = tokio::sync::mpsc::channel(4);
    let call = upload(pieces);
    let two = number(&mut f.node).await;
    drop(sender);
    assert_eq!(call.await.unwrap().unwrap_err().code, HostErrorCode::Invalid);
    assert_eq!(f.node.receive().await.unwrap(), Some(ToNode::HostCancel(two)));
}

#[tokio::test]
async fn a_download_is_asked_for_as_it_is_read_and_cancelled_when_dropped() {
    let mut f = fixture(10);
    let request = HostRequest::ObjectStore(ObjectRequest::Get { name: "o".into() });
    let mut download = f.host.download(7, request.clone()).await.unwrap();
    let one = number(&mut f.node).await;
    for chunk in ["larger than", "the limit"] {
        f.answers.data(one, None, chunk.into());
    }
    assert!(matches!(download.next().await, Ok(Part::Chunk(chunk)) if chunk == "larger than"));
    assert!(matches!(download.next().await, Ok(Part::Chunk(chunk)) if chunk == "the limit"));
    assert_eq!(f.node.receive().await.unwrap(), Some(ToNode::HostMore(one)), "not before the next is asked for");
    f.answers.reply(one, Ok(HostReply::Done), Bytes::new());
    assert!(matches!(download.next().await, Ok(Part::End(HostReply::Done))));
    assert_eq!(f.node.receive().await.unwrap(), Some(ToNode::HostMore(one)));

    let download = f.host.download(7, request).await.unwrap();
    let two = number(&mut f.node).await;
    drop(download);
    assert_eq!(f.node.receive().await.unwrap(), Some(ToNode::HostCancel(two)));
}
