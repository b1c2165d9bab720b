//! The interfaces of `wit/` as this host sees them: what a guest may import beside WASI's own, and what a component of
//! the world `nex:function/function` exports.
//!
//! Both drafts of `wasi:keyvalue` are here: 0.2.0-draft, which existing components import (its text is in this crate's
//! own `wit/`, so that guests of ours see one draft), and 0.2.0-draft2, which added compare-and-swap.
//! `wasi:io` is that of `wasmtime-wasi`, whose streams our resources hand out; `wasi:http` is bound by its own crate.

#[allow(missing_docs, clippy::all, clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)] // generated
mod generated {
    wasmtime::component::bindgen!({
        inline: "
            package nex:agent;

            world host {
              import nex:function/context@0.1.0;
              import nex:messaging/messaging@0.1.0;
              import wasi:keyvalue/store@0.2.0-draft;
              import wasi:keyvalue/atomics@0.2.0-draft;
              import wasi:keyvalue/batch@0.2.0-draft;
              import wasi:keyvalue/store@0.2.0-draft2;
              import wasi:keyvalue/atomics@0.2.0-draft2;
              import wasi:keyvalue/batch@0.2.0-draft2;
              import wasi:blobstore/types@0.2.0-draft;
              import wasi:blobstore/container@0.2.0-draft;
              import wasi:blobstore/blobstore@0.2.0-draft;
              import wasi:config/store@0.2.0-rc.1;
              import wasi:logging/logging@0.1.0-draft;
              export nex:function/handler@0.1.0;
            }
        ",
        path: ["../../wit", "wit"],
        world: "nex:agent/host",
        imports: { default: async | trappable },
        exports: { default: async },
        require_store_data_send: true,
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:keyvalue/store@0.2.0-draft.bucket": crate::wasm::services::keyvalue::Bucket,
            "wasi:keyvalue/store@0.2.0-draft2.bucket": crate::wasm::services::keyvalue::Bucket,
            "wasi:keyvalue/atomics@0.2.0-draft2.cas": crate::wasm::services::keyvalue::Cas,
            "wasi:blobstore/types.outgoing-value": crate::wasm::services::outgoing::OutgoingValue,
            "wasi:blobstore/types.incoming-value": crate::wasm::services::incoming::IncomingValue,
            "wasi:blobstore/container.container": crate::wasm::services::blobstore::Container,
            "wasi:blobstore/container.stream-object-names": crate::wasm::services::blobstore::Names,
        },
    });
}

pub(crate) use self::generated::Host_Pre as HandlerPre;
pub(crate) use self::generated::exports::nex::function::handler;
pub(crate) use self::generated::nex::{function, messaging};
pub(crate) use self::generated::wasi;
