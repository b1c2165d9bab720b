//! Which release of Firecracker a program is.

use std::path::Path;
use std::process::Stdio;

use super::FirecrackerError;

/// The oldest release that is spoken to.
const OLDEST: Version = Version { major: 1, minor: 7 };

/// The first that can have a guest report the memory it has freed.
const REPORTS_FREE_PAGES: Version = Version { major: 1, minor: 14 };

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
}

/// The release in what `firecracker --version` prints.
fn version(printed: &str) -> Option<(String, Version)> {
    let text = printed.split_ascii_whitespace().find_map(|word| word.strip_prefix('v').filter(|v| v.contains('.')))?;
    Some((text.to_owned(), number(text)?))
}

fn number(text: &str) -> Option<Version> {
    let mut parts = text.split('.');
    Some(Version { major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
}

/// Whether this release, as [`release`] gives it, can have a guest report the memory it has freed.
pub(super) fn reports_free_pages(release: &str) -> bool {
    number(release).is_some_and(|version| version >= REPORTS_FREE_PAGES)
}

/// The release of a Firecracker program.
///
/// # Errors
/// [`FirecrackerError`] when it does not run or is too old.
pub fn release(program: &Path) -> Result<String, FirecrackerError> {
    let failed = |reason: String| FirecrackerError::Program { program: program.to_owned(), reason };
    let output = std::process::Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    match version(&printed) {
        Some((text, found)) if found < OLDEST => {
            Err(FirecrackerError::TooOld { program: program.to_owned(), version: text })
        }
        Some((text, _)) => Ok(text),
        None => Err(failed(format!("--version prints '{}'", printed.lines().next().unwrap_or_default()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_from_what_the_program_prints() {
        let (text, found) =
            version("Firecracker v1.16.1\n\nSupported snapshot data format versions: v8.0.0\n").unwrap();
        assert_eq!((text.as_str(), found), ("1.16.1", Version { major: 1, minor: 16 }));
        assert!(version("Firecracker v1.6.0").unwrap().1 < OLDEST);
        assert!(version("Firecracker v1.17.0-dev").unwrap().1 > OLDEST);
        assert!(version("something else").is_none());
        assert!(reports_free_pages("1.14.0") && reports_free_pages("2.0.1-dev") && !reports_free_pages("1.13.2"));
    }
}
