//! What tenants do, and what they try. A scene that denies something also shows that nothing has changed by it.

mod names;
mod own_and_others;
mod storage;

use anyhow::{Context, Result};
use nex_client::ClientError;
use nex_protocol::Code;
use nex_protocol::control::deploy::RunResponse;

use crate::party::Party;
use crate::stage::Stage;

pub(crate) use names::*;
pub(crate) use own_and_others::*;
pub(crate) use storage::*;

const ECHO: &str = "(subject, payload) => { console.log('called on ' + subject); return payload; }";

/// Uploads and deploys a function of the tenant that answers on `<namespace>.<name>`.
async fn deployed(stage: &Stage, tenant: &Party, name: &str, source: &str) -> Result<RunResponse> {
    let sha256 = stage.put(tenant, name, source).await?;
    tenant.send(&tenant.function(name, &sha256)?).await
}

/// What a deploy was refused with.
async fn refused_with(deploy: impl Future<Output = Result<RunResponse>>) -> Result<(Code, String)> {
    let error = deploy.await.err().context("the deploy was not refused")?;
    let refused = error.downcast_ref::<ClientError>().context("not refused by the node")?;
    Ok((refused.code().with_context(|| refused.to_string())?, refused.to_string()))
}
