//! The metrics endpoint over HTTP, on a free port, with a snapshot made by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

use std::net::SocketAddr;

use nex_node::metrics::{Snapshot, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server of a snapshot, and what ends it.
struct Served {
    address: SocketAddr,
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Served {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = oneshot::channel();
        let snapshot = Snapshot { node_id: "NABC".into(), version: "1.2.3", ..Snapshot::default() };
        let shutdown = async move {
            let _ = ended.await;
        };
        let task = tokio::spawn(run(listener, move || snapshot.to_string(), shutdown));
        Self { address, end, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What is answered to these bytes, until the server ends the connection.
    async fn answer(&self, request: &str) -> String {
        exchange(self.connect().await, request).await
    }
}

async fn exchange(mut stream: TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

const SCRAPE: &str = "GET /metrics HTTP/1.1\r\nHost: node\r\nAccept: text/plain\r\n\r\n";

#[tokio::test]
async fn a_scrape_gets_the_text_in_the_format_it_is_said_to_have() {
    let served = Served::start().await;
    for _ in 0..2 {
        let answer = served.answer(SCRAPE).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        assert!(body.contains("\nnex_node_info{id=\"NABC\",version=\"1.2.3\"} 1\n"), "{body}");
    }
    assert!(served.answer("GET /metrics?name=x HTTP/1.1\r\nHost: n\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn everything_else_is_refused() {
    let served = Served::start().await;
    for (line, status) in [
        ("GET / HTTP/1.1", "404"),
        ("GET /metrics/ HTTP/1.1", "404"),
        ("POST /other HTTP/1.1", "404"),
        ("POST /metrics HTTP/1.1", "405"),
        ("HEAD /metrics HTTP/1.1", "405"),
        ("no HTTP at all", "400"),
    ] {
        let answer = served.answer(&format!("{line}\r\nHost: node\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        assert_eq!(answer.contains("allow: GET"), status == "405", "{line}: {answer}");
    }
    let long = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(15 << 10));
    assert!(served.answer(&long).await.starts_with("HTTP/1.1 200"), "a long head is one");
    assert!(served.answer(SCRAPE).await.starts_with("HTTP/1.1 200"), "and it goes on");
}

#[tokio::test]
async fn who_comes_when_there_are_enough_is_answered_when_one_has_left() {
    let served = Served::start().await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(served.connect().await);
    }
    let next = tokio::spawn(exchange(served.connect().await, SCRAPE));
    silent.pop();
    assert!(next.await.unwrap().starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn it_ends_when_told_to_whoever_is_connected() {
    let served = Served::start().await;
    let _silent = served.connect().await;
    assert!(served.answer(SCRAPE).await.starts_with("HTTP/1.1 200"));
    served.end.send(()).unwrap();
    served.task.await.unwrap();
    assert!(TcpStream::connect(served.address).await.is_err(), "nobody listens any more");
}
