//! What a server has denied to a connection.
//!
//! A server answers a subscription that the user may not make with an error of its own accord, later, and the client
//! library hands it to a callback: to who subscribed, everything looks well. [`Denied`] keeps these errors, so that he
//! can look after a round trip.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::{Event, ServerError};
use tokio::sync::watch;

/// Errors kept; older ones go.
const KEPT: usize = 256;

/// The last denials of a connection; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Denied {
    texts: Arc<Mutex<VecDeque<String>>>,
    /// How many there were, to wait for the next.
    count: watch::Sender<u64>,
}

/// What a server says was denied, from the subject on: `x" using queue "q"`. Subjects and queues keep their case.
fn denied_subject(text: &str) -> Option<&str> {
    const WORDS: &str = "subscription to \"";
    let start = text.to_ascii_lowercase().find(WORDS)? + WORDS.len();
    text.get(start..)
}

/// How a server names a subscription in a queue group, which may be denied where the subject alone is not.
pub fn in_queue(subject: &str, queue: &str) -> String {
    format!("{subject}\" using queue \"{queue}")
}

impl Denied {
    /// Keeps an event if it is a denial.
    pub(crate) fn note(&self, event: &Event) {
        if let Event::ServerError(ServerError::Other(text)) = event
            // Of publishing there may be any number, and nobody asks.
            && denied_subject(text).is_some()
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
        drop(texts);
        self.count.send_modify(|count| *count += 1);
    }

    /// Takes the denial of a subscription to this subject (or [`in_queue`]), if there was one.
    pub fn subscription(&self, subject: &str) -> Option<String> {
        let wanted = format!("{subject}\"");
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let found = texts.iter().position(|text| denied_subject(text).is_some_and(|rest| rest.starts_with(&wanted)))?;
        texts.remove(found)
    }

    /// Waits until a subscription to one of these subjects is denied; tells which, and the server's text.
    pub async fn one_of(&self, subjects: &[String]) -> (String, String) {
        let mut count = self.count.subscribe();
        loop {
            for subject in subjects {
                if let Some(text) = self.subscription(subject) {
                    return (subject.clone(), text);
                }
            }
            // The sender is ours: it is there as long as we are.
            if count.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
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
        denied.keep("Permissions Violation for Subscription to \"a.b\" using queue \"q\"".to_owned());
        assert!(denied.subscription(&in_queue("a.b", "p")).is_none());
        assert!(denied.subscription(&in_queue("a.b", "Q")).is_none(), "another queue");
        assert!(denied.subscription(&in_queue("a.b", "q")).is_some());
        denied.note(&Event::ServerError(ServerError::Other("Permissions Violation for Publish to \"x\"".to_owned())));
        assert!(denied.texts.lock().unwrap().is_empty(), "nobody asks for those");
    }

    #[tokio::test]
    async fn a_denial_that_comes_later_is_waited_for() {
        let denied = Denied::default();
        let (waiting, subjects) = (denied.clone(), ["a.>".to_owned(), "b.>".to_owned()]);
        let waiter = tokio::spawn(async move { waiting.one_of(&subjects).await.0 });
        denied.keep("Permissions Violation for Subscription to \"c\"".to_owned());
        denied.keep("Permissions Violation for Subscription to \"b.>\"".to_owned());
        assert_eq!(waiter.await.unwrap(), "b.>");
    }
}
