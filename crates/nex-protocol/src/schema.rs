//! JSON Schemas of everything that goes over the wire as JSON, made from the types that read and write it.
//!
//! Requests are described as they are read: what may be left out is optional. Replies, events and log entries are
//! described as they are written, replies with their envelope and events with their `CloudEvent` around them. The files
//! in `schemas/` are these documents; a test keeps them current.

use std::collections::BTreeMap;

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use crate::control::auction::AuctionRequest;
use crate::control::deploy::{DeployRequest, RunResponse};
use crate::control::info::InfoResponse;
use crate::control::lame_duck::{LameDuckRequest, LameDuckResponse};
use crate::control::ping::PingResponse;
use crate::control::stop::{StopRequest, StopResponse};
use crate::control::workload_ping::WorkloadPingResponse;
use crate::envelope::kind;
use crate::event::{CloudEvent, Event};
use crate::log::Entry;

/// All schemas by the names of their files, without `.json`.
pub fn documents() -> BTreeMap<String, Value> {
    let mut documents = BTreeMap::from([
        request::<AuctionRequest>("auction_request"),
        request::<DeployRequest>("deploy_request"),
        request::<LameDuckRequest>("lameduck_request"),
        request::<StopRequest>("stop_request"),
        reply::<PingResponse>("ping_response", kind::PING),
        reply::<PingResponse>("auction_response", kind::AUCTION),
        reply::<WorkloadPingResponse>("workload_ping_response", kind::PING),
        reply::<InfoResponse>("info_response", kind::INFO),
        reply::<RunResponse>("run_response", kind::RUN),
        reply::<StopResponse>("stop_response", kind::STOP),
        reply::<LameDuckResponse>("lameduck_response", kind::LAMEDUCK),
        finish("log_entry", writing().into_root_schema_for::<Entry>()),
    ]);
    documents.extend(events());
    documents
}

fn writing() -> SchemaGenerator {
    SchemaSettings::draft2020_12().for_serialize().into_generator()
}

fn request<T: JsonSchema>(name: &str) -> (String, Value) {
    let schema = SchemaSettings::draft2020_12().for_deserialize().into_generator().into_root_schema_for::<T>();
    let (name, mut schema) = finish(name, schema);
    if let Some(members) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (written, also) in [("host_services", "host_services_config"), ("target_node", "node_id")] {
            if let Some(member) = members.get(written).cloned() {
                members.insert(also.to_owned(), member);
            }
        }
        // Go writes `null` for what is empty.
        for member in members.values_mut().filter_map(Value::as_object_mut) {
            if let Some(Value::String(kind)) = member.get("type") {
                let kinds = json!([kind, "null"]);
                member.insert("type".to_owned(), kinds);
            }
        }
    }
    (name, schema)
}

/// A reply in its envelope: data, or an error.
fn reply<T: JsonSchema>(name: &str, kind: &str) -> (String, Value) {
    let mut generator = writing();
    let data = generator.subschema_for::<T>();
    let schema = json!({
        "oneOf": [
            {
                "title": "Success",
                "type": "object",
                "properties": {"type": {"const": kind}, "data": data},
                "required": ["type", "data"],
                "not": {"required": ["error"]},
            },
            {
                "title": "Refusal",
                "type": "object",
                "properties": {
                    "type": {"const": kind},
                    "data": {"const": ""},
                    "error": {"description": "Text for people; scripts match on the code.", "type": "string"},
                    "code": {"description": "Entry of the catalogue, docs/errors.md.", "type": "integer"},
                    "help": {"description": "What to do.", "type": "string"},
                },
                "required": ["type", "data", "error"],
            },
        ],
    });
    with_definitions(name, schema, generator)
}

/// Every type of event, as the `CloudEvent` it is.
fn events() -> Vec<(String, Value)> {
    let mut generator = writing();
    let all = Event::json_schema(&mut generator);
    let variants = all.get("anyOf").and_then(Value::as_array).cloned().unwrap_or_default();
    Event::KINDS
        .iter()
        .zip(variants)
        .map(|(kind, data)| {
            let mut schema = writing().into_root_schema_for::<CloudEvent>().to_value();
            if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
                properties.insert("type".to_owned(), json!({"const": kind}));
                properties.insert("specversion".to_owned(), json!({"const": "1.0"}));
                properties.insert("data".to_owned(), data);
            }
            with_definitions(&format!("event_{kind}"), schema, generator.clone())
        })
        .collect()
}

fn with_definitions(name: &str, mut schema: Value, mut generator: SchemaGenerator) -> (String, Value) {
    let definitions: Map<String, Value> = generator.take_definitions(true);
    if let Some(object) = schema.as_object_mut()
        && !definitions.is_empty()
    {
        object.insert("$defs".to_owned(), Value::Object(definitions));
    }
    finish(name, Schema::try_from(schema).unwrap_or_default())
}

fn finish(name: &str, schema: Schema) -> (String, Value) {
    let mut schema = schema.to_value();
    if let Some(object) = schema.as_object_mut() {
        object.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        object.insert("title".to_owned(), json!(name));
    }
    (name.to_owned(), schema)
}
