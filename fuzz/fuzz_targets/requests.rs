//! Fuzz target; what it checks is in `src/requests.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nex_fuzz::requests::check(data));
