//! Records of workloads, as they lie in a node's state directory. The first byte chooses how far the input is wrapped.

use std::sync::OnceLock;

use nex_identity::XKeyPair;
use nex_node::state::{open_record, seal_record};
use nex_node::workload::Record;
use nex_protocol::Environment;
use serde_json::Value;

/// Any content is a record or an error, and a record that is written reads the same.
pub fn check(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    match choice % 3 {
        0 => drop(open(&text)),
        1 => sealed(&[("record", text.as_ref())].into_iter().collect()),
        _ => serde_json::from_slice::<Environment>(bytes).iter().for_each(sealed),
    }
}

fn key() -> &'static XKeyPair {
    static KEY: OnceLock<XKeyPair> = OnceLock::new();
    KEY.get_or_init(XKeyPair::generate)
}

fn open(file: &str) -> Result<Record, String> {
    open_record(file, key())
}

fn sealed(content: &Environment) {
    let file = key().seal(content, &key().public_key()).expect("anything can be sealed");
    let Ok(record) = open(&format!("{file}\n")) else { return };
    let again = seal_record(&record, key()).expect("a record can be written");
    let read = open(&again).expect("what was written reads");
    assert_eq!(value(&read), value(&record));
    assert!(!again.contains(record.spec.name.as_str()) || record.spec.name.as_str().len() < 8, "a record lies open");
    let _ = record.spec.age();
    assert!(open_record::<Record>(&again, &XKeyPair::generate()).is_err(), "somebody else's record opens");
}

fn value(record: &Record) -> Value {
    serde_json::to_value(record).expect("a record can be written")
}
