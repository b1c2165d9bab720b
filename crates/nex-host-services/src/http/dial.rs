//! Connections: a name is resolved here, each address is judged, and the judged address is what is connected to.
//!
//! Every connection the client makes, for whatever hop of whatever request, is made here, so there is no way around the
//! rules; a connection that is used again goes where it was judged to be allowed to.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tower_service::Service;

use crate::Failure;
use crate::egress::Egress;

/// How long one address may take to answer before the next is tried.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names that are looked up at a time.
static LOOK_UPS: Semaphore = Semaphore::const_new(32);

/// Turns a name into addresses.
pub trait Resolve: Send + Sync {
    /// The addresses of a name, as of now.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The resolver of the node's system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let turn = LOOK_UPS.acquire().await.map_err(io::Error::other)?;
            let host = host.to_owned();
            // The system's resolver cannot be interrupted. The turn goes with it, so that calls which are given up do not
            // fill the threads that the whole node shares.
            let look_up = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                (host.as_str(), 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect())
            });
            look_up.await.map_err(io::Error::other)?
        })
    }
}

/// Makes connections by the rules.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) egress: Arc<Egress>,
    pub(super) resolver: Arc<dyn Resolve>,
}

impl Dialer {
    async fn dial(self, uri: Uri) -> Result<TokioIo<TcpStream>, Failure> {
        let host = uri.host().ok_or_else(|| Failure::invalid("a URL has a host"))?;
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        let addresses = match literal.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self
                .resolver
                .resolve(host)
                .await
                .map_err(|_| Failure::unavailable(format!("the name {host} has no address")))?,
        };
        let mut failure = Failure::unavailable(format!("the name {host} has no address"));
        let mut permitted = Vec::new();
        for address in addresses {
            match self.egress.permits(literal, address, port) {
                Ok(()) if is_own(address) && !self.egress.opens(literal, address, port) => {
                    failure = Failure::denied(format!("{host} is the node itself, which the node does not allow"));
                }
                Ok(()) => permitted.push(SocketAddr::new(address, port)),
                Err(denied) => failure = denied,
            }
        }
        for address in permitted {
            match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Small requests are not to wait for more; a socket that cannot be told so works as well.
                    let _ = stream.set_nodelay(true);
                    return Ok(TokioIo::new(stream));
                }
                Ok(Err(_)) | Err(_) => failure = Failure::unavailable(format!("{host}:{port} cannot be connected to")),
            }
        }
        Err(failure)
    }
}

/// Whether an address is one of this machine's own, public ones included: the way there begins where it ends. Nothing
/// is sent.
fn is_own(address: IpAddr) -> bool {
    let from: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let local = UdpSocket::bind((from, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    local.is_ok_and(|local| local.ip() == address)
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}
