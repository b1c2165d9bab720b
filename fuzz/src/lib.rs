//! What must hold for any bytes that come from outside: a module a decoder, each with a `check` that panics when it
//! does not hold. Never a decoder of its own, and nothing is believed of the input.
//!
//! The fuzz targets run the checks, and so do the property tests of the crates: their `tests/decoders.rs` include the
//! modules by path. So a module uses no more than the crate it is about, and what that crate uses.

pub mod claims;
pub mod config;
pub mod envelope;
pub mod link;
pub mod requests;
pub mod sealed;
pub mod state;
pub mod subject;
