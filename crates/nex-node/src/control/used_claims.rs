//! Claims that were used: what they allowed is done, and is not done again because somebody repeats them.
//!
//! States of a claim: unknown, taken (what it allows is being done), spent. What fails gives its claim back.
//!
//! Memory is bounded. A claim that expires is forgotten when it has: nobody can use it any more. One without an expiry
//! (those of Go Nex) is forgotten when room is needed, oldest first. When all room is taken by claims that are still
//! valid, no more are taken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Claims that are remembered. Each takes some hundred bytes.
const ROOM: usize = 32_768;

/// Why a claim cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It was used before.
    Used,
    /// Too many claims are in their time of validity.
    Full,
}

/// Used claims; clones are the same.
#[derive(Debug, Clone)]
pub(super) struct UsedClaims {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    room: usize,
    next: u64,
    claims: HashMap<String, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    order: u64,
    /// Seconds since 1970; 0 for never.
    expires: i64,
}

/// A claim that was taken. Dropped without [`Use::spend`], it may be used again.
#[derive(Debug)]
#[must_use = "a claim that is not spent can be used again"]
pub(super) struct Use {
    claims: UsedClaims,
    fingerprint: Option<String>,
}

impl Use {
    /// What the claim allows is done.
    pub(super) fn spend(mut self) {
        self.fingerprint = None;
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some(fingerprint) = self.fingerprint.take() {
            self.claims.lock().claims.remove(&fingerprint);
        }
    }
}

impl Default for UsedClaims {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

impl UsedClaims {
    fn with_room(room: usize) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { room, next: 0, claims: HashMap::new() })) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a claim, at this time (seconds since 1970).
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn take(&self, fingerprint: &str, expires: i64, now: i64) -> Result<Use, Refusal> {
        let mut inner = self.lock();
        if inner.claims.contains_key(fingerprint) {
            return Err(Refusal::Used);
        }
        inner.make_room(now)?;
        inner.insert(fingerprint, expires);
        Ok(Use { claims: self.clone(), fingerprint: Some(fingerprint.to_owned()) })
    }

    /// Remembers a claim that was spent in an earlier life of the node.
    pub(super) fn remember(&self, fingerprint: &str) {
        self.lock().insert(fingerprint, 0);
    }
}

impl Inner {
    fn insert(&mut self, fingerprint: &str, expires: i64) {
        let order = self.next;
        self.next += 1;
        self.claims.insert(fingerprint.to_owned(), Entry { order, expires });
    }

    fn make_room(&mut self, now: i64) -> Result<(), Refusal> {
        if self.claims.len() < self.room {
            return Ok(());
        }
        self.claims.retain(|_, claim| claim.expires == 0 || claim.expires > now);
        if self.claims.len() >= self.room {
            let mut lasting: Vec<u64> =
                self.claims.values().filter(|claim| claim.expires == 0).map(|claim| claim.order).collect();
            lasting.sort_unstable();
            // Several at once, for this looks at all of them.
            lasting.truncate((self.room / 16).max(1));
            self.claims.retain(|_, claim| lasting.binary_search(&claim.order).is_err());
        }
        if self.claims.len() < self.room { Ok(()) } else { Err(Refusal::Full) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_used_once_unless_what_it_allows_failed() {
        let used = UsedClaims::with_room(4);
        let first = used.take("a", 0, 10).unwrap();
        assert_eq!(used.take("a", 0, 10).unwrap_err(), Refusal::Used, "while it is being used");
        drop(first);
        used.take("a", 0, 10).unwrap().spend();
        assert_eq!(used.take("a", 0, 10).unwrap_err(), Refusal::Used);
        used.remember("b");
        assert_eq!(used.take("b", 0, 10).unwrap_err(), Refusal::Used);
    }

    #[test]
    fn expired_claims_go_first_then_the_oldest_that_never_expire() {
        let used = UsedClaims::with_room(3);
        used.take("lasting", 0, 10).unwrap().spend();
        used.take("valid", 100, 10).unwrap().spend();
        used.take("short", 20, 10).unwrap().spend();
        used.take("next", 100, 21).unwrap().spend();
        assert_eq!(used.take("lasting", 0, 21).unwrap_err(), Refusal::Used, "the expired one made room");
        used.take("more", 100, 21).unwrap().spend();
        assert_eq!(used.take("valid", 100, 21).unwrap_err(), Refusal::Used);
        assert_eq!(used.take("one too many", 100, 21).unwrap_err(), Refusal::Full);
        assert_eq!(used.lock().claims.len(), 3);
        used.take("later", 200, 101).unwrap().spend();
    }
}
