//! Configuration files to begin with. One that is there is never touched.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

/// What a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// Workloads in microVMs.
    Sandbox,
    /// Workloads as processes.
    NoSandbox,
}

/// A configuration could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct InitError {
    path: PathBuf,
    source: std::io::Error,
}

impl Template {
    /// Its text. Kernel, root image and programs are to lie in `resources`.
    pub fn text(self, resources: &Path) -> String {
        let config = match self {
            Template::Sandbox => json!({
                "default_resource_dir": resources,
                "bin_path": [resources.join("bin")],
                "machine_pool_size": 1,
                "machine_template": { "vcpu_count": 1, "memsize_mib": 256 },
                "tags": { "simple": "true" }
            }),
            Template::NoSandbox => json!({
                "no_sandbox": true,
                "bin_path": [resources.join("bin")],
                "machine_pool_size": 1,
                "tags": { "simple": "true" }
            }),
        };
        format!("{config:#}\n")
    }
}

/// Writes a configuration when there is none; says whether it did.
///
/// # Errors
/// [`InitError`].
pub fn init(path: &Path, template: Template, resources: &Path) -> Result<bool, InitError> {
    let failed = |source| InitError { path: path.to_owned(), source };
    // Not by renaming: that would put it over a file that comes into being meanwhile.
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            let written = file.write_all(template.text(resources).as_bytes()).and_then(|()| file.sync_all());
            written.map_err(|source| {
                let _ = std::fs::remove_file(path);
                failed(source)
            })?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_written_once_and_never_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        assert!(init(&path, Template::NoSandbox, Path::new("/var/lib/x")).unwrap());
        let first = std::fs::read_to_string(&path).unwrap();
        assert!(!init(&path, Template::Sandbox, Path::new("/var/lib/x")).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        assert!(init(&folder.path().join("no/config.json"), Template::Sandbox, Path::new("/")).is_err());
    }
}
