//! TLS is verified always, whatever the address: a certificate nobody vouches for ends the request before it is sent.
//!
//! `self-signed.der` and its key were made for this test and are good for nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::Arc;

use nex_host_services::{HostServices, Settings};
use nex_protocol::link::host::HostErrorCode;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

#[tokio::test]
async fn a_certificate_nobody_vouches_for_is_refused() {
    let certificate = CertificateDer::from(include_bytes!("self-signed.der").to_vec());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(include_bytes!("self-signed.key.der").to_vec()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        match acceptor.accept(stream).await {
            Ok(mut tls) => tls.read(&mut [0; 1024]).await.unwrap_or(0),
            Err(_) => 0,
        }
    });
    let mut settings = Settings::default();
    settings.http.allow.push("127.0.0.1".parse().unwrap());
    let mut backends = nex_host_services::Backends::in_memory(&settings);
    backends.http = Arc::new(nex_host_services::http::WebClient::new(&settings.http));
    let services = HostServices::with_backends(backends, settings);
    let url = format!("https://127.0.0.1:{port}/");
    let error = common::http(&services, "GET", &url, &[("authorization", "secret")], b"").await.unwrap_err();
    assert_eq!(error.code, HostErrorCode::Unavailable);
    assert!(error.message.contains("certificate"), "{error}");
    assert_eq!(server.await.unwrap(), 0, "nothing was sent");
}
