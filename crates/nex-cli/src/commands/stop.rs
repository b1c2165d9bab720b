//! `nex stop`: ends a workload, signed by the issuer who deployed it.

use anyhow::{Result, bail};
use nex_client::stop_request;
use nex_identity::Issuer;
use nex_protocol::control::info::MachineSummary;

use super::node_reference;
use super::session::Session;
use crate::args::{GlobalArgs, StopArgs};
use crate::{keys, output};

pub(super) async fn run(global: &GlobalArgs, args: &StopArgs) -> Result<()> {
    let issuer = match &args.issuer {
        Some(file) => Issuer::load(file)?,
        None => Issuer::load(&keys::issuer_file()?)?,
    };
    let session = Session::open(global).await?;
    let client = &session.client;
    let node = node_reference::resolve(client, &args.node).await?;
    let (id, name) = match &args.name {
        Some(name) => (args.workload.clone(), name.to_string()),
        None => {
            let machines = client.node_info(&node).await?.machines;
            let machine = choose(&machines, &args.workload, client.namespace().as_str())?;
            (machine.id.clone(), machine.workload.name.clone())
        }
    };
    let mut response = client.stop(&stop_request(&issuer, client.namespace(), &node, &id, &name)?, &node).await?;
    if response.name.is_empty() {
        response.name = name;
    }
    if args.json {
        return output::json(&response);
    }
    output::line(format!("{}Workload '{}' stopped.", output::emoji("✅"), response.name))
}

/// The workload that is meant: by id, else by a name that only one has.
fn choose<'a>(machines: &'a [MachineSummary], reference: &str, namespace: &str) -> Result<&'a MachineSummary> {
    if let Some(machine) = machines.iter().find(|machine| machine.id == reference) {
        return Ok(machine);
    }
    let named: Vec<&MachineSummary> = machines.iter().filter(|machine| machine.workload.name == reference).collect();
    match named.as_slice() {
        [one] => Ok(one),
        [] => bail!(
            "no workload '{reference}' in namespace {namespace} on this node: `nex node info` lists them, --namespace \
             chooses another namespace"
        ),
        several => {
            let ids: Vec<&str> = several.iter().map(|machine| machine.id.as_str()).collect();
            bail!("{} workloads are called '{reference}': say which by its id ({})", ids.len(), ids.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nex_protocol::control::info::WorkloadSummary;

    fn machine(id: &str, name: &str) -> MachineSummary {
        let workload = WorkloadSummary { name: name.into(), ..WorkloadSummary::default() };
        MachineSummary { id: id.into(), workload, ..MachineSummary::default() }
    }

    #[test]
    fn ids_come_before_names_and_names_must_be_unique() {
        let machines = [machine("1", "echo"), machine("2", "twin"), machine("3", "twin"), machine("echo", "x")];
        assert_eq!(choose(&machines, "2", "default").unwrap().id, "2");
        assert_eq!(choose(&machines, "echo", "default").unwrap().id, "echo");
        assert_eq!(choose(&machines, "x", "default").unwrap().id, "echo");
        assert!(choose(&machines, "twin", "default").unwrap_err().to_string().contains("(2, 3)"));
        assert!(choose(&machines, "no", "prod").unwrap_err().to_string().contains("namespace prod"));
    }
}
