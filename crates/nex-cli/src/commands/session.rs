//! Connecting as the flags, the environment and the NATS context say.

use anyhow::Result;
use nex_client::Client;
use nex_client::context::{ContextStore, Resolved};

use crate::args::GlobalArgs;

/// What to connect with; warnings about the context are logged.
pub(super) fn resolve(global: &GlobalArgs) -> Result<Resolved> {
    let connection = &global.connection;
    let resolved = connection.overrides().resolve(connection.context.as_deref(), &ContextStore::of_user())?;
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(context) = &resolved.context {
        tracing::debug!(context, "using a NATS context");
    }
    Ok(resolved)
}

/// A connected client, and the JetStream domain of object stores.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) jsdomain: Option<String>,
}

impl Session {
    /// Connects.
    pub(super) async fn open(global: &GlobalArgs) -> Result<Self> {
        let resolved = resolve(global)?;
        let client = Client::connect(&resolved.settings, global.namespace.clone()).await?;
        let jsdomain = global.jsdomain.clone().or(resolved.jetstream_domain).filter(|domain| !domain.is_empty());
        Ok(Self { client, jsdomain })
    }
}
