//! Images from a registry: a stand-in on this machine that wants tokens, redirects, and lies when it is told to.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use nex_rootfs::{Base, Contents, Recipe, RootfsError};
use support::{INDEX, Image, Layer, MANIFEST, Packing, build, content, recipe, sha256, tools};

/// An answer: status, headers, body.
type Answer = (u16, Vec<(String, String)>, Vec<u8>);

/// A request: path and authorization.
type Asked = (String, Option<String>);

/// A server that answers each path as it was told, and notes who asked with what authorization.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Without this authorization nothing below /v2/ is given.
    token: Arc<Mutex<Option<String>>>,
}

impl Server {
    /// It ends with the test's process.
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            answers: Arc::default(),
            asked: Arc::default(),
            token: Arc::default(),
        };
        let ours = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = ours.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    fn serve(&self, stream: TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
        let mut authorization = None;
        for line in lines.take_while(|line| !line.is_empty()) {
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("authorization")
            {
                authorization = Some(value.to_owned());
            }
        }
        self.asked.lock().unwrap().push((path.clone(), authorization.clone()));
        let token = self.token.lock().unwrap().clone();
        let (status, headers, body) = if path.starts_with("/v2/") && token.is_some() && token != authorization {
            let way = format!(
                "Bearer realm=\"http://{}/token\",service=\"stand-in\",scope=\"repository:a/b:pull\"",
                self.address
            );
            (401, vec![("WWW-Authenticate".to_owned(), way)], vec![])
        } else {
            let plain = path.split('?').next().unwrap().to_owned();
            self.answers.lock().unwrap().get(&plain).cloned().unwrap_or((404, vec![], vec![]))
        };
        let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut stream = stream;
        let _ = stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(&body));
    }

    fn give(&self, path: &str, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.answers.lock().unwrap().insert(path.to_owned(), (status, headers, body.to_vec()));
    }

    /// Has an image under `a/b:v1`.
    fn hold(&self, image: &Image, top: &serde_json::Value) {
        for (digest, bytes) in &image.blobs {
            let kind = if bytes.starts_with(b"{") { "manifests" } else { "blobs" };
            self.give(&format!("/v2/a/b/{kind}/{digest}"), 200, &[], bytes);
            self.give(&format!("/v2/a/b/blobs/{digest}"), 200, &[], bytes);
        }
        let digest = top["digest"].as_str().unwrap();
        let headers = [("Content-Type", INDEX), ("Docker-Content-Digest", digest)];
        self.give("/v2/a/b/manifests/v1", 200, &headers, &image.blobs[digest]);
    }

    fn build(&self, version: &str, recipe: &Recipe) -> Result<Contents, RootfsError> {
        let base = Base::parse(&format!("docker:{}/a/b{version}", self.address)).unwrap();
        build(&Recipe { base: Some(base), ..recipe.clone() })
    }
}

fn image() -> (Image, serde_json::Value, serde_json::Value) {
    let mut image = Image::default();
    let arm = image.add("arm64", &[Layer::default().file("which", "arm")], Packing::Gzip);
    let amd = image.add("amd64", &[Layer::default().file("which", "amd")], Packing::Zstd);
    let index = image.index(&[arm, amd.clone()]);
    (image, index, amd)
}

#[test]
fn an_image_is_fetched_with_a_token_and_its_layers_from_elsewhere_without() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), "image");
    let (registry, storage) = (Server::start(), Server::start());
    let (image, index, amd) = image();
    registry.hold(&image, &index);
    *registry.token.lock().unwrap() = Some("Bearer secret".to_owned());
    registry.give("/token", 200, &[], br#"{"access_token":"secret"}"#);
    // Layers are elsewhere, where the token is nobody's business.
    for (digest, bytes) in image.blobs.iter().filter(|(_, bytes)| !bytes.starts_with(b"{")) {
        let there = format!("http://{}/{digest}?signature=x", storage.address);
        registry.give(&format!("/v2/a/b/blobs/{digest}"), 307, &[("Location", &there)], b"");
        storage.give(&format!("/{digest}"), 200, &[], bytes);
    }
    let made = registry.build(":v1", &recipe).unwrap();
    assert_eq!(content(&recipe.output, "/which"), "amd");
    let base = made.base.unwrap();
    assert_eq!(base.reference, format!("{}/a/b:v1", registry.address));
    assert_eq!(base.digest, amd["digest"].as_str().unwrap());
    let asked = registry.asked.lock().unwrap().clone();
    let token = asked.iter().find(|(path, _)| path.starts_with("/token")).unwrap();
    assert!(token.0.contains("service=stand-in") && token.0.contains("scope=repository%3Aa%2Fb%3Apull"), "{token:?}");
    let elsewhere = storage.asked.lock().unwrap().clone();
    assert!(elsewhere.len() == 1 && elsewhere[0].1.is_none(), "{elsewhere:?}");
    // By its digest it is what it was, whatever the tag has become.
    registry.give("/v2/a/b/manifests/v1", 404, &[], b"");
    let pinned = registry.build(&format!(":v1@{}", index["digest"].as_str().unwrap()), &recipe).unwrap();
    assert_eq!(pinned.base.unwrap().digest, amd["digest"].as_str().unwrap());
}

#[test]
fn credentials_of_a_file_are_shown_to_the_registry_that_they_are_for() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let registry = Server::start();
    let (image, index, _) = image();
    registry.hold(&image, &index);
    *registry.token.lock().unwrap() = Some("Bearer secret".to_owned());
    registry.give("/token", 200, &[], br#"{"token":"secret"}"#);
    let auth = folder.path().join("auth.json");
    let text = |host: &str| format!(r#"{{"auths":{{"{host}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#);
    let recipe = Recipe { auth_file: Some(auth.clone()), ..recipe(folder.path(), "image") };
    for (host, shown) in
        [(registry.address.to_string(), Some("Basic dXNlcjpwYXNz".to_owned())), ("example.com".to_owned(), None)]
    {
        fs::write(&auth, text(&host)).unwrap();
        registry.asked.lock().unwrap().clear();
        registry.build(":v1", &recipe).unwrap();
        let asked = registry.asked.lock().unwrap().clone();
        assert_eq!(asked.iter().find(|(path, _)| path.starts_with("/token")).unwrap().1, shown);
    }
    fs::write(&auth, "user:pass").unwrap();
    assert!(registry.build(":v1", &recipe).unwrap_err().to_string().contains("config.json"));
}

#[test]
fn what_a_registry_does_wrong_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), "image");
    let registry = Server::start();
    let (image, index, amd) = image();
    registry.hold(&image, &index);
    let told = |version: &str| registry.build(version, &recipe).unwrap_err().to_string();
    assert!(told(":v2").contains("no such image or tag"));
    let index_digest = index["digest"].as_str().unwrap();
    let other = sha256(b"other");
    let bytes = &image.blobs[index_digest];
    registry.give("/v2/a/b/manifests/v1", 200, &[("Docker-Content-Digest", &other)], bytes);
    assert!(told(":v1").contains("was wanted"), "the manifest is not what the registry says");
    registry.give(&format!("/v2/a/b/manifests/{other}"), 200, &[], bytes);
    assert!(told(&format!("@{other}")).contains("was wanted"), "the manifest is not what was asked for");
    registry.hold(&image, &index);
    let amd_digest = amd["digest"].as_str().unwrap();
    let layer = image.blobs.iter().find(|(_, bytes)| bytes.starts_with(&[0x28, 0xb5])).unwrap();
    let path = format!("/v2/a/b/blobs/{}", layer.0);
    for (body, reason) in [
        ([layer.1.as_slice(), b"more"].concat(), "more than"),
        (layer.1[..10].to_vec(), "bytes, and the manifest says"),
        ([&layer.1[..layer.1.len() - 1], b"!"].concat(), "was wanted"),
    ] {
        registry.give(&path, 200, &[], &body);
        let error = told(":v1");
        assert!(error.contains(reason), "{reason}: {error}");
    }
    for (status, headers, reason) in [
        (500, vec![], "500"),
        (429, vec![], "later"),
        (403, vec![], "--auth-file"),
        (302, vec![], "nowhere"),
        (302, vec![("Location", path.as_str())], "without end"),
        (302, vec![("Location", "http://192.0.2.1/x")], "only https"),
        (302, vec![("Location", "file:///etc/passwd")], "only https"),
    ] {
        registry.give(&path, status, &headers, b"");
        let error = told(":v1");
        assert!(error.contains(reason), "{reason}: {error}");
    }
    registry.give(&format!("/v2/a/b/manifests/{amd_digest}"), 200, &[("Content-Type", MANIFEST)], b"<html>");
    assert!(told(":v1").contains("bytes, and") || told(":v1").contains("was wanted"));
    registry.give("/v2/a/b/manifests/v1", 200, &[], br#"{"schemaVersion":1,"fsLayers":[]}"#);
    assert!(told(":v1").contains("old first version"));
    *registry.token.lock().unwrap() = Some("Bearer never".to_owned());
    assert!(told(":v1").contains("no leave is given"));
    registry.give("/token", 200, &[], br#"{"token":"wrong"}"#);
    assert!(told(":v1").contains("credentials"));
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let base = Base::parse(&format!("docker:{gone}/a")).unwrap();
    let error = build(&Recipe { base: Some(base), ..recipe }).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}
