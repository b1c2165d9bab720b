//! The keys that `devrun` makes on first use and `stop` signs with: in `NEX_HOME`, else `~/.nex`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use nex_identity::keys::Origin;
use nex_identity::{Issuer, XKeyPair};

fn directory() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("NEX_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".nex")))
        .context("neither NEX_HOME nor HOME is set: set NEX_HOME to the directory that your keys are to be kept in")
}

/// File of the account key that signs requests.
pub(crate) fn issuer_file() -> Result<PathBuf> {
    Ok(directory()?.join("issuer.nk"))
}

/// The user's own keys, and a line about each for the user.
pub(crate) struct OwnKeys {
    pub(crate) issuer: Issuer,
    pub(crate) publisher: XKeyPair,
    pub(crate) told: [String; 2],
}

impl OwnKeys {
    /// Reads the keys, or makes them on first use.
    pub(crate) fn load_or_create() -> Result<Self> {
        let issuer_file = issuer_file()?;
        let publisher_file = directory()?.join("publisher.xk");
        let (issuer, issuer_origin) = Issuer::load_or_create(&issuer_file)?;
        let (publisher, publisher_origin) = XKeyPair::load_or_create(&publisher_file)?;
        let told = [
            tell(issuer_origin, "issuer account key", &issuer_file),
            tell(publisher_origin, "publisher xkey", &publisher_file),
        ];
        Ok(Self { issuer, publisher, told })
    }
}

fn tell(origin: Origin, what: &str, path: &std::path::Path) -> String {
    match origin {
        Origin::Reused => format!("Reusing existing {what}: {}", path.display()),
        Origin::Created => format!("Created {what}: {}", path.display()),
    }
}
