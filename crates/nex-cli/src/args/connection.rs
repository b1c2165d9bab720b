//! Flags about the connection to NATS.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use nex_client::Secret;
use nex_client::context::Overrides;

use super::duration;

/// Where and as whom to connect. Paths are texts here, so that an environment variable set to nothing means "not set".
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// NATS servers, with commas between [default: nats://127.0.0.1:4222]
    #[arg(short, long, env = "NATS_URL", global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// User, or a token when there is no password
    #[arg(long, env = "NATS_USER", global = true, hide_env_values = true)]
    user: Option<String>,
    /// Password
    #[arg(long, env = "NATS_PASSWORD", global = true, hide_env_values = true, value_parser = secret)]
    password: Option<Secret>,
    /// Credentials file
    #[arg(long, env = "NATS_CREDS", global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    creds: Option<String>,
    /// File with the seed of a user nkey
    #[arg(long, env = "NATS_NKEY", global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    nkey: Option<String>,
    /// TLS client certificate
    #[arg(long, env = "NATS_CERT", global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    tlscert: Option<String>,
    /// Key of the TLS client certificate
    #[arg(long, env = "NATS_KEY", global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    tlskey: Option<String>,
    /// TLS certificate authority
    #[arg(long, env = "NATS_CA", global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    tlsca: Option<String>,
    /// Begin TLS before the server's greeting
    #[arg(long, env = "NATS_TLSFIRST", global = true, value_parser = FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    tlsfirst: bool,
    /// What the subjects of replies begin with, for users who may subscribe to no others [default: `_INBOX`]
    #[arg(long, env = "NATS_INBOX_PREFIX", global = true, value_name = "PREFIX", value_parser = inbox_prefix)]
    inbox_prefix: Option<String>,
    /// Time limit of a request, such as 500ms, 2s, 1m [default: 2s]
    #[arg(long, env = "NATS_TIMEOUT", global = true, value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// NATS context to take the connection from
    #[arg(long, env = "NATS_CONTEXT", global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Name of the connection [default: nex]
    #[arg(long, global = true, value_name = "NAME")]
    conn_name: Option<String>,
}

#[allow(clippy::unnecessary_wraps, reason = "the signature of a value parser")]
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::from(text))
}

/// A prefix that subjects can begin with; nothing at all stands for none.
fn inbox_prefix(text: &str) -> Result<String, String> {
    let token = |token: &str| !token.is_empty() && !token.contains(|c: char| c.is_whitespace() || c == '*' || c == '>');
    if text.is_empty() || text.split('.').all(token) {
        return Ok(text.to_owned());
    }
    Err(format!("'{text}' cannot begin a subject: tokens with dots between, without spaces and wildcards"))
}

fn set(text: Option<&String>) -> Option<&String> {
    text.filter(|text| !text.is_empty())
}

fn path(text: Option<&String>) -> Option<PathBuf> {
    set(text).map(PathBuf::from)
}

impl ConnectionArgs {
    /// What was said, for combining with a context.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            servers: set(self.server.as_ref()).cloned(),
            user: set(self.user.as_ref()).cloned(),
            password: self.password.clone().filter(|password| !password.expose().is_empty()),
            creds: path(self.creds.as_ref()),
            nkey: path(self.nkey.as_ref()),
            tls_cert: path(self.tlscert.as_ref()),
            tls_key: path(self.tlskey.as_ref()),
            tls_ca: path(self.tlsca.as_ref()),
            tls_first: self.tlsfirst,
            inbox_prefix: set(self.inbox_prefix.as_ref()).cloned(),
            name: set(self.conn_name.as_ref()).cloned(),
            timeout: self.timeout,
        }
    }
}
