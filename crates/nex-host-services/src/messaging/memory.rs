//! `messaging` in memory: the twin that the NATS backend is held against, and a bus that tests can answer on.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use nex_protocol::link::host::HostErrorCode;
use nex_protocol::link::message::Headers;
use nex_protocol::subject::TriggerSubject;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{Bounds, Messaging, Outbound, Reply};
use crate::{Answer, Failure};

/// A bus everybody with a clone of it is on.
#[derive(Debug, Clone, Default)]
pub struct MemoryBus {
    listeners: Arc<Mutex<Vec<Listener>>>,
}

type Listener = (TriggerSubject, mpsc::UnboundedSender<Inbound>);

/// A message as a listener of the bus gets it.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// Subject.
    pub subject: String,
    /// Headers.
    pub headers: Headers,
    /// Payload.
    pub payload: Bytes,
    /// Where answers go, with a request.
    pub reply: Option<mpsc::UnboundedSender<Reply>>,
}

impl MemoryBus {
    /// Listens on a subject, until the receiver is dropped.
    pub fn subscribe(&self, subject: TriggerSubject) -> mpsc::UnboundedReceiver<Inbound> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push((subject, sender));
        receiver
    }

    /// Passes a message to all who listen; whether there was one.
    fn send(&self, message: &Inbound) -> Result<bool, Failure> {
        let subject: TriggerSubject = message.subject.parse().map_err(|_| Failure::invalid("it is no subject"))?;
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|(_, listener)| !listener.is_closed());
        let heard = listeners.iter().filter(|(pattern, _)| pattern.overlaps(&subject));
        Ok(heard.filter(|(_, listener)| listener.send(message.clone()).is_ok()).count() > 0)
    }
}

impl Messaging for MemoryBus {
    fn publish<'a>(&'a self, message: Outbound<'a>) -> Answer<'a, ()> {
        Box::pin(async move {
            let Outbound { subject, headers, payload } = message;
            let (subject, headers) = (subject.to_owned(), headers.clone());
            self.send(&Inbound { subject, headers, payload, reply: None }).map(|_| ())
        })
    }

    fn request<'a>(
        &'a self,
        message: Outbound<'a>,
        bounds: Bounds,
        take: &'a mut (dyn FnMut(Reply) -> Result<(), Failure> + Send),
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let (reply, mut answers) = mpsc::unbounded_channel();
            let Outbound { subject, headers, payload } = message;
            let (subject, headers) = (subject.to_owned(), headers.clone());
            // Kept for as long as answers are waited for: with NATS too nobody can tell that no more will come.
            let message = Inbound { subject, headers, payload, reply: Some(reply) };
            if !self.send(&message)? {
                return Err(Failure::new(HostErrorCode::NoResponders, "nobody listens on the subject"));
            }
            let mut end = bounds.end;
            for _ in 0..bounds.messages {
                let Ok(Some(answer)) = timeout_at(end, answers.recv()).await else { return Ok(()) };
                take(answer)?;
                if let Some(stall) = bounds.stall {
                    end = (Instant::now() + stall).min(bounds.end);
                }
            }
            Ok(())
        })
    }
}
