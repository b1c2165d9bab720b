//! Where the answers arrive: one inbox with a number for each request, so that a second answer, and one that nobody
//! should have given, are seen too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use async_nats::{Client, Message};
use futures_util::StreamExt;
use nex_e2e::round_trip;
use tokio::sync::oneshot;

/// The inbox; clones are the same.
#[derive(Clone)]
pub(crate) struct Mailbox {
    prefix: String,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    waiting: HashMap<u64, oneshot::Sender<Message>>,
    unexpected: Vec<String>,
}

impl Mailbox {
    /// Opens one; the server knows of it when this returns.
    pub(crate) async fn open(nats: &Client) -> Result<Self> {
        let prefix = nats.new_inbox();
        let mut messages = nats.subscribe(format!("{prefix}.*")).await?;
        round_trip(nats).await?;
        let mailbox = Self { prefix, inner: Arc::default() };
        let inner = Arc::clone(&mailbox.inner);
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let number = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
                let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
                match number.and_then(|number: u64| inner.waiting.remove(&number)) {
                    Some(waiting) => drop(waiting.send(message)),
                    None => inner.unexpected.push(format!("{:?}: {:?}", number, message.payload)),
                }
            }
        });
        Ok(mailbox)
    }

    /// The subject for the answer to a request that nobody is to answer.
    pub(crate) fn closed(&self, number: u64) -> String {
        format!("{}.{number}", self.prefix)
    }

    /// The subject for the one answer to a request, and where it comes out.
    pub(crate) fn expecting(&self, number: u64) -> (String, oneshot::Receiver<Message>) {
        let (sender, receiver) = oneshot::channel();
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).waiting.insert(number, sender);
        (self.closed(number), receiver)
    }

    /// Answers that should not have come.
    pub(crate) fn unexpected(&self) -> Vec<String> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).unexpected.clone()
    }
}
