//! Keys, claims and sealed environments against those of the Go libraries.
//!
//! `fixtures/go.json` is made by `conformance/vectors` (jwt v2.5.7, nkeys v0.4.7): what is in it reads here, and what
//! we sign for the same key, time and content is the same token, letter by letter. `fixtures/nex.json` is made here, by
//! the ignored test at the end, and verified by `go run . verify` in `conformance/vectors`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nex_identity::{Claims, Issuer, NodeKey, XKeyPair};
use nex_protocol::Environment;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

const HASH: &str = "4d21ab53a1f5b8e14b3a4e9d6e1f2c8e4b7a0d5f9c3e6b1a8d7f2e5c4b9a0d3f";
const REQUEST: &str = "5f0c1f3e-6b1d-4f5a-9c3e-2d7b8a9e0f11";
const WORKLOAD: &str = "cq2b5l6g10l0a0v6rd70";
/// When the claims of `nex.json` were signed.
const SIGNED: i64 = 1_720_000_000;

#[derive(Deserialize)]
struct Key {
    seed: String,
    public: String,
}

#[derive(Deserialize)]
struct GoClaim {
    token: String,
    header: Box<RawValue>,
    body: Box<RawValue>,
}

#[derive(Deserialize)]
struct Sealed {
    sender: String,
    recipient: String,
    clear: String,
    sealed: String,
}

fn go<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    #[derive(Deserialize)]
    struct Fixture {
        made_by: String,
        vectors: BTreeMap<String, Box<RawValue>>,
    }
    let fixture: Fixture = serde_json::from_str(include_str!("fixtures/go.json")).unwrap();
    assert!(fixture.made_by.starts_with("conformance/vectors"));
    serde_json::from_str(fixture.vectors[name].get()).unwrap()
}

/// Reads a seed the way nex does: from a file.
fn load<K, E: std::fmt::Debug>(name: &str, load: impl Fn(&Path) -> Result<K, E>) -> (K, Key) {
    let key = go::<BTreeMap<String, Key>>("keys").remove(name).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, &key.seed).unwrap();
    (load(&path).unwrap(), key)
}

fn issuer() -> Issuer {
    load("issuer", Issuer::load).0
}

fn part(token: &str, index: usize) -> String {
    String::from_utf8(URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
}

fn data(members: &[(&str, Value)]) -> Map<String, Value> {
    members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// The claims of the fixture, as we would write them down before signing.
fn same_claims() -> [(&'static str, Claims); 5] {
    let name = data(&[("name", "echo".into()), ("hash", HASH.into())]);
    let all = data(&[("list", json!(["a"])), ("hash", HASH.into()), ("count", 3.into())]);
    [
        ("claim_deploy", Claims::deploy("echo", HASH)),
        ("claim_deploy_rc1", Claims { sub: REQUEST.into(), nats: name, ..Claims::default() }),
        ("claim_stop", Claims::stop("echo")),
        ("claim_stop_rc1", Claims::stop(WORKLOAD)),
        (
            "claim_all_fields",
            Claims {
                aud: "nex".into(),
                exp: 4_102_444_800,
                name: "a name".into(),
                nbf: 1_700_000_000,
                nats: all,
                ..Claims::stop("echo")
            },
        ),
    ]
}

#[test]
fn seeds_of_go_give_the_public_keys_of_go() {
    let (issuer, key) = load("issuer", Issuer::load);
    assert_eq!(issuer.public_key(), key.public);
    assert_eq!(issuer.pair().seed().unwrap(), key.seed);
    let (node, key) = load("node", NodeKey::load);
    assert_eq!(node.public_key(), key.public);
    assert_eq!(node.pair().seed().unwrap(), key.seed);
    for name in ["publisher", "node_xkey"] {
        let (xkey, key) = load(name, XKeyPair::load);
        assert_eq!(xkey.public_key(), key.public);
    }
}

#[test]
fn claims_of_go_verify_and_name_workload_and_artifact() {
    for (name, workload, hash) in [
        ("claim_deploy", "echo", Some(HASH)),
        ("claim_deploy_rc1", "echo", Some(HASH)),
        ("claim_stop", "echo", None),
        ("claim_stop_rc1", WORKLOAD, None),
        ("claim_all_fields", "echo", Some(HASH)),
        ("claim_version_1", "echo", Some(HASH)),
    ] {
        let claim: GoClaim = go(name);
        let body: Claims = serde_json::from_str(claim.body.get()).unwrap();
        let claims = Claims::verify(&claim.token, body.iat).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((claims.workload_name(), claims.hash()), (workload, hash), "{name}");
        assert_eq!(claims, body, "{name}");
        assert_eq!(claims.iss, issuer().public_key());
        assert!(claims.issued_by_account());
    }
}

#[test]
fn the_same_claims_at_the_same_time_are_the_same_token() {
    let issuer = issuer();
    for (name, claims) in same_claims() {
        let made: GoClaim = go(name);
        let issued: Claims = serde_json::from_str(made.body.get()).unwrap();
        let token = claims.sign(&issuer, issued.iat).unwrap();
        // Parts first: their difference can be read.
        assert_eq!(part(&token, 0), made.header.get(), "{name}");
        assert_eq!(part(&token, 1), made.body.get(), "{name}");
        assert_eq!(token, made.token, "{name}");
    }
}

#[test]
fn the_id_of_a_claim_depends_on_the_standard_claims_alone() {
    let id = |name| serde_json::from_str::<Claims>(go::<GoClaim>(name).body.get()).unwrap();
    let (deploy, stop) = (id("claim_deploy"), id("claim_stop"));
    assert_eq!((deploy.iat, &deploy.sub), (stop.iat, &stop.sub), "made in the same second: run `identity` again");
    assert_eq!(deploy.jti, stop.jti, "the data is not in it");
    let sign = |claims: Claims, at| Claims::verify(&claims.sign(&issuer(), at).unwrap(), at).unwrap().jti;
    assert_eq!(sign(Claims::deploy("echo", "other"), deploy.iat), deploy.jti);
    assert_ne!(sign(Claims::stop("echo"), deploy.iat + 1), deploy.jti);
    assert_ne!(sign(Claims::stop("echo2"), deploy.iat), deploy.jti);
}

#[test]
fn a_claim_of_go_with_another_body_or_signature_is_refused() {
    let (deploy, stop): (GoClaim, GoClaim) = (go("claim_deploy"), go("claim_stop"));
    let (signed, _) = deploy.token.rsplit_once('.').unwrap();
    let (_, signature) = stop.token.rsplit_once('.').unwrap();
    assert!(Claims::verify(&format!("{signed}.{signature}"), SIGNED).is_err());
    // The signature of version 1 covers the body alone, that of version 2 the header too: neither stands for the other.
    let old = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"ed25519"}"#);
    let (_, rest) = deploy.token.split_once('.').unwrap();
    assert!(Claims::verify(&format!("{old}.{rest}"), SIGNED).is_err());
}

#[test]
fn environments_sealed_by_go_open_here() {
    let (node, _) = load("node_xkey", XKeyPair::load);
    let boxes: BTreeMap<String, Sealed> = go("sealed");
    assert_eq!(boxes.len(), 3);
    for (name, made) in boxes {
        assert_eq!(made.recipient, node.public_key());
        let clear: Option<Environment> = serde_json::from_str(&made.clear).unwrap();
        assert_eq!(node.open(&made.sealed, &made.sender).unwrap(), clear.unwrap_or_default(), "{name}");
    }
}

fn environment() -> BTreeMap<&'static str, &'static str> {
    [("nats_url", "nats://127.0.0.1"), ("PASS", "p\"w <&> ü\n"), ("EMPTY", "")].into()
}

/// What `nex.json` has in it, apart from the sealed environment, which is another one each time.
fn our_vectors() -> Value {
    let claims: Map<String, Value> = same_claims()
        .into_iter()
        .map(|(name, claims)| {
            let token = claims.sign(&issuer(), SIGNED).unwrap();
            let body: Value = serde_json::from_str(&part(&token, 1)).unwrap();
            let claim = json!({ "token": token, "sub": body["sub"], "iat": SIGNED, "nats": body["nats"] });
            (name.to_owned(), claim)
        })
        .collect();
    let keys: Value = go("keys");
    json!({
        "made_by": "cargo test -p nex-identity --test wire_fixtures -- --ignored",
        "keys": keys,
        "claims": claims,
    })
}

#[test]
fn the_vectors_that_go_verified_are_those_we_make() {
    let mut written: Value = serde_json::from_str(include_str!("fixtures/nex.json")).unwrap();
    let sealed = written.as_object_mut().unwrap().remove("sealed").unwrap();
    assert_eq!(written, our_vectors());
    let (node, _) = load("node_xkey", XKeyPair::load);
    let opened = node.open(sealed["sealed"].as_str().unwrap(), sealed["sender"].as_str().unwrap()).unwrap();
    assert_eq!(opened, environment().into_iter().collect());
    assert_eq!(sealed["clear"], json!(environment()));
}

#[test]
#[ignore = "writes fixtures/nex.json anew; run `go run . verify` in conformance/vectors afterwards"]
fn write_the_vectors_for_go() {
    let (publisher, key) = load("publisher", XKeyPair::load);
    let (node, _) = load("node_xkey", XKeyPair::load);
    let sealed = publisher.seal(&environment().into_iter().collect(), &node.public_key()).unwrap();
    let mut vectors = our_vectors();
    vectors["sealed"] = json!({
        "sender": key.public,
        "recipient": node.public_key(),
        "clear": environment(),
        "sealed": sealed,
    });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nex.json");
    std::fs::write(path, serde_json::to_string_pretty(&vectors).unwrap() + "\n").unwrap();
}
