//! The configuration of a node.

use std::time::Duration;

use nex_node::Overrides;
use nex_node::config::Config;
use nex_protocol::subject::ALWAYS_DENIED;

/// What is read is within its bounds, is refused with a reason otherwise, and is read the same again.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let loaded = match Config::parse(&text) {
        Ok(loaded) => loaded,
        Err(errors) => {
            assert!(!errors.problems.is_empty() && !errors.to_string().is_empty(), "refused without a reason");
            let again = Config::parse(&text).expect_err("what was refused once is refused again");
            return assert_eq!(again, errors);
        }
    };
    let again = Config::parse(&text).expect("what was read once is read again");
    assert_eq!(again.warnings, loaded.warnings);
    assert_eq!(format!("{:?}", again.config), format!("{:?}", loaded.config));
    bounds(&loaded.config);
    let overrides = Overrides { no_sandbox: Some(true), nats_embedded: true, ..Overrides::default() };
    let config = overrides.apply(loaded.config);
    assert!(config.no_sandbox && config.public_nats_server.is_some());
}

fn bounds(config: &Config) {
    let day = Duration::from_secs(86_400);
    for time in [
        config.agent_handshake_timeout,
        config.agent_ping_timeout,
        config.lame_duck_delay,
        config.stop_grace,
        config.restart.base,
        config.restart.cap,
        config.restart.stable,
        config.functions.timeout,
    ] {
        assert!(time > Duration::ZERO && time <= day);
    }
    assert!((1..=4096).contains(&config.machine_pool_size));
    assert!((1..=1024).contains(&config.functions.concurrency));
    assert!(config.valid_issuers.iter().all(|issuer| nex_identity::keys::is_public_key(issuer)));
    assert!(config.workload_types.as_ref().is_none_or(|types| !types.is_empty()));
    for denied in ALWAYS_DENIED {
        assert!(config.deny_trigger_subjects.iter().any(|subject| subject.as_str() == denied), "{denied} is allowed");
    }
    for workload in &config.autostart {
        assert_eq!(workload.r#type.is_function(), !workload.trigger_subjects.is_empty());
        assert!(workload.environment.invalid_key().is_none());
    }
}
