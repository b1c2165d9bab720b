//! How to connect to NATS: servers, credentials, TLS, time limits; and the connecting.
//!
//! A connection is made once and made well: a server that cannot be reached is an error within the timeout, whose
//! text names the server (never a password in its URL) and says what to do. Once connected, a client reconnects by
//! itself for as long as it lives.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use nkeys::KeyPair;
use url::Url;
use zeroize::Zeroizing;

pub use crate::connect_error::ConnectError;
use crate::connect_error::explain;
pub use crate::denied::{Denied, in_queue};
pub use crate::secret::Secret;

/// The server that is used when none is named.
pub const DEFAULT_SERVER: &str = "nats://127.0.0.1:4222";

/// How long a request waits when nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// Time between two pings of a daemon's connection; the third without an answer ends it.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Longest pause between two attempts to reconnect.
const LONGEST_RECONNECT_PAUSE: Duration = Duration::from_secs(2);

/// Everything that is needed to connect to NATS.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Servers, with commas between. A URL may carry `user:password@` or `token@`; the fields below win over it.
    pub servers: String,
    /// Name of the connection, seen in the server's monitoring.
    pub name: String,
    /// User. Without a password it is taken for a token, as the NATS tools do.
    pub user: Option<String>,
    /// Password of the user.
    pub password: Option<Secret>,
    /// Token.
    pub token: Option<Secret>,
    /// Credentials file: user JWT and seed, as `nsc` writes it.
    pub creds: Option<PathBuf>,
    /// File with the seed of a user nkey.
    pub nkey: Option<PathBuf>,
    /// User JWT and the seed of its nkey, for connections of workloads.
    pub jwt_seed: Option<(String, Secret)>,
    /// Client certificate, PEM; goes with [`Settings::tls_key`].
    pub tls_cert: Option<PathBuf>,
    /// Key of the client certificate, PEM.
    pub tls_key: Option<PathBuf>,
    /// Certificate authority to trust besides the system's, PEM.
    pub tls_ca: Option<PathBuf>,
    /// Whether TLS begins before the server has introduced itself.
    pub tls_first: bool,
    /// Prefix of reply subjects, when permissions ask for one of their own.
    pub inbox_prefix: Option<String>,
    /// Time limit for connecting and for each request.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: DEFAULT_SERVER.to_owned(),
            name: "nex".to_owned(),
            user: None,
            password: None,
            token: None,
            creds: None,
            nkey: None,
            jwt_seed: None,
            tls_cert: None,
            tls_key: None,
            tls_ca: None,
            tls_first: false,
            inbox_prefix: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }
}

/// Credentials and addresses as found in a list of URLs.
struct Servers {
    addresses: Vec<ServerAddr>,
    /// For messages: no user, no password.
    shown: String,
    user: Option<String>,
    password: Option<Secret>,
}

impl Settings {
    /// Connects, or says why not within the timeout. For commands: connection events are logged at debug level.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self) -> Result<Client, ConnectError> {
        self.connect_noting().await.map(|(client, _)| client)
    }

    /// Connects as [`Settings::connect`] does, and keeps what the server denies.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect_noting(&self) -> Result<(Client, Denied), ConnectError> {
        let denied = Denied::default();
        let noted = denied.clone();
        let client = self.connect_with(|options| {
            options.event_callback(move |event| {
                tracing::debug!(%event, "NATS connection");
                noted.note(&event);
                std::future::ready(())
            })
        });
        Ok((client.await?, denied))
    }

    /// Connects as [`Settings::connect`] does; after that, losing and finding the server again is logged. For
    /// daemons: the first connection must succeed, so that a wrong address is seen at start, later ones are tried
    /// for ever, and a connection that is only half there is noticed within seconds.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect_retrying(&self) -> Result<(Client, Denied), ConnectError> {
        let servers = self.servers()?.shown;
        let denied = Denied::default();
        let noted = denied.clone();
        let client = self.connect_with(|options| {
            options
                .max_reconnects(None)
                .ping_interval(PING_INTERVAL)
                .reconnect_delay_callback(reconnect_pause)
                .event_callback(move |event| {
                    log_event(&servers, &event);
                    noted.note(&event);
                    std::future::ready(())
                })
        });
        Ok((client.await?, denied))
    }

    /// The servers for people: without user and password.
    pub fn shown_servers(&self) -> String {
        self.servers().map_or_else(|_| "the given server".to_owned(), |servers| servers.shown)
    }

    async fn connect_with(
        &self,
        events: impl FnOnce(ConnectOptions) -> ConnectOptions,
    ) -> Result<Client, ConnectError> {
        let servers = self.servers()?;
        let options = events(self.options(&servers).await?);
        let count = u32::try_from(servers.addresses.len()).unwrap_or(u32::MAX).max(1);
        // A server that swallows packets must not use up the time of the one after it.
        let each = (self.timeout / count).max(Duration::from_millis(250));
        let all = self.timeout.max(each.saturating_mul(count));
        let connecting = options.connection_timeout(each).connect(servers.addresses);
        match tokio::time::timeout(all, connecting).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(explain(&error, servers.shown, self.timeout)),
            Err(_) => Err(ConnectError::TimedOut { servers: servers.shown, timeout: self.timeout }),
        }
    }

    fn servers(&self) -> Result<Servers, ConnectError> {
        let mut servers = Servers { addresses: Vec::new(), shown: String::new(), user: None, password: None };
        for text in self.servers.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let with_scheme = if text.contains("://") { text.to_owned() } else { format!("nats://{text}") };
            let after_user = |text: &str| text.rsplit_once('@').map_or(text, |(_, host)| host).to_owned();
            let address = |reason: String| ConnectError::Address { server: after_user(text), reason };
            let mut url: Url = with_scheme.parse().map_err(|error: url::ParseError| address(error.to_string()))?;
            // A token with a slash in it ends the host where nobody meant it to; shown, it would be out.
            let rest = url.path().trim_matches('/');
            if !rest.is_empty() || url.query().is_some() || url.fragment().is_some() {
                let reason = "nothing may follow host and port; in a user, password or token write / as %2F";
                return Err(ConnectError::Address { server: after_user(text), reason: reason.to_owned() });
            }
            if url.host_str().is_none_or(str::is_empty) {
                return Err(address("it names no host".to_owned()));
            }
            let other_identity =
                self.creds.is_some() || self.nkey.is_some() || self.jwt_seed.is_some() || self.token.is_some();
            if !url.username().is_empty() && servers.user.is_none() && !other_identity {
                servers.user = Some(percent_decoded(url.username()));
                servers.password = url.password().map(|password| Secret::from(percent_decoded(password)));
            }
            // The client library neither uses user and password of a URL nor keeps them out of its messages.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            if !servers.shown.is_empty() {
                servers.shown.push(',');
            }
            servers.shown.push_str(url.as_str().trim_end_matches('/'));
            servers.addresses.push(ServerAddr::from_url(url).map_err(|error| address(error.to_string()))?);
        }
        if servers.addresses.is_empty() {
            return Err(ConnectError::Address { server: self.servers.clone(), reason: "it is empty".to_owned() });
        }
        Ok(servers)
    }

    async fn options(&self, servers: &Servers) -> Result<ConnectOptions, ConnectError> {
        let mut options = ConnectOptions::new().name(&self.name).request_timeout(Some(self.timeout));
        let (user, password) = if self.user.is_some() {
            (self.user.as_ref(), self.password.as_ref())
        } else {
            (servers.user.as_ref(), servers.password.as_ref())
        };
        match (user, password) {
            (Some(user), Some(password)) => {
                options = options.user_and_password(user.clone(), password.expose().to_owned());
            }
            (Some(token), None) => options = options.token(token.clone()),
            (None, Some(_)) => return Err(ConnectError::Settings("a password was given but no user: set --user")),
            (None, None) if self.password.is_some() => {
                return Err(ConnectError::Settings("a password was given but no user: set --user"));
            }
            (None, None) => {}
        }
        if let Some(token) = &self.token {
            options = options.token(token.expose().to_owned());
        }
        if let Some(path) = &self.creds {
            let text = read_secret("credentials file", path)?;
            options = options.credentials(&text).map_err(|error| ConnectError::File {
                what: "credentials file",
                path: path.clone(),
                reason: error.to_string(),
            })?;
        }
        if let Some(path) = &self.nkey {
            options = options.nkey(user_seed(path)?.as_str().to_owned());
        }
        if let Some((jwt, seed)) = &self.jwt_seed {
            let pair = KeyPair::from_seed(seed.expose().trim())
                .map_err(|_| ConnectError::Settings("the seed that goes with the user JWT is no nkey seed"))?;
            let pair = Arc::new(pair);
            options = options.jwt(jwt.trim().to_owned(), move |nonce| {
                let pair = Arc::clone(&pair);
                async move { pair.sign(&nonce).map_err(async_nats::AuthError::new) }
            });
        }
        if let Some(prefix) = &self.inbox_prefix {
            options = options.custom_inbox_prefix(prefix);
        }
        self.tls(options)
    }

    fn tls(&self, mut options: ConnectOptions) -> Result<ConnectOptions, ConnectError> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                must_be_file("client certificate", cert)?;
                must_be_file("key of the client certificate", key)?;
                options = options.add_client_certificate(cert.clone(), key.clone());
            }
            (None, None) => {}
            _ => return Err(ConnectError::Settings("give --tlscert and --tlskey together, or neither")),
        }
        if let Some(ca) = &self.tls_ca {
            must_be_file("certificate authority", ca)?;
            options = options.add_root_certificates(ca.clone());
        }
        if self.tls_first {
            options = options.require_tls(true).tls_first();
        }
        Ok(options)
    }
}

fn reconnect_pause(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    if attempt <= 1 { Duration::ZERO } else { Duration::from_millis(1 << doublings).min(LONGEST_RECONNECT_PAUSE) }
}

fn log_event(servers: &str, event: &Event) {
    match event {
        Event::Connected => tracing::info!(servers, "connected to NATS"),
        Event::Disconnected => tracing::warn!(servers, "lost the connection to NATS; trying to get it back"),
        // One per failed attempt: the loss itself was told.
        Event::ClientError(error) => tracing::debug!(servers, %error, "NATS connection"),
        Event::Closed | Event::Draining => tracing::debug!(servers, %event, "NATS connection"),
        Event::SlowConsumer(_) | Event::ServerError(_) | Event::LameDuckMode => {
            tracing::warn!(servers, %event, "NATS connection");
        }
    }
}

fn must_be_file(what: &'static str, path: &Path) -> Result<(), ConnectError> {
    let problem = |reason: String| ConnectError::File { what, path: path.to_owned(), reason };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(problem("not a file".to_owned())),
        Err(error) => Err(problem(error.to_string())),
    }
}

fn read_secret(what: &'static str, path: &Path) -> Result<Zeroizing<String>, ConnectError> {
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| ConnectError::File {
        what,
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// The seed in an nkey file: the line that begins with `SU`, whatever is around it.
fn user_seed(path: &Path) -> Result<Zeroizing<String>, ConnectError> {
    let text = read_secret("nkey file", path)?;
    text.lines()
        .map(str::trim)
        .find(|line| line.starts_with("SU") && KeyPair::from_seed(line).is_ok())
        .map(|line| Zeroizing::new(line.to_owned()))
        .ok_or_else(|| ConnectError::File {
            what: "nkey file",
            path: path.to_owned(),
            reason: "holds no seed of a user nkey (it begins with SU)".to_owned(),
        })
}

/// Undoes `%40` and the like in user and password of a URL; what is no such sequence stays.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = match (first, tail) {
            (b'%', [high, low, ..]) => {
                std::str::from_utf8(&[*high, *low]).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok())
            }
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(servers: &str) -> Settings {
        Settings { servers: servers.to_owned(), timeout: Duration::from_millis(500), ..Settings::default() }
    }

    /// A port that nobody listens on: bound once, let go.
    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn secrets_are_in_no_debug_output_and_no_message() {
        let settings = Settings {
            password: Some("hunter2".into()),
            token: Some("tok3n".into()),
            jwt_seed: Some(("jwt".into(), "SUSEED".into())),
            ..settings("nats://me:p%40ss@example.org:4222,b:4333")
        };
        let debug = format!("{:?} {:?} {:?}", settings.password, settings.token, settings.jwt_seed);
        assert!(!debug.contains("hunter2") && !debug.contains("tok3n") && !debug.contains("SUSEED"), "{debug}");
        let servers = settings.servers().unwrap();
        assert_eq!(servers.shown, "nats://example.org:4222,nats://b:4333");
        assert_eq!(servers.user, None, "a user of the URL is not sent beside other credentials");
        let plain = Settings { password: None, token: None, jwt_seed: None, ..settings };
        let servers = plain.servers().unwrap();
        assert_eq!(servers.user.as_deref(), Some("me"));
        assert_eq!(servers.password.as_ref().map(Secret::expose), Some("p@ss"));
        let slash = Settings { servers: "nats://s3c/r3t@host:4222".to_owned(), ..Settings::default() };
        let error = slash.servers().err().unwrap().to_string();
        assert!(!error.contains("s3c") && !error.contains("r3t") && error.contains("host:4222"), "{error}");
    }

    #[tokio::test]
    async fn addresses_that_are_none_are_told_apart() {
        for (servers, expected) in
            [("", "it is empty"), ("http://x", "scheme"), ("nats://", "host"), ("a:99999", "port")]
        {
            let error = settings(servers).connect().await.unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("nats://host:port"), "{servers}: {error}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_told_at_once_with_what_to_do() {
        let server = format!("nats://127.0.0.1:{}", free_port());
        let error = settings(&server).connect().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot reach {server}: connection refused (is a NATS server running there? set --server or NATS_URL)"
            )
        );
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up_within_the_timeout() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("nats://{}", listener.local_addr().unwrap());
        let started = std::time::Instant::now();
        let error = settings(&server).connect().await.unwrap_err();
        assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn files_that_are_missing_or_hold_something_else_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "nothing here\n").unwrap();
        let missing = dir.path().join("missing");
        let cases = [
            Settings { creds: Some(missing.clone()), ..Settings::default() },
            Settings { creds: Some(empty.clone()), ..Settings::default() },
            Settings { nkey: Some(empty), ..Settings::default() },
            Settings { tls_ca: Some(missing), ..Settings::default() },
        ];
        for settings in cases {
            let error = settings.connect().await.unwrap_err();
            assert!(matches!(error, ConnectError::File { .. }), "{error}");
        }
        let half = Settings { tls_cert: Some("cert.pem".into()), ..Settings::default() };
        assert!(half.connect().await.unwrap_err().to_string().contains("--tlskey"));
        let nameless = Settings { password: Some("x".into()), ..Settings::default() };
        assert!(nameless.connect().await.unwrap_err().to_string().contains("--user"));
    }

    #[test]
    fn an_nkey_file_may_have_text_around_the_seed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("user.nk");
        let pair = KeyPair::new_user();
        std::fs::write(&path, format!("# mine\n  {}  \n", pair.seed().unwrap())).unwrap();
        assert_eq!(*user_seed(&path).unwrap(), pair.seed().unwrap());
    }

    #[test]
    fn pauses_between_reconnects_grow_and_stay_bounded() {
        assert_eq!(reconnect_pause(1), Duration::ZERO);
        assert_eq!(reconnect_pause(3), Duration::from_millis(4));
        assert_eq!(reconnect_pause(usize::MAX), LONGEST_RECONNECT_PAUSE);
    }
}
