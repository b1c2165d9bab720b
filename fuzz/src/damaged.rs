//! The kept corpora for property tests: whole, and with something in them spoilt. No part of the fuzz package, which
//! needs no such thing: the `tests/decoders.rs` of the crates include it by path, beside the checks.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// The kept seeds of a target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).expect("a kept corpus");
    let mut paths: Vec<_> = files.map(|file| file.expect("a kept corpus").path()).collect();
    // In the same order everywhere, so that a failure can be repeated.
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect()
}

/// A seed with up to three things done to it: a byte changed, put in or taken out, the end cut off or said twice.
pub fn damaged(target: &str) -> impl Strategy<Value = Vec<u8>> {
    let damage = (any::<Index>(), any::<u8>(), 0..8u8);
    (select(seeds(target)), prop::collection::vec(damage, 0..=3)).prop_map(|(mut bytes, damages)| {
        for (at, byte, what) in damages {
            let at = at.index(bytes.len() + 1);
            match what {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, byte),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => bytes.extend_from_within(at..),
                _ if at < bytes.len() => bytes[at] = byte,
                _ => {}
            }
        }
        bytes
    })
}
