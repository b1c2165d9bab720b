//! Reads requests to host services, whose service and method decide which of the fields are looked at, and their replies,
//! whose kind does.
//!
//! In one pass over all fields that any of them has. What serde derives for enums with a tag keeps every field until it
//! has seen the tag, for requests once for the service and once for the method: that was a tenth of what a node computed
//! for a short call. Fields that none has are passed over.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, Error, Unexpected};

use super::{
    HostReply, HostRequest, HttpRequest, KvRequest, MessageHead, MessagingRequest, ObjectInfo, ObjectRequest, Redirect,
};
use crate::link::message::Headers;

/// Every field of every request.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a request to a host service")]
struct RequestFields<'a> {
    service: Service,
    /// Of HTTP, not of the service, where that is HTTP.
    #[serde(borrow)]
    method: Cow<'a, str>,
    key: Option<String>,
    name: Option<String>,
    subject: Option<String>,
    url: Option<String>,
    revision: Option<u64>,
    ttl_ms: Option<u64>,
    max_messages: Option<u32>,
    stall_ms: Option<u64>,
    timeout_ms: Option<u64>,
    #[serde(default)]
    headers: Headers,
    #[serde(default)]
    redirect: Redirect,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
enum Service {
    Kv,
    ObjectStore,
    Messaging,
    Http,
}

impl<'de> Deserialize<'de> for HostRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = RequestFields::deserialize(deserializer)?;
        match fields.service {
            Service::Kv => fields.kv().map(HostRequest::Kv),
            Service::ObjectStore => fields.object().map(HostRequest::ObjectStore),
            Service::Messaging => fields.messaging().map(HostRequest::Messaging),
            Service::Http => fields.http().map(HostRequest::Http),
        }
    }
}

/// A field that this request or reply has to have.
fn needed<T, E: Error>(field: Option<T>, name: &'static str) -> Result<T, E> {
    field.ok_or_else(|| E::missing_field(name))
}

impl RequestFields<'_> {
    fn kv<E: Error>(self) -> Result<KvRequest, E> {
        let Self { method, key, revision, ttl_ms, .. } = self;
        let the_key = |key| needed(key, "key");
        Ok(match &*method {
            "get" => KvRequest::Get { key: the_key(key)? },
            "set" => KvRequest::Set { key: the_key(key)?, ttl_ms },
            "create" => KvRequest::Create { key: the_key(key)?, ttl_ms },
            "update" => KvRequest::Update { key: the_key(key)?, revision: needed(revision, "revision")? },
            "delete" => KvRequest::Delete { key: the_key(key)? },
            "exists" => KvRequest::Exists { key: the_key(key)? },
            "keys" => KvRequest::Keys,
            "watch" => KvRequest::Watch { key },
            other => return Err(E::invalid_value(Unexpected::Str(other), &"a method of kv")),
        })
    }

    fn object<E: Error>(self) -> Result<ObjectRequest, E> {
        let Self { method, name, .. } = self;
        let the_name = |name| needed(name, "name");
        Ok(match &*method {
            "put" => ObjectRequest::Put { name: the_name(name)? },
            "get" => ObjectRequest::Get { name: the_name(name)? },
            "delete" => ObjectRequest::Delete { name: the_name(name)? },
            "list" => ObjectRequest::List,
            "info" => ObjectRequest::Info { name: the_name(name)? },
            other => return Err(E::invalid_value(Unexpected::Str(other), &"a method of objectStore")),
        })
    }

    fn messaging<E: Error>(self) -> Result<MessagingRequest, E> {
        let Self { method, subject, headers, max_messages, stall_ms, timeout_ms, .. } = self;
        let subject = needed(subject, "subject")?;
        Ok(match &*method {
            "publish" => MessagingRequest::Publish { subject, headers },
            "request" => MessagingRequest::Request { subject, headers, timeout_ms },
            "requestMany" => MessagingRequest::RequestMany { subject, headers, max_messages, stall_ms, timeout_ms },
            other => return Err(E::invalid_value(Unexpected::Str(other), &"a method of messaging")),
        })
    }

    fn http<E: Error>(self) -> Result<HttpRequest, E> {
        let Self { method, url, headers, timeout_ms, redirect, .. } = self;
        Ok(HttpRequest { method: method.into_owned(), url: needed(url, "url")?, headers, timeout_ms, redirect })
    }
}

/// Every field of every reply.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", expecting = "the reply of a host service")]
struct ReplyFields {
    kind: Kind,
    revision: Option<u64>,
    value: Option<bool>,
    keys: Option<Vec<String>>,
    info: Option<ObjectInfo>,
    objects: Option<Vec<ObjectInfo>>,
    messages: Option<Vec<MessageHead>>,
    status: Option<u16>,
    headers: Option<Headers>,
    url: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Done,
    Missing,
    Revision,
    Flag,
    Keys,
    Object,
    Objects,
    Messages,
    Http,
}

impl<'de> Deserialize<'de> for HostReply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ReplyFields { kind, revision, value, keys, info, objects, messages, status, headers, url } =
            ReplyFields::deserialize(deserializer)?;
        Ok(match kind {
            Kind::Done => HostReply::Done,
            Kind::Missing => HostReply::Missing,
            Kind::Revision => HostReply::Revision { revision: needed(revision, "revision")? },
            Kind::Flag => HostReply::Flag { value: needed(value, "value")? },
            Kind::Keys => HostReply::Keys { keys: needed(keys, "keys")? },
            Kind::Object => HostReply::Object { info: needed(info, "info")? },
            Kind::Objects => HostReply::Objects { objects: needed(objects, "objects")? },
            Kind::Messages => HostReply::Messages { messages: needed(messages, "messages")? },
            Kind::Http => HostReply::Http {
                status: needed(status, "status")?,
                headers: needed(headers, "headers")?,
                url: needed(url, "url")?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, to_string};

    use super::*;

    #[test]
    fn every_request_is_read_as_it_was_written() {
        let (key, name, subject): (String, String, String) = ("k\"\n".into(), "n".into(), "s.t".into());
        let headers = vec![("A".to_owned(), "b".to_owned())];
        let kv = [
            KvRequest::Get { key: key.clone() },
            KvRequest::Set { key: key.clone(), ttl_ms: Some(1) },
            KvRequest::Create { key: key.clone(), ttl_ms: None },
            KvRequest::Update { key: key.clone(), revision: 7 },
            KvRequest::Delete { key: key.clone() },
            KvRequest::Exists { key: key.clone() },
            KvRequest::Keys,
            KvRequest::Watch { key: None },
            KvRequest::Watch { key: Some(key) },
        ];
        let objects = [
            ObjectRequest::Put { name: name.clone() },
            ObjectRequest::Get { name: name.clone() },
            ObjectRequest::Delete { name: name.clone() },
            ObjectRequest::List,
            ObjectRequest::Info { name },
        ];
        let messaging = [
            MessagingRequest::Publish { subject: subject.clone(), headers: headers.clone() },
            MessagingRequest::Request { subject: subject.clone(), headers: Headers::new(), timeout_ms: Some(2) },
            MessagingRequest::RequestMany {
                subject,
                headers: headers.clone(),
                max_messages: Some(3),
                stall_ms: Some(4),
                timeout_ms: None,
            },
        ];
        let http = HttpRequest {
            method: "GET".into(),
            url: "http://a/".into(),
            headers,
            timeout_ms: Some(5),
            redirect: Redirect::Manual,
        };
        let requests = (kv.into_iter().map(HostRequest::Kv))
            .chain(objects.into_iter().map(HostRequest::ObjectStore))
            .chain(messaging.into_iter().map(HostRequest::Messaging))
            .chain([HostRequest::Http(http)]);
        for request in requests {
            let text = to_string(&request).unwrap();
            assert_eq!(from_str::<HostRequest>(&text).unwrap(), request, "{text}");
        }
    }

    #[test]
    fn what_is_no_request_says_what_is_wrong_with_it() {
        for (text, why) in [
            (r#"{"service":"ftp","method":"get"}"#, "unknown variant `ftp`"),
            (r#"{"service":"kv"}"#, "missing field `method`"),
            (r#"{"service":"kv","method":"get"}"#, "missing field `key`"),
            (r#"{"service":"kv","method":"put","key":"a"}"#, "\"put\", expected a method of kv"),
            (r#"{"service":"messaging","method":"request"}"#, "missing field `subject`"),
            (r#"{"service":"http","method":"GET"}"#, "missing field `url`"),
            ("3", "expected a request to a host service"),
        ] {
            let error = from_str::<HostRequest>(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn every_reply_is_read_as_it_was_written() {
        let info = ObjectInfo { name: "n".into(), size: 1, digest: None, modified: Some("then".into()) };
        let headers = vec![("A".to_owned(), "b\"".to_owned())];
        let messages =
            [(headers.clone(), 3), (Headers::new(), 0)].map(|(headers, length)| MessageHead { headers, length });
        for reply in [
            HostReply::Done,
            HostReply::Missing,
            HostReply::Revision { revision: u64::MAX },
            HostReply::Flag { value: true },
            HostReply::Keys { keys: vec!["k".into()] },
            HostReply::Object { info: info.clone() },
            HostReply::Objects { objects: vec![info] },
            HostReply::Messages { messages: messages.into() },
            HostReply::Http { status: 200, headers, url: "http://a/".into() },
        ] {
            let text = to_string(&reply).unwrap();
            assert_eq!(from_str::<HostReply>(&text).unwrap(), reply, "{text}");
        }
    }

    #[test]
    fn what_is_no_reply_says_what_is_wrong_with_it() {
        for (text, why) in [
            (r#"{"kind":"none"}"#, "unknown variant `none`"),
            (r#"{"revision":1}"#, "missing field `kind`"),
            (r#"{"kind":"revision"}"#, "missing field `revision`"),
            (r#"{"kind":"http","status":200,"headers":[]}"#, "missing field `url`"),
            ("[]", "invalid length 0, expected the reply of a host service"),
        ] {
            let error = from_str::<HostReply>(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn fields_come_in_any_order_and_unknown_ones_are_passed_over() {
        let text = r#"{"later":[1],"key":"a","method":"get","service":"kv"}"#;
        assert_eq!(from_str::<HostRequest>(text).unwrap(), HostRequest::Kv(KvRequest::Get { key: "a".into() }));
    }
}
