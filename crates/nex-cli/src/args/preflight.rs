//! `nex node preflight`: what a node needs of its machine.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nex_preflight::{Origin, Piece, Template};

use super::node::NodeOverrides;

/// `nex node preflight`
#[derive(Debug, Args)]
pub(crate) struct PreflightArgs {
    /// Configuration file [default: ./config.json when there is one]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Write a configuration file first, if there is none
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) init: Option<InitKind>,
    /// Only look
    #[arg(long)]
    pub(crate) check: bool,
    /// Install what is missing without asking
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Install without asking, and replace what is there and wrong
    #[arg(long)]
    pub(crate) force: bool,
    /// Install this too, although the node can do without
    #[arg(long, value_enum, value_name = "PIECE")]
    with: Vec<Optional>,
    /// Get files from this server, where they have the same names
    #[arg(long, value_name = "URL", value_parser = Origin::mirror, conflicts_with = "from")]
    mirror: Option<Origin>,
    /// Take files from this folder, where they have the same names; needs no network
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    from: Option<PathBuf>,
    /// Where files come from and what their digests are, in place of what this release says
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) manifest: Option<PathBuf>,
    /// DNS server to write into the description of a CNI network; may be repeated
    #[arg(long = "cni_ns", alias = "cni-ns", value_name = "ADDRESS")]
    pub(crate) cni_ns: Vec<IpAddr>,
    /// Show where files come from and what their digests are
    #[arg(long)]
    pub(crate) verbose: bool,
    /// Accepted for scripts: downloads are always verified
    #[arg(long, hide = true)]
    verify: bool,
    /// Accepted for scripts: what is installed belongs to this release
    #[arg(long = "install_version", alias = "install-version", hide = true, value_name = "VERSION",
          value_parser = own_version)]
    install_version: Option<String>,
    #[command(flatten)]
    pub(crate) overrides: NodeOverrides,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl PreflightArgs {
    /// Where files come from.
    pub(crate) fn origin(&self) -> Origin {
        let folder = || self.from.clone().map(Origin::Folder);
        self.mirror.clone().or_else(folder).unwrap_or(Origin::Upstream)
    }

    /// What is to be installed besides what is needed.
    pub(crate) fn also(&self) -> Vec<Piece> {
        self.with.iter().map(|piece| piece.piece()).collect()
    }
}

fn own_version(text: &str) -> Result<String, String> {
    let own = env!("CARGO_PKG_VERSION");
    if text.trim_start_matches('v') == own {
        return Ok(text.to_owned());
    }
    Err(format!("this is nex {own}, and installs what belongs to it: install nex {text} for that of {text}"))
}

/// What a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InitKind {
    /// Workloads in microVMs
    Sandbox,
    /// Workloads as plain processes
    Nosandbox,
}

impl InitKind {
    /// The text that is written.
    pub(crate) fn template(self) -> Template {
        match self {
            InitKind::Sandbox => Template::Sandbox,
            InitKind::Nosandbox => Template::NoSandbox,
        }
    }
}

/// What a node may have and may do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Optional {
    /// Runs JavaScript functions
    Deno,
    /// For `nex node up --nats embedded`
    NatsServer,
}

impl Optional {
    fn piece(self) -> Piece {
        match self {
            Optional::Deno => Piece::Deno,
            Optional::NatsServer => Piece::NatsServer,
        }
    }
}
