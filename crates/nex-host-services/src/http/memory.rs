//! `http` in memory: a web of servers that are functions, under the same rules as the real one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::decode::Body;
use super::{Exchange, Http, Response};
use crate::egress::Egress;
use crate::{Answer, Failure, HttpSettings};

/// What a server in memory does with a request.
pub type Served = Arc<dyn Fn(Exchange) -> Response + Send + Sync>;

type Servers = HashMap<(String, u16), (IpAddr, Served)>;

/// Servers by host and port, each with the address it is meant to be at.
#[derive(Clone)]
pub struct MemoryWeb {
    egress: Arc<Egress>,
    max_body_bytes: usize,
    servers: Arc<Mutex<Servers>>,
}

impl MemoryWeb {
    /// A web without servers, under the rules of these settings.
    pub fn new(settings: &HttpSettings) -> Self {
        let egress = Arc::new(Egress::new(settings.allow.clone(), settings.deny.clone(), settings.allow_only));
        Self { egress, max_body_bytes: settings.max_body_bytes, servers: Arc::default() }
    }

    /// Adds a server.
    pub fn serve(&self, host: &str, port: u16, address: IpAddr, server: Served) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.insert((host.to_owned(), port), (address, server));
    }
}

impl Http for MemoryWeb {
    fn exchange(&self, exchange: Exchange) -> Answer<'_, Response> {
        Box::pin(async move {
            let host = exchange.url.host_str().unwrap_or_default().to_owned();
            let port = exchange.url.port_or_known_default().unwrap_or(80);
            let literal = host.trim_start_matches('[').trim_end_matches(']');
            let server =
                self.servers.lock().unwrap_or_else(PoisonError::into_inner).get(&(host.clone(), port)).cloned();
            let address = literal.parse().ok().or(server.as_ref().map(|(address, _)| *address));
            let address = address.ok_or_else(|| Failure::unavailable(format!("the name {host} has no address")))?;
            self.egress.permits(literal, address, port)?;
            let (_, serve) =
                server.ok_or_else(|| Failure::unavailable(format!("{host}:{port} cannot be connected to")))?;
            let room = exchange.room.clone();
            let mut response = serve(exchange);
            let mut body = Body::new(&response.headers, self.max_body_bytes, true);
            body.take(&response.body)?;
            room.take(body.len())?;
            response.body = body.finish(&mut response.headers)?;
            Ok(response)
        })
    }
}
