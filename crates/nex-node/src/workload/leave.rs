//! Leaving a queue group without losing a message.
//!
//! The client's own drain forgets a subscription as soon as it has anything else to do, often before the server has even
//! read that it is to end; what the server sent until then is thrown away, and who asked waits for nothing (async-nats
//! 0.51). So the server is first given a number of messages after which the subscription ends by itself: as many as
//! can be under way, judged by those that come during a round trip. The client keeps the subscription until it has
//! that many. Under load nothing is lost that way. When they do not come, few messages do, and the drain ends it.
//!
//! ```text
//! listening --round trip--> counted --number told--> ended by the server
//!                                        +--it does not come to that--> drained
//! ```
//! Takes no longer than [`TRIP`] and [`LONGEST`] together, and what the drain takes.

use std::future::Future;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout};

/// Time the server has for a round trip.
const TRIP: Duration = Duration::from_millis(200);

/// The last messages have so many round trips to come.
const TRIPS: u32 = 20;

/// Bounds of that.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(500);

/// Leaves, and hands on what still comes. `received` is what the subscription has given so far; `trip` ends when the server
/// has answered what was sent to it just now.
pub(super) async fn leave(
    mut messages: Subscriber,
    mut received: u64,
    trip: impl Future<Output = ()>,
    mut take: impl FnMut(Message),
) {
    let begun = Instant::now();
    let mut trip = std::pin::pin!(timeout(TRIP, trip));
    let mut under_way = 0;
    loop {
        // Messages first: those that have come already are counted too.
        let message = tokio::select! {
            biased;
            message = messages.next() => message,
            _ = &mut trip => break,
        };
        let Some(message) = message else { return };
        (received, under_way) = (received + 1, under_way + 1);
        take(message);
    }
    let patience = begun.elapsed().saturating_mul(TRIPS).clamp(SHORTEST, LONGEST);
    // As many again may have left since the server answered.
    let last = received + 2 * under_way + 1;
    if messages.unsubscribe_after(last).await.is_ok() {
        let ended = async {
            while let Some(message) = messages.next().await {
                take(message)
            }
        };
        if timeout(patience, ended).await.is_ok() {
            return;
        }
    }
    if messages.drain().await.is_ok() {
        while let Some(message) = messages.next().await {
            take(message);
        }
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

    use super::*;

    /// Messages, one each millisecond; the subscription is left after some of them.
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

    async fn round_trip(client: &async_nats::Client) {
        let _ = client.request(client.new_inbox(), "".into()).await;
    }

    #[tokio::test]
    async fn no_message_is_lost_however_far_the_server_is() {
        for distance in [0, 5, 20].map(Duration::from_millis) {
            let server = NatsServer::start().await.unwrap();
            let port = detour(server.port(), distance).await;
            let far = async_nats::connect(format!("nats://127.0.0.1:{port}")).await.unwrap();
            let near = server.client().await.unwrap();
            let mut leaving = far.queue_subscribe("work", "group".into()).await.unwrap();
            let mut fellow = near.queue_subscribe("work", "group".into()).await.unwrap();
            round_trip(&far).await;
            round_trip(&near).await;

            let publisher = near.clone();
            let published = tokio::spawn(async move {
                let mut pace = tokio::time::interval(Duration::from_millis(1));
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
            leave(leaving, received as u64, round_trip(&far), |_| received += 1).await;
            assert!(received < SENT / 2 + SENT / 4, "{distance:?}: it left");
            published.await.unwrap();
            let mut others = 0;
            while tokio::task::unconstrained(fellow.next()).now_or_never().is_some() {
                others += 1;
            }
            assert_eq!(received + others, SENT, "{distance:?}");
        }
    }

    #[tokio::test]
    async fn without_messages_it_ends_soon_and_the_server_forgets_it() {
        let server = NatsServer::start().await.unwrap();
        let client = server.client().await.unwrap();
        let subscription = client.queue_subscribe("work", "group".into()).await.unwrap();
        leave(subscription, 0, round_trip(&client), |_| panic!("nobody sends")).await;
        let reply = client.request("work", "".into()).await.unwrap_err();
        assert_eq!(reply.kind(), async_nats::client::RequestErrorKind::NoResponders);
    }
}
