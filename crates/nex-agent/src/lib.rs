//! The nex agent: hosts exactly one workload, told by its node over the link it was started with.
//!
//! [`session`] owns the life of the link; [`guard`] makes sure that nothing outlives it. A workload is a [`native`]
//! program, a [`wasm`] function or a [`javascript`] function; each of these owns everything about its own kind and
//! knows nothing of the others. [`process`], [`lines`] and [`reply`] are what two of them share.
//!
//! Never here: the network, the node's files (other than the artifact, the agent's folder and the compiled code), and
//! any belief in what the workload says about itself.

pub mod guard;
mod host;
mod sent;
pub mod session;

mod call;
mod javascript;
mod lines;
mod native;
mod process;
mod reply;
mod wasm;
mod workload;
