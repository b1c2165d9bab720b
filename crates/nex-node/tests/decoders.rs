//! The configuration and the records of a node's state, by the checks of the fuzz targets (`fuzz/src`): any bytes, the
//! kept corpora and damaged copies of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it
#![allow(unreachable_pub, reason = "modules of another package")]

#[path = "../../../fuzz/src/config.rs"]
mod config;
#[path = "../../../fuzz/src/damaged.rs"]
mod damaged;
#[path = "../../../fuzz/src/state.rs"]
mod state;

use damaged::{damaged, seeds};
use nex_identity::XKeyPair;
use nex_node::config::Config;
use nex_node::state::{open_record, seal_record};
use nex_node::workload::Record;
use proptest::prelude::*;

#[test]
fn the_kept_corpora_pass() {
    for (target, check) in [("config", config::check as fn(&[u8])), ("state", state::check)] {
        seeds(target).iter().for_each(|seed| check(seed));
    }
}

/// A seed that no check takes for good any more would keep nothing.
#[test]
fn the_seeds_that_show_what_is_accepted_are_accepted() {
    let seed = |target: &str, name: &str| {
        let path = format!("{}/../../fuzz/corpus/{target}/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    };
    for name in ["everything", "documented-0"] {
        Config::parse(&seed("config", name)).unwrap();
    }
    let key = XKeyPair::generate();
    for name in ["record", "record-of-an-older-node"] {
        let record: Record = serde_json::from_str(&seed("state", name)[1..]).unwrap();
        let sealed = seal_record(&record, &key).unwrap();
        assert_eq!(open_record::<Record>(&sealed, &key).unwrap().spec.name, record.spec.name);
    }
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_told_what_is_wrong(text: String) {
        config::check(text.as_bytes());
    }

    #[test]
    fn a_damaged_configuration_is_one_or_told_what_is_wrong(bytes in damaged("config")) {
        config::check(&bytes);
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes: Vec<u8>) {
        state::check(&bytes);
    }

    #[test]
    fn a_damaged_record_is_one_or_an_error(bytes in damaged("state")) {
        state::check(&bytes);
    }
}
