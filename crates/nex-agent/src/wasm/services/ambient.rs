//! What a guest knows and says without asking the node: its configuration, its log, its own name and time.
//!
//! `wasi:config` is the environment the workload was deployed with. `wasi:logging` goes to the workload's log; a guest
//! that writes faster than the node reads waits.

use nex_protocol::log::Level;
use tokio::time::Instant;
use wasmtime::component::Linker;

use super::super::bindings::function::context;
use super::super::bindings::wasi::config;
use super::super::bindings::wasi::logging::logging::{self, Level as Severity};
use super::super::guest::Guest;
use crate::lines;

impl context::Host for Guest {
    async fn workload(&mut self) -> wasmtime::Result<String> {
        Ok(self.function.name.clone())
    }

    async fn namespace(&mut self) -> wasmtime::Result<String> {
        Ok(self.function.namespace.clone())
    }

    async fn remaining_ms(&mut self) -> wasmtime::Result<u64> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        Ok(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }
}

impl config::store::Host for Guest {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, config::store::Error>> {
        Ok(Ok(self.function.environment.get(&key).map(ToOwned::to_owned)))
    }

    async fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config::store::Error>> {
        let all = self.function.environment.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(Ok(all.collect()))
    }
}

impl logging::Host for Guest {
    async fn log(&mut self, level: Severity, context: String, message: String) -> wasmtime::Result<()> {
        self.log(level, &context, &message).await;
        Ok(())
    }
}

/// Adds `wasi:logging/logging` without a version, as components of before its draft had one import it.
pub(super) fn add_older_logging(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance("wasi:logging/logging")?.func_wrap_async(
        "log",
        |mut store, (level, context, message): (Severity, String, String)| {
            Box::new(async move {
                store.data_mut().log(level, &context, &message).await;
                Ok(())
            })
        },
    )
}

impl Guest {
    async fn log(&mut self, severity: Severity, context: &str, message: &str) {
        let level = match severity {
            Severity::Trace | Severity::Debug => Level::Debug,
            Severity::Info => Level::Info,
            Severity::Warn => Level::Warn,
            Severity::Error | Severity::Critical => Level::Error,
        };
        let text = if context.is_empty() { message.to_owned() } else { format!("{context}: {message}") };
        lines::log(&self.services.node, level, &text).await;
    }
}
