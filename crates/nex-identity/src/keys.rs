//! Key pairs and the files they live in.
//!
//! A key file holds one seed on one line, as `nsc` and `nk` write it. Files are made with mode 0600 and never
//! replaced: a seed that is lost cannot be had again.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nkeys::{KeyPair, KeyPairType, XKey};
use zeroize::Zeroizing;

/// A key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("key file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file holds no seed, or not one of this kind.
    #[error("key file {} holds no {expected} (its seed begins with {prefix})", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Kind of key.
        expected: &'static str,
        /// First letters of such a seed.
        prefix: &'static str,
    },
    /// The text is no key of this kind.
    #[error("not a {0}")]
    Text(&'static str),
    /// The system gave no randomness.
    #[error("cannot make a key: {0}")]
    Generate(String),
}

fn read_seed(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let text = fs::read_to_string(path).map_err(|source| KeyError::File { path: path.to_owned(), source })?;
    Ok(Zeroizing::new(Zeroizing::new(text).trim().to_owned()))
}

/// Writes a seed to a file that must not exist yet; parents are made with mode 0700. The name appears with the whole
/// seed behind it or not at all: half a key would be worse than none.
fn write_seed(path: &Path, seed: &str) -> Result<(), KeyError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let aside = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = (|| {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
            file.write_all(seed.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            // Unlike a rename, a link never replaces what is there.
            fs::hard_link(&aside, path)
        })();
        let _ = fs::remove_file(&aside);
        written.and_then(|()| fs::File::open(parent)?.sync_all())
    };
    write().map_err(|source| KeyError::File { path: path.to_owned(), source })
}

/// Whether a text is the public key of some nkey.
pub fn is_public_key(text: &str) -> bool {
    KeyPair::from_public_key(text).is_ok()
}

/// Whether a key was read or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was there.
    Reused,
    /// It was made and written.
    Created,
}

/// Reads the file, or makes it when it does not exist.
fn load_or_create<K>(
    path: &Path,
    load: impl Fn(&Path) -> Result<K, KeyError>,
    generate: impl Fn() -> Result<Zeroizing<String>, KeyError>,
) -> Result<(K, Origin), KeyError> {
    match load(path) {
        Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            match write_seed(path, &generate()?) {
                Ok(()) => Ok((load(path)?, Origin::Created)),
                // Another process was faster: its key is as good.
                Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                    Ok((load(path)?, Origin::Reused))
                }
                Err(error) => Err(error),
            }
        }
        other => other.map(|key| (key, Origin::Reused)),
    }
}

macro_rules! signing_key {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $what:literal, $prefix:literal) => {
        $(#[$doc])*
        pub struct $name(KeyPair);

        impl $name {
            /// A new key.
            pub fn generate() -> Self {
                Self(KeyPair::new(KeyPairType::$kind))
            }

            /// The key in a file.
            ///
            /// # Errors
            /// [`KeyError`] when there is no such file or no such key in it.
            pub fn load(path: &Path) -> Result<Self, KeyError> {
                let seed = read_seed(path)?;
                let content = || KeyError::Content { path: path.to_owned(), expected: $what, prefix: $prefix };
                if !seed.starts_with($prefix) {
                    return Err(content());
                }
                KeyPair::from_seed(&seed).map(Self).map_err(|_| content())
            }

            /// The key in a file, made on first use.
            ///
            /// # Errors
            /// [`KeyError`] when the file can neither be read nor made.
            pub fn load_or_create(path: &Path) -> Result<(Self, Origin), KeyError> {
                load_or_create(path, Self::load, || {
                    KeyPair::new(KeyPairType::$kind)
                        .seed()
                        .map(Zeroizing::new)
                        .map_err(|error| KeyError::Generate(error.to_string()))
                })
            }

            /// The public key.
            pub fn public_key(&self) -> String {
                self.0.public_key()
            }

            /// The key pair itself.
            pub fn pair(&self) -> &KeyPair {
                &self.0
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.public_key()).finish()
            }
        }
    };
}

signing_key! {
    /// Signs claims: an account key, seed `SA…`, public `A…`.
    Issuer, Account, "account key", "SA"
}

signing_key! {
    /// Who a node is: a server key, seed `SN…`, public `N…`.
    NodeKey, Server, "node key", "SN"
}

/// A curve key pair: seed `SX…`, public `X…`. Seals and opens environments.
#[derive(Clone)]
pub struct XKeyPair(pub(crate) XKey);

impl XKeyPair {
    /// A new key.
    pub fn generate() -> Self {
        Self(XKey::new())
    }

    /// The key in a file.
    ///
    /// # Errors
    /// [`KeyError`] when there is no such file or no such key in it.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let seed = read_seed(path)?;
        XKey::from_seed(&seed).map(Self).map_err(|_| KeyError::Content {
            path: path.to_owned(),
            expected: "curve key",
            prefix: "SX",
        })
    }

    /// The key in a file, made on first use.
    ///
    /// # Errors
    /// [`KeyError`] when the file can neither be read nor made.
    pub fn load_or_create(path: &Path) -> Result<(Self, Origin), KeyError> {
        load_or_create(path, Self::load, || {
            XKey::new().seed().map(Zeroizing::new).map_err(|error| KeyError::Generate(error.to_string()))
        })
    }

    /// The public key.
    pub fn public_key(&self) -> String {
        self.0.public_key()
    }
}

impl std::fmt::Debug for XKeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("XKeyPair").field(&self.public_key()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_with_mode_0600_and_reused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/issuer.nk");
        let (first, origin) = Issuer::load_or_create(&path).unwrap();
        assert_eq!(origin, Origin::Created);
        let (again, origin) = Issuer::load_or_create(&path).unwrap();
        assert_eq!((origin, again.public_key()), (Origin::Reused, first.public_key()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&path).unwrap().starts_with("SA"));
    }

    #[test]
    fn a_key_of_another_kind_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        NodeKey::load_or_create(&path).unwrap();
        let before = fs::read(&path).unwrap();
        let error = Issuer::load_or_create(&path).unwrap_err();
        assert!(error.to_string().ends_with("holds no account key (its seed begins with SA)"), "{error}");
        assert!(XKeyPair::load_or_create(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}
