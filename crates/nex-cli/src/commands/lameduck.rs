//! `nex lameduck`: sends a node away. It takes no new work, its workloads go on for a while, then it leaves.

use std::time::Duration;

use anyhow::Result;
use nex_client::lame_duck_request;
use nex_identity::Issuer;

use super::node_reference;
use super::session::Session;
use crate::args::{GlobalArgs, LameDuckArgs};
use crate::{keys, output};

pub(super) async fn run(global: &GlobalArgs, args: &LameDuckArgs) -> Result<()> {
    let issuer = match &args.issuer {
        Some(file) => Some(Issuer::load(file)?),
        // A node that trusts everybody wants no signature: nobody has to have a key for it.
        None => keys::issuer_file().ok().filter(|file| file.exists()).map(|file| Issuer::load(&file)).transpose()?,
    };
    let session = Session::open(global).await?;
    let node = node_reference::resolve(&session.client, &args.node).await?;
    let request = lame_duck_request(issuer.as_ref(), &node, args.delay)?;
    let response = session.client.lame_duck(&request, &node).await?;
    if args.json {
        return output::json(&response);
    }
    output::line(format!("Command to enter lame duck mode issued to {node}"))?;
    if response.leaves_in_ms > 0 {
        let delay = Duration::from_millis(response.leaves_in_ms);
        output::line(format!("It takes no new work, and ends its workloads and leaves in {delay:?}"))?;
        if args.delay.is_some_and(|asked| asked < delay) {
            output::line(
                "(only issuers on a node's list, valid_issuers, can have it leave sooner than it is configured to)",
            )?;
        }
    }
    Ok(())
}
