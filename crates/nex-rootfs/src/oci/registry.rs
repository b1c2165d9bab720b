//! An image in a registry, by version 2 of the protocol that registries speak: anonymous, or with credentials from a file
//! that was named. Manifests and layers are asked for by their digests and compared with them.

use std::io::{self, Write};
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::WWW_AUTHENTICATE;
use serde::Deserialize;
use url::Url;

use super::http::{Answer, Http, failed};
use super::{Blob, DOCUMENT, Descriptor, Digest, Document, Reference, Source};
use crate::RootfsError;
use crate::base::{Job, read_small};
use crate::error::{file, image};

/// What a manifest may be.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json";

/// Most bytes of a token's answer.
const TOKEN: u64 = 1 << 20;

/// An image in a registry.
pub(crate) struct Registry {
    reference: Reference,
    base: Url,
    http: Http,
    work: PathBuf,
    /// `user:password`, in base 64.
    credentials: Option<String>,
    authorization: Option<String>,
}

impl Registry {
    pub(crate) fn connect(reference: &Reference, job: &Job<'_>) -> Result<Self, RootfsError> {
        let text = format!("{}/v2/{}/", reference.address(), reference.repository());
        let base = Url::parse(&text).map_err(|error| image(reference.to_string(), error.to_string()))?;
        (job.progress)(&format!("Fetching {reference}"));
        Ok(Self {
            reference: reference.clone(),
            http: Http::start(&base)?,
            base,
            work: job.work.to_owned(),
            credentials: job.auth.map(|path| credentials(path, reference.host())).transpose()?.flatten(),
            authorization: None,
        })
    }

    /// Asks for something of the repository, and for leave first where the registry wants that.
    fn get(&mut self, what: &str, accept: &str) -> Result<Answer, RootfsError> {
        let url = self.base.join(what).map_err(|error| failed(&self.base, error.to_string()))?;
        let mut answer = self.http.get(&url, accept, self.authorization.as_deref())?;
        if answer.status == StatusCode::UNAUTHORIZED {
            self.authorization = Some(self.leave(&url, &answer)?);
            answer = self.http.get(&url, accept, self.authorization.as_deref())?;
        }
        match answer.status {
            StatusCode::OK => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(failed(
                &url,
                "the registry does not give it to us: there is no such image, or it needs credentials (--auth-file)",
            )),
            StatusCode::NOT_FOUND => Err(failed(&url, "there is no such image or tag")),
            StatusCode::TOO_MANY_REQUESTS => Err(failed(&url, "the registry wants us to come back later (429)")),
            other => Err(failed(&url, format!("the registry answers {other}"))),
        }
    }

    /// What a request is to carry, from the way in that the registry names.
    fn leave(&self, url: &Url, answer: &Answer) -> Result<String, RootfsError> {
        let challenges: Vec<_> =
            answer.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
        let basic = challenges.iter().any(|challenge| challenge.to_ascii_lowercase().starts_with("basic"));
        if let (true, Some(credentials)) = (basic, &self.credentials) {
            return Ok(format!("Basic {credentials}"));
        }
        let bearer = challenges.iter().find_map(|challenge| {
            let (scheme, rest) = challenge.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(rest)
        });
        let unknown = || failed(url, "the registry wants credentials: name a file with them (--auth-file)");
        let (realm, query) = challenge(bearer.ok_or_else(unknown)?);
        let mut realm = realm.and_then(|realm| Url::parse(&realm).ok()).ok_or_else(unknown)?;
        realm.query_pairs_mut().extend_pairs(query);
        let basic = self.credentials.as_ref().map(|credentials| format!("Basic {credentials}"));
        let answer = self.http.get(&realm, "application/json", basic.as_deref())?;
        if answer.status != StatusCode::OK {
            return Err(failed(&realm, format!("no leave is given to read the image ({})", answer.status)));
        }
        #[derive(Deserialize)]
        struct Token {
            #[serde(alias = "access_token")]
            token: String,
        }
        let mut bytes = Vec::new();
        self.http.read(answer, TOKEN, &mut bytes)?;
        let token: Token = serde_json::from_slice(&bytes)
            .map_err(|error| failed(&realm, format!("the answer has no token: {error}")))?;
        Ok(format!("Bearer {}", token.token))
    }
}

impl Source for Registry {
    fn reference(&self) -> String {
        self.reference.to_string()
    }

    fn root(&mut self) -> Result<(Document, Digest), RootfsError> {
        let answer = self.get(&format!("manifests/{}", self.reference.version()), MANIFESTS)?;
        let told = answer.headers.get("docker-content-digest").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut bytes = Vec::new();
        self.http.read(answer, DOCUMENT, &mut bytes)?;
        let what = format!("the manifest of {}", self.reference);
        let wanted = self.reference.digest().cloned().or_else(|| told.and_then(|told| told.parse().ok()));
        let digest = match wanted {
            Some(wanted) => {
                let mut hasher = wanted.hasher();
                hasher.update(&bytes);
                wanted.check(&what, &hasher.finish())?;
                wanted
            }
            None => Digest::sha256(&bytes),
        };
        Ok((Document::parse(&bytes).map_err(|reason| image(self.reference.to_string(), reason))?, digest))
    }

    fn blob(&mut self, descriptor: &Descriptor) -> Result<Blob, RootfsError> {
        let kind = if descriptor.media_type.contains("manifest") || descriptor.media_type.contains("index") {
            "manifests"
        } else {
            "blobs"
        };
        let accept = if kind == "manifests" { MANIFESTS } else { "*/*" };
        let answer = self.get(&format!("{kind}/{}", descriptor.digest), accept)?;
        let mut kept = tempfile::tempfile_in(&self.work).map_err(file("cannot make a file in", &self.work))?;
        let mut counted = Counted { to: &mut kept, length: 0 };
        self.http.read(answer, descriptor.size, &mut counted)?;
        let length = counted.length;
        Blob::new(kept, 0, length).checked(
            &format!("{} of {}", descriptor.digest, self.reference),
            &descriptor.digest,
            descriptor.size,
        )
    }
}

struct Counted<W> {
    to: W,
    length: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// What a challenge asks for: the realm, and everything else as the query it becomes.
fn challenge(text: &str) -> (Option<String>, Vec<(String, String)>) {
    let (mut realm, mut query) = (None, Vec::new());
    let mut rest = text.trim();
    while let Some((key, value)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => value.split_once(',').unwrap_or((value, "")),
        };
        match key.as_str() {
            "realm" => realm = Some(value.to_owned()),
            // Why the last token did not do is nothing to ask for.
            "error" | "error_description" => {}
            _ => query.push((key, value.to_owned())),
        }
        rest = after;
    }
    (realm, query)
}

/// Credentials for a host, from a file in the form of Docker's `config.json`.
fn credentials(path: &std::path::Path, host: &str) -> Result<Option<String>, RootfsError> {
    #[derive(Deserialize)]
    struct Entry {
        auth: Option<String>,
    }
    #[derive(Deserialize)]
    struct Credentials {
        #[serde(default)]
        auths: std::collections::BTreeMap<String, Entry>,
    }
    let unfit = |reason: &str| image(path.display().to_string(), reason);
    let read: Credentials = serde_json::from_slice(&read_small(path, TOKEN)?)
        .map_err(|_| unfit("it is no file of credentials in the form of Docker's config.json"))?;
    let hosts = read.auths.into_iter().find(|(name, _)| {
        let name = name.trim_start_matches("https://").trim_start_matches("http://");
        let name = name.split('/').next().unwrap_or_default();
        name == host || (host == "docker.io" && name == "index.docker.io")
    });
    let Some(auth) = hosts.and_then(|(_, entry)| entry.auth) else { return Ok(None) };
    match STANDARD.decode(&auth) {
        Ok(_) => Ok(Some(auth)),
        Err(_) => Err(unfit("its credentials are not in base 64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_taken_apart() {
        let (realm, query) =
            challenge(r#"realm="https://auth.example.com/token",service=example.com,scope="repository:a/b:pull,push""#);
        assert_eq!(realm.as_deref(), Some("https://auth.example.com/token"));
        let query: Vec<_> = query.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(query, [("service", "example.com"), ("scope", "repository:a/b:pull,push")]);
    }
}
