//! What the tests share: the services on real backends and on the twins, calls in one line, a small HTTP server.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, StatusCode};
use nex_host_services::http::{Exchange, MemoryWeb, Response, Served};
use nex_host_services::messaging::{MemoryBus, Reply};
use nex_host_services::{Backends, HostCall, HostServices, Room, Settings, Tenant, Upload};
use nex_protocol::link::host::{
    HostError, HostReply, HostRequest, HttpRequest, KvRequest, MessagingRequest, ObjectRequest, Redirect, WatchEvent,
};
use nex_testkit::NatsServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;

pub type Done = Result<(HostReply, Bytes), HostError>;

pub fn tenant(namespace: &str, workload: &str) -> Tenant {
    Tenant { namespace: namespace.parse().unwrap(), workload: workload.parse().unwrap() }
}

/// The services, and who answers on the other side.
pub struct World {
    pub services: HostServices,
    pub server: Option<NatsServer>,
    pub client: Option<async_nats::Client>,
    pub bus: Option<MemoryBus>,
    pub web: Option<MemoryWeb>,
}

impl World {
    pub async fn real(mut settings: Settings) -> Self {
        settings.http.allow.push("127.0.0.1".parse().unwrap());
        let server = NatsServer::start().await.unwrap();
        let client = server.client().await.unwrap();
        let services = HostServices::on_nats(client.clone(), settings);
        Self { services, server: Some(server), client: Some(client), bus: None, web: None }
    }

    pub fn twin(mut settings: Settings) -> Self {
        settings.http.allow.push("127.0.0.1".parse().unwrap());
        let (bus, web) = (MemoryBus::default(), MemoryWeb::new(&settings.http));
        let mut backends = Backends::in_memory(&settings);
        backends.messaging = Arc::new(bus.clone());
        backends.http = Arc::new(web.clone());
        let services = HostServices::with_backends(backends, settings);
        Self { services, server: None, client: None, bus: Some(bus), web: Some(web) }
    }

    /// Answers every request on a subject `times` times, with its payload and headers.
    pub async fn echo(&self, subject: &str, times: usize, apart: Duration) {
        if let Some(client) = &self.client {
            let mut requests = client.subscribe(subject.to_owned()).await.unwrap();
            client.flush().await.unwrap();
            let client = client.clone();
            tokio::spawn(async move {
                while let Some(request) = requests.next().await {
                    let Some(reply) = request.reply else { continue };
                    for _ in 0..times {
                        let headers = request.headers.clone().unwrap_or_default();
                        client.publish_with_headers(reply.clone(), headers, request.payload.clone()).await.unwrap();
                        tokio::time::sleep(apart).await;
                    }
                }
            });
        }
        if let Some(bus) = &self.bus {
            let mut requests = bus.subscribe(subject.parse().unwrap());
            tokio::spawn(async move {
                while let Some(request) = requests.recv().await {
                    let Some(reply) = request.reply else { continue };
                    for _ in 0..times {
                        let _ =
                            reply.send(Reply { headers: request.headers.clone(), payload: request.payload.clone() });
                        tokio::time::sleep(apart).await;
                    }
                }
            });
        }
    }

    /// A web server; its base URL.
    pub async fn serve(&self, served: Served) -> String {
        let (port, _) = listen(Arc::clone(&served)).await;
        if let Some(web) = &self.web {
            web.serve("127.0.0.1", port, "127.0.0.1".parse().unwrap(), served);
        }
        format!("http://127.0.0.1:{port}")
    }

    pub async fn call(&self, who: &Tenant, request: HostRequest, body: &[u8]) -> Done {
        self.services.call(who, call(request, body)).await
    }

    pub async fn kv(&self, who: &Tenant, request: KvRequest, body: &[u8]) -> Done {
        self.call(who, HostRequest::Kv(request), body).await
    }

    pub async fn set(&self, who: &Tenant, key: &str, value: &[u8]) -> Done {
        self.kv(who, KvRequest::Set { key: key.into(), ttl_ms: None }, value).await
    }

    pub async fn get(&self, who: &Tenant, key: &str) -> Done {
        self.kv(who, KvRequest::Get { key: key.into() }, b"").await
    }

    pub async fn keys(&self, who: &Tenant) -> Vec<String> {
        match self.kv(who, KvRequest::Keys, b"").await.unwrap().0 {
            HostReply::Keys { keys } => keys,
            other => panic!("{other:?}"),
        }
    }

    pub async fn put(&self, who: &Tenant, name: &str, chunks: Vec<Bytes>) -> Done {
        let (sender, receiver) = mpsc::channel(4);
        let mut call = call(HostRequest::ObjectStore(ObjectRequest::Put { name: name.into() }), b"");
        call.upload = Some(Upload { chunks: receiver, taken: Box::new(|| ()) });
        tokio::spawn(async move {
            for chunk in chunks.into_iter().chain([Bytes::new()]) {
                if sender.send(chunk).await.is_err() {
                    return;
                }
            }
        });
        self.services.call(who, call).await
    }

    pub async fn object(&self, who: &Tenant, request: ObjectRequest) -> Done {
        self.call(who, HostRequest::ObjectStore(request), b"").await
    }

    pub async fn fetch(&self, who: &Tenant, name: &str) -> (Done, Vec<u8>) {
        let (sender, mut receiver) = mpsc::channel(4);
        let mut call = call(HostRequest::ObjectStore(ObjectRequest::Get { name: name.into() }), b"");
        call.download = sender;
        let collect = tokio::spawn(async move {
            let mut bytes = Vec::new();
            while let Some((_, chunk)) = receiver.recv().await {
                assert!(chunk.len() <= nex_protocol::link::host::CHUNK);
                bytes.extend_from_slice(&chunk);
            }
            bytes
        });
        let done = self.services.call(who, call).await;
        (done, collect.await.unwrap())
    }

    pub async fn names(&self, who: &Tenant) -> Vec<String> {
        match self.object(who, ObjectRequest::List).await.unwrap().0 {
            HostReply::Objects { objects } => objects.into_iter().map(|info| info.name).collect(),
            other => panic!("{other:?}"),
        }
    }

    pub async fn message(&self, request: MessagingRequest, body: &[u8]) -> Done {
        self.call(&tenant("a", "b"), HostRequest::Messaging(request), body).await
    }

    pub async fn http(&self, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Done {
        http(&self.services, method, url, headers, body).await
    }

    /// Without following redirects.
    pub async fn http_as_it_is(&self, method: &str, url: &str) -> Done {
        let request = HttpRequest {
            method: method.into(),
            url: url.into(),
            headers: vec![],
            timeout_ms: Some(3000),
            redirect: Redirect::Manual,
        };
        self.services.call(&tenant("a", "b"), call(HostRequest::Http(request), b"")).await
    }
}

pub async fn http(services: &HostServices, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Done {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let request = HttpRequest {
        method: method.into(),
        url: url.into(),
        headers,
        timeout_ms: Some(3000),
        redirect: Redirect::Follow,
    };
    services.call(&tenant("a", "b"), call(HostRequest::Http(request), body)).await
}

pub fn call(request: HostRequest, body: &[u8]) -> HostCall {
    HostCall {
        request,
        body: Bytes::copy_from_slice(body),
        upload: None,
        download: mpsc::channel(4).0,
        deadline: Instant::now() + Duration::from_secs(10),
    }
}

pub fn watch(services: &HostServices, who: &Tenant, key: Option<&str>) -> Watching {
    let (sender, events) = mpsc::channel(16);
    let mut call = call(HostRequest::Kv(KvRequest::Watch { key: key.map(Into::into) }), b"");
    call.download = sender;
    let (services, who) = (services.clone(), who.clone());
    let task = tokio::spawn(async move { services.call(&who, call).await });
    Watching { events, task }
}

pub struct Watching {
    pub events: mpsc::Receiver<(Option<WatchEvent>, Bytes)>,
    pub task: tokio::task::JoinHandle<Done>,
}

pub fn response(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    Response { status: StatusCode::from_u16(status).unwrap(), headers: map, body: Bytes::copy_from_slice(body) }
}

/// A server on loopback; its port, and how many connections it took.
pub async fn listen(served: Served) -> (u16, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let served = Arc::clone(&served);
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                while let Some(exchange) = read(&mut stream, &mut buffer, port).await {
                    let head = exchange.method == http::Method::HEAD;
                    let response = served(exchange);
                    let mut out = format!("HTTP/1.1 {} X\r\n", response.status.as_u16()).into_bytes();
                    for (name, value) in &response.headers {
                        out.extend_from_slice(format!("{name}: ").as_bytes());
                        out.extend_from_slice(value.as_bytes());
                        out.extend_from_slice(b"\r\n");
                    }
                    out.extend_from_slice(format!("content-length: {}\r\n\r\n", response.body.len()).as_bytes());
                    if !head {
                        out.extend_from_slice(&response.body);
                    }
                    if stream.write_all(&out).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, connections)
}

async fn read(stream: &mut tokio::net::TcpStream, buffer: &mut Vec<u8>, port: u16) -> Option<Exchange> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let (method, path) = (first.next().unwrap(), first.next().unwrap());
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    let length: usize = headers.get("content-length").map_or(0, |value| value.to_str().unwrap().parse().unwrap());
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = Bytes::from(buffer.drain(..length).collect::<Vec<_>>());
    let url = format!("http://127.0.0.1:{port}{path}").parse().unwrap();
    Some(Exchange { method: method.parse().unwrap(), url, headers, body, room: Room::unbounded() })
}
