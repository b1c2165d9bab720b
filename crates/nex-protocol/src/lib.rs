//! Wire types of nex. No I/O, no async, no clock.
//!
//! Owns the shape of everything that crosses a process border: the control interface on `$NEX.>` (subjects,
//! [`envelope`], [`control`] requests and replies, [`event`]s, [`log`] entries, the numbered error [`catalogue`]),
//! the [`link`] between a node and an agent, and what a [`machine`] is told at its birth.
//!
//! Promises: decoding is total (any bytes give a value or an error, never a panic), bounded where a length is
//! claimed by the other side, and ignores fields it does not know. What Go Nex 0.2.7 puts on the wire decodes here,
//! and what we put there decodes in Go Nex: fields are only ever added.

pub mod catalogue;
pub mod control;
pub mod envelope;
pub mod environment;
pub mod event;
pub mod link;
pub mod location;
pub mod log;
pub mod machine;
pub mod name;
pub mod schema;
pub mod subject;
pub mod uptime;

pub use catalogue::{Code, Fault};
pub use environment::Environment;
pub use location::Location;
pub use name::{Namespace, WorkloadName, WorkloadType};
