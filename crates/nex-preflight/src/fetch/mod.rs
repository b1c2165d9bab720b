//! Gets a file from its maker, a mirror or a folder: bounded, resumed where it broke off, and believed only after its SHA-256
//! was compared.
//!
//! What has arrived lies in a hidden file beside where it will be used (`.NAME.part`). It outlives a download that broke off,
//! and nothing else: not a wrong digest, not a file that is too large, not its use.

mod http;
mod part;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use self::http::{Begun, Client};
use self::part::Part;
use crate::install::rights;
use crate::{Digest, Source};

/// How often a download that breaks off is taken up again, as long as each time something arrives.
const ATTEMPTS: usize = 4;

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Their makers.
    Upstream,
    /// A server that has them under the same names below this address.
    Mirror(Url),
    /// A folder that has them under the same names.
    Folder(PathBuf),
}

impl Origin {
    /// A mirror.
    ///
    /// # Errors
    /// A text that is no address of one.
    pub fn mirror(address: &str) -> Result<Self, String> {
        let mut url: Url = address.parse().map_err(|error| format!("'{address}' is no address: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("'{address}' is neither http nor https"));
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(Origin::Mirror(url))
    }

    /// Where a source is to be had, for people.
    pub fn place(&self, source: &Source) -> String {
        match self {
            Origin::Folder(folder) => folder.join(source.file_name()).display().to_string(),
            _ => self.url(source).to_string(),
        }
    }

    fn url(&self, source: &Source) -> Url {
        match self {
            Origin::Mirror(base) => base.join(source.file_name()).unwrap_or_else(|_| source.url.clone()),
            _ => source.url.clone(),
        }
    }
}

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For an answer, and for each further piece of a file.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect: Duration::from_secs(15), stall: Duration::from_secs(30) }
    }
}

/// Is told how a download goes.
pub trait Progress {
    /// A file begins, with so many bytes of it here already. The size may not be known.
    fn begin(&self, name: &str, have: u64, size: Option<u64>);
    /// So many bytes of it are here.
    fn reached(&self, have: u64);
    /// It is whole, or given up.
    fn end(&self);
}

/// A file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server cannot be reached, or does not speak HTTP.
    #[error("{url} cannot be reached: {reason} (without a network: --from DIR; another server: --mirror URL)")]
    Unreachable {
        /// What was asked for.
        url: Url,
        /// Why.
        reason: String,
    },
    /// The server does not have it.
    #[error("{url}: the server answers {status} (a server or a folder that has the file: --mirror URL, --from DIR)")]
    Status {
        /// What was asked for.
        url: Url,
        /// What the server says.
        status: ::http::StatusCode,
    },
    /// A redirection that is not followed.
    #[error("{url}: {reason}")]
    Redirect {
        /// What was asked for.
        url: Url,
        /// Why.
        reason: String,
    },
    /// The file broke off.
    #[error("{url}: broke off after {have} bytes; the next run goes on from there")]
    CutOff {
        /// What was asked for.
        url: Url,
        /// Bytes that are here.
        have: u64,
    },
    /// Nothing comes any more.
    #[error("{url}: nothing came for {seconds} s, after {have} bytes; the next run goes on from there")]
    Stalled {
        /// What was asked for.
        url: Url,
        /// How long.
        seconds: u64,
        /// Bytes that are here.
        have: u64,
    },
    /// The file is larger than the manifest says.
    #[error("{place} has more than the {limit} bytes that the manifest gives: nothing of it was kept")]
    TooLarge {
        /// Where it came from.
        place: String,
        /// The limit.
        limit: u64,
    },
    /// The file is another one.
    #[error(
        "{place} is not the file that the manifest means: its SHA-256 is {found}, and has to be {wanted}. Nothing of it was \
         kept"
    )]
    Digest {
        /// Where it came from.
        place: String,
        /// As the manifest says.
        wanted: Digest,
        /// As it is.
        found: Digest,
    },
    /// Another process downloads the same file to the same place.
    #[error("{} is being downloaded by another process: wait for it", .0.display())]
    Busy(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot {what} {}: {source}{}", path.display(), rights(source))]
    File {
        /// What was done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> FetchError {
    let path = path.to_owned();
    move |source| FetchError::File { what, path, source }
}

/// Gets files.
pub struct Fetcher<'a> {
    origin: Origin,
    patience: Patience,
    progress: &'a dyn Progress,
}

impl<'a> Fetcher<'a> {
    /// From there.
    pub fn new(origin: Origin, patience: Patience, progress: &'a dyn Progress) -> Self {
        Self { origin, patience, progress }
    }

    /// Where files come from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// A file whose digest is this one, in a hidden file in `folder` that goes when the value is dropped.
    pub(crate) async fn obtain(&self, source: &Source, wanted: Digest, folder: &Path) -> Result<Verified, FetchError> {
        std::fs::create_dir_all(folder).map_err(file("make the folder", folder))?;
        let mut part = Part::open(folder, source.file_name(), source.limit())?;
        self.progress.begin(source.file_name(), part.have(), source.bytes);
        let result = match &self.origin {
            Origin::Folder(folder) => self.copy(&folder.join(source.file_name()), &mut part),
            _ => self.download(&self.origin.url(source), &mut part, wanted).await,
        };
        self.progress.end();
        let place = self.origin.place(source);
        match result {
            Ok(()) if part.digest() == wanted => Ok(Verified(part)),
            Ok(()) => Err(FetchError::Digest { place, wanted, found: part.digest() }).inspect_err(|_| part.discard()),
            Err(Ended::TooLarge) => {
                part.discard();
                Err(FetchError::TooLarge { place, limit: source.limit() })
            }
            Err(Ended::Failed(error)) => {
                // A copy is begun anew each time.
                if part.have() == 0 || matches!(self.origin, Origin::Folder(_)) {
                    part.discard();
                }
                Err(error)
            }
        }
    }

    /// A copy, because the original could change between being hashed and being used.
    fn copy(&self, path: &Path, part: &mut Part) -> Result<(), Ended> {
        let mut original = File::open(path).map_err(file("read", path))?;
        part.restart()?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = original.read(&mut buffer).map_err(file("read", path))?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            part.write(bytes)?;
            self.progress.reached(part.have());
        }
    }

    async fn download(&self, url: &Url, part: &mut Part, wanted: Digest) -> Result<(), Ended> {
        // All of it had come, and the program ended before it was used.
        if part.have() > 0 && part.digest() == wanted {
            return Ok(());
        }
        let client = Client::new(self.patience);
        // What an earlier run left may be of another file: one that was not resumed is not doubted again.
        let mut resumed = part.have() > 0;
        for attempt in 1.. {
            let before = part.have();
            match self.attempt(&client, url, part).await {
                Ok(()) if part.digest() != wanted && resumed => {
                    resumed = false;
                    part.restart()?;
                }
                Ok(()) => return Ok(()),
                Err(Ended::Failed(FetchError::CutOff { .. })) if attempt < ATTEMPTS && part.have() > before => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn attempt(&self, client: &Client, url: &Url, part: &mut Part) -> Result<(), Ended> {
        let Begun { mut body, offset, validator, length } = client.get(url, part.resume()).await?;
        if offset != part.have() {
            part.restart()?;
        }
        part.remember(validator);
        if length.is_some_and(|length| part.have().saturating_add(length) > part.limit()) {
            return Err(Ended::TooLarge);
        }
        self.progress.reached(part.have());
        while let Some(bytes) = body.next(url, self.patience.stall, part.have()).await? {
            part.write(&bytes)?;
            self.progress.reached(part.have());
        }
        Ok(())
    }
}

/// Why a file did not come.
enum Ended {
    TooLarge,
    Failed(FetchError),
}

impl From<FetchError> for Ended {
    fn from(error: FetchError) -> Self {
        Ended::Failed(error)
    }
}

/// A file whose digest was compared; it goes when this is dropped.
pub(crate) struct Verified(Part);

impl Verified {
    /// Reads it from its beginning.
    pub(crate) fn reader(&mut self) -> Result<&mut File, FetchError> {
        self.0.reader()
    }
}

impl Drop for Verified {
    fn drop(&mut self) {
        self.0.discard();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_an_address_and_has_the_same_names() {
        let manifest = crate::Manifest::embedded().unwrap();
        let Some((_, source)) = manifest.find(crate::Piece::Kernel) else { return };
        for (address, place) in [
            ("http://mirror.example/nex", "http://mirror.example/nex/vmlinux-6.1.141"),
            ("https://mirror.example/", "https://mirror.example/vmlinux-6.1.141"),
        ] {
            assert_eq!(Origin::mirror(address).unwrap().place(source), place);
        }
        for address in ["mirror", "file:///tmp", ""] {
            assert!(Origin::mirror(address).is_err(), "{address}");
        }
    }
}
