//! The source of a function, read once and checked for size. What kind of source it is, the worker finds out.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;

/// Reads the source; the error is for people.
pub(crate) fn read(artifact: &Path, limit: u64) -> Result<Bytes, String> {
    let mut source = Vec::new();
    File::open(artifact)
        .and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut source))
        .map_err(|error| format!("the artifact cannot be read: {error}"))?;
    if source.len() as u64 > limit {
        return Err(format!("the source is larger than the {limit} bytes a script may have"));
    }
    if std::str::from_utf8(&source).is_err() {
        return Err("not JavaScript: the artifact is no UTF-8 text".to_owned());
    }
    Ok(source.into())
}
