//! What an image is based on: read from what a person writes, and unpacked into the staging folder.

mod debian;
mod folder;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::RootfsError;
use crate::error::file;
use crate::oci::{self, Reference};
use crate::tree::Tree;

pub use debian::Debian;

/// What an image is based on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// A folder with the files of a system, copied as they are.
    Folder(PathBuf),
    /// A container image in a folder, in the layout of the Open Container Initiative.
    Layout {
        /// The folder.
        path: PathBuf,
        /// Which of its images, when it has several.
        tag: Option<String>,
    },
    /// A container image in a tar file: such a layout, or what `docker save` writes.
    Archive {
        /// The file.
        path: PathBuf,
        /// Which of its images, when it has several.
        tag: Option<String>,
    },
    /// A container image in a registry.
    Registry(Reference),
    /// Debian, installed by debootstrap.
    Debian(Debian),
}

/// What an image says of its base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// What it was: a reference into a registry, or its kind. Paths of the builder's machine are not told.
    pub reference: String,
    /// Of the manifest that was taken, or of all files.
    pub digest: String,
}

impl Base {
    /// Reads what a person writes: `debian`, `debian:SUITE`, `docker:REFERENCE`, `oci:REFERENCE`, else the path of a
    /// folder, a layout or an archive; `PATH:TAG` picks one image of several.
    ///
    /// # Errors
    /// [`RootfsError::Base`]: it is none of these.
    pub fn parse(text: &str) -> Result<Self, RootfsError> {
        let bad = |reason: &str| RootfsError::Base { text: text.to_owned(), reason: reason.to_owned() };
        match text.split_once(':') {
            None if text == "debian" => return Ok(Self::Debian(Debian::new(None)?)),
            Some(("debian", suite)) => return Ok(Self::Debian(Debian::new(Some(suite))?)),
            Some(("docker" | "oci", rest)) => {
                let rest = rest.strip_prefix("//").unwrap_or(rest);
                if rest.starts_with(['/', '.']) {
                    return Err(bad("an image on disk is named by its path alone, without oci: or docker:"));
                }
                return rest.parse().map(Self::Registry).map_err(|reason: oci::BadReference| bad(&reason.to_string()));
            }
            _ => {}
        }
        let whole = Path::new(text);
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !whole.exists() && Path::new(path).exists() => (Path::new(path), Some(tag.to_owned())),
            _ => (whole, None),
        };
        let Ok(meta) = path.metadata() else {
            return Err(bad(
                "there is no such folder or file; an image in a registry is written docker:NAME:TAG, Debian debian:SUITE",
            ));
        };
        let path = path.to_owned();
        match (meta.is_dir(), tag) {
            (true, tag) if path.join("oci-layout").is_file() && path.join("index.json").is_file() => {
                Ok(Self::Layout { path, tag })
            }
            (true, None) => Ok(Self::Folder(path)),
            (true, Some(_)) => Err(bad("the folder has no oci-layout in it, so that it has no tags either")),
            (false, tag) if meta.is_file() => Ok(Self::Archive { path, tag }),
            (false, _) => Err(bad("it is neither a folder nor a file")),
        }
    }

    /// The folder on the builder's machine that the base is, if it is one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(path) | Self::Layout { path, .. } => Some(path),
            Self::Archive { .. } | Self::Registry(_) | Self::Debian(_) => None,
        }
    }

    /// Puts its files into the staging folder.
    pub(crate) fn unpack(&self, job: &Job<'_>, tree: &mut Tree) -> Result<BaseRecord, RootfsError> {
        match self {
            Self::Folder(path) => {
                folder::copy(path, tree)?;
                Ok(BaseRecord { reference: "folder".to_owned(), digest: tree.digest()? })
            }
            Self::Layout { path, tag } => oci::unpack(&mut oci::Layout::open(path, tag.as_deref())?, job, tree),
            Self::Archive { path, tag } => oci::unpack(&mut oci::Archive::open(path, tag.as_deref(), job)?, job, tree),
            Self::Registry(reference) => oci::unpack(&mut oci::Registry::connect(reference, job)?, job, tree),
            Self::Debian(debian) => debian.install(job, tree),
        }
    }
}

/// What unpacking needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    /// Architecture of the image, in Go's spelling.
    pub(crate) arch: &'a str,
    /// A folder for what is needed on the way.
    pub(crate) work: &'a Path,
    /// Most bytes of files.
    pub(crate) limit: u64,
    /// Credentials for registries, in the form of Docker's `config.json`.
    pub(crate) auth: Option<&'a Path>,
    /// Is told what is being done.
    pub(crate) progress: &'a dyn Fn(&str),
}

/// Reads a small file of the builder's machine, and no more of it than it may be large.
pub(crate) fn read_small(path: &Path, most: u64) -> Result<Vec<u8>, RootfsError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let opened = fs::File::open(path).map_err(file("cannot read", path))?;
    opened.take(most + 1).read_to_end(&mut bytes).map_err(file("cannot read", path))?;
    if bytes.len() as u64 > most {
        return Err(file("cannot read", path)(std::io::Error::other(format!("it is larger than {most} bytes"))));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_says_what_kind_of_base_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::create_dir_all(path("layout")).unwrap();
        fs::write(path("layout/oci-layout"), "{}").unwrap();
        fs::write(path("layout/index.json"), "{}").unwrap();
        fs::write(path("image.tar"), "").unwrap();
        assert!(matches!(Base::parse("debian").unwrap(), Base::Debian(_)));
        assert!(matches!(Base::parse("debian:bookworm").unwrap(), Base::Debian(_)));
        for text in ["docker:alpine:3.20", "oci:example.com/a/b", "docker://localhost:5000/a@sha256:00"] {
            let parsed = Base::parse(text);
            assert!(matches!(parsed, Ok(Base::Registry(_))) || text.ends_with("00"), "{text}: {parsed:?}");
        }
        assert!(matches!(Base::parse(folder.path().to_str().unwrap()).unwrap(), Base::Folder(_)));
        assert!(matches!(Base::parse(&path("layout")).unwrap(), Base::Layout { tag: None, .. }));
        assert!(matches!(Base::parse(&path("layout:v1")).unwrap(), Base::Layout { tag: Some(tag), .. } if tag == "v1"));
        assert!(matches!(Base::parse(&path("image.tar")).unwrap(), Base::Archive { tag: None, .. }));
        for (text, reason) in [
            ("alpine:3.20", "docker:NAME"),
            ("/dev/null", "neither"),
            ("oci:./layout", "by its path alone"),
            ("debian:../x", "suite"),
            ("docker:A", "reference"),
        ] {
            let error = Base::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
