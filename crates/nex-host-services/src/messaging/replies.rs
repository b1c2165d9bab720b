//! Where answers to single requests arrive: one subscription for all requests of a connection.
//!
//! A subscription for each would be told to the server and taken back every time. Which request is meant is the last
//! part of an answer's subject; it is drawn at random, for whoever was asked once knows the rest, and must not be able
//! to answer in another's place. A request that is given up is forgotten at once, and answers to it are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Client, Message, SubscribeError};
use futures_util::StreamExt as _;
use tokio::sync::{OnceCell, oneshot};

type Waiting = Mutex<HashMap<String, oneshot::Sender<Message>>>;

/// The subscription, made with the first request.
pub(super) struct Replies {
    client: Client,
    mailbox: OnceCell<Mailbox>,
}

/// Dropping it ends its task, and with it the subscription.
struct Mailbox {
    prefix: String,
    waiting: Arc<Waiting>,
    task: tokio::task::AbortHandle,
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request that waits for its answer.
pub(super) struct Pending<'a> {
    mailbox: &'a Mailbox,
    token: String,
    answer: oneshot::Receiver<Message>,
}

fn locked(waiting: &Waiting) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Message>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Replies {
    pub(super) fn new(client: Client) -> Self {
        Self { client, mailbox: OnceCell::new() }
    }

    /// A place for one answer.
    pub(super) async fn expect(&self) -> Result<Pending<'_>, SubscribeError> {
        let mailbox = self.mailbox.get_or_try_init(|| self.open()).await?;
        let token = format!("{:032x}", rand::random::<u128>());
        let (sender, answer) = oneshot::channel();
        locked(&mailbox.waiting).insert(token.clone(), sender);
        Ok(Pending { mailbox, token, answer })
    }

    async fn open(&self) -> Result<Mailbox, SubscribeError> {
        let prefix = format!("{}.", self.client.new_inbox());
        let mut answers = self.client.subscribe(format!("{prefix}*")).await?;
        let waiting: Arc<Waiting> = Arc::default();
        let (known, ours) = (Arc::clone(&waiting), prefix.clone());
        let task = tokio::spawn(async move {
            while let Some(answer) = answers.next().await {
                let token = answer.subject.strip_prefix(ours.as_str()).unwrap_or_default();
                let asked = locked(&known).remove(token);
                if let Some(asked) = asked {
                    // Given up in this moment.
                    let _ = asked.send(answer);
                }
            }
            // The connection ended for good: nobody waits for what cannot come.
            locked(&known).clear();
        });
        Ok(Mailbox { prefix, waiting, task: task.abort_handle() })
    }
}

impl Pending<'_> {
    /// The subject to answer to.
    pub(super) fn subject(&self) -> String {
        format!("{}{}", self.mailbox.prefix, self.token)
    }

    /// The answer; none when the connection ended.
    pub(super) async fn answer(mut self) -> Option<Message> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        locked(&self.mailbox.waiting).remove(&self.token);
    }
}
