//! What is generated from the types of this crate and kept as files: `schemas/*.json` and `docs/errors.md`.
//!
//! The tests fail when a file is not what the types say. `cargo xtask generate` writes the files anew: it runs these
//! tests with `NEX_GENERATE` set.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use nex_protocol::schema;
use nex_protocol::{Code, Fault};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Compares a file with what it should hold, or writes it.
fn keep(path: &Path, text: &str) {
    if std::env::var_os("NEX_GENERATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == text, "{} is not current: run `cargo xtask generate`", path.display());
}

#[test]
fn the_schemas_are_those_of_the_types() {
    let folder = root().join("schemas");
    let documents = schema::documents();
    for (name, schema) in &documents {
        keep(&folder.join(format!("{name}.json")), &format!("{}\n", serde_json::to_string_pretty(schema).unwrap()));
    }
    let expected: BTreeSet<String> = documents.keys().map(|name| format!("{name}.json")).collect();
    let found: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    assert_eq!(found, expected, "a schema of something that is no more");
}

#[test]
fn every_type_of_event_has_its_own_data() {
    let documents = schema::documents();
    for (kind, member) in [
        ("node_started", "tags"),
        ("node_stopped", "graceful"),
        ("node_entered_lameduck", "leaves_in_ms"),
        ("heartbeat", "running_machines"),
        ("pool_empty", "pool_size"),
        ("artifact_fetched", "hash"),
        ("workload_deployed", "essential"),
        ("workload_undeployed", "message"),
        ("workload_restarting", "attempt"),
        ("workload_given_up", "attempts"),
        ("trigger_failed", "trigger_subject"),
        ("function_exec_succeeded", "elapsed_nanos"),
        ("function_exec_failed", "error"),
    ] {
        let data = &documents[&format!("event_{kind}")]["properties"]["data"]["properties"];
        assert!(data.get(member).is_some(), "{kind}: {data}");
    }
}

#[test]
fn the_list_of_errors_is_the_catalogue() {
    let mut text = String::from(
        "# Errors\n\nEvery refusal of a node carries a number that stays the same, a text for people, and what to do:\n\
         `{\"type\": …, \"data\": \"\", \"error\": TEXT, \"code\": NUMBER, \"help\": HELP}`. Where Go Nex 0.2.7 refuses \
         the same, the text is\nits text.\n\nThis file is made from the catalogue in `nex-protocol`: `cargo xtask \
         generate`.\n\n| Code | Name | What it means | What to do |\n|---|---|---|---|\n",
    );
    let cell = |text: &str| text.replace('|', "\\|").replace('<', "&lt;");
    for code in Code::ALL {
        let (name, meaning, help) = (code.name(), cell(code.meaning()), cell(code.help()));
        writeln!(text, "| {} | {name} | {meaning} | {help} |", code.number()).unwrap();
    }
    keep(&root().join("docs/errors.md"), &text);
}

/// Whether a value has what a schema demands: enough of the specification for the schemas that are made here.
fn fits(schema: &Value, root: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(reference.trim_start_matches('#')).ok_or(reference)?;
        return fits(target, root, value);
    }
    for (word, all) in [("oneOf", false), ("anyOf", false), ("allOf", true)] {
        let Some(options) = schema.get(word).and_then(Value::as_array) else { continue };
        let failures: Vec<String> = options.iter().filter_map(|option| fits(option, root, value).err()).collect();
        if (all && !failures.is_empty()) || failures.len() == options.len() {
            return Err(failures.join("; "));
        }
    }
    if let Some(constant) = schema.get("const") {
        return if constant == value { Ok(()) } else { Err(format!("{value} is not {constant}")) };
    }
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other}"),
    };
    let fitting = match schema.get("type") {
        Some(Value::String(name)) => is(name),
        Some(Value::Array(names)) => names.iter().any(|name| is(name.as_str().unwrap())),
        _ => true,
    };
    if !fitting {
        return Err(format!("{value} is not of type {}", schema["type"]));
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            return Err(format!("{name} is missing in {value}"));
        }
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        if let Some(schema) = schema.pointer(&format!("/properties/{name}")) {
            fits(schema, root, member).map_err(|reason| format!("{name}: {reason}"))?;
        }
    }
    for item in value.as_array().into_iter().flatten() {
        fits(schema.get("items").unwrap_or(&Value::Bool(true)), root, item)?;
    }
    Ok(())
}

#[test]
fn what_is_sent_fits_its_schema() {
    use nex_protocol::control::{deploy, info, lame_duck, ping, stop, workload_ping};
    use nex_protocol::envelope::{failure, kind, success};
    let documents = schema::documents();
    let machine = info::MachineSummary {
        workload: info::WorkloadSummary { trigger_subjects: vec!["a".into()], ..Default::default() },
        ..Default::default()
    };
    let info = info::InfoResponse {
        machines: vec![machine],
        memory: Some(info::Memory::default()),
        allow_duplicate_workloads: Some(true),
        pool: Some(info::PoolSummary { last_error: Some("no kernel".into()), ..Default::default() }),
        ..Default::default()
    };
    let replies = [
        ("ping_response", kind::PING, success(kind::PING, &ping::PingResponse::default()).unwrap()),
        ("auction_response", kind::AUCTION, success(kind::AUCTION, &ping::PingResponse::default()).unwrap()),
        ("info_response", kind::INFO, success(kind::INFO, &info).unwrap()),
        ("run_response", kind::RUN, success(kind::RUN, &deploy::RunResponse::default()).unwrap()),
        ("stop_response", kind::STOP, success(kind::STOP, &stop::StopResponse::default()).unwrap()),
        (
            "lameduck_response",
            kind::LAMEDUCK,
            success(kind::LAMEDUCK, &lame_duck::LameDuckResponse::default()).unwrap(),
        ),
        (
            "workload_ping_response",
            kind::PING,
            success(kind::PING, &workload_ping::WorkloadPingResponse::default()).unwrap(),
        ),
    ];
    for (name, kind, reply) in replies {
        let schema = &documents[name];
        fits(schema, schema, &serde_json::from_slice(&reply).unwrap()).unwrap_or_else(|why| panic!("{name}: {why}"));
        let refusal = failure(kind, &Fault::new(Code::Internal, "x"));
        fits(schema, schema, &serde_json::from_slice(&refusal).unwrap()).unwrap_or_else(|why| panic!("{name}: {why}"));
        let other = success("io.nats.nex.v1.other", &1).unwrap();
        assert!(fits(schema, schema, &serde_json::from_slice(&other).unwrap()).is_err(), "{name} takes everything");
    }
    let request = deploy::DeployRequest { location: Some("nats://B/k".parse().unwrap()), ..Default::default() };
    let schema = &documents["deploy_request"];
    fits(schema, schema, &serde_json::to_value(request).unwrap()).unwrap();
    fits(schema, schema, &serde_json::json!({"location": "nats://B/k", "limits": {"memory_mib": 64}})).unwrap();
    let nulls = serde_json::json!({"argv": null, "description": null, "host_services_config": {"nats_url": "x"}});
    fits(schema, schema, &nulls).unwrap();
    assert!(fits(schema, schema, &serde_json::json!({"location": 7})).is_err());
    assert!(fits(schema, schema, &serde_json::json!({"argv": 7})).is_err());
}
