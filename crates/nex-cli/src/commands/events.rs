//! `nex events`: what happens on the nodes, and to the workloads of the namespace.

use anyhow::Result;
use nex_client::feed::Item;
use nex_protocol::event::{CloudEvent, SYSTEM};
use serde_json::Value;

use super::feed;
use super::session::Session;
use crate::args::{EventsArgs, GlobalArgs};
use crate::output;

pub(super) async fn run(global: &GlobalArgs, args: &EventsArgs) -> Result<()> {
    let session = Session::open(global).await?;
    let subjects = subjects(session.client.namespace().as_str(), &args.types);
    // Where they are what is asked for, not to see them is an error.
    let asked = session.client.namespace().as_str() == SYSTEM;
    let of_nodes = if asked { "-".to_owned() } else { format!("$NEX.events.{SYSTEM}.") };
    feed::each(&session.client, session.jsdomain.as_deref(), subjects, &of_nodes, &args.feed, |item| {
        output::line(if args.feed.json { as_json(item)? } else { shown(item) })?;
        Ok(true)
    })
    .await
}

/// Those of the namespace first: without them there is nothing to see.
fn subjects(namespace: &str, types: &[String]) -> Vec<String> {
    let all = ["*".to_owned()];
    let mut types: Vec<&String> = if types.is_empty() { all.iter().collect() } else { types.iter().collect() };
    types.sort();
    types.dedup();
    let mut namespaces = vec![namespace, SYSTEM];
    namespaces.dedup();
    let of = |namespace: &str| types.iter().map(|kind| format!("$NEX.events.{namespace}.{kind}")).collect::<Vec<_>>();
    namespaces.into_iter().flat_map(of).collect()
}

/// The event as the node sent it, on one line.
fn as_json(item: &Item) -> Result<String> {
    let text = String::from_utf8_lossy(&item.body);
    // Only what is JSON may be printed as JSON.
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.clone().into_owned()));
    if text.contains('\n') || value.is_string() {
        return Ok(serde_json::to_string(&value)?);
    }
    Ok(text.into_owned())
}

fn shown(item: &Item) -> String {
    let (namespace, kind) = item
        .subject
        .strip_prefix("$NEX.events.")
        .and_then(|rest| rest.split_once('.'))
        .unwrap_or(("-", item.subject.as_str()));
    let mut line = format!("{} {kind} {namespace}", feed::clock(item.time));
    match serde_json::from_slice::<CloudEvent>(&item.body) {
        Ok(CloudEvent { data: Value::Object(data), .. }) => {
            for (name, value) in data {
                let value = match value {
                    Value::String(text) if !text.is_empty() && !text.contains([' ', '"', '=']) => text,
                    other => other.to_string(),
                };
                line.push_str(&format!(" {name}={value}"));
            }
        }
        Ok(event) => line.push_str(&format!(" {}", event.data)),
        Err(_) => line.push_str(&format!(" {}", String::from_utf8_lossy(&item.body))),
    }
    output::shown(&line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;

    fn item(subject: &str, body: &str) -> Item {
        let time = OffsetDateTime::from_unix_timestamp(1_720_000_000).unwrap();
        Item { subject: subject.to_owned(), time, body: body.to_owned().into() }
    }

    #[test]
    fn every_type_of_both_namespaces_is_subscribed_to_once() {
        assert_eq!(subjects("shop", &[]), ["$NEX.events.shop.*", "$NEX.events.system.*"]);
        assert_eq!(subjects("system", &[]), ["$NEX.events.system.*"]);
        let types = ["b".to_owned(), "a".to_owned(), "b".to_owned()];
        assert_eq!(
            subjects("shop", &types),
            ["$NEX.events.shop.a", "$NEX.events.shop.b", "$NEX.events.system.a", "$NEX.events.system.b"]
        );
    }

    #[test]
    fn an_event_is_one_line_with_its_data() {
        let body = r#"{"specversion":"1.0","id":"1","source":"N1","type":"workload_undeployed","datacontenttype":
            "application/json","time":"2024-07-03T09:46:40Z","data":{"workload_name":"echo","code":137,"message":"a b"}}"#;
        assert_eq!(
            shown(&item("$NEX.events.shop.workload_undeployed", body)),
            "2024-07-03T09:46:40.000Z workload_undeployed shop code=137 message=\"a b\" workload_name=echo"
        );
    }

    #[test]
    fn json_is_the_event_as_it_came_and_never_more_than_a_line() {
        assert_eq!(as_json(&item("$NEX.events.a.b", r#"{"b":1, "a":2}"#)).unwrap(), r#"{"b":1, "a":2}"#);
        assert_eq!(as_json(&item("$NEX.events.a.b", "{\"b\":\n1}")).unwrap(), r#"{"b":1}"#);
        assert_eq!(as_json(&item("$NEX.events.a.b", "no json")).unwrap(), r#""no json""#);
    }
}
