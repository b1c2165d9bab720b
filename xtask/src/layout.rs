//! Where things are in the project.

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// What the set-up installed: never committed, and safe to delete.
pub(crate) fn tools() -> PathBuf {
    root().join(".tools")
}

/// The programs that the set-up installed.
pub(crate) fn tools_bin() -> PathBuf {
    tools().join("bin")
}

/// Cargo's target folder: this program was started from `<target>/<profile>/`.
pub(crate) fn target() -> PathBuf {
    let own = std::env::current_exe().ok();
    let target = own.as_deref().and_then(Path::parent).and_then(Path::parent);
    target.map_or_else(|| root().join("target"), Path::to_owned)
}

/// Where a plain `cargo build` puts its programs.
pub(crate) fn profile_folder() -> PathBuf {
    target().join("debug")
}

/// The built examples, side by side.
pub(crate) fn examples() -> PathBuf {
    target().join("examples-out")
}
