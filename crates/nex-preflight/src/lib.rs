//! What a node needs of its machine: looked for, explained, and downloaded or built where it is missing.
//!
//! ```text
//! Wanted (what a configuration asks for) -> examine -> findings -> plan -> carried out: fetched, verified, installed
//! ```
//! Looking changes nothing. What is downloaded comes from the [`Manifest`], is bounded by the size written there, and
//! is used only when its SHA-256 is the one written there; what has none is not downloaded. A file appears at its place
//! whole, with its mode, or not at all; what comes in one archive appears together or not at all. This crate asks nobody
//! anything and prints nothing.

mod checks;
mod conflist;
mod digest;
mod fetch;
mod finding;
mod install;
mod manifest;
mod plan;
mod template;
mod unpack;
mod wanted;

pub use checks::examine;
pub use conflist::conflist;
pub use digest::{BadDigest, Digest};
pub use fetch::{FetchError, Fetcher, Origin, Patience, Progress};
pub use finding::{Finding, Group, Remedy, State};
pub use install::InstallError;
pub use manifest::{Holds, Manifest, ManifestError, Piece, Release, Source};
pub use plan::{CarryOutError, Placement, Plan, Step};
pub use template::{InitError, Template, init};
pub use wanted::{Cni, GuestPrograms, Machines, Monitor, Network, Program, Wanted};
