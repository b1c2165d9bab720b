//! Debian as a base. Where debootstrap, root or a mirror is missing, the test says so and ends.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use nex_rootfs::{Base, Debian, Recipe};
use support::{build, is_root, is_there, owned, recipe, tools};

/// The mirror of this machine's own packages, else of `NEX_TEST_MIRROR`; only one that answers.
fn mirror() -> Option<String> {
    let named = std::env::var("NEX_TEST_MIRROR").ok().or_else(|| {
        let text = std::fs::read_to_string("/etc/apt/sources.list.d/debian.sources").ok()?;
        Some(text.lines().find_map(|line| line.strip_prefix("URIs: "))?.split(' ').next()?.to_owned())
    })?;
    let url = url::Url::parse(&named).ok()?;
    let address = (url.host_str()?, url.port_or_known_default()?).to_socket_addrs().ok()?.next()?;
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok().map(|_| named)
}

#[test]
fn debian_is_installed_and_has_what_nex_adds() {
    let installed = ["/usr/sbin/debootstrap", "/usr/bin/debootstrap"].iter().any(|path| Path::new(path).exists());
    let mirror = mirror();
    let (true, true, true, Some(mirror)) = (is_root(), installed, tools(), mirror) else {
        eprintln!("SKIPPED: no Debian was installed: it takes root, debootstrap, mke2fs and a mirror that answers");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let debian = Debian::new(Some("bookworm")).unwrap().from_mirror(&mirror).unwrap();
    let recipe = Recipe { base: Some(Base::Debian(debian)), ..recipe(folder.path(), "image") };
    let made = build(&recipe).unwrap();
    assert_eq!(made.base.unwrap().reference, "debian:bookworm");
    for (name, there) in
        [("/usr/bin/dpkg", true), ("/usr/sbin/nex-init", true), ("/dev/null", false), ("/var/log/bootstrap.log", false)]
    {
        assert_eq!(is_there(&recipe.output, name), there, "{name}");
    }
    assert_eq!(owned(&recipe.output, "/etc/shadow"), ("0640".to_owned(), 0, 42));
}

#[test]
fn what_is_no_suite_or_mirror_is_refused() {
    for suite in ["", "../x", "--help", "a b"] {
        assert!(Debian::new(Some(suite)).is_err(), "{suite}");
    }
    let error = Debian::new(None).unwrap().from_mirror("ftp.example.com").unwrap_err().to_string();
    assert!(error.contains("http:"), "{error}");
}
