//! Leaving a queue group without losing a message.
//!
//! The client's own drain forgets a subscription as soon as it has anything else to do, often before the server has even
//! read that it is to end; what the server sent until then is thrown away, and who asked waits for nothing (async-nats
//! 0.51). So the server ends the subscription first, while the client keeps it: it is told to end it after more
//! messages than it can count, which it takes for at once (`parseSize` and `processUnsub` of nats-server: a number of
//! more than nine digits is none, and in old ones this one overflows to -1, which is none either), and the client waits
//! for them. It sends nothing for a subscription that has ended, so all has come when it has answered what was sent next.
//!
//! ```text
//! listening --ended by the server--> leaving --round trip--> forgotten by the client
//! ```
//! Should a server count so far, its subscription ends with the client's drain: what it sends within that moment
//! is lost then, and nothing else. Takes no longer than [`TRIP`], and what the drain takes.

use std::future::Future;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt as _;
use tokio::time::timeout;

/// Time the server has for a round trip.
pub(super) const TRIP: Duration = Duration::from_secs(1);

/// More messages than a server can count.
const UNCOUNTABLE: u64 = u64::MAX;

/// Leaves, and hands on what still comes. `trip` ends when the server has answered what was sent to it after it was first
/// polled.
pub(super) async fn leave(mut messages: Subscriber, trip: impl Future<Output = ()>, mut take: impl FnMut(Message)) {
    // Neither fails unless the connection has ended, and then the messages end by themselves.
    let _ = messages.unsubscribe_after(UNCOUNTABLE).await;
    let mut trip = std::pin::pin!(timeout(TRIP, trip));
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            _ = &mut trip => break,
        };
        let Some(message) = message else { return };
        take(message);
    }
    let _ = messages.drain().await;
    while let Some(message) = messages.next().await {
        take(message);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::FutureExt as _;
    use nex_testkit::NatsServer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;

    /// Messages; the subscription is left after some of them.
    const SENT: usize = 600;
    const LEFT_AFTER: usize = 150;

    /// A way to the server on which everything takes so long; its port.
    async fn detour(server: u16, distance: Duration) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.unwrap();
                let (near, far) = (near.into_split(), far.into_split());
                tokio::spawn(delayed(near.0, far.1, distance));
                tokio::spawn(delayed(far.0, near.1, distance));
            }
        });
        port
    }

    async fn delayed(
        mut from: tokio::net::tcp::OwnedReadHalf,
        mut to: tokio::net::tcp::OwnedWriteHalf,
        distance: Duration,
    ) {
        let (arrivals, mut departures) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some((time, bytes)) = departures.recv().await {
                tokio::time::sleep_until(time).await;
                let bytes: Vec<u8> = bytes;
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if arrivals.send((Instant::now() + distance, buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    }

    /// A server, a client so far from it, and one beside it.
    async fn far_and_near(distance: Duration) -> (NatsServer, async_nats::Client, async_nats::Client) {
        let server = NatsServer::start().await.unwrap();
        let port = detour(server.port(), distance).await;
        let far = async_nats::connect(format!("nats://127.0.0.1:{port}")).await.unwrap();
        let near = server.client().await.unwrap();
        (server, far, near)
    }

    async fn round_trip(client: &async_nats::Client) {
        let _ = client.request(client.new_inbox(), "".into()).await;
    }

    /// Two share the messages, which come at this pace; the one so far from the server leaves. Nobody misses any.
    async fn all_come(distance: Duration, pace: Duration) {
        let (_server, far, near) = far_and_near(distance).await;
        let mut leaving = far.queue_subscribe("work", "group".into()).await.unwrap();
        let mut fellow = near.queue_subscribe("work", "group".into()).await.unwrap();
        round_trip(&far).await;
        round_trip(&near).await;

        let publisher = near.clone();
        let published = tokio::spawn(async move {
            let mut pace = tokio::time::interval(pace);
            for _ in 0..SENT {
                pace.tick().await;
                publisher.publish("work", "".into()).await.unwrap();
            }
            round_trip(&publisher).await;
        });
        let mut received = 0;
        while received < LEFT_AFTER {
            leaving.next().await.unwrap();
            received += 1;
        }
        leave(leaving, round_trip(&far), |_| received += 1).await;
        assert!(received < SENT / 2 + SENT / 4, "{distance:?} away, each {pace:?}: it left");
        published.await.unwrap();
        let mut others = 0;
        while tokio::task::unconstrained(fellow.next()).now_or_never().is_some() {
            others += 1;
        }
        assert_eq!(received + others, SENT, "{distance:?} away, each {pace:?}");
    }

    #[tokio::test]
    async fn no_message_is_lost_however_far_the_server_is() {
        for distance in [0, 5, 20].map(Duration::from_millis) {
            all_come(distance, Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn no_message_is_lost_however_fast_they_come() {
        let distance = Duration::from_millis(1);
        for pace in [100, 400, 2_500].map(Duration::from_micros) {
            all_come(distance, pace).await;
        }
    }

    /// The client forgets nothing that is still to come, whatever else it has to do.
    #[tokio::test]
    async fn who_asks_meanwhile_is_answered_or_told_that_nobody_listens() {
        let (_server, far, near) = far_and_near(Duration::from_millis(20)).await;
        let subscription = far.queue_subscribe("work", "group".into()).await.unwrap();
        round_trip(&far).await;
        let other = far.clone();
        let busy = tokio::spawn(async move {
            while other.publish("other", "".into()).await.is_ok() {
                let _ = other.flush().await;
            }
        });
        let asked = tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(1));
            let mut requests = tokio::task::JoinSet::new();
            for _ in 0..100 {
                pace.tick().await;
                let near = near.clone();
                requests.spawn(async move { near.request("work", "".into()).await.map_err(|error| error.kind()) });
            }
            requests.join_all().await
        });
        let replies = far.clone();
        leave(subscription, round_trip(&far), move |message| {
            let replies = replies.clone();
            tokio::spawn(async move { replies.publish(message.reply.unwrap(), "".into()).await });
        })
        .await;
        let (answered, told): (Vec<_>, Vec<_>) = asked.await.unwrap().into_iter().partition(Result::is_ok);
        busy.abort();
        assert!(!answered.is_empty() && !told.is_empty(), "{} were answered, {} told", answered.len(), told.len());
        let nobody = async_nats::client::RequestErrorKind::NoResponders;
        assert_eq!(told.iter().filter(|told| told.as_ref().is_err_and(|kind| *kind != nobody)).count(), 0);
    }

    #[tokio::test]
    async fn without_messages_it_ends_soon_and_the_server_forgets_it() {
        let server = NatsServer::start().await.unwrap();
        let client = server.client().await.unwrap();
        let subscription = client.queue_subscribe("work", "group".into()).await.unwrap();
        leave(subscription, round_trip(&client), |_| panic!("nobody sends")).await;
        let reply = client.request("work", "".into()).await.unwrap_err();
        assert_eq!(reply.kind(), async_nats::client::RequestErrorKind::NoResponders);
    }
}
