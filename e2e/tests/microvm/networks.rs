//! Machines with a network: what a service in one reaches, and what it does not.
//!
//! Each test runs once more in a network namespace of its own, which plays the host: nothing of the real one is touched.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use anyhow::{Context, Result};
use nex_e2e::body;
use nex_e2e::machines::{boot, intruder, line, machines, pieces};
use nex_protocol::WorkloadType;
use nex_testkit::examples;
use serde_json::json;

/// Set in the process that is in the namespace.
const INSIDE: &str = "NEX_TEST_IN_NAMESPACE";

/// The host as guests see it.
const HOST: &str = "192.0.0.1";

/// Whether this process is in a namespace of its own. If not, the test is run in one, by another process.
fn alone(test: &str) -> Result<bool> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(true);
    }
    let missing = ["nft", "ip", "unshare"].into_iter().find(|name| nex_testkit::program("NEX_NONE", name).is_none());
    if let Some(missing) = missing.filter(|_| rustix::process::geteuid().is_root()) {
        eprintln!("SKIPPED: networks take {missing}");
        return Ok(false);
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: networks take root");
        return Ok(false);
    }
    let status = Command::new("unshare")
        .args(["--net", "--", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .context("unshare")?;
    anyhow::ensure!(status.success(), "{test} in a namespace of its own: {status}");
    Ok(false)
}

/// A port of the host that takes connections.
fn listener() -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

#[tokio::test]
async fn a_service_reaches_what_is_opened_and_nothing_else() -> Result<()> {
    let Some(pieces) = pieces() else { return Ok(()) };
    if !alone("networks::a_service_reaches_what_is_opened_and_nothing_else")? {
        return Ok(());
    }
    let ((_opened, open), (_other, closed)) = (listener()?, listener()?);
    let egress = json!({"allow": [format!("host:{open}")]});
    let (world, mut logs) = machines(pieces, json!({"network": "builtin", "egress": egress})).await?;
    // Another machine has the first of these addresses on the host's side, and the second in its namespace.
    let places = [
        format!("{HOST}:{closed}"),
        format!("127.0.0.1:{closed}"),
        format!("192.168.127.0:{closed}"),
        format!("192.168.127.1:{closed}"),
        "192.168.127.3:22".to_owned(),
        "169.254.169.254:80".to_owned(),
        "10.0.0.1:4222".to_owned(),
        "172.16.0.1:80".to_owned(),
    ];
    let reached = format!("{HOST}:{open}");
    let mut tries = vec!["connect", reached.as_str()];
    tries.extend(places.iter().flat_map(|place| ["connect", place.as_str()]));
    tries.extend(["address", "stay"]);
    intruder(&world, pieces, "tries", &tries).await?;
    assert_eq!(line(&mut logs, &reached).await?.split(' ').nth(1), Some("done"), "what is opened is reached");
    for place in &places {
        let said = line(&mut logs, place).await?;
        assert!(said.contains(": refused"), "{said}");
    }
    let address = line(&mut logs, "address").await?;
    assert!(address.contains("eth0"), "{address}");
    assert_eq!(world.node.terminate().await?.code(), Some(0));
    let links = Command::new("ip").args(["-o", "link"]).output()?;
    let left = String::from_utf8_lossy(&links.stdout).lines().count();
    let tables = Command::new("nft").args(["list", "tables"]).output()?;
    assert_eq!((left, tables.stdout.len()), (1, 0), "only loopback is left: {links:?} {tables:?}");
    Ok(())
}

#[tokio::test]
async fn the_echo_service_serves_from_a_machine() -> Result<()> {
    let Some(pieces) = pieces() else { return Ok(()) };
    if !alone("networks::the_echo_service_serves_from_a_machine")? {
        return Ok(());
    }
    let (outside, port) = listener()?;
    let egress = json!({"allow": [format!("host:{port}")]});
    let (world, _logs) = machines(pieces, json!({"network": "builtin", "egress": egress})).await?;
    // The tests' server listens on loopback only.
    let server = world.server.port();
    outside.set_nonblocking(true)?;
    let outside = tokio::net::TcpListener::from_std(outside)?;
    tokio::spawn(async move {
        while let Ok((mut guest, _)) = outside.accept().await {
            tokio::spawn(async move {
                let mut nats = tokio::net::TcpStream::connect(("127.0.0.1", server)).await?;
                tokio::io::copy_bidirectional(&mut guest, &mut nats).await
            });
        }
    });
    let sha256 = world.put("echoservice", &std::fs::read(examples()?.echo_service()?)?).await?;
    let mut deployment = world.deployment("echoservice", WorkloadType::Native, &sha256)?;
    deployment.environment.set("NATS_URL", format!("nats://{HOST}:{port}"));
    world.send(&deployment).await?;
    nex_e2e::eventually_within(boot(), "the service answers", || async {
        world
            .nats
            .request("svc.echo", "hello".into())
            .await
            .is_ok_and(|reply| body(&reply).is_ok_and(|b| b == b"hello"))
    })
    .await?;
    assert_eq!(world.node.terminate().await?.code(), Some(0));
    Ok(())
}
