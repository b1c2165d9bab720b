//! Signed claims: any text as a token, and any claims behind a signature that holds. The first byte chooses.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nex_identity::Claims;
use nex_identity::claims::{Action, MAX_LIFETIME, Scope, fingerprint};
use nkeys::KeyPair;
use serde_json::Value;

/// A moment in the life of the claims of the fixtures.
const NOW: i64 = 1_800_000_000;

/// The issuer of the fixtures.
const SEED: &str = "SAAPLPEHHK7XSY5SCQXZTOFGLNL6W6YHFRNKWQA564KGW5OY2R7ZW7WKIU";

const SCOPE: Scope<'static> = Scope {
    action: Action::Deploy,
    node: "NNODE",
    namespace: Some("default"),
    location: Some("nats://B/k"),
    workload: None,
};

/// No panic for any token; what is signed properly reads as it was written, and not when a byte of it is changed.
pub fn check(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    match choice % 3 {
        0 => token(bytes),
        1 => parts(bytes),
        _ => signed(bytes),
    }
}

fn issuer() -> &'static KeyPair {
    static ISSUER: OnceLock<KeyPair> = OnceLock::new();
    ISSUER.get_or_init(|| KeyPair::from_seed(SEED).expect("the seed of the fixtures"))
}

fn token(bytes: &[u8]) {
    let token = String::from_utf8_lossy(bytes);
    assert_eq!(fingerprint(&token).len(), 64);
    if let Ok(claims) = Claims::verify(&token, NOW) {
        accepted(&token, &claims);
    }
}

/// Three parts of any content, so that the decoders of all of them are reached.
fn parts(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let mut part = || URL_SAFE_NO_PAD.encode(parts.next().unwrap_or_default());
    let token = format!("{}.{}.{}", part(), part(), part());
    if let Ok(claims) = Claims::verify(&token, NOW) {
        accepted(&token, &claims);
    }
}

/// The claims are the input, the issuer is put before them and signs.
fn signed(bytes: &[u8]) {
    let rest = bytes.strip_prefix(b"{").unwrap_or(bytes);
    let mut body = format!("{{\"iss\":\"{}\"", issuer().public_key()).into_bytes();
    body.extend_from_slice(if rest.trim_ascii() == b"}" { b"" } else { b"," });
    body.extend_from_slice(rest);
    let header = br#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
    let content = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(&body));
    let signature = issuer().sign(content.as_bytes()).expect("the key signs");
    let token = format!("{content}.{}", URL_SAFE_NO_PAD.encode(signature));
    let Ok(claims) = Claims::verify(&token, NOW) else { return };
    accepted(&token, &claims);
}

fn accepted(token: &str, claims: &Claims) {
    assert!(claims.exp == 0 || claims.exp > NOW, "an expired claim was accepted");
    assert!(claims.nbf <= NOW, "a claim was accepted before its time");
    assert_eq!(claims.issued_by_account(), claims.iss.starts_with('A'));
    scopes(claims);

    // One letter of the body changed: somebody else's claim. What was signed for one says nothing of the other.
    let (start, end) = (token.find('.').expect("three parts") + 1, token.rfind('.').expect("three parts"));
    let at = start + (claims.sub.len() * 31 + token.len()) % (end - start);
    let mut changed = token.as_bytes().to_vec();
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).expect("a token is plain text");
    assert!(Claims::verify(&changed, NOW).is_err(), "a changed claim was accepted");
    assert_ne!(fingerprint(&changed), fingerprint(token));

    // Signed anew, the claims are the same. Fractions are not kept to the last bit, so they are left out.
    let again = claims.clone().sign_by(issuer(), claims.iat).expect("claims can be signed");
    if again.len() <= nex_identity::claims::MAX_TOKEN {
        let read = Claims::verify(&again, NOW).expect("what was signed verifies");
        let plain = |claims: &Claims| {
            let mut claims = claims.clone();
            (claims.iss, claims.jti) = (String::new(), String::new());
            claims.nats.retain(|name, value| name != "version" && !has_fraction(value));
            claims
        };
        assert_eq!(plain(&read), plain(claims));
    }
}

fn scopes(claims: &Claims) {
    for scope in [
        SCOPE,
        Scope { action: Action::Stop, location: None, workload: Some("id"), ..SCOPE },
        Scope { action: Action::LameDuck, namespace: None, location: None, ..SCOPE },
    ] {
        let (fits, complete) = (claims.check_scope(&scope).is_ok(), claims.check_complete(&scope, NOW).is_ok());
        let said = |part: &str| claims.nats.get(part);
        if fits {
            assert!(said("node").is_none_or(|node| node == scope.node));
            assert!(said("action").is_none_or(|action| action == scope.action.as_str()));
        }
        if complete {
            assert!(claims.has_nonce() && claims.exp > 0 && claims.exp <= NOW + MAX_LIFETIME);
            assert!(said("node").is_some() && said("action").is_some());
        }
        if fits && complete {
            for other in [Scope { node: "NOTHER", ..scope }, Scope { namespace: Some("elsewhere"), ..scope }] {
                assert!(claims.check_scope(&other).is_err() || other == scope || scope.namespace.is_none());
            }
        }
    }
    assert_eq!(claims.is_to_deploy(), claims.nats.contains_key("hash"));
    assert!(claims.hash().is_none() || claims.is_to_deploy());
    let _ = claims.workload_name();
}

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(list) => list.iter().any(has_fraction),
        Value::Object(members) => members.values().any(has_fraction),
        _ => false,
    }
}
