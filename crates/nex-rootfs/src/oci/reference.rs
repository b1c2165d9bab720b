//! References into a registry: `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`, as `docker pull` takes them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::Digest;

/// Where names without a host are: Docker Hub, by the name that people write, and by the one that answers.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// It is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no reference to an image: write [HOST[:PORT]/]NAME[:TAG][@DIGEST], in small letters but for the tag")]
pub struct BadReference(String);

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        let bad = || BadReference(text.to_owned());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| bad())?)),
            None => (text, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => (rest, Some(tag.to_owned())),
            _ => (rest, None),
        };
        // What looks like a host is one.
        let (host, repository) = match rest.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
            Some(_) => (HUB.0, rest.to_owned()),
            None => (HUB.0, format!("library/{rest}")),
        };
        let repository =
            if host == HUB.0 && !repository.contains('/') { format!("library/{repository}") } else { repository };
        let part = |part: &str| {
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            edge(part.chars().next())
                && edge(part.chars().next_back())
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))
        };
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let known_host = host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'));
        let known_tag = tag.as_ref().is_none_or(|tag| {
            !tag.is_empty() && tag.len() <= 128 && !tag.starts_with(['.', '-']) && tag.chars().all(name)
        });
        if !known_host || !known_tag || repository.len() > 255 || !repository.split('/').all(part) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), repository, tag, digest })
    }
}

impl Reference {
    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    pub(super) fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The digest, else the tag, else the tag that is meant when none is written.
    pub(super) fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The host as credentials are kept for it.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The address of the registry. Plain HTTP is for this machine only.
    pub(super) fn address(&self) -> String {
        let host = if self.host == HUB.0 { HUB.1 } else { &self.host };
        let scheme = if is_this_machine(host) { "http" } else { "https" };
        format!("{scheme}://{host}")
    }
}

/// Whether a host, with or without a port, is the machine itself.
pub(super) fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        match (&self.tag, &self.digest) {
            (Some(tag), Some(digest)) => write!(f, ":{tag}@{digest}"),
            (None, Some(digest)) => write!(f, "@{digest}"),
            (_, None) => write!(f, ":{}", self.version()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_docker_reads_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, whole, address) in [
            ("alpine", "docker.io/library/alpine:latest", "https://registry-1.docker.io"),
            ("synadia/nex-rootfs:alpine", "docker.io/synadia/nex-rootfs:alpine", "https://registry-1.docker.io"),
            ("docker.io/alpine:3.20", "docker.io/library/alpine:3.20", "https://registry-1.docker.io"),
            ("example.com/a/b_c", "example.com/a/b_c:latest", "https://example.com"),
            ("localhost:5000/a:V1", "localhost:5000/a:V1", "http://localhost:5000"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest", "http://127.0.0.1:5000"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "http://[::1]:5000"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.to_string().as_str(), reference.address().as_str()), (whole, address));
        }
        let pinned: Reference = format!("a/b:1@{digest}").parse().unwrap();
        assert_eq!(pinned.version(), digest);
        for bad in
            ["", "A", "a:", "a/../b", "a b", "example.com/", "a@sha256:0", "a/b?x", "-a", "127.0.0.1.example.com:x/a:/"]
        {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        assert!(!is_this_machine("localhost.example.com") && !is_this_machine("127.0.0.1.example.com:80"));
    }
}
