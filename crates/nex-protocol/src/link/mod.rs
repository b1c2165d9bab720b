//! The link between a node and one agent: [`frame`]s, and the [`message`]s in them.
//!
//! One stream (a Unix socket to a child process, vsock into a microVM), many calls in flight. The agent speaks first
//! ([`message::ToNode::Hello`]), the node answers [`message::ToAgent::Welcome`]; from then on the agent takes exactly
//! one workload. Who the workload belongs to is known from the link; nothing on it names a namespace to be believed.

pub mod codec;
pub mod compiled;
pub mod direct;
pub mod frame;
pub mod host;
pub mod message;

/// Version of the link protocol. A node and an agent must agree on it; both come from one release.
pub const VERSION: u16 = 9;
