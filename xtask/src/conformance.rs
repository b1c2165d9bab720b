//! The client library of Go Nex against our node, and Go's libraries for claims and sealed boxes against what we make: the
//! Go modules in `conformance`.
//!
//! Go and the library are somebody else's and not installed here: where one of them cannot be had, that is told and is no
//! failure. A library with another checksum than the one in `go.sum` is a failure.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::steps::Steps;
use crate::tool::Version;
use crate::{build, cargo, layout, setup};

/// The modules, each for one version of the library.
const MODULES: [&str; 2] = ["v0.2.7", "v0.3.0-rc1"];

/// What the modules say they need.
const OLDEST_GO: Version = Version(1, 25, 0);

/// Runs the tests of all modules as steps of their own; `arguments` go to `go test`.
pub(crate) fn run(steps: &mut Steps, arguments: &[OsString]) -> Result<()> {
    let Some(go) = go() else {
        steps.run_if_possible("conformance", || {
            Ok(Some("there is no Go 1.25 or later here: our node was NOT driven by the client library of Go Nex"))
        });
        return Ok(());
    };
    let vectors = layout::root().join("conformance/vectors");
    steps.run_if_possible("vectors", || {
        if !fetch(&go, &vectors)? {
            return Ok(Some(
                "the jwt and nkeys modules cannot be had here: what we sign and seal was NOT opened by them",
            ));
        }
        let mut verify = Command::new(&go);
        cargo::succeed(verify.args(["run", ".", "verify"]).current_dir(&vectors))?;
        Ok(None)
    });
    let tools = setup::run()?;
    build::run()?;
    for module in MODULES {
        let folder = layout::root().join("conformance/go").join(module);
        steps.run_if_possible(module, || {
            if !fetch(&go, &folder)? {
                return Ok(Some("the client library of Go Nex cannot be had here: our node was NOT driven by it"));
            }
            let mut vet = Command::new(&go);
            cargo::succeed(vet.args(["vet", "./..."]).current_dir(&folder))?;
            let mut test = Command::new(&go);
            test.args(["test", "-count=1", "./..."]).args(arguments).current_dir(&folder);
            tools.announce_to(&mut test);
            cargo::succeed(&mut test)?;
            Ok(None)
        });
    }
    Ok(())
}

/// The Go that is on the path, if it is new enough.
fn go() -> Option<OsString> {
    let go = std::env::var_os("GO").unwrap_or_else(|| "go".into());
    let output = Command::new(&go).args(["env", "GOVERSION"]).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).replace("go", "");
    (Version::find_in(&text)? >= OLDEST_GO).then_some(go)
}

/// Fetches the modules that the tests need; whether they could be had.
fn fetch(go: &OsString, folder: &Path) -> Result<bool> {
    let mut download = Command::new(go);
    download.args(["mod", "download"]).current_dir(folder).stdin(Stdio::null());
    // The library is fetched from its repository where the proxy does not have it: nobody is asked for a password, and
    // a connection that hangs ends.
    download
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_HTTP_LOW_SPEED_LIMIT", "1000")
        .env("GIT_HTTP_LOW_SPEED_TIME", "30");
    let output = download.output().with_context(|| format!("cannot start `{}`", cargo::describe(&download)))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("SECURITY ERROR") || said.contains("checksum mismatch") {
        bail!("a module is not the one that go.sum names:\n{said}");
    }
    if !output.status.success() {
        println!("{said}");
    }
    Ok(output.status.success())
}
