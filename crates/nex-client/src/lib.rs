//! Typed client of the nex control interface: the public SDK.
//!
//! Owns connecting to NATS ([`connection`], [`context`]), the commands of the control interface ([`Client`]), the
//! signed and sealed requests that deploy and stop take ([`deployment`]), events and logs ([`feed`]), and artifacts in
//! object stores ([`artifact`]). It contacts nothing but NATS, and every error says what to do next.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use nex_client::{Client, connection::Settings};
//!
//! let client = Client::connect(&Settings::default(), nex_protocol::Namespace::default()).await?;
//! for node in client.ping_nodes().await? {
//!     println!("{} runs {} workloads", node.node_id, node.running_machines);
//! }
//! # Ok(())
//! # }
//! ```

pub mod artifact;
pub mod client;
mod connect_error;
pub mod connection;
pub mod context;
mod denied;
pub mod deployment;
pub mod error;
pub mod feed;
mod scatter;
pub mod secret;

pub use artifact::{Artifact, ArtifactError, Bucket};
pub use client::Client;
pub use deployment::{Deployment, lame_duck_request, stop_request};
pub use error::ClientError;
pub use feed::{Feed, Reach};
pub use secret::Secret;
