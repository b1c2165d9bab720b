//! Host services as a component imports them: WASI's interfaces, and ours where WASI has none that fits.
//!
//! Every interface is a thin coat over [`crate::host::Host`]: the same requests go to the node that JavaScript sends, so
//! that the node's checks, limits and errors are the same. Nothing here knows a tenant; nothing outlives its instance,
//! for an instance's tasks and calls end when its store is dropped.
//!
//! | Interface | Module |
//! |---|---|
//! | `wasi:keyvalue` | [`keyvalue`] |
//! | `wasi:blobstore` | [`blobstore`], with [`outgoing`] and [`incoming`] for its streams |
//! | `wasi:http` (outgoing) | [`http`] |
//! | `nex:messaging` | [`messaging`] |
//! | `wasi:config`, `wasi:logging`, `nex:function/context` | [`ambient`] |

pub(crate) mod ambient;
pub(crate) mod blobstore;
pub(crate) mod http;
pub(crate) mod incoming;
pub(crate) mod keyvalue;
pub(crate) mod messaging;
pub(crate) mod outgoing;

use bytes::Bytes;
use nex_link::Sender;
use nex_protocol::link::frame::MAX_LINK_FRAME;
use nex_protocol::link::host::{HostError, HostErrorCode, HostReply, HostRequest};
use nex_protocol::link::message::ToNode;
use wasmtime::component::{HasSelf, Linker};

use super::bindings::{function, messaging as nex_messaging, wasi};
use super::guest::Guest;
use crate::host::Host;

/// Largest payload that travels to the node in one piece; only objects go in chunks.
const ONE_PIECE: usize = MAX_LINK_FRAME - (1 << 20);

/// The node's services for one call of the function. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    host: Host,
    call: u64,
    node: Sender<ToNode>,
    /// Bytes that may wait in the agent for one thing: what the function may have itself.
    memory: usize,
}

impl Services {
    /// Those of the call `call`, which may keep up to `memory` bytes waiting.
    pub(crate) fn new(host: Host, call: u64, node: Sender<ToNode>, memory: u64) -> Self {
        Self { host, call, node, memory: usize::try_from(memory).unwrap_or(usize::MAX) }
    }

    async fn ask(&self, request: HostRequest, body: Bytes) -> Result<(HostReply, Bytes), HostError> {
        if body.len() > ONE_PIECE {
            let text = format!("the payload has {} bytes, {ONE_PIECE} are allowed", body.len());
            return Err(HostError::new(&request, HostErrorCode::TooLarge, text));
        }
        self.host.call(self.call, request, body).await
    }
}

/// What a guest is told of a failure where it is told in words: service and method, cause, kind, and whether to retry.
fn told(error: &HostError) -> String {
    let retry = if error.retry { ", a retry may succeed" } else { "" };
    format!("{error} ({}{retry})", error.code.as_str())
}

/// A reply of a kind that does not belong to the request: a node of another release.
fn unexpected(service: &str, method: &str) -> HostError {
    HostError {
        service: service.to_owned(),
        method: method.to_owned(),
        code: HostErrorCode::Unavailable,
        message: "the node answered something else".to_owned(),
        retry: false,
    }
}

/// Adds every interface that is not WASI's basic set.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    type Own = HasSelf<Guest>;
    function::context::add_to_linker::<_, Own>(linker, |guest| guest)?;
    nex_messaging::messaging::add_to_linker::<_, Own>(linker, |guest| guest)?;
    wasi::keyvalue0_2_0_draft::store::add_to_linker::<_, Own>(linker, |guest| guest)?;
    wasi::keyvalue0_2_0_draft::atomics::add_to_linker::<_, Own>(linker, |guest| guest)?;
    wasi::keyvalue0_2_0_draft::batch::add_to_linker::<_, Own>(linker, |guest| guest)?;
    wasi::keyvalue0_2_0_draft2::store::add_to_linker::<_, Own>(linker, |guest| guest)?;
    wasi::keyvalue0_2_0_draft2::atomics::add_to_linker::<_, Own>(linker, |guest| guest)?;
    wasi::keyvalue0_2_0_draft2::batch::add_to_linker::<_, Own>(linker, |guest| guest)?;
    wasi::blobstore::types::add_to_linker::<_, Own>(linker, |guest| guest)?;
    wasi::blobstore::container::add_to_linker::<_, Own>(linker, |guest| guest)?;
    wasi::blobstore::blobstore::add_to_linker::<_, Own>(linker, |guest| guest)?;
    wasi::config::store::add_to_linker::<_, Own>(linker, |guest| guest)?;
    wasi::logging::logging::add_to_linker::<_, Own>(linker, |guest| guest)?;
    ambient::add_older_logging(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)
}
