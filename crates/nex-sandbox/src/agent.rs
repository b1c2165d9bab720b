//! A ready agent, and the handshake that makes it one.
//!
//! ```text
//! spawned --Hello--> greeted --Welcome--> ready --claim--> used --+
//!    |                  |                   |                     v
//!    +------------------+-------------------+----------------> ended (place destroyed, everything in it killed)
//! ```

use std::fmt;
use std::path::Path;
use std::time::Duration;

use nex_link::{Receiver, Sender};
use nex_protocol::link::VERSION;
use nex_protocol::link::message::{ToAgent, ToNode, Welcome};
use rand::Rng;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::PrepareError;

/// What an agent lives in. Dropping it ends whatever runs there, at once and without waiting.
pub trait Place: Send + 'static {
    /// Notes the process group to end with the place, should the agent be lost without ending it; none when the
    /// workload has ended, for its id may then become somebody else's.
    fn note_process_group(&mut self, leader: Option<u32>);

    /// The agent's folder, where the node can reach it.
    fn folder(&self) -> Option<&Path>;

    /// Bounds everything that will run in the place. Comes before the workload is started.
    ///
    /// # Errors
    /// What the system says; the place is of no use then.
    fn bound(&mut self, resources: &crate::Resources) -> std::io::Result<()>;

    /// Whether something in the place was killed because all its memory was taken.
    fn ran_out_of_memory(&self) -> bool;

    /// Ends everything in the place, waits until it is gone and removes what was made for it.
    fn destroy(self: Box<Self>) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// An agent that has shaken hands and hosts nothing yet. Owned: whoever holds it decides its fate.
pub struct Agent {
    /// Id of the agent, which becomes the id of the workload.
    pub id: String,
    /// Messages to it.
    pub sender: Sender<ToAgent>,
    /// Messages from it.
    pub receiver: Receiver<ToNode>,
    /// Cancelled when the place is gone.
    pub lost: CancellationToken,
    /// Whether it can read the node's files; else the artifact is sent to it.
    pub shares_files: bool,
    /// Where it lives.
    pub place: Box<dyn Place>,
}

impl Agent {
    /// Whether it answers a ping in time. It must host nothing yet.
    pub(crate) async fn answers(&mut self, within: Duration) -> bool {
        const PING: u64 = 0;
        let answered = async {
            self.sender.send(ToAgent::Ping(PING)).await.ok()?;
            loop {
                match self.receiver.receive().await {
                    Ok(Some(ToNode::Pong(PING))) => return Some(()),
                    // It may have something to say, and nothing else.
                    Ok(Some(ToNode::Log { .. })) => {}
                    _ => return None,
                }
            }
        };
        matches!(timeout(within, answered).await, Ok(Some(())))
    }

    /// Ends the agent: closes its link, which tells it to end, and waits until its place is gone.
    pub async fn destroy(self) {
        let Agent { sender, receiver, place, .. } = self;
        // The link first: an agent that behaves ends by itself then.
        drop((sender, receiver));
        place.destroy().await;
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A new agent id: 20 characters of lower-case base32hex, the form of Go Nex's ids.
pub fn new_id() -> String {
    const ALPHABET: [char; 32] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l',
        'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v',
    ];
    let mut bits: u128 = rand::rng().random();
    let mut id = String::with_capacity(20);
    for _ in 0..20 {
        id.extend(ALPHABET.get((bits & 31) as usize));
        bits >>= 5;
    }
    id
}

/// As the link has times.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Shakes hands over a fresh link: waits for Hello, checks its version, sends Welcome.
///
/// # Errors
/// [`PrepareError`]; the link is of no further use then.
pub async fn shake_hands(
    sender: &Sender<ToAgent>,
    receiver: &mut Receiver<ToNode>,
    welcome: Welcome,
    within: Duration,
) -> Result<(), PrepareError> {
    let ended = |text: &dyn fmt::Display| PrepareError::Ended(text.to_string());
    match timeout(within, receiver.receive()).await {
        Err(_) => Err(PrepareError::HandshakeTimeout(within)),
        Ok(Err(error)) => Err(ended(&error)),
        Ok(Ok(None)) => Err(ended(&"it closed the link")),
        Ok(Ok(Some(ToNode::Hello(hello)))) if hello.version == VERSION => {
            sender.send(ToAgent::Welcome(welcome)).await.map_err(|error| ended(&error))
        }
        Ok(Ok(Some(ToNode::Hello(hello)))) => Err(PrepareError::Version { agent: hello.version, node: VERSION }),
        Ok(Ok(Some(_))) => Err(ended(&"it did not greet first")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_look_like_those_of_go_and_differ() {
        let (a, b) = (super::new_id(), super::new_id());
        assert_ne!(a, b);
        assert!(a.len() == 20 && a.chars().all(|c| matches!(c, '0'..='9' | 'a'..='v')), "{a}");
    }
}
