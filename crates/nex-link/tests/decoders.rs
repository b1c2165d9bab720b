//! Frames, messages and their receiver, by the check of the fuzz target (`fuzz/src/link.rs`): any bytes, the kept
//! corpus and damaged copies of it, in pieces of any length.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it
#![allow(unreachable_pub, reason = "modules of another package")]

#[path = "../../../fuzz/src/damaged.rs"]
mod damaged;
#[path = "../../../fuzz/src/link.rs"]
mod link;

use damaged::{damaged, seeds};
use proptest::prelude::*;

#[test]
fn the_kept_corpus_passes() {
    seeds("link").iter().for_each(|seed| link::check(seed));
}

proptest! {
    #[test]
    fn any_bytes_are_messages_or_an_error(bytes: Vec<u8>) {
        link::check(&bytes);
    }

    #[test]
    fn a_damaged_stream_gives_messages_or_an_error(piece: u8, mut bytes in damaged("link")) {
        if let Some(first) = bytes.first_mut() {
            *first = piece;
        }
        link::check(&bytes);
    }
}
