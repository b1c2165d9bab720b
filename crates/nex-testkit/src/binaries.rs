//! Where the programs under test are: those cargo built, the examples, and the servers that `cargo xtask setup` installs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const NEX_DENO: &str = "NEX_DENO";
const NEX_NATS_SERVER: &str = "NEX_NATS_SERVER";

/// The programs of the workspace, found in the target folder of the running test.
#[derive(Debug)]
pub struct Binaries;

impl Binaries {
    /// The `nex` command line.
    pub fn nex() -> Result<PathBuf> {
        Self::find("nex")
    }

    /// The agent; beside [`Binaries::nex`], where a node looks first.
    pub fn agent() -> Result<PathBuf> {
        Self::find("nex-agent")
    }

    /// The folder of the programs that run in microVMs; there only when `cargo xtask guest` has made them.
    pub fn guest() -> Result<PathBuf> {
        Ok(profile_folder()?.join("guest"))
    }

    fn find(name: &str) -> Result<PathBuf> {
        let folder = profile_folder()?;
        let path = folder.join(name);
        if !path.is_file() {
            bail!(
                "no {name} in {}: build it with `cargo build` (`cargo xtask test` does that by itself)",
                folder.display()
            );
        }
        Ok(path)
    }
}

/// The built examples, in one folder; see [`examples`].
#[derive(Debug, Clone)]
pub struct Examples {
    folder: PathBuf,
}

impl Examples {
    /// The echo service, linked statically.
    pub fn echo_service(&self) -> Result<PathBuf> {
        self.find("echo-service")
    }

    /// The echo function in JavaScript.
    pub fn javascript(&self) -> Result<PathBuf> {
        self.find("echofunction.js")
    }

    /// The echo function in TypeScript.
    pub fn typescript(&self) -> Result<PathBuf> {
        self.find("echofunction.ts")
    }

    /// The echo function as a WASI preview 1 module.
    pub fn wasm(&self) -> Result<PathBuf> {
        self.find("echofunction.wasm")
    }

    /// The echo function as a WASI preview 2 component.
    pub fn component(&self) -> Result<PathBuf> {
        self.find("echofunction-p2.wasm")
    }

    /// The counter, a component of `nex:function`.
    pub fn counter(&self) -> Result<PathBuf> {
        self.find("counter.wasm")
    }

    /// The fetcher, a component of `nex:function`.
    pub fn fetcher(&self) -> Result<PathBuf> {
        self.find("fetcher.wasm")
    }

    /// A component that tries every host service (`e2e/guests/probe`).
    pub fn probe(&self) -> Result<PathBuf> {
        self.find("guest-probe.wasm")
    }

    /// A command that uses the older draft of `wasi:keyvalue` (`e2e/guests/command`).
    pub fn command_with_keys(&self) -> Result<PathBuf> {
        self.find("guest-command.wasm")
    }

    /// The folder they are in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn find(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        if !path.is_file() {
            bail!("no {name} in {}: `cargo xtask build` makes the examples", self.folder.display());
        }
        Ok(path)
    }
}

/// The built examples: in `NEX_EXAMPLES`, else where `cargo xtask build` puts them.
pub fn examples() -> Result<Examples> {
    let folder = match std::env::var_os("NEX_EXAMPLES") {
        Some(folder) => PathBuf::from(folder),
        None => profile_folder()?.parent().context("the target folder has no parent")?.join("examples-out"),
    };
    if !folder.is_dir() {
        bail!("no built examples in {}: `cargo xtask build` makes them", folder.display());
    }
    Ok(Examples { folder })
}

/// The root of the workspace that this was compiled in.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// A program on the path, or where the variable says.
pub fn program(variable: &str, name: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).or_else(|| installed(name))
}

/// The nats-server to test against.
pub(crate) fn nats_server() -> Result<PathBuf> {
    tool(NEX_NATS_SERVER, "nats-server")
}

/// Takes from a command what the person at the keyboard has set up for nex and NATS: servers, contexts, credentials,
/// folders. What names a tool stays, and is named where the person has not: tests run with the tools of the set-up.
pub fn forget_user(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let settings = text.starts_with("NEX_") || text.starts_with("NATS_");
        if settings && text != NEX_DENO && text != NEX_NATS_SERVER {
            command.env_remove(&name);
        }
    }
    for (variable, tool) in [(NEX_DENO, deno()), (NEX_NATS_SERVER, nats_server())] {
        if let Ok(path) = tool {
            command.env(variable, path);
        }
    }
}

/// The Deno to test with.
pub(crate) fn deno() -> Result<PathBuf> {
    tool(NEX_DENO, "deno")
}

/// What `variable` names, else what the set-up installed, else what is on the PATH.
fn tool(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable).map(PathBuf::from) {
        if !path.is_file() {
            bail!("{variable} says {}, which is no file", path.display());
        }
        return Ok(path);
    }
    installed(name)
        .with_context(|| format!("no {name} found: `cargo xtask setup` installs one into the project's folder"))
}

/// A program of the set-up, else one on the PATH.
fn installed(name: &str) -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(workspace_root().join(".tools/bin"))
        .chain(std::env::split_paths(&search))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// `target/debug` (or `target/release`): a test executable is in its `deps`, any other program right in it.
fn profile_folder() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot tell where this program is")?;
    let folder = exe.parent().context("this program is in no folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_owned())
}
