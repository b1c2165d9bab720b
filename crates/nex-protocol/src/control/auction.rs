//! AUCTION: which nodes could take a workload with these needs. Nodes that do not fit stay silent.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::null_as_default;
use super::ping::{PingResponse, tag};

/// Needs of a workload; what is not given is not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AuctionRequest {
    /// Architecture in Go's spelling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Operating system in Go's spelling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Whether the node must, or must not, run workloads in a sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandboxed: Option<bool>,
    /// Tags the node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub tags: BTreeMap<String, String>,
    /// Types the node must run, all of them.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub workload_types: Vec<String>,
}

impl AuctionRequest {
    /// Reads a request as Go Nex does: an empty or unreadable body asks for nothing in particular.
    pub fn lenient(body: &[u8]) -> Self {
        serde_json::from_slice::<Option<Self>>(body).ok().flatten().unwrap_or_default()
    }

    /// Whether a node that says this of itself meets every need. Values compare without regard to case.
    pub fn accepts(&self, node: &PingResponse, supported: &[&str]) -> bool {
        let sandboxed = !node.tag_is(tag::UNSAFE, "true");
        self.arch.as_ref().is_none_or(|arch| node.tag_is(tag::ARCH, arch))
            && self.os.as_ref().is_none_or(|os| node.tag_is(tag::OS, os))
            && self.sandboxed.is_none_or(|wanted| wanted == sandboxed)
            && self.tags.iter().all(|(name, value)| node.tag_is(name, value))
            && self.workload_types.iter().all(|wanted| supported.iter().any(|s| s.eq_ignore_ascii_case(wanted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> PingResponse {
        let tags = [("nex.arch", "amd64"), ("nex.os", "linux"), ("nex.unsafe", "true"), ("zone", "eu")];
        PingResponse { tags: tags.map(|(k, v)| (k.to_owned(), v.to_owned())).into(), ..PingResponse::default() }
    }

    #[test]
    fn an_unreadable_request_asks_for_nothing() {
        for body in [&b""[..], b"null", b"[1]", b"\xff\xff", b"{\"arch\":1}"] {
            assert_eq!(AuctionRequest::lenient(body), AuctionRequest::default());
        }
    }

    #[test]
    fn all_needs_must_hold() {
        let yes = AuctionRequest::lenient(br#"{"arch":"AMD64","tags":{"zone":"EU"},"workload_types":["native","v8"]}"#);
        assert!(yes.accepts(&node(), &["native", "v8"]));
        assert!(!yes.accepts(&node(), &["native"]));
        assert!(!AuctionRequest::lenient(br#"{"sandboxed":true}"#).accepts(&node(), &[]));
        assert!(!AuctionRequest::lenient(br#"{"tags":{"gpu":"1"}}"#).accepts(&node(), &[]));
    }
}
