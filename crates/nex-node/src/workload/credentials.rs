//! Credentials of services that ask for host services: what their environment says of NATS.
//!
//! ```text
//! the deploy's own (--hs_url, --hs_jwt, --hs_seed)  ->  as they are
//! else host_services.credentials                    ->  a user of that account, made for this start of the service
//! else                                              ->  the deploy is refused
//! ```
//! Promises: never the node's own credentials, and no password of its server's URL; a user that is made here may use its
//! workload's own buckets and the subjects that the configuration names for its namespace, and nothing else.
//!
//! A user may neither make streams nor consumers: a stream can copy another's, and a consumer can be told to deliver to
//! any subject of the account, so either would lead out of the namespace. The node makes the buckets beforehand.
//! `allow_consumers` gives that up for those who trust their services and want to list keys and read objects.

use nex_client::connection::Settings;
use nex_host_services::{Buckets, HostServices, Tenant};
use nex_identity::{Issuer, Permissions, UserKey};
use nex_protocol::Environment;
use nex_protocol::control::deploy::NatsConnection;

use super::unix_now;
use crate::config::ServiceCredentials;

/// Where to connect to; several with commas between.
const SERVER: &str = "NEX_HOSTSERVICES_NATS_SERVER";
/// The user's JWT.
const JWT: &str = "NEX_HOSTSERVICES_NATS_USER_JWT";
/// The seed of the user's key.
const SEED: &str = "NEX_HOSTSERVICES_NATS_USER_SEED";
/// What reply subjects have to begin with.
const INBOX: &str = "NEX_HOSTSERVICES_NATS_INBOX_PREFIX";
/// The workload's buckets.
const KV_BUCKET: &str = "NEX_HOSTSERVICES_KV_BUCKET";
const OBJECT_BUCKET: &str = "NEX_HOSTSERVICES_OBJECTSTORE_BUCKET";

/// Puts the deploy's own connection into an environment. `node` is where the node is connected to.
pub(super) fn given(environment: &mut Environment, own: &NatsConnection, node: &str) -> Result<(), String> {
    if own.nats_user_jwt.is_empty() != own.nats_user_seed.is_empty() {
        return Err("the workload connection needs both a user JWT and its seed, or neither".to_owned());
    }
    let servers = if own.nats_url.is_empty() { node } else { &own.nats_url };
    // What the deploy says is the deploy's own business, a password in its URL included; the node's is not.
    environment.set(SERVER, if own.nats_url.is_empty() { shown(servers) } else { servers.to_owned() });
    if !own.nats_user_jwt.is_empty() {
        environment.set(JWT, own.nats_user_jwt.as_str());
        environment.set(SEED, own.nats_user_seed.as_str());
    }
    Ok(())
}

/// Makes a user for a tenant and puts it into an environment. `servers` is where its buckets are.
pub(super) async fn made(
    environment: &mut Environment,
    credentials: &ServiceCredentials,
    services: &HostServices,
    tenant: &Tenant,
    servers: &str,
) -> Result<(), String> {
    if tenant.namespace.as_str().starts_with('_') {
        return Err(
            "subjects that begin with '_' are NATS' own, so a namespace that does gets no credentials".to_owned()
        );
    }
    let signer = Issuer::load(&credentials.account_seed_file).map_err(|error| error.to_string())?;
    let buckets = services.provision(tenant).await.map_err(|failure| failure.to_string())?;
    let key = UserKey::generate();
    // Its own, so that nobody else of the account reads its replies and it reads nobody else's.
    let inbox = format!("_INBOX_{}", key.public_key());
    let permissions = permissions(credentials, tenant, &buckets, &inbox);
    let now = i64::try_from(unix_now()).unwrap_or(i64::MAX);
    let expires = match credentials.ttl.as_secs() {
        0 => 0,
        seconds => now.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX)),
    };
    let name = format!("{}.{}", tenant.namespace, tenant.workload);
    let user = key
        .user(&name, &signer, credentials.account.as_deref(), &permissions, now, expires)
        .map_err(|error| error.to_string())?;
    environment.set(SERVER, shown(servers));
    environment.set(JWT, user.jwt);
    environment.set(SEED, user.seed.as_str());
    environment.set(INBOX, inbox);
    if let Some(bucket) = buckets.kv {
        environment.set(KV_BUCKET, bucket);
    }
    if let Some(bucket) = buckets.object_store {
        environment.set(OBJECT_BUCKET, bucket);
    }
    Ok(())
}

/// Servers without user and password.
fn shown(servers: &str) -> String {
    Settings { servers: servers.to_owned(), ..Settings::default() }.shown_servers()
}

fn permissions(credentials: &ServiceCredentials, tenant: &Tenant, buckets: &Buckets, inbox: &str) -> Permissions {
    let fill = |subjects: &[String]| -> Vec<String> {
        subjects
            .iter()
            .map(|subject| ServiceCredentials::subject(subject, &tenant.namespace, &tenant.workload))
            .collect()
    };
    let mut publish = fill(&credentials.publish);
    let mut subscribe = fill(&credentials.subscribe);
    subscribe.push(format!("{inbox}.>"));
    let mut streams = Vec::new();
    if let Some(bucket) = &buckets.kv {
        publish.push(format!("$KV.{bucket}.>"));
        streams.push(format!("KV_{bucket}"));
    }
    if let Some(bucket) = &buckets.object_store {
        publish.push(format!("$O.{bucket}.>"));
        // An object that is replaced or removed leaves chunks, which its client purges.
        publish.push(format!("$JS.API.STREAM.PURGE.OBJ_{bucket}"));
        streams.push(format!("OBJ_{bucket}"));
    }
    for stream in streams {
        publish.push(format!("$JS.API.STREAM.INFO.{stream}"));
        publish.push(format!("$JS.API.DIRECT.GET.{stream}"));
        publish.push(format!("$JS.API.DIRECT.GET.{stream}.>"));
        if credentials.allow_consumers {
            publish.push(format!("$JS.API.CONSUMER.*.{stream}"));
            publish.push(format!("$JS.API.CONSUMER.*.{stream}.>"));
            publish.push(format!("$JS.FC.{stream}.>"));
            publish.push(format!("$JS.ACK.{stream}.>"));
        }
    }
    Permissions { publish, subscribe }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(namespace: &str) -> Tenant {
        Tenant { namespace: namespace.parse().unwrap(), workload: "work".parse().unwrap() }
    }

    #[test]
    fn a_user_reaches_its_own_and_no_consumer() {
        let buckets = Buckets { kv: Some("b".into()), object_store: Some("o".into()) };
        let credentials = ServiceCredentials::default();
        let made = permissions(&credentials, &tenant("space"), &buckets, "_INBOX_U");
        assert_eq!(made.subscribe, ["space.>", "_INBOX_U.>"]);
        assert!(made.publish.contains(&"space.>".to_owned()) && made.publish.contains(&"$KV.b.>".to_owned()));
        let leads_out = ["CONSUMER", "STREAM.CREATE", "STREAM.UPDATE", "$SYS", "$NEX", "_INBOX."];
        assert!(!made.publish.iter().any(|subject| leads_out.iter().any(|bad| subject.contains(bad))), "{made:?}");
        let consumers = ServiceCredentials { allow_consumers: true, ..credentials };
        let made = permissions(&consumers, &tenant("space"), &buckets, "_INBOX_U");
        assert!(made.publish.contains(&"$JS.API.CONSUMER.*.KV_b.>".to_owned()));
    }

    #[test]
    fn the_deploys_own_connection_is_given_as_it_is_and_the_nodes_password_is_not() {
        let mut environment = Environment::default();
        let own = NatsConnection { nats_user_jwt: "j".into(), nats_user_seed: "s".into(), ..NatsConnection::default() };
        given(&mut environment, &own, "nats://node:secret@10.0.0.1:4222").unwrap();
        assert_eq!(environment.get(SERVER), Some("nats://10.0.0.1:4222"));
        assert_eq!((environment.get(JWT), environment.get(SEED)), (Some("j"), Some("s")));
        let half = NatsConnection { nats_user_seed: "s".into(), ..NatsConnection::default() };
        assert!(given(&mut environment, &half, "nats://a").is_err());
    }

    #[tokio::test]
    async fn a_namespace_of_nats_own_subjects_gets_none() {
        let services = HostServices::in_memory(nex_host_services::Settings::default());
        let refused = made(
            &mut Environment::default(),
            &ServiceCredentials::default(),
            &services,
            &tenant("_INBOX"),
            "nats://127.0.0.1:4222",
        )
        .await;
        assert!(refused.unwrap_err().contains("NATS' own"));
    }
}
