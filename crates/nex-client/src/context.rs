//! Contexts of the NATS command line, and how they combine with what else was said about the connection.
//!
//! A context is a JSON file `nats/context/<name>.json` under the user's configuration directory; the name of the one
//! that `nats context select` chose is in `nats/context.txt`. What wins, first to last: a flag or its environment
//! variable, the context that was named, else (when nothing at all was said about the connection) the selected
//! context, else the defaults.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::connection::Settings;
use crate::secret::Secret;

/// A context cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// There is none of that name.
    #[error("unknown context provided: '{name}' ({})", known_contexts(known))]
    Unknown {
        /// The name.
        name: String,
        /// Names of the contexts there are.
        known: Vec<String>,
    },
    /// The file cannot be read.
    #[error("NATS context {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no context.
    #[error("NATS context {} is not the JSON of a context: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong, without quoting the content.
        reason: String,
    },
    /// The context asks for something that would be unsafe or wrong to ignore.
    #[error(
        "NATS context '{name}' uses {field}, which nex does not support: give the credentials by flags or edit the context"
    )]
    Unsupported {
        /// The context.
        name: String,
        /// The field.
        field: &'static str,
    },
}

fn known_contexts(known: &[String]) -> String {
    if known.is_empty() { "there are none".to_owned() } else { format!("known: {}", known.join(", ")) }
}

/// Where the NATS command line keeps its contexts.
#[derive(Debug, Clone)]
pub struct ContextStore {
    directory: Option<PathBuf>,
    home: Option<PathBuf>,
}

/// The fields of a context file that concern a connection. Empty texts mean "not set", as the NATS tools write them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ContextFile {
    url: String,
    user: String,
    password: Secret,
    token: Secret,
    creds: String,
    nkey: String,
    user_jwt: String,
    user_seed: Secret,
    cert: String,
    key: String,
    ca: String,
    nsc: String,
    socks_proxy: String,
    inbox_prefix: String,
    jetstream_domain: String,
    tls_first: bool,
}

/// What was said about the connection by flags and environment variables.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Servers, with commas between.
    pub servers: Option<String>,
    /// User, or token when there is no password.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Credentials file.
    pub creds: Option<PathBuf>,
    /// File with the seed of a user nkey.
    pub nkey: Option<PathBuf>,
    /// Client certificate.
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// Certificate authority.
    pub tls_ca: Option<PathBuf>,
    /// TLS before the server's greeting.
    pub tls_first: bool,
    /// Prefix of reply subjects; says nothing about where to connect.
    pub inbox_prefix: Option<String>,
    /// Name of the connection; says nothing about where to connect.
    pub name: Option<String>,
    /// Time limit; says nothing about where to connect.
    pub timeout: Option<Duration>,
}

/// Settings to connect with, and what went into them.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What to connect with.
    pub settings: Settings,
    /// JetStream domain of the context.
    pub jetstream_domain: Option<String>,
    /// Name of the context that was used.
    pub context: Option<String>,
    /// Things the user should know: fields of the context that are ignored.
    pub warnings: Vec<String>,
}

impl Overrides {
    /// Whether anything says where or as whom to connect.
    fn speaks_of_the_connection(&self) -> bool {
        self.servers.is_some()
            || self.changes_credentials()
            || self.password.is_some()
            || self.tls_cert.is_some()
            || self.tls_key.is_some()
            || self.tls_ca.is_some()
            || self.tls_first
    }

    /// Whether another identity than the context's is asked for.
    fn changes_credentials(&self) -> bool {
        self.user.is_some() || self.creds.is_some() || self.nkey.is_some()
    }

    /// Combines these with the named context, or the selected one when nothing else was said.
    ///
    /// # Errors
    /// [`ContextError`] when the context is unknown or cannot be used. A selected context that is gone counts as
    /// none, with a warning: the user did not ask for it now.
    pub fn resolve(self, named: Option<&str>, store: &ContextStore) -> Result<Resolved, ContextError> {
        let mut resolved = match named.filter(|name| !name.is_empty()) {
            Some(name) => store.load(name)?,
            None if self.speaks_of_the_connection() => Resolved::defaults(),
            None => match store.selected() {
                Some(name) => match store.load(&name) {
                    Err(error @ ContextError::Unknown { .. }) => Resolved {
                        warnings: vec![format!("the selected NATS context is ignored: {error}")],
                        ..Resolved::defaults()
                    },
                    other => other?,
                },
                None => Resolved::defaults(),
            },
        };
        self.apply(&mut resolved.settings);
        Ok(resolved)
    }

    fn apply(self, settings: &mut Settings) {
        // One identity at a time: credentials of the context that the flags replace must not be sent along.
        if self.changes_credentials() {
            settings.token = None;
            settings.creds = None;
            settings.nkey = None;
            settings.jwt_seed = None;
            if self.user.is_none() {
                settings.user = None;
                settings.password = None;
            }
        }
        if let Some(servers) = self.servers {
            settings.servers = servers;
        }
        if let Some(name) = self.name {
            settings.name = name;
        }
        if let Some(timeout) = self.timeout {
            settings.timeout = timeout;
        }
        settings.inbox_prefix = self.inbox_prefix.or(settings.inbox_prefix.take());
        settings.user = self.user.or(settings.user.take());
        settings.password = self.password.or(settings.password.take());
        settings.creds = self.creds.or(settings.creds.take());
        settings.nkey = self.nkey.or(settings.nkey.take());
        settings.tls_cert = self.tls_cert.or(settings.tls_cert.take());
        settings.tls_key = self.tls_key.or(settings.tls_key.take());
        settings.tls_ca = self.tls_ca.or(settings.tls_ca.take());
        settings.tls_first |= self.tls_first;
    }
}

impl Resolved {
    fn defaults() -> Self {
        Self { settings: Settings::default(), jetstream_domain: None, context: None, warnings: Vec::new() }
    }
}

impl ContextStore {
    /// The store of this user: under `XDG_CONFIG_HOME`, else `~/.config`.
    pub fn of_user() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = set("HOME");
        let configuration = set("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        Self { directory: configuration.map(|configuration| configuration.join("nats")), home }
    }

    /// The store in a configuration directory, for tests and tools.
    pub fn in_directory(configuration: &Path) -> Self {
        Self { directory: Some(configuration.join("nats")), home: None }
    }

    /// Names of the contexts there are, sorted.
    pub fn names(&self) -> Vec<String> {
        let Some(directory) = &self.directory else { return Vec::new() };
        let Ok(entries) = std::fs::read_dir(directory.join("context")) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|file| file.strip_suffix(".json").map(str::to_owned))
            .collect();
        names.sort();
        names
    }

    /// The context that `nats context select` chose.
    pub fn selected(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.directory.as_ref()?.join("context.txt")).ok()?;
        Some(text.trim().to_owned()).filter(|name| !name.is_empty())
    }

    /// Reads a context.
    ///
    /// # Errors
    /// [`ContextError`].
    pub fn load(&self, name: &str) -> Result<Resolved, ContextError> {
        let unknown = || ContextError::Unknown { name: name.to_owned(), known: self.names() };
        let directory = self.directory.as_ref().ok_or_else(unknown)?;
        // A name is one file in one directory, never a path to somewhere else.
        if name.contains(['/', '\\']) || name.contains("..") {
            return Err(unknown());
        }
        let path = directory.join("context").join(format!("{name}.json"));
        let text = match std::fs::read(&path) {
            Ok(text) => zeroize::Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unknown()),
            Err(source) => return Err(ContextError::File { path, source }),
        };
        let file: ContextFile = serde_json::from_slice(&text).map_err(|error| ContextError::Content {
            reason: format!("line {}, column {}", error.line(), error.column()),
            path,
        })?;
        self.resolved(name, file)
    }

    fn resolved(&self, name: &str, file: ContextFile) -> Result<Resolved, ContextError> {
        // Going around a proxy that was asked for would be a leak, not a convenience.
        if !file.socks_proxy.is_empty() {
            return Err(ContextError::Unsupported { name: name.to_owned(), field: "socks_proxy" });
        }
        let mut warnings = Vec::new();
        if !file.nsc.is_empty() {
            warnings.push(format!("NATS context '{name}': nsc is ignored; set creds to the credentials file instead"));
        }
        let path = |text: &str| (!text.is_empty()).then(|| self.expanded(text));
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let secret = |secret: Secret| Some(secret).filter(|secret| !secret.expose().is_empty());
        let defaults = Settings::default();
        let settings = Settings {
            servers: text(file.url).unwrap_or(defaults.servers),
            user: text(file.user),
            password: secret(file.password),
            token: secret(file.token),
            creds: path(&file.creds),
            nkey: path(&file.nkey),
            jwt_seed: text(file.user_jwt).zip(secret(file.user_seed)),
            tls_cert: path(&file.cert),
            tls_key: path(&file.key),
            tls_ca: path(&file.ca),
            tls_first: file.tls_first,
            inbox_prefix: text(file.inbox_prefix),
            name: defaults.name,
            timeout: defaults.timeout,
        };
        Ok(Resolved {
            settings,
            jetstream_domain: text(file.jetstream_domain),
            context: Some(name.to_owned()),
            warnings,
        })
    }

    /// `~/x` as the NATS tools understand it.
    fn expanded(&self, path: &str) -> PathBuf {
        match (path.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        _dir: tempfile::TempDir,
        store: ContextStore,
    }

    fn fixture(selected: Option<&str>, contexts: &[(&str, &str)]) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("nats/context");
        std::fs::create_dir_all(&folder).unwrap();
        for (name, content) in contexts {
            std::fs::write(folder.join(format!("{name}.json")), content).unwrap();
        }
        if let Some(selected) = selected {
            std::fs::write(dir.path().join("nats/context.txt"), format!("{selected}\n")).unwrap();
        }
        let store = ContextStore { home: Some("/home/me".into()), ..ContextStore::in_directory(dir.path()) };
        Fixture { _dir: dir, store }
    }

    const PROD: &str = r#"{"description":"x","url":"nats://prod:4222","token":"","user":"u","password":"p",
        "creds":"~/c.creds","nkey":"","cert":"","key":"","ca":"/ca.pem","nsc":"nsc://o/a/u","jetstream_domain":"hub",
        "inbox_prefix":"_I","tls_first":true,"color_scheme":"","later":1}"#;

    #[test]
    fn a_context_file_is_read_and_what_is_ignored_is_told() {
        let f = fixture(None, &[("prod", PROD)]);
        let resolved = Overrides::default().resolve(Some("prod"), &f.store).unwrap();
        let settings = &resolved.settings;
        assert_eq!(settings.servers, "nats://prod:4222");
        assert_eq!(settings.creds.as_deref(), Some(Path::new("/home/me/c.creds")));
        assert_eq!(settings.tls_ca.as_deref(), Some(Path::new("/ca.pem")));
        assert_eq!((settings.token.as_ref(), settings.nkey.as_ref()), (None, None), "empty means not set");
        assert!(settings.tls_first);
        assert_eq!(resolved.jetstream_domain.as_deref(), Some("hub"));
        assert!(matches!(&resolved.warnings[..], [warning] if warning.contains("nsc")), "{:?}", resolved.warnings);
    }

    #[test]
    fn the_selected_context_counts_only_when_nothing_was_said() {
        let f = fixture(Some("prod"), &[("prod", PROD), ("dev", r#"{"url":"nats://dev"}"#)]);
        let servers = |overrides: Overrides, named| overrides.resolve(named, &f.store).unwrap().settings.servers;
        assert_eq!(servers(Overrides::default(), None), "nats://prod:4222");
        assert_eq!(
            servers(Overrides { timeout: Some(Duration::ZERO), ..Overrides::default() }, None),
            "nats://prod:4222"
        );
        assert_eq!(servers(Overrides::default(), Some("dev")), "nats://dev");
        let server = || Overrides { servers: Some("nats://flag".into()), ..Overrides::default() };
        assert_eq!(servers(server(), None), "nats://flag");
        assert_eq!(servers(server(), Some("prod")), "nats://flag");
        let other_user = Overrides { user: Some("me".into()), ..Overrides::default() };
        assert_eq!(servers(other_user, None), crate::connection::DEFAULT_SERVER);
    }

    #[test]
    fn flags_combine_with_a_named_context_and_replace_its_identity_whole() {
        let f = fixture(None, &[("prod", PROD)]);
        let overrides = Overrides { nkey: Some("/my.nk".into()), ..Overrides::default() };
        let settings = overrides.resolve(Some("prod"), &f.store).unwrap().settings;
        assert_eq!(settings.servers, "nats://prod:4222");
        assert_eq!(settings.nkey.as_deref(), Some(Path::new("/my.nk")));
        assert_eq!((settings.creds, settings.user, settings.password), (None, None, None));
        let overrides = Overrides { password: Some("new".into()), ..Overrides::default() };
        let settings = overrides.resolve(Some("prod"), &f.store).unwrap().settings;
        assert_eq!((settings.user.as_deref(), settings.password), (Some("u"), Some("new".into())));
    }

    #[test]
    fn unknown_contexts_are_told_with_the_known_ones() {
        let f = fixture(None, &[("b", "{}"), ("a", "{}")]);
        for name in ["nope", "../../etc/passwd", "a/b"] {
            let error = Overrides::default().resolve(Some(name), &f.store).unwrap_err().to_string();
            assert_eq!(error, format!("unknown context provided: '{name}' (known: a, b)"));
        }
    }

    #[test]
    fn a_selected_context_that_is_gone_is_a_warning() {
        let f = fixture(Some("gone"), &[]);
        let resolved = Overrides::default().resolve(None, &f.store).unwrap();
        assert_eq!(resolved.settings.servers, crate::connection::DEFAULT_SERVER);
        assert!(matches!(&resolved.warnings[..], [warning] if warning.contains("gone")));
    }

    #[test]
    fn garbage_is_an_error_that_quotes_nothing() {
        let f = fixture(None, &[("bad", r#"{"password": {"s3cret": 1}}"#), ("socks", r#"{"socks_proxy":"x:1"}"#)]);
        let error = Overrides::default().resolve(Some("bad"), &f.store).unwrap_err().to_string();
        assert!(error.contains("line 1") && !error.contains("s3cret"), "{error}");
        let error = Overrides::default().resolve(Some("socks"), &f.store).unwrap_err().to_string();
        assert!(error.contains("socks_proxy"), "{error}");
    }
}
