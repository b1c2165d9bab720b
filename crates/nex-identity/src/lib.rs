//! Keys, sealed environments and signed claims.
//!
//! Owns the three secrets of nex and what is done with them: the *issuer* (an account nkey, signs claims), the
//! *publisher* and *node* curve keys (seal and open environments), the *node* nkey (who a node is); and makes NATS
//! *users* for services, with an account's key. Seeds are held
//! zeroized, are written with mode 0600 only, and are never printed.
//!
//! Formats are those of the NATS tools: nkeys, `xkv1` boxes, JWT v2 with algorithm `ed25519-nkey`.

pub mod claims;
pub mod keys;
pub mod seal;
pub mod user;

pub use claims::{Claims, ClaimsError};
pub use keys::{Issuer, KeyError, NodeKey, XKeyPair};
pub use seal::SealError;
pub use user::{Credentials, Permissions, UserKey};
