//! Files that are made from the types: the JSON Schemas and the list of errors. The tests that compare them write them
//! when they are told to.

use anyhow::Result;

use crate::cargo;

/// Writes the files anew.
pub(crate) fn run() -> Result<()> {
    // As one of all tests, so that nothing has to be compiled with other features than theirs.
    cargo::succeed(cargo::cargo(["test", "--quiet", "--test", "generated"]).env("NEX_GENERATE", "1"))
}
