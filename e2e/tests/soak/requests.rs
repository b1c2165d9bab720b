//! Good requests of every kind, and what is to come of any request: an answer, silence, or word that nobody listens.
//!
//! None of the good ones does lasting harm when a mutation leaves it good: claims are a stranger's, or for something
//! else, and where a claim does hold, what it deploys is stopped by who sent it.

use anyhow::Result;
use nex_client::deployment::{Deployment, lame_duck_request, stop_request};
use nex_e2e::{BUCKET, World};
use nex_identity::{Claims, Issuer};
use nex_protocol::control::auction::AuctionRequest;
use nex_protocol::control::deploy::RunResponse;
use nex_protocol::control::limits::WorkloadLimits;
use nex_protocol::control::ping::PingResponse;
use nex_protocol::envelope::kind;
use nex_protocol::{Location, Namespace, WorkloadType, subject};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

/// Namespace of what is deployed on the way; that of the workloads to be left alone is `default`.
pub(crate) const SPARES: &str = "spares";

/// Object of the function that is deployed on the way.
pub(crate) const SPARE: &str = "spare";

/// Largest request that a node reads, bytes.
const MAX_REQUEST: usize = 1 << 20;

/// The world, and what is known of it.
pub(crate) struct Ground {
    pub(crate) world: World,
    pub(crate) ping: PingResponse,
    pub(crate) types: Vec<String>,
    pub(crate) xkey: String,
    /// Workloads that must not be harmed.
    pub(crate) workloads: Vec<RunResponse>,
    /// SHA-256 of the object [`SPARE`].
    pub(crate) spare: String,
    /// Somebody the node does not trust.
    pub(crate) stranger: Issuer,
}

/// What a request is to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// One answer, an envelope of this type.
    Answer(&'static str),
    /// No answer: it is not this node's to say something.
    Silence,
    /// The server says that nobody listens.
    Nobody,
    /// An answer or none: it depends on what else is going on.
    Either,
}

/// A request before it is spoilt.
pub(crate) struct Good {
    pub(crate) subject: String,
    pub(crate) body: Value,
    /// Whether it deploys something when it stays good.
    pub(crate) deploys: bool,
}

impl Ground {
    /// A good request of any kind.
    pub(crate) fn good(&self, rng: &mut StdRng) -> Result<Good> {
        let node = self.world.node.id();
        let good = |subject: String, body: Value| Good { subject, body, deploys: false };
        Ok(match rng.random_range(0..100) {
            0..6 => good(subject::PING.to_owned(), json!({})),
            6..12 => good(subject::ping(node), json!({})),
            12..24 => good(self.asks_where(rng), json!({})),
            24..38 => good(subject::AUCTION.to_owned(), self.needs(rng)),
            38..50 => good(subject::info("default", node), json!({})),
            50..66 => good(subject::stop("default", node), self.stop(rng)?),
            66..76 => good(subject::lame_duck(node), self.lame_duck(rng)?),
            76..79 => Good { deploys: true, ..good(subject::deploy(SPARES, node), self.deploy(true, true)?) },
            79..90 => good(subject::deploy(SPARES, node), self.deploy(true, false)?),
            _ => good(subject::deploy("default", node), self.deploy(false, true)?),
        })
    }

    fn asks_where(&self, rng: &mut StdRng) -> String {
        let namespace = *["default", "default", SPARES, "nowhere"].choose(rng).unwrap_or(&"default");
        let workload = self.workloads.choose(rng).map(|workload| match rng.random_range(0..3) {
            0 => workload.id.as_str(),
            1 => workload.name.as_str(),
            _ => "nothing",
        });
        match (namespace.parse::<Namespace>(), workload) {
            (Ok(namespace), workload) => subject::workload_ping(&namespace, workload.filter(|_| rng.random())),
            _ => subject::WPING_ALL.to_owned(),
        }
    }

    fn needs(&self, rng: &mut StdRng) -> Value {
        let value = |tag: &str| self.ping.tags.get(tag).cloned().unwrap_or_default();
        let mut needs = json!({
            "arch": value("nex.arch"), "os": value("nex.os"), "sandboxed": false,
            "tags": {"node_name": value("node_name")}, "workload_types": self.types,
        });
        if rng.random_bool(0.2) {
            needs["tags"]["zone"] = "elsewhere".into();
        }
        needs
    }

    /// A stop that is not obeyed: by a stranger, for another name, or of nothing.
    fn stop(&self, rng: &mut StdRng) -> Result<Value> {
        let (namespace, node) = (self.world.client.namespace(), self.world.node.id());
        let workload = self.workloads.choose(rng).cloned().unwrap_or_default();
        let request = match rng.random_range(0..3) {
            0 => stop_request(&self.stranger, namespace, node, &workload.id, &workload.name),
            1 => stop_request(&self.world.issuer, namespace, node, &workload.id, "another"),
            _ => stop_request(&self.world.issuer, namespace, node, "cq2b5l6g10l0a0v6rd70", &workload.name),
        };
        Ok(serde_json::to_value(request?)?)
    }

    /// An order to leave that is not obeyed: a stranger's, or for another node.
    fn lame_duck(&self, rng: &mut StdRng) -> Result<Value> {
        let delay = Some(std::time::Duration::from_millis(1));
        let request = if rng.random() {
            lame_duck_request(Some(&self.stranger), self.world.node.id(), delay)
        } else {
            lame_duck_request(Some(&self.world.issuer), "NOTHER", delay)
        };
        Ok(serde_json::to_value(request?)?)
    }

    /// A deploy by somebody who may or may not, of an artifact that is what it is said to be or not.
    pub(crate) fn deploy(&self, trusted: bool, genuine: bool) -> Result<Value> {
        let sha256 = if genuine { self.spare.clone() } else { "ab".repeat(32) };
        let (name, location) = (SPARE.parse()?, Location::new(BUCKET, SPARE)?);
        let mut deployment = Deployment::new(name, WorkloadType::Wasm, location, sha256);
        deployment.trigger_subjects = vec!["soak.spare".parse()?];
        deployment.environment.set("KEY", "value");
        deployment.description = "a function".to_owned();
        deployment.limits = WorkloadLimits { memory_mib: Some(32), ..WorkloadLimits::default() };
        let issuer = if trusted { &self.world.issuer } else { &self.stranger };
        let namespace: Namespace = SPARES.parse()?;
        let node = self.world.node.id();
        let request = deployment.request(issuer, &self.world.publisher, &namespace, node, &self.xkey)?;
        let mut request = serde_json::to_value(request)?;
        if !genuine {
            // Bound to the name alone, so that a location that is changed is looked at.
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
            let claims = Claims { exp: i64::try_from(now)? + 300, ..Claims::deploy(SPARE, &"ab".repeat(32)) };
            request["workload_jwt"] = claims.sign(issuer, i64::try_from(now)?)?.into();
        }
        Ok(request)
    }

    /// A subject with something wrong in it.
    pub(crate) fn wrong_subject(&self, rng: &mut StdRng, subject: &str) -> String {
        let mut tokens: Vec<String> = subject.split('.').map(str::to_owned).collect();
        let odd = ["*", ">", "a$b", "ä", "default default", "\u{7f}", "NOTHER", "DEFAULT", "-", "$NEX"];
        let long = "n".repeat(rng.random_range(129..2000));
        let odd = if rng.random_bool(0.1) { &long } else { *odd.choose(rng).unwrap_or(&"x") };
        let at = rng.random_range(1..tokens.len());
        match rng.random_range(0..4) {
            0 => tokens.insert(at + 1, odd.to_owned()),
            1 if tokens.len() > 2 => drop(tokens.remove(at)),
            _ => tokens[at] = odd.to_owned(),
        }
        // What the client would not send.
        tokens.join(".").replace(' ', "_")
    }

    /// What is to come of a request.
    pub(crate) fn expected(&self, subject: &str, body: &[u8]) -> Expected {
        let node = self.world.node.id();
        let tokens: Vec<&str> = subject.split('.').collect();
        match tokens[..] {
            ["$NEX", "PING"] => Expected::Answer(kind::PING),
            ["$NEX", "PING", id] if id == node => Expected::Answer(kind::PING),
            ["$NEX", "LAMEDUCK", id] if id == node => Expected::Answer(kind::LAMEDUCK),
            ["$NEX", "INFO", _, id] if id == node => Expected::Answer(kind::INFO),
            ["$NEX", "DEPLOY", _, id] if id == node => Expected::Answer(kind::RUN),
            ["$NEX", "STOP", _, id] if id == node => Expected::Answer(kind::STOP),
            ["$NEX", "AUCTION"] => {
                let types: Vec<&str> = self.types.iter().map(String::as_str).collect();
                let fits = AuctionRequest::lenient(body).accepts(&self.ping, &types);
                if fits || body.len() > MAX_REQUEST { Expected::Answer(kind::AUCTION) } else { Expected::Silence }
            }
            ["$NEX", "WPING", _, ..] if body.len() > MAX_REQUEST => Expected::Answer(kind::PING),
            ["$NEX", "WPING", _, ..] => match subject::workloads_asked(subject) {
                None => Expected::Answer(kind::PING),
                Some((namespace, _)) if namespace.as_str() == SPARES => Expected::Either,
                Some((namespace, None)) if namespace.as_str() == "default" => Expected::Answer(kind::PING),
                Some((namespace, Some(asked))) if namespace.as_str() == "default" && self.has(&asked) => {
                    Expected::Answer(kind::PING)
                }
                Some(_) => Expected::Silence,
            },
            _ => Expected::Nobody,
        }
    }

    fn has(&self, asked: &str) -> bool {
        self.workloads.iter().any(|workload| workload.id == asked || workload.name.eq_ignore_ascii_case(asked))
    }
}
