//! What a server has denied to a connection.
//!
//! A server answers a subscription that the user may not make with an error of its own accord, later, and the client
//! library hands it to a callback: to who subscribed, everything looks well. [`Denied`] keeps these errors, so that he
//! can look after a round trip.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::{Event, ServerError};

/// Errors kept; older ones go.
const KEPT: usize = 256;

/// The last denials of a connection; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Denied {
    texts: Arc<Mutex<VecDeque<String>>>,
}

impl Denied {
    /// Keeps an event if it is a denial.
    pub(crate) fn note(&self, event: &Event) {
        if let Event::ServerError(ServerError::Other(text)) = event
            && text.to_ascii_lowercase().contains("permissions violation")
        {
            self.keep(text.clone());
        }
    }

    fn keep(&self, text: String) {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if texts.len() == KEPT {
            texts.pop_front();
        }
        texts.push_back(text);
    }

    /// Takes the denial of a subscription to this subject, if there was one.
    pub fn subscription(&self, subject: &str) -> Option<String> {
        let wanted = format!("subscription to \"{subject}\"").to_ascii_lowercase();
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let found = texts.iter().position(|text| text.to_ascii_lowercase().contains(&wanted))?;
        texts.remove(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_found_by_its_subject_once() {
        let denied = Denied::default();
        denied.keep("Permissions Violation for Subscription to \"a.b\" using queue \"q\"".to_owned());
        assert!(denied.subscription("a").is_none());
        assert!(denied.subscription("a.b").is_some());
        assert!(denied.subscription("a.b").is_none());
    }
}
