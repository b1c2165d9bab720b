//! `nex run`: the production form. The object is in its bucket already, keys are given, and so is the node.

use anyhow::Result;
use nex_client::{Bucket, Deployment};
use nex_identity::{Issuer, XKeyPair};

use super::session::Session;
use super::{node_reference, workload};
use crate::args::{GlobalArgs, RunArgs};

pub(super) async fn run(global: &GlobalArgs, args: &RunArgs) -> Result<()> {
    workload::check(args.r#type, &args.workload)?;
    let issuer = Issuer::load(&args.issuer)?;
    let publisher = XKeyPair::load(&args.xkey)?;
    let session = Session::open(global).await?;
    let client = &session.client;
    let jsdomain = session.jsdomain.as_deref();
    let node = node_reference::resolve(client, &args.node).await?;
    let info = client.node_info(&node).await?;
    let sha256 = match &args.sha256 {
        Some(sha256) => sha256.clone(),
        None => {
            let bucket = Bucket::open(client.nats(), jsdomain, args.location.bucket()).await?;
            bucket.info(args.location.key()).await?.sha256
        }
    };
    let mut deployment = Deployment::new(args.name.clone(), args.r#type, args.location.clone(), sha256);
    workload::describe(&mut deployment, &args.workload, &args.environment, jsdomain)?;
    deployment.description.clone_from(&args.description);
    let request = deployment.request(&issuer, &publisher, client.namespace(), &node, &info.public_xkey)?;
    let response = client.deploy(&request, &node).await?;
    workload::accepted(&response, &node, args.json)
}
