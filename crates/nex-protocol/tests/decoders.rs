//! The decoders of the wire types, by the checks of the fuzz targets (`fuzz/src`): any bytes, the kept corpora and
//! damaged copies of them; and requests of any content, which come back as they were sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it
#![allow(unreachable_pub, reason = "modules of another package")]

#[path = "../../../fuzz/src/damaged.rs"]
mod damaged;
#[path = "../../../fuzz/src/envelope.rs"]
mod envelope;
#[path = "../../../fuzz/src/requests.rs"]
mod requests;
#[path = "../../../fuzz/src/subject.rs"]
mod subject;

use std::collections::BTreeMap;

use damaged::{damaged, seeds};
use nex_protocol::control::deploy::{DeployRequest, NatsConnection};
use nex_protocol::control::limits::WorkloadLimits;
use nex_protocol::envelope as reply;
use nex_protocol::{Code, Environment, Fault, Location};
use proptest::prelude::*;

#[test]
fn the_kept_corpora_pass() {
    for (target, check) in
        [("envelope", envelope::check as fn(&[u8])), ("requests", requests::check), ("subject", subject::check)]
    {
        seeds(target).iter().for_each(|seed| check(seed));
    }
}

fn connection() -> impl Strategy<Value = NatsConnection> {
    any::<[String; 3]>().prop_map(|[nats_url, nats_user_jwt, nats_user_seed]| NatsConnection {
        nats_url,
        nats_user_jwt,
        nats_user_seed,
    })
}

fn deploy() -> impl Strategy<Value = DeployRequest> {
    let location = prop::option::of(("[a-zA-Z0-9_-]{1,20}", "[^/]{1,20}(/[^/]{1,20})?"));
    let texts = any::<[String; 6]>();
    let more = any::<[Option<String>; 4]>();
    let flags = any::<(bool, bool, Option<u64>)>();
    let limits = any::<[Option<u64>; 6]>();
    let lists = any::<[Vec<String>; 2]>();
    let connections = (prop::option::of(connection()), prop::option::of(connection()));
    (location, texts, more, flags, limits, lists, connections).prop_map(
        |(location, texts, more, (essential, wants_host_services, retry_count), limits, lists, connections)| {
            let [description, r#type, workload_jwt, environment, sender_public_key, target_node] = texts;
            let [retried_at, id, hash, workload_name] = more;
            let [cpu_millis, memory_mib, max_instances, timeout_ms, concurrency, idle_timeout_ms] = limits;
            let [argv, trigger_subjects] = lists;
            DeployRequest {
                argv,
                description,
                r#type,
                location: location.map(|(bucket, key)| Location::new(&bucket, &key).unwrap()),
                essential,
                workload_jwt,
                environment,
                jsdomain: String::new(),
                sender_public_key,
                target_node,
                trigger_subjects,
                trigger_connection: connections.0,
                retry_count,
                retried_at,
                host_services: connections.1,
                wants_host_services,
                limits: WorkloadLimits {
                    cpu_millis,
                    memory_mib,
                    max_instances,
                    timeout_ms,
                    concurrency,
                    idle_timeout_ms,
                },
                id,
                hash,
                workload_name,
            }
        },
    )
}

proptest! {
    #[test]
    fn any_bytes_are_a_reply_or_an_error(bytes: Vec<u8>) {
        envelope::check(&bytes);
    }

    #[test]
    fn a_damaged_reply_is_a_reply_or_an_error(bytes in damaged("envelope")) {
        envelope::check(&bytes);
    }

    #[test]
    fn any_bytes_are_a_request_or_an_error(bytes: Vec<u8>) {
        requests::check(&bytes);
    }

    #[test]
    fn a_damaged_request_is_a_request_or_an_error(bytes in damaged("requests")) {
        requests::check(&bytes);
    }

    #[test]
    fn any_texts_are_names_and_subjects_or_errors(text: String) {
        subject::check(text.as_bytes());
    }

    #[test]
    fn subjects_of_few_different_tokens_overlap_as_nats_matches(text in "([ab*>$.\n]|NEX|SYS|_INBOX){0,30}") {
        subject::check(text.as_bytes());
    }

    #[test]
    fn damaged_names_and_subjects_are_such_or_errors(bytes in damaged("subject")) {
        subject::check(&bytes);
    }

    #[test]
    fn a_deploy_request_of_any_content_comes_back_as_it_was_sent(request in deploy()) {
        let bytes = serde_json::to_vec(&request).unwrap();
        prop_assert_eq!(serde_json::from_slice::<DeployRequest>(&bytes).unwrap(), request);
        requests::check(&[b"0", &bytes[..]].concat());
    }

    #[test]
    fn an_environment_of_any_content_comes_back_as_it_was_written(variables: BTreeMap<String, String>) {
        let environment: Environment = variables.into_iter().collect();
        let bytes = serde_json::to_vec(&environment).unwrap();
        prop_assert_eq!(serde_json::from_slice::<Environment>(&bytes).unwrap(), environment);
    }

    #[test]
    fn a_refusal_keeps_whatever_text_it_has(text: String) {
        let bytes = reply::failure(reply::kind::RUN, &Fault::new(Code::Busy, text.clone()));
        let refused = reply::open::<serde_json::Value>(reply::kind::RUN, &bytes).unwrap_err();
        prop_assert_eq!(refused.to_string(), text);
    }
}
