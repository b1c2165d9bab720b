//! Sealed environments: a JSON object of strings in a NaCl box (`xkv1`), standard base64.
//!
//! Sealed by the sender's curve key for the node's; only that node opens it. Clear text is zeroized on both sides.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nkeys::XKey;
use zeroize::Zeroizing;

use nex_protocol::Environment;
use nex_protocol::environment::clear_json;

use crate::keys::{KeyError, XKeyPair};

/// An environment cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The public key of the other side is none.
    #[error("the public xkey is missing or malformed")]
    PublicKey,
    /// Not base64.
    #[error("not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// Not sealed for this key by that one, or changed on the way.
    #[error("sealed for another key, by another sender, or damaged")]
    Box,
    /// What was inside is no map of strings.
    #[error("the content is not a JSON object of strings")]
    Content,
    /// The box could not be made.
    #[error("cannot seal: {0}")]
    Seal(String),
}

impl From<KeyError> for SealError {
    fn from(_: KeyError) -> Self {
        SealError::PublicKey
    }
}

fn public(key: &str) -> Result<XKey, SealError> {
    XKey::from_public_key(key).map_err(|_| SealError::PublicKey)
}

impl XKeyPair {
    /// Seals an environment for the owner of `recipient` (`X…`).
    ///
    /// # Errors
    /// [`SealError::PublicKey`] when `recipient` is no public curve key.
    pub fn seal(&self, environment: &Environment, recipient: &str) -> Result<String, SealError> {
        let clear = clear_json(environment).map_err(|_| SealError::Content)?;
        let sealed = self.0.seal(&clear, &public(recipient)?).map_err(|error| SealError::Seal(error.to_string()))?;
        Ok(STANDARD.encode(sealed))
    }

    /// Opens an environment sealed for this key by the owner of `sender` (`X…`).
    ///
    /// # Errors
    /// [`SealError`]; which kind tells what was wrong, not what was inside.
    pub fn open(&self, sealed: &str, sender: &str) -> Result<Environment, SealError> {
        let sealed = STANDARD.decode(sealed)?;
        let clear = Zeroizing::new(self.0.open(&sealed, &public(sender)?).map_err(|_| SealError::Box)?);
        // The decoder's own message could quote the content.
        serde_json::from_slice::<Option<Environment>>(&clear)
            .map(Option::unwrap_or_default)
            .map_err(|_| SealError::Content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_recipient_opens_and_only_from_that_sender() {
        let (sender, node, other) = (XKeyPair::generate(), XKeyPair::generate(), XKeyPair::generate());
        let environment: Environment = [("nats_url", "nats://127.0.0.1"), ("PASS", "p\"w")].into_iter().collect();
        let sealed = sender.seal(&environment, &node.public_key()).unwrap();
        assert_eq!(node.open(&sealed, &sender.public_key()).unwrap(), environment);
        assert!(matches!(other.open(&sealed, &sender.public_key()), Err(SealError::Box)));
        assert!(matches!(node.open(&sealed, &other.public_key()), Err(SealError::Box)));
        assert!(matches!(node.open(&sealed, "XNO"), Err(SealError::PublicKey)));
        assert!(matches!(node.open("%%%", &sender.public_key()), Err(SealError::Base64(_))));
    }

    #[test]
    fn a_box_has_the_form_of_the_nats_tools() {
        let (sender, node) = (XKeyPair::generate(), XKeyPair::generate());
        let sealed = STANDARD.decode(sender.seal(&Environment::default(), &node.public_key()).unwrap()).unwrap();
        assert_eq!(&sealed[..4], b"xkv1");
        // version, nonce, Poly1305 tag, the two bytes of `{}`
        assert_eq!(sealed.len(), 4 + 24 + 16 + 2);
    }

    #[test]
    fn damaged_boxes_are_errors() {
        let node = XKeyPair::generate();
        let sender = XKeyPair::generate();
        for bytes in [&b""[..], b"xkv1", b"xkv1 short", &[0u8; 64]] {
            assert!(node.open(&STANDARD.encode(bytes), &sender.public_key()).is_err());
        }
    }
}
