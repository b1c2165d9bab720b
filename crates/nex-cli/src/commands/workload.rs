//! What `run`, `devrun` and `stop` have in common: the workload's description, and how its acceptance is told.

use anyhow::{Result, bail};
use nex_client::Deployment;
use nex_protocol::control::deploy::{NatsConnection, RunResponse};
use nex_protocol::{Environment, WorkloadType};
use serde::Serialize;

use crate::args::WorkloadArgs;
use crate::{output, words};

/// Puts what the flags say into a deployment.
pub(super) fn describe(
    deployment: &mut Deployment,
    args: &WorkloadArgs,
    environment: &[(String, String)],
    jsdomain: Option<&str>,
) -> Result<()> {
    deployment.environment = environment.iter().cloned().collect::<Environment>();
    if let Some(key) = deployment.environment.invalid_key() {
        bail!("the environment variable '{key}' cannot be set: no '=' or NUL in its name, no NUL in its value");
    }
    for text in &args.argv {
        deployment.argv.extend(words::split(text)?);
    }
    deployment.essential = args.essential;
    deployment.limits = args.limits.limits();
    deployment.trigger_subjects.clone_from(&args.trigger_subjects);
    deployment.jsdomain = jsdomain.unwrap_or_default().to_owned();
    deployment.wants_host_services = args.host_services.wanted;
    deployment.host_services = args.host_services.url.as_ref().map(|url| NatsConnection {
        nats_url: url.clone(),
        nats_user_jwt: args.host_services.jwt.clone().unwrap_or_default(),
        nats_user_seed: args.host_services.seed.as_ref().map(|seed| seed.expose().to_owned()).unwrap_or_default(),
    });
    Ok(())
}

/// Refuses what no node would take, before anything is sent.
pub(super) fn check(workload_type: WorkloadType, args: &WorkloadArgs) -> Result<()> {
    if workload_type.is_function() && args.trigger_subjects.is_empty() {
        bail!("a {workload_type} function needs something that triggers it: give --trigger_subject SUBJECT");
    }
    if workload_type.is_function() && args.essential {
        bail!("--essential is for services; a {workload_type} function runs anew for every message anyway");
    }
    if workload_type.is_function() && !args.argv.is_empty() {
        bail!("--argv is for services; a {workload_type} function is given the subject and the message");
    }
    if !workload_type.is_function() && !args.trigger_subjects.is_empty() {
        bail!("--trigger_subject is for functions (v8, wasm); a service subscribes by itself");
    }
    if !workload_type.is_function() && args.limits.of_functions() {
        bail!(
            "--max_instances, --concurrency, --call_timeout and --idle_timeout are for functions (v8, wasm); a service \
             runs once, until it ends"
        );
    }
    Ok(())
}

#[derive(Serialize)]
struct Accepted<'a> {
    #[serde(flatten)]
    response: &'a RunResponse,
    node_id: &'a str,
}

/// Tells that a node took the workload.
pub(super) fn accepted(response: &RunResponse, node: &str, json: bool) -> Result<()> {
    if json {
        return output::json(&Accepted { response, node_id: node });
    }
    output::line(format!(
        "{}Workload '{}' accepted. You can now refer to this workload with ID: {} on node {node}",
        output::emoji("🚀"),
        response.name,
        response.id
    ))
}
