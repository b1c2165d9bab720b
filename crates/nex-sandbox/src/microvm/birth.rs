//! The birth of a machine, from the node's side; see [`nex_protocol::machine`].

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use nex_protocol::machine::{Birth, Born, Entropy, GuestNetwork, MAX_LINE, line};
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use crate::PrepareError;

/// Tells a machine what it is, and waits until it is that.
pub(super) async fn bear(
    link: &mut UnixStream,
    id: &str,
    network: Option<GuestNetwork>,
    until: Instant,
) -> Result<(), PrepareError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let birth = Birth {
        clock_unix_ms: u64::try_from(since.as_millis()).unwrap_or_default(),
        entropy: Entropy(rand::rng().random()),
        name: format!("nex-{id}"),
        network,
    };
    let told = async {
        link.write_all(&line(&birth)?).await?;
        read_line(link).await
    };
    let ended = |text: String| PrepareError::Ended(text);
    let answer = match timeout_at(until, told).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(ended(format!("the machine did not take what it was told: {error}"))),
        Err(_) => return Err(ended("the machine did not answer in time".into())),
    };
    match serde_json::from_slice::<Born>(&answer) {
        Ok(Born { error: None }) => Ok(()),
        Ok(Born { error: Some(error) }) => Err(ended(error)),
        Err(_) => Err(ended("the machine's answer is none: its image is of another release".into())),
    }
}

/// A line, without its end. Byte by byte: what follows it is somebody else's.
pub(super) async fn read_line(link: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    while said.len() < MAX_LINE {
        match link.read_u8().await? {
            b'\n' => return Ok(said),
            byte => said.push(byte),
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a line without end"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn answered(answer: &'static [u8]) -> Result<(), PrepareError> {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let guest = tokio::spawn(async move {
            let birth: Birth = serde_json::from_slice(&read_line(&mut theirs).await.unwrap()).unwrap();
            assert!(birth.name == "nex-a" && birth.clock_unix_ms > 1_600_000_000_000);
            theirs.write_all(answer).await.unwrap();
        });
        let result = bear(&mut ours, "a", None, Instant::now() + Duration::from_secs(10)).await;
        guest.await.unwrap();
        result
    }

    #[tokio::test]
    async fn a_machine_that_cannot_be_what_it_is_told_says_why() {
        answered(b"{}\nrest").await.unwrap();
        let error = answered(b"{\"error\":\"cannot set the clock\"}\n").await.unwrap_err();
        assert!(error.to_string().contains("cannot set the clock"), "{error}");
        let error = answered(b"{\"er").await.unwrap_err();
        assert!(error.to_string().contains("did not take"), "{error}");
        assert!(answered(b"hello\n").await.is_err());
    }
}
