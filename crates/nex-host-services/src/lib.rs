//! What functions reach the world through: key-value, object store, messaging and HTTP, per tenant.
//!
//! One trait per service ([`kv::KeyValue`], [`object::ObjectStore`], [`messaging::Messaging`], [`http::Http`]), each
//! with a real backend (NATS, respectively an HTTP client) and an in-memory twin that passes the same tests.
//! [`HostServices`] stands in front of them: it checks what was asked, names the tenant's bucket, counts the quota,
//! keeps the deadline and turns what went wrong into a [`nex_protocol::link::host::HostError`].
//!
//! Promises: whose data is meant is known from the [`Tenant`] alone, and no key, name, subject or URL changes it;
//! dropping a call ends everything it was doing; an upload is stored whole or not at all; every call ends by its
//! deadline; no error text carries what a server said about itself.

pub mod bucket;
mod call;
mod download;
pub mod egress;
mod failure;
pub mod http;
pub mod kv;
pub mod messaging;
pub mod object;
pub mod quota;
mod room;
mod services;
pub mod settings;
mod stream;

pub use call::{HostCall, Tenant, Upload};
pub use download::Download;
pub use egress::EgressRule;
pub use failure::{Answer, Failure};
pub use room::Room;
pub use services::{Backends, Buckets, HostServices};
pub use settings::{HttpSettings, MessagingSettings, QuotaSettings, Settings, StoreSettings};
