//! Sealed boxes and the environments in them. The first byte chooses how far the input is wrapped.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nex_identity::{SealError, XKeyPair};
use nex_protocol::Environment;
use nkeys::XKey;

/// The curve keys of the fixtures.
const NODE: &str = "SXABKVY5KNVP5RPQ74YGJ2HJBYWTT754D5HSD257HXTWQCNRFQZYXDWYZY";
const SENDER: &str = "SXAMRIVB34B5PBRG5RZCQ2XL4W26BUXLF2NG4HOLN2PHPGI4OTHGVW7XBM";

/// Nothing opens but what was sealed for this key, and that opens as what it is.
pub fn check(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    match choice % 4 {
        0 => texts(bytes),
        1 => boxed(bytes),
        2 => content(bytes),
        _ => damaged(bytes),
    }
}

struct Keys {
    node: XKeyPair,
    node_public: XKey,
    sender: XKey,
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        // Seeds are read from files only.
        let path = std::env::temp_dir().join(format!("nex-fuzz-sealed-{}.xk", std::process::id()));
        std::fs::write(&path, NODE).expect("the system has a folder for such files");
        let node = XKeyPair::load(&path).expect("the seed of the fixtures");
        let _ = std::fs::remove_file(&path);
        let node_public = XKey::from_public_key(&node.public_key()).expect("a public key");
        Keys { node, node_public, sender: XKey::from_seed(SENDER).expect("the seed of the fixtures") }
    })
}

/// Any text as a box, any text as a sender, on two lines.
fn texts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (sealed, sender) = text.split_once('\n').unwrap_or((&text, ""));
    opened(keys().node.open(sealed, sender));
    opened(keys().node.open(sealed, &keys().sender.public_key()));
}

/// Any bytes as a box.
fn boxed(bytes: &[u8]) {
    opened(keys().node.open(&STANDARD.encode(bytes), &keys().sender.public_key()));
}

/// Any bytes in a box that is sealed properly.
fn content(bytes: &[u8]) {
    let sealed = keys().sender.seal(bytes, &keys().node_public).expect("anything can be sealed");
    let opened = keys().node.open(&STANDARD.encode(sealed), &keys().sender.public_key());
    match (opened, serde_json::from_slice::<Option<Environment>>(bytes)) {
        (Ok(environment), Ok(meant)) => {
            assert_eq!(environment, meant.unwrap_or_default());
            used(&environment);
        }
        (Err(SealError::Content), Err(_)) => {}
        (opened, meant) => panic!("sealed {meant:?}, opened {opened:?}"),
    }
}

/// A good box, the input's first bytes laid over it.
fn damaged(bytes: &[u8]) {
    let mut sealed = keys().sender.seal(b"{\"A\":\"1\"}", &keys().node_public).expect("anything can be sealed");
    let whole = sealed.clone();
    let (at, bytes) = bytes.split_first().map_or((0, bytes), |(at, rest)| (usize::from(*at), rest));
    for (byte, damage) in sealed.iter_mut().skip(at).zip(bytes) {
        *byte ^= damage;
    }
    let open = |bytes: &[u8]| keys().node.open(&STANDARD.encode(bytes), &keys().sender.public_key());
    assert_eq!(open(&sealed).is_ok(), sealed == whole, "a box opens when it is whole, and only then");
    sealed.truncate(at);
    assert!(open(&sealed).is_err() || sealed == whole);
}

fn opened(result: Result<Environment, SealError>) {
    match result {
        Ok(environment) => used(&environment),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What is done with an environment: printed, written, given to a process.
fn used(environment: &Environment) {
    let again = serde_json::to_vec(environment).expect("an environment can be written");
    assert_eq!(&serde_json::from_slice::<Environment>(&again).expect("what was written reads"), environment);
    // What is printed, and so logged, is the same whatever the values are.
    let without: Environment = environment.iter().map(|(key, _)| (key, "")).collect();
    assert_eq!(format!("{environment:?}"), format!("{without:?}"));
    assert_eq!(environment.is_empty(), environment.iter().next().is_none());
    if environment.invalid_key().is_none() {
        for (key, value) in environment.iter() {
            assert!(!key.is_empty() && !key.contains(['=', '\0']) && !value.contains('\0'));
        }
    }
}
