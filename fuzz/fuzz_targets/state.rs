//! Fuzz target; what it checks is in `src/state.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nex_fuzz::state::check(data));
