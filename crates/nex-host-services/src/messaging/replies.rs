//! Where answers to single requests arrive: one subscription for all requests of a connection.
//!
//! A subscription for each would be told to the server and taken back every time. Which request is meant is the last
//! part of an answer's subject; it is drawn at random, for whoever was asked once knows the rest, and must not be able
//! to answer in another's place. A request that is given up is forgotten at once, and answers to it are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Client, Message, SubscribeError};
use futures_util::StreamExt as _;
use rand::Rng as _;
use rand::distr::Alphanumeric;
use tokio::sync::{OnceCell, oneshot};

/// Whoever waits. Few at a time: a tree finds them with less than it takes to hash a subject.
type Waiting = BTreeMap<Token, oneshot::Sender<Message>>;

/// The last part of the subject that a request is answered on: letters and digits, 130 bits of chance.
type Token = [u8; 22];

/// The subscription, made with the first request.
pub(super) struct Replies {
    client: Client,
    mailbox: OnceCell<Mailbox>,
}

/// Dropping it ends its task, and with it the subscription.
struct Mailbox {
    prefix: String,
    waiting: Arc<Mutex<Waiting>>,
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
    token: Token,
    answer: oneshot::Receiver<Message>,
}

fn locked(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Replies {
    pub(super) fn new(client: Client) -> Self {
        Self { client, mailbox: OnceCell::new() }
    }

    /// A place for one answer.
    pub(super) async fn expect(&self) -> Result<Pending<'_>, SubscribeError> {
        let mailbox = self.mailbox.get_or_try_init(|| self.open()).await?;
        let mut chance = rand::rng();
        let token: Token = std::array::from_fn(|_| chance.sample(Alphanumeric));
        let (sender, answer) = oneshot::channel();
        locked(&mailbox.waiting).insert(token, sender);
        Ok(Pending { mailbox, token, answer })
    }

    async fn open(&self) -> Result<Mailbox, SubscribeError> {
        let prefix = format!("{}.", self.client.new_inbox());
        let mut answers = self.client.subscribe(format!("{prefix}*")).await?;
        let waiting: Arc<Mutex<Waiting>> = Arc::default();
        let (known, ours) = (Arc::clone(&waiting), prefix.clone());
        let task = tokio::spawn(async move {
            while let Some(answer) = answers.next().await {
                // Whoever answers may write what it likes behind the prefix.
                let token =
                    answer.subject.strip_prefix(ours.as_str()).and_then(|token| token.as_bytes().try_into().ok());
                if let Some(asked) = token.and_then(|token: Token| locked(&known).remove(&token)) {
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
        let Self { mailbox: Mailbox { prefix, .. }, token, .. } = self;
        let mut subject = String::with_capacity(prefix.len() + token.len());
        subject.push_str(prefix);
        subject.extend(token.iter().copied().map(char::from));
        subject
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
