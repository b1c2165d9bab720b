//! For tests, and for the demo: the real programs as guards, and where to find what was built for them.
//!
//! [`NatsServer`] is a nats-server with JetStream in a folder of its own, [`NexNode`] a `nex node up` with a generated
//! configuration. Both are a [`Process`]: killed and waited for when dropped, and killed by the kernel when the test
//! dies before it can drop anything. Nothing here is a mock.

mod binaries;
mod log;
mod nats_server;
mod nex_node;
mod process;

pub use binaries::{Binaries, Examples, examples, forget_user, program, workspace_root};
pub use log::Log;
pub use nats_server::{NatsServer, NatsServerBuilder};
pub use nex_node::{NexNode, NexNodeBuilder};
pub use process::Process;
