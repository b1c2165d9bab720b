//! A strict stand-in for Firecracker and its jailer: what the driver of microVMs is tested against where there is no
//! KVM.
//!
//! It refuses what the real ones refuse (unknown fields, values out of range, requests in the wrong order, arguments
//! they do not know) with the same status codes, and plays a guest whose agent is a process of this machine. Where it
//! is stricter than Firecracker, that is so that a driver keeps to what is documented. It isolates nothing and is no
//! part of what is installed.
//!
//! It plays the version that it is told to: fields and paths of later versions are unknown to it.

pub mod arguments;
pub mod settings;
pub mod version;

mod api;
mod guest;
mod jailer;
mod machine;
mod monitor;

pub use jailer::main as jailer_main;
pub use monitor::main as monitor_main;
