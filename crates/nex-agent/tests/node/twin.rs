//! Host services in memory, just enough of them to see that what a function says arrives and what comes back is right.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use nex_protocol::link::host::{
    HostError, HostErrorCode, HostReply, HostRequest, HttpRequest, KvRequest, MessageHead, MessagingRequest,
    ObjectInfo, ObjectRequest, Redirect, WatchEvent,
};
use nex_protocol::link::message::{Headers, ToAgent, ToNode};

/// See the module.
#[derive(Default)]
pub(crate) struct Twin {
    keys: BTreeMap<String, (u64, Bytes)>,
    objects: BTreeMap<String, Bytes>,
    revision: u64,
    uploads: HashMap<u64, (String, Vec<u8>)>,
    watches: Vec<u64>,
    /// What was published.
    pub(crate) published: Vec<(String, Headers, Bytes)>,
    /// Host calls that were given up.
    pub(crate) cancelled: Vec<u64>,
    /// The function's calls that were named.
    pub(crate) calls: Vec<u64>,
}

type Answer = Result<(HostReply, Bytes), (HostErrorCode, &'static str)>;

fn plain(reply: HostReply) -> Answer {
    Ok((reply, Bytes::new()))
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn message(headers: Headers, body: &[u8]) -> (MessageHead, Vec<u8>) {
    (MessageHead { headers, length: body.len() }, body.to_vec())
}

impl Twin {
    /// Answers to what an agent says; none when it is no host call.
    pub(crate) fn hear(&mut self, message: &ToNode) -> Option<Vec<ToAgent>> {
        match message {
            ToNode::HostCall(number, call, request, body) => {
                self.calls.push(*call);
                Some(self.call(*number, request, body.clone()))
            }
            ToNode::HostData(number, chunk) => Some(self.upload(*number, chunk)),
            ToNode::HostMore(_) => Some(vec![]),
            ToNode::HostCancel(number) => {
                self.cancelled.push(*number);
                self.watches.retain(|watch| watch != number);
                Some(vec![])
            }
            _ => None,
        }
    }

    fn upload(&mut self, number: u64, chunk: &Bytes) -> Vec<ToAgent> {
        let Some((name, content)) = self.uploads.get_mut(&number) else { return vec![] };
        if !chunk.is_empty() {
            content.extend_from_slice(chunk);
            return vec![ToAgent::HostMore(number)];
        }
        let (name, content) = (name.clone(), std::mem::take(content));
        self.uploads.remove(&number);
        self.objects.insert(name.clone(), content.into());
        vec![ToAgent::HostReply(number, Ok(HostReply::Object { info: self.info(&name).unwrap() }), Bytes::new())]
    }

    fn info(&self, name: &str) -> Option<ObjectInfo> {
        let size = self.objects.get(name)?.len() as u64;
        Some(ObjectInfo { name: name.to_owned(), size, digest: Some("SHA-256=x".into()), modified: None })
    }

    fn call(&mut self, number: u64, request: &HostRequest, body: Bytes) -> Vec<ToAgent> {
        let mut first = vec![];
        let answer = match request {
            HostRequest::Kv(KvRequest::Watch { .. }) => {
                self.watches.push(number);
                return vec![];
            }
            HostRequest::Kv(kv) => {
                let before = self.revision;
                let answer = self.kv(kv, body.clone());
                if let KvRequest::Set { key, .. } | KvRequest::Delete { key } = kv {
                    let deleted = matches!(kv, KvRequest::Delete { .. });
                    let event = WatchEvent { key: key.clone(), revision: before + 1, deleted };
                    let events = self.watches.iter();
                    first = events.map(|&watch| ToAgent::HostData(watch, Some(event.clone()), body.clone())).collect();
                }
                answer
            }
            HostRequest::ObjectStore(ObjectRequest::Put { name }) => {
                self.uploads.insert(number, (name.clone(), vec![]));
                return vec![];
            }
            HostRequest::ObjectStore(ObjectRequest::Get { name }) => match self.objects.get(name) {
                None => plain(HostReply::Missing),
                Some(content) => {
                    first = content
                        .chunks(1000)
                        .map(|chunk| ToAgent::HostData(number, None, Bytes::copy_from_slice(chunk)))
                        .collect();
                    plain(HostReply::Object { info: self.info(name).unwrap() })
                }
            },
            HostRequest::ObjectStore(object) => self.object(object),
            HostRequest::Messaging(messaging) => self.messaging(messaging, body),
            HostRequest::Http(http) => self.http(http, &body),
        };
        let (answer, body) = match answer {
            Ok((reply, body)) => (Ok(reply), body),
            Err((code, text)) => (Err(HostError::new(request, code, text)), Bytes::new()),
        };
        first.push(ToAgent::HostReply(number, answer, body));
        first
    }

    fn put(&mut self, key: &str, value: Bytes) -> Answer {
        self.revision += 1;
        self.keys.insert(key.to_owned(), (self.revision, value));
        plain(HostReply::Revision { revision: self.revision })
    }

    fn kv(&mut self, request: &KvRequest, body: Bytes) -> Answer {
        let conflict = Err((HostErrorCode::Conflict, "the key is at another revision"));
        match request {
            KvRequest::Get { key } => Ok(match self.keys.get(key) {
                None => (HostReply::Missing, Bytes::new()),
                Some((revision, value)) => (HostReply::Revision { revision: *revision }, value.clone()),
            }),
            KvRequest::Create { key, .. } if self.keys.contains_key(key) => conflict,
            KvRequest::Update { key, revision } if self.keys.get(key).map(|(at, _)| at) != Some(revision) => conflict,
            KvRequest::Set { key, .. } | KvRequest::Create { key, .. } | KvRequest::Update { key, .. } => {
                self.put(key, body)
            }
            KvRequest::Delete { key } => {
                self.revision += 1;
                self.keys.remove(key);
                plain(HostReply::Done)
            }
            KvRequest::Exists { key } => plain(HostReply::Flag { value: self.keys.contains_key(key) }),
            KvRequest::Keys => plain(HostReply::Keys { keys: self.keys.keys().cloned().collect() }),
            KvRequest::Watch { .. } => unreachable!(),
        }
    }

    fn object(&mut self, request: &ObjectRequest) -> Answer {
        match request {
            ObjectRequest::Delete { name } => {
                self.objects.remove(name);
                plain(HostReply::Done)
            }
            ObjectRequest::Info { name } => {
                plain(self.info(name).map_or(HostReply::Missing, |info| HostReply::Object { info }))
            }
            ObjectRequest::List => {
                let objects = self.objects.keys().map(|name| self.info(name).unwrap()).collect();
                plain(HostReply::Objects { objects })
            }
            ObjectRequest::Get { .. } | ObjectRequest::Put { .. } => unreachable!(),
        }
    }

    /// A request is answered with its payload behind `re:`; one to many three times, or as often as it wants.
    fn messaging(&mut self, request: &MessagingRequest, body: Bytes) -> Answer {
        let (headers, count) = match request {
            MessagingRequest::Publish { subject, headers } => {
                self.published.push((subject.clone(), headers.clone(), body));
                return plain(HostReply::Done);
            }
            MessagingRequest::Request { subject, .. } if subject == "nobody" => {
                return Err((HostErrorCode::NoResponders, "nobody listens on 'nobody'"));
            }
            MessagingRequest::Request { headers, .. } => (headers, 1),
            MessagingRequest::RequestMany { headers, max_messages, .. } => (headers, max_messages.unwrap_or(3)),
        };
        let mut all = vec![];
        let messages = (0..count).map(|at| {
            let mut headers = headers.clone();
            headers.push(pair("At", &at.to_string()));
            let (head, mut body) = message(headers, &[b"re:", &body[..]].concat());
            all.append(&mut body);
            head
        });
        let messages = messages.collect();
        Ok((HostReply::Messages { messages }, all.into()))
    }

    /// What was asked for, as a response.
    fn http(&mut self, request: &HttpRequest, body: &Bytes) -> Answer {
        if request.url.contains("denied") {
            return Err((HostErrorCode::Denied, "this host is not allowed"));
        }
        let status = if request.url.contains("gone") { 204 } else { 200 };
        let moved = request.url.contains("moved");
        if moved && request.redirect == Redirect::Manual {
            let headers = vec![pair("Location", "https://elsewhere.example/")];
            return Ok((HostReply::Http { status: 302, headers, url: request.url.clone() }, Bytes::new()));
        }
        let url = if moved { "https://elsewhere.example/".to_owned() } else { request.url.clone() };
        let echo = serde_json::json!({ "method": request.method, "headers": request.headers,
            "timeout": request.timeout_ms, "body": String::from_utf8_lossy(body) });
        let headers = vec![pair("content-type", "application/json"), pair("x-a", "1"), pair("x-a", "2")];
        let quiet = status == 204 || request.method == "HEAD";
        let body = if quiet { Bytes::new() } else { serde_json::to_vec(&echo).unwrap().into() };
        Ok((HostReply::Http { status, headers, url }, body))
    }
}
