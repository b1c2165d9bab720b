//! Claims that were used: what they allowed is done, and is not done again because somebody repeats them.
//!
//! States of a claim: unknown, taken (what it allows is being done), spent. What fails gives its claim back.
//!
//! Spent claims are kept in a file too, so that a restart of the node forgets none: a line each, the digest and the
//! expiry. It is written anew at the start, without those that have expired, and whenever it has grown too long.
//!
//! Memory is bounded. A claim that expires is forgotten when it has: nobody can use it any more. One without an expiry
//! (those of Go Nex) is forgotten when room is needed, oldest first. When all room is taken by claims that are still
//! valid, no more are taken.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use nex_identity::claims::MAX_LIFETIME;
use tracing::warn;

use crate::state::write_whole;

/// Claims that are remembered. Each takes some hundred bytes.
const ROOM: usize = 32_768;

/// Lines after which the file is written anew.
const LINES: usize = 2 * ROOM;

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
    file: Option<PathBuf>,
    lines: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    order: u64,
    /// Seconds since 1970; 0 for never.
    expires: i64,
    spent: bool,
}

/// A claim that was taken. Dropped without [`Use::spend`], it may be used again.
#[derive(Debug)]
#[must_use = "a claim that is not spent can be used again"]
pub(super) struct Use {
    claims: UsedClaims,
    fingerprint: Option<String>,
}

impl Use {
    /// What tells the claim from others.
    pub(super) fn fingerprint(&self) -> Option<String> {
        self.fingerprint.clone()
    }

    /// What the claim allows is done.
    pub(super) fn spend(mut self) {
        if let Some(fingerprint) = self.fingerprint.take() {
            self.claims.lock().spend(&fingerprint);
        }
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
        let inner = Inner { room, next: 0, claims: HashMap::new(), file: None, lines: 0 };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Those that are kept in a file, at this time (seconds since 1970), and go on being kept there. What cannot be read
    /// is left out and told: the node starts all the same.
    pub(super) fn kept_in(file: PathBuf, now: i64) -> Self {
        let used = Self::default();
        let mut inner = used.lock();
        match std::fs::read(&file) {
            Ok(bytes) => {
                // A damaged line is left out; it must not make the others be forgotten.
                let text = String::from_utf8_lossy(&bytes);
                let lines = text.lines().filter_map(|line| line.split_once(' '));
                for (fingerprint, expires) in lines {
                    let Ok(expires) = expires.parse::<i64>() else { continue };
                    if (expires == 0 || expires > now) && inner.make_room(now).is_ok() {
                        inner.insert(fingerprint, expires, true);
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => warn!(path = %file.display(), %error, "cannot read which claims were used"),
        }
        inner.file = Some(file);
        inner.rewrite();
        drop(inner);
        used
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a claim, at this time (seconds since 1970).
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn take(&self, fingerprint: &str, expires: i64, now: i64) -> Result<Use, Refusal> {
        // One that is valid for longer than anybody needs must not take a place for as long.
        let expires = if expires > now.saturating_add(MAX_LIFETIME) { 0 } else { expires };
        let mut inner = self.lock();
        if inner.claims.contains_key(fingerprint) {
            return Err(Refusal::Used);
        }
        inner.make_room(now)?;
        inner.insert(fingerprint, expires, false);
        Ok(Use { claims: self.clone(), fingerprint: Some(fingerprint.to_owned()) })
    }

    /// Remembers a claim that was spent in an earlier life of the node.
    pub(super) fn remember(&self, fingerprint: &str) {
        let mut inner = self.lock();
        if !inner.claims.contains_key(fingerprint) {
            inner.insert(fingerprint, 0, true);
        }
    }
}

impl Inner {
    fn insert(&mut self, fingerprint: &str, expires: i64, spent: bool) {
        let order = self.next;
        self.next += 1;
        self.claims.insert(fingerprint.to_owned(), Entry { order, expires, spent });
    }

    fn spend(&mut self, fingerprint: &str) {
        let Some(claim) = self.claims.get_mut(fingerprint) else { return };
        claim.spent = true;
        let line = format!("{fingerprint} {}\n", claim.expires);
        let Some(file) = &self.file else { return };
        self.lines += 1;
        if self.lines > LINES {
            return self.rewrite();
        }
        let appended = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(file)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = appended {
            warn!(path = %file.display(), %error, "cannot keep that a claim was used: a restart of the node forgets it");
            // A part of the line may be there, and the next one must not go on in it.
            self.lines = LINES;
        }
    }

    /// Writes the file anew, oldest first.
    fn rewrite(&mut self) {
        let Some(file) = &self.file else { return };
        let mut spent: Vec<_> = self.claims.iter().filter(|(_, claim)| claim.spent).collect();
        spent.sort_by_key(|(_, claim)| claim.order);
        let text: String = spent.iter().map(|(name, claim)| format!("{name} {}\n", claim.expires)).collect();
        self.lines = spent.len();
        if let Err(error) = write_whole(file, text.as_bytes()) {
            self.lines = LINES;
            warn!(path = %file.display(), %error, "cannot keep which claims were used: a restart of the node forgets them");
        }
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
    fn a_restart_forgets_only_what_has_expired_or_failed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("used-claims");
        let used = UsedClaims::kept_in(file.clone(), 10);
        used.take("lasting", 0, 10).unwrap().spend();
        used.take("valid", 100, 10).unwrap().spend();
        used.take("short", 20, 10).unwrap().spend();
        drop(used.take("failed", 100, 10).unwrap());
        drop(used);
        std::fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"torn li").unwrap();
        let again = UsedClaims::kept_in(file.clone(), 50);
        for name in ["lasting", "valid"] {
            assert_eq!(again.take(name, 100, 50).unwrap_err(), Refusal::Used, "{name}");
        }
        again.take("short", 20, 50).unwrap().spend();
        again.take("failed", 100, 50).unwrap().spend();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, "lasting 0\nvalid 100\nshort 20\nfailed 100\n");
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

    #[test]
    fn a_damaged_line_makes_no_other_be_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("claims");
        std::fs::write(&file, b"whole 100\n\xff\xfe\0 100\nno number\nlasting 0\ntorn 9").unwrap();
        for _ in 0..2 {
            let used = UsedClaims::kept_in(file.clone(), 10);
            for claim in ["whole", "lasting"] {
                assert_eq!(used.take(claim, 100, 10).unwrap_err(), Refusal::Used, "{claim}");
            }
        }
    }

    proptest::proptest! {
        // Each case writes files through to the disk.
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(50))]

        #[test]
        fn a_file_of_any_content_is_read_and_what_is_kept_of_it_is_read_again(
            bytes: Vec<u8>, line in "[a-z]{1,3} [0-9]{1,20}",
        ) {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("claims");
            std::fs::write(&file, [&bytes[..], b"\n", line.as_bytes()].concat()).unwrap();
            let first = UsedClaims::kept_in(file.clone(), 10);
            let kept = std::fs::read(&file).unwrap();
            let again = UsedClaims::kept_in(file.clone(), 10);
            assert_eq!(first.lock().claims.len(), again.lock().claims.len());
            assert_eq!(std::fs::read(&file).unwrap(), kept);
        }
    }
}
