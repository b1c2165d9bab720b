//! Memory of the node that the calls of one namespace may hold at a time: what they bring, what is collected for them,
//! and answers until they have left.
//!
//! Every body has a limit of its own; many calls at once, to servers that answer slowly, would still add up to more than
//! a node has. A namespace that holds all it may is refused at once: waiting would only hold what it has for longer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use nex_protocol::Namespace;
use nex_protocol::link::host::HostErrorCode;

use crate::Failure;

/// The memory of all namespaces.
#[derive(Debug)]
pub(crate) struct Rooms {
    /// Bytes a namespace may hold; 0 for no limit.
    limit: usize,
    held: Mutex<HashMap<Namespace, usize>>,
}

/// What one call holds; a clone holds the same, and the last one gives it back.
#[derive(Debug, Clone)]
pub struct Room(Arc<Held>);

#[derive(Debug)]
struct Held {
    rooms: Option<(Arc<Rooms>, Namespace)>,
    bytes: AtomicUsize,
}

impl Rooms {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, held: Mutex::default() }
    }

    /// Nothing yet, for a call of this namespace.
    pub(crate) fn room(self: &Arc<Self>, namespace: &Namespace) -> Room {
        let rooms = (self.limit > 0).then(|| (Arc::clone(self), namespace.clone()));
        Room(Arc::new(Held { rooms, bytes: AtomicUsize::new(0) }))
    }

    fn take(&self, namespace: &Namespace, bytes: usize) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |before: usize| before.checked_add(bytes).filter(|after| *after <= self.limit);
        match held.get_mut(namespace) {
            Some(before) => fits(*before).map(|after| *before = after).is_some(),
            None => fits(0).map(|after| held.insert(namespace.clone(), after)).is_some(),
        }
    }

    fn give_back(&self, namespace: &Namespace, bytes: usize) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = held.get_mut(namespace) {
            *before = before.saturating_sub(bytes);
            if *before == 0 {
                held.remove(namespace);
            }
        }
    }
}

impl Room {
    /// Room without an end, for exchanges outside of a function's call.
    pub fn unbounded() -> Self {
        Self(Arc::new(Held { rooms: None, bytes: AtomicUsize::new(0) }))
    }

    /// Takes so many bytes more.
    ///
    /// # Errors
    /// [`HostErrorCode::Quota`] when the namespace holds all it may.
    pub fn take(&self, bytes: usize) -> Result<(), Failure> {
        // Nothing fits everywhere, and most calls bring it.
        if let Some((rooms, namespace)) = self.0.rooms.as_ref().filter(|_| bytes > 0) {
            if !rooms.take(namespace, bytes) {
                let text = format!("the namespace's calls hold all of the {} bytes they may", rooms.limit);
                return Err(Failure::new(HostErrorCode::Quota, text));
            }
            self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes what is missing to so many bytes.
    pub(crate) fn hold(&self, bytes: usize) -> Result<(), Failure> {
        self.take(bytes.saturating_sub(self.0.bytes.load(Ordering::Relaxed)))
    }

    /// Bytes that hold the room until they are gone.
    pub(crate) fn kept_by(self, bytes: Bytes) -> Bytes {
        struct Kept(Bytes, #[allow(dead_code, reason = "held, not read")] Room);
        impl AsRef<[u8]> for Kept {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        if bytes.is_empty() || self.0.rooms.is_none() { bytes } else { Bytes::from_owner(Kept(bytes, self)) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        if let Some((rooms, namespace)) = self.rooms.as_ref().filter(|_| bytes > 0) {
            rooms.give_back(namespace, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_holds_no_more_than_it_may_and_gives_back_what_it_held() {
        let rooms = Arc::new(Rooms::new(100));
        let (a, b): (Namespace, Namespace) = ("a".parse().unwrap(), "b".parse().unwrap());
        let first = rooms.room(&a);
        first.take(60).unwrap();
        let second = rooms.room(&a);
        assert_eq!(second.take(41).unwrap_err().code, HostErrorCode::Quota);
        second.take(40).unwrap();
        rooms.room(&b).take(100).unwrap();
        let bytes = first.clone().kept_by(Bytes::from_static(b"answer"));
        drop(first);
        assert!(second.take(1).is_err(), "an answer that has not left is held");
        drop(bytes);
        second.take(60).unwrap();
        drop(second);
        assert!(rooms.held.lock().unwrap().is_empty(), "nothing is remembered of whoever holds nothing");
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let rooms = Arc::new(Rooms::new(0));
        let room = rooms.room(&"a".parse().unwrap());
        room.take(usize::MAX).unwrap();
        room.take(usize::MAX).unwrap();
        Room::unbounded().take(usize::MAX).unwrap();
    }
}
