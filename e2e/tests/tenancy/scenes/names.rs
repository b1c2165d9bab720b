//! Names that try to be more than one token, the command line, and accounts that help themselves.

use std::time::Duration;

use anyhow::Result;
use nex_client::{Client, Deployment};
use nex_e2e::{PATIENCE, User, body, unix_now};
use nex_identity::claims::{Action, Scope};
use nex_identity::{Claims, Issuer, XKeyPair};
use nex_protocol::WorkloadType::Native;
use nex_protocol::control::deploy::DeployRequest;
use nex_protocol::{Code, Location, subject};

use super::{ECHO, deployed, refused_with};
use crate::party::{Party, Refusal};
use crate::stage::{Layout, Stage, with_credentials};

pub(crate) async fn no_name_leads_into_another_namespace(stage: &Stage) -> Result<()> {
    let Stage { admin, shop, lab, node, .. } = stage;
    let sha256 = stage.put(shop, "echo", ECHO).await?;
    let location = shop.location("echo")?.to_string();
    let scope = Scope {
        action: Action::Deploy,
        node: node.id(),
        namespace: Some("shop"),
        location: Some(&location),
        workload: None,
    };
    let xkey = shop.info().await?.public_xkey;
    let good = shop.function("echo", &sha256)?;
    let good = good.request(&shop.issuer, &shop.publisher, shop.namespace(), node.id(), &xkey)?;
    for name in ["lab.echo", "*", ">", "echo.>", "../lab", "a b", "echo\r\nPUB x 0", "", "écho"] {
        let claim = Claims::deploy(name, &sha256).bound(&scope, unix_now()).sign(&shop.issuer, unix_now())?;
        let request = DeployRequest { workload_jwt: claim, ..good.clone() };
        let refused = shop.nex.deploy(&request, node.id()).await.unwrap_err();
        assert_eq!(refused.code(), Some(Code::InvalidClaim), "{name:?}: {refused}");
    }
    // A claim for one namespace is none in another.
    let elsewhere = lab.nex.deploy(&good, node.id()).await.unwrap_err();
    assert_eq!(elsewhere.code(), Some(Code::ArtifactUnavailable), "{elsewhere}");
    // Nor do triggers lead out: to the calls of another, to the control interface, to replies.
    deployed(stage, lab, "echo", ECHO).await?;
    for trigger in ["$NEX.DEPLOY.>", "$NEX.>", "_INBOX.lab.>", "*.>", "*.echo", ">", "$JS.API.>", "$O.lab.>"] {
        let mut deployment = shop.function("echo", &sha256)?;
        deployment.trigger_subjects = vec![trigger.parse()?];
        assert_eq!(refused_with(shop.send(&deployment)).await?.0, Code::TriggerDenied, "{trigger}");
    }
    for trigger in ["lab.echo", "lab.>"] {
        let mut deployment = shop.function("echo", &sha256)?;
        deployment.trigger_subjects = vec![trigger.parse()?];
        match stage.layout {
            Layout::Users => {
                let (code, text) = refused_with(shop.send(&deployment)).await?;
                assert_eq!(code, Code::StartFailed, "{trigger}: {text}");
                assert!(text.contains("cannot subscribe"), "{text}");
            }
            // It is a subject of its own account.
            Layout::Accounts | Layout::Operator => {
                let thief = shop.send(&deployment).await?;
                assert_eq!(body(&lab.call("lab.echo", "mine").await?)?, b"mine");
                assert_eq!(lab.is_refused("lab.other", "").await?, Refusal::NobodyThere);
                assert_eq!(body(&shop.call("lab.echo", "own").await?)?, b"own");
                shop.stop(&thief).await?;
            }
        }
    }
    // On the node's own connection there are no triggers, for they would be those of all.
    let mut deployment = shop.function("echo", &sha256)?;
    (deployment.trigger_connection, deployment.host_services) = (None, None);
    assert_eq!(refused_with(shop.send(&deployment)).await?.0, Code::StartFailed);
    assert_eq!(body(&lab.call("lab.echo", "mine").await?)?, b"mine");

    // Who may do everything deploys into `Shop`, which is not `shop`.
    let upper = Client::new(admin.nats.clone(), "Shop".parse()?, PATIENCE);
    let shell = std::fs::read("/bin/sh")?;
    let sha256 = stage.put_in_common("sh", &shell).await?;
    let mut service = Deployment::new("svc".parse()?, Native, Location::new("common", "sh")?, sha256);
    service.argv = vec!["-c".to_owned(), "exec sleep 1000".to_owned()];
    let request = service.request(&admin.issuer, &admin.publisher, upper.namespace(), node.id(), &xkey)?;
    let svc = upper.deploy(&request, node.id()).await?;
    assert_eq!(upper.node_info(node.id()).await?.machines[0].id, svc.id);
    assert_eq!(shop.workloads().await?, Vec::<String>::new());
    // Silence is waited for as long as the client is told to.
    let brief = Client::new(shop.nats.clone(), shop.namespace().clone(), Duration::from_millis(500));
    assert!(brief.workload_ping(None).await?.is_empty());
    Ok(())
}

/// What people do, by the programs they have.
pub(crate) async fn the_command_line_serves_a_tenant(stage: &Stage) -> Result<()> {
    let Stage { shop, lab, node, .. } = stage;
    let sha256 = stage.put(shop, "echo", ECHO).await?;
    let user = User::at(stage.server.url())?;
    let connection = stage.connection_flags();
    let nex = |namespace: &str, arguments: &[&str]| -> Vec<String> {
        let flags = ["--namespace", namespace];
        let arguments = flags.iter().chain(arguments).map(|argument| (*argument).to_owned());
        connection.iter().cloned().chain(arguments).collect()
    };
    let home = user.home.path();
    Issuer::load_or_create(&home.join("issuer.nk"))?;
    XKeyPair::load_or_create(&home.join("publisher.xk"))?;
    let json = async |arguments: &[&str]| {
        let arguments = nex("shop", arguments);
        user.json(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    assert_eq!(json(&["node", "ls", "--json"]).await[0]["node_id"], node.id());
    let mut run =
        vec!["run", "nats://shop/echo", node.id(), "--issuer", "issuer.nk", "--xkey", "publisher.xk", "--json"];
    run.extend(["--name", "echo", "--type", "v8", "--trigger_subject", "shop.echo"]);
    let functions = stage.function_flags();
    run.extend(functions.iter().map(String::as_str));
    if stage.layout == Layout::Users {
        run.extend(["--sha256", &sha256]);
    }
    let echo = json(&run).await;
    assert_eq!(body(&shop.call("shop.echo", "typed").await?)?, b"typed");
    let info = json(&["node", "info", node.id(), "--json"]).await;
    assert_eq!(info["machines"][0]["id"], echo["id"]);
    assert!(lab.workloads().await?.is_empty());
    let stopped = json(&["stop", node.id(), "echo", "--issuer", "issuer.nk", "--json"]).await;
    assert_eq!(stopped["id"], echo["id"]);

    // The same words about another namespace: nobody answers, or the time runs out because the server let nothing
    // through.
    let elsewhere = nex("lab", &["--timeout", "500ms", "node", "info", node.id()]);
    let complaint = user.complains(&elsewhere.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(complaint.contains("no node answered") || complaint.contains("did not answer INFO"), "{complaint}");
    Ok(())
}

/// Operator mode: imports are written by who writes an account, and have to be permitted by who exports.
pub(crate) async fn an_account_that_imports_what_it_was_not_given_gets_nothing(stage: &Stage) -> Result<()> {
    let mut wire = stage.admin.listen("$NEX.INFO.lab.>").await?;
    let subject = subject::info("lab", stage.node.id());
    assert_eq!(stage.thieves.len(), 2);
    for thief in &stage.thieves {
        match Party::connect(&stage.server.url(), with_credentials(thief)?, "thief", stage.node.id()).await {
            Ok(thief) => assert_eq!(thief.is_refused(&subject, "").await?, Refusal::NobodyThere),
            // An account that claims what is not so is none at all.
            Err(error) => assert!(format!("{error:#}").contains("authorization violation"), "{error:#}"),
        }
    }
    assert_eq!(wire.heard(&stage.admin).await?, Vec::<String>::new());
    stage.lab.info().await?;
    wire.next().await?;
    Ok(())
}
