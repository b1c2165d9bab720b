//! A worker without a source: nothing of a function is in it yet.
//!
//! States: starting (Deno itself, then the worker's own code), ready (it waits for a source). [`Fresh::load`] makes a
//! [`Worker`] of it. What it says before that was written by nobody but us, so anything but Ready means that it is broken.

use std::io;
use std::time::Duration;

use nex_link::{LinkError, Sender};
use tokio::time::Instant;

use super::deno::{DYING, Deno, Ended, Engine, Event};
use super::direct::Direct;
use super::incoming::Incoming;
use super::pace::Pace;
use super::protocol::{FromWorker, ToWorker};
use super::worker::{Settings, Worker};
use super::{function, host_calls::HostCalls};

/// A worker that takes a source. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Fresh {
    deno: Deno,
    /// Where it connects, until it has.
    incoming: Option<Incoming>,
    direct: Option<Direct>,
    begun: Instant,
    /// Time it has to become ready, and when that ends.
    within: Duration,
    until: Instant,
    ready: Option<Ready>,
}

/// What is known of a worker once it is ready.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    /// How slow the machine is.
    pub(crate) pace: Pace,
    /// Where the worker hears us.
    pub(crate) messages: Sender<ToWorker>,
}

/// What keeps a worker from becoming ready, or staying so.
#[derive(Debug)]
pub(crate) enum NotReady {
    /// Its time was up.
    Late,
    /// It said something else.
    Garbage(Option<LinkError>),
    /// It said that it is ready and cannot be spoken to.
    Deaf(io::Error),
    /// It closed its stream or died.
    Closed,
}

impl Fresh {
    /// Starts a worker; `waits` when there is no function for it yet. To be called on the main thread.
    pub(crate) fn start(engine: &Engine, waits: bool) -> io::Result<Self> {
        let incoming = Incoming::new(&engine.folder)?;
        let direct = if engine.direct { Some(Direct::new(&engine.folder)?) } else { None };
        let deno = Deno::start(engine, &incoming, direct.as_ref(), waits)?;
        let begun = Instant::now();
        let (incoming, until) = (Some(incoming), begun + engine.start);
        Ok(Self { deno, incoming, direct, begun, within: engine.start, until, ready: None })
    }

    /// Somebody wants it now: it has its whole time from here, for so has who wants it.
    pub(crate) fn claimed(mut self) -> Self {
        self.until = Instant::now() + self.within;
        self
    }

    /// Time since it was started.
    pub(crate) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Process id.
    pub(crate) fn id(&self) -> u32 {
        self.deno.id()
    }

    /// Waits until it is ready, or finds out that it is no more. Cancel-safe.
    pub(crate) async fn ready(&mut self) -> Result<Ready, NotReady> {
        if let Some(ready) = &self.ready {
            return self.deno.event_now().map_or_else(|| Ok(ready.clone()), |event| Err(broken(event)));
        }
        match tokio::time::timeout_at(self.until, self.deno.event()).await {
            Ok(Event::Message(FromWorker::Ready)) => {
                let pace = Pace::of(self.begun.elapsed());
                let messages = self.connected().map_err(NotReady::Deaf)?;
                Ok(self.ready.insert(Ready { pace, messages }).clone())
            }
            Ok(other) => Err(broken(other)),
            Err(_) => Err(NotReady::Late),
        }
    }

    /// The connection that it has made.
    fn connected(&mut self) -> io::Result<Sender<ToWorker>> {
        let incoming = self.incoming.take().ok_or(io::ErrorKind::NotConnected)?;
        Ok(nex_link::to_socket(incoming.accept()?))
    }

    /// Waits for what ends it while nobody wants it. Cancel-safe.
    pub(crate) async fn lost(&mut self) -> NotReady {
        if let Err(why) = self.ready().await {
            return why;
        }
        broken(self.deno.event().await)
    }

    /// Gives it its source. What comes of that is the next thing it says.
    pub(crate) fn load(self, ready: Ready, settings: &Settings) -> Worker {
        let Self { deno, direct, .. } = self;
        let Ready { messages, .. } = ready;
        deno.has_function();
        // The first message of an empty queue always has room.
        messages.try_send(ToWorker::Load(Box::new(settings.load.clone()), settings.source.clone()));
        let host_calls = HostCalls::new(
            settings.host.clone(),
            messages.clone(),
            deno.answers().clone(),
            settings.engine.memory_bytes,
        );
        Worker::new(deno, messages, host_calls, direct)
    }

    /// Ends one that did not become ready or did not stay so, and says what was wrong with it.
    pub(crate) async fn fail(self, why: NotReady) -> String {
        let within = self.within;
        let Ended { status, last_line, .. } = self.deno.end(!matches!(why, NotReady::Closed), DYING, |_| false).await;
        let words = last_line.map(|line| format!(": {line}")).unwrap_or_default();
        match why {
            NotReady::Late => format!("Deno did not start within {:.1} s{words}", within.as_secs_f64()),
            NotReady::Garbage(error) => {
                let error = error.map_or_else(|| function::UNASKED.to_owned(), |error| error.to_string());
                format!("Deno started and said something that nobody expects ({error}){words}")
            }
            NotReady::Deaf(error) => format!("Deno started and cannot be spoken to ({error}){words}"),
            NotReady::Closed => format!("Deno ended while it was started ({status}){words}"),
        }
    }

    /// Kills it and waits until it is gone.
    pub(crate) async fn kill(self) {
        self.deno.kill().await;
    }
}

fn broken(event: Event) -> NotReady {
    match event {
        Event::Message(_) => NotReady::Garbage(None),
        Event::Garbage(error) => NotReady::Garbage(Some(error)),
        Event::Closed => NotReady::Closed,
    }
}
