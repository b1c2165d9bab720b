//! `nex devrun`: a file, running. Finds out what it is, chooses a node, uploads, replaces the older one, deploys.

use std::path::Path;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use nex_client::artifact::{DEFAULT_BUCKET_BYTES, DEVELOPMENT_BUCKET};
use nex_client::{Artifact, Bucket, Client, ClientError, Deployment, stop_request};
use nex_identity::Issuer;
use nex_protocol::control::info::MachineSummary;
use nex_protocol::{Code, Location, WorkloadName};

use super::session::Session;
use super::{placement, workload};
use crate::args::{DevrunArgs, GlobalArgs};
use crate::artifact_kind::ArtifactKind;
use crate::keys::OwnKeys;
use crate::output;

const DESCRIPTION: &str = "Workload published in devmode";

pub(super) async fn run(global: &GlobalArgs, args: &DevrunArgs) -> Result<()> {
    // Everything that can be wrong here is found before anything is sent.
    let kind = ArtifactKind::of_file(&args.file, args.r#type)?;
    workload::check(kind.workload_type, &args.workload)?;
    let name = workload_name(args)?;
    let artifact = Artifact::of_file(&args.file)?;
    let location = Location::new(DEVELOPMENT_BUCKET, name.as_str())?;
    let mut deployment = Deployment::new(name, kind.workload_type, location, &artifact.sha256);
    let keys = OwnKeys::load_or_create()?;
    if !args.json {
        for line in &keys.told {
            output::line(line)?;
        }
    }

    let session = Session::open(global).await?;
    let client = &session.client;
    let jsdomain = session.jsdomain.as_deref();
    workload::describe(&mut deployment, &args.workload, &args.environment, jsdomain)?;
    deployment.description = DESCRIPTION.to_owned();
    let placement = placement::choose(client, kind, &deployment.name, args.replaces()).await?;
    let node = &placement.node.node_id;

    let max_bytes = args.bucketmaxbytes.unwrap_or(DEFAULT_BUCKET_BYTES);
    let bucket = Bucket::open_or_create(client.nats(), jsdomain, DEVELOPMENT_BUCKET, max_bytes).await?;
    let bar = progress_bar(&args.file, artifact.size);
    let uploaded = bucket.upload(deployment.location.key(), &args.file, &artifact, |bytes| bar.inc(bytes)).await;
    bar.finish_and_clear();
    uploaded?;

    let request =
        deployment.request(&keys.issuer, &keys.publisher, client.namespace(), node, &placement.node.target_xkey)?;
    let older = Older { client, issuer: &keys.issuer, node, machines: &placement.replaced };
    let response = if kind.workload_type.is_function() {
        // The older one goes on answering until the new one does: a mistake in the new one takes nothing away.
        match client.deploy(&request, node).await {
            Err(error) if !older.machines.is_empty() && wants_room(&error) => {
                older.stop().await?;
                client.deploy(&request, node).await?
            }
            answer => {
                let response = answer?;
                older.stop().await?;
                response
            }
        }
    } else {
        // Two copies of a service would quarrel about what it listens on.
        older.stop().await?;
        client.deploy(&request, node).await?
    };
    workload::accepted(&response, node, args.json)
}

/// Whether a deploy was refused for what the older workload takes.
fn wants_room(error: &ClientError) -> bool {
    matches!(error.code(), Some(Code::WorkloadLimit | Code::TotalBytesLimit | Code::Duplicate))
}

/// The workloads that the new one replaces.
struct Older<'a> {
    client: &'a Client,
    issuer: &'a Issuer,
    node: &'a str,
    machines: &'a [MachineSummary],
}

impl Older<'_> {
    async fn stop(&self) -> Result<()> {
        for machine in self.machines {
            replace(self.client, self.issuer, self.node, machine).await?;
        }
        Ok(())
    }
}

/// The name given, else the file's name without dots (`echofunction.js` is `echofunctionjs`).
fn workload_name(args: &DevrunArgs) -> Result<WorkloadName> {
    if let Some(name) = &args.name {
        return name.parse().context("--name");
    }
    let file = args.file.file_name().unwrap_or_default().to_string_lossy().replace('.', "");
    file.parse().context("the file's name makes no workload name, give one with --name")
}

async fn replace(client: &Client, issuer: &Issuer, node: &str, machine: &MachineSummary) -> Result<()> {
    let name = &machine.workload.name;
    let request = stop_request(issuer, client.namespace(), node, &machine.id, name)?;
    client.stop(&request, node).await.with_context(|| {
        format!(
            "workload '{name}' runs on node {node} already (id {}) and could not be replaced; choose another --name or \
             use --no-stop",
            machine.id
        )
    })?;
    tracing::info!(workload = name, id = machine.id, "stopped the older workload of the same name");
    Ok(())
}

/// On standard error, and only for people: the bar hides itself when that is no terminal.
fn progress_bar(file: &Path, size: u64) -> ProgressBar {
    let bar = ProgressBar::new(size);
    let template = "Uploading {msg} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(file.file_name().unwrap_or_default().to_string_lossy().into_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn name(line: &str) -> Result<String> {
        let Command::Devrun(args) = Cli::parse_from(line.split(' ')).command else { panic!("{line}") };
        workload_name(&args).map(String::from)
    }

    #[test]
    fn the_name_is_that_of_the_file_without_dots() {
        assert_eq!(name("nex devrun ../x/echofunction.js").unwrap(), "echofunctionjs");
        assert_eq!(name("nex devrun a.js --name other").unwrap(), "other");
        let error = format!("{:#}", name("nex devrun ä.js").unwrap_err());
        assert!(error.contains("--name"), "{error}");
        assert!(name("nex devrun a.js --name a.b").is_err());
    }
}
