//! What the host keeps for one instance: WASI's state, what it may use, and its way to the node's services.
//!
//! A guest lives for one call. Everything in here goes with it: resources, tasks it started, calls it left open.

use std::sync::Arc;

use tokio::time::Instant;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::WasiHttpCtx;

use super::memory::MemoryLimit;
use super::services::Services;
use super::services::http::Outgoing;

/// Resources an instance may hold. Each costs the agent memory that the guest's own limit does not see.
const RESOURCES: usize = 4096;

/// What all calls of a function share.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Name of the workload.
    pub(crate) name: String,
    /// Namespace of the workload.
    pub(crate) namespace: String,
    /// The environment it was deployed with.
    pub(crate) environment: nex_protocol::Environment,
}

/// What the host keeps for one instance.
pub(crate) struct Guest {
    pub(super) wasi: WasiP1Ctx,
    pub(super) http: WasiHttpCtx,
    pub(super) outgoing: Outgoing,
    pub(super) memory: MemoryLimit,
    pub(super) services: Services,
    pub(super) function: Arc<Identity>,
    pub(super) deadline: Instant,
}

impl Guest {
    /// A guest with this view of the world.
    pub(super) fn new(
        wasi: &mut WasiCtxBuilder,
        memory: MemoryLimit,
        services: Services,
        function: Arc<Identity>,
        deadline: Instant,
    ) -> Self {
        let mut guest = Self {
            wasi: wasi.build_p1(),
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(services.clone()),
            memory,
            services,
            function,
            deadline,
        };
        guest.table().set_max_capacity(RESOURCES);
        guest
    }

    /// WASI's part of it, for modules.
    pub(super) fn wasi(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }

    /// The resources the guest has handles of.
    pub(super) fn table(&mut self) -> &mut ResourceTable {
        self.wasi.ctx().table
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}
