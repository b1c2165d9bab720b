//! Takes files out of a download: only those that are asked for, all of them, each bounded. Nothing is written to a path
//! that an archive names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use crate::Holds;

/// Largest file that is taken out of an archive, bytes.
const LARGEST: u64 = 1 << 30;

/// A file of a piece, on its way to its place.
pub(crate) trait Sink {
    /// Takes the content of the file of this name.
    fn put(&mut self, name: &str, content: &mut dyn Read) -> io::Result<()>;
}

/// Gives the files of this piece that are asked for.
pub(crate) fn unpack(download: &mut File, holds: &Holds, names: &[&str], sink: &mut dyn Sink) -> io::Result<()> {
    match holds {
        Holds::File => names.iter().try_for_each(|name| sink.put(name, &mut bounded(&mut *download))),
        Holds::TarGz { members } => tar_gz(download, members, names, sink),
        Holds::Zip { members } => zip(download, members, names, sink),
    }
}

/// A reader that fails where the file would be too large, rather than end.
fn bounded<R: Read>(reader: R) -> impl Read {
    struct Bounded<R>(io::Take<R>);
    impl<R: Read> Read for Bounded<R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.read(buffer)?;
            if self.0.limit() == 0 {
                return Err(invalid(format!("a file in it has more than {LARGEST} bytes")));
            }
            Ok(count)
        }
    }
    Bounded(reader.take(LARGEST + 1))
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn tar_gz(
    download: &mut File,
    members: &BTreeMap<String, String>,
    names: &[&str],
    sink: &mut dyn Sink,
) -> io::Result<()> {
    let mut left: Vec<(&str, &str)> = names
        .iter()
        .map(|name| {
            let path = members.get(*name).ok_or_else(|| invalid(format!("the manifest does not say where {name} is")));
            Ok((*name, plain(path?)))
        })
        .collect::<io::Result<_>>()?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(download));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let Some(index) = left.iter().position(|(_, wanted)| *wanted == plain(&path)) else { continue };
        if !entry.header().entry_type().is_file() {
            return Err(invalid(format!("{path} in it is no file")));
        }
        let (name, _) = left.swap_remove(index);
        sink.put(name, &mut bounded(&mut entry))?;
        if left.is_empty() {
            return Ok(());
        }
    }
    left.first().map_or(Ok(()), |(_, path)| Err(invalid(format!("there is no {path} in it"))))
}

/// Tools put `./` before paths, or do not.
fn plain(path: &str) -> &str {
    path.strip_prefix("./").unwrap_or(path)
}

fn zip(download: &mut File, members: &BTreeMap<String, String>, names: &[&str], sink: &mut dyn Sink) -> io::Result<()> {
    let mut archive = zip::ZipArchive::new(download).map_err(|error| invalid(error.to_string()))?;
    for name in names {
        let path = members.get(*name).ok_or_else(|| invalid(format!("the manifest does not say where {name} is")))?;
        let mut member = archive.by_name(path).map_err(|error| invalid(format!("{path} in it: {error}")))?;
        if !member.is_file() {
            return Err(invalid(format!("{path} in it is no file")));
        }
        sink.put(name, &mut bounded(&mut member))?;
    }
    Ok(())
}
