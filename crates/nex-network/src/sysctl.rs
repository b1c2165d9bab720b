//! Settings of the network namespace that the calling thread is in, below `/proc/sys/net`.

use std::fs;
use std::io;

use crate::NetworkError;

/// Whether the kernel passes packets on between all links. Changing it changes every link.
pub(crate) const IP_FORWARD: &str = "ipv4/ip_forward";

/// The text of a setting.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn get(key: &str) -> Result<String, NetworkError> {
    let text = fs::read_to_string(path(key)).map_err(NetworkError::system(format!("read {}", path(key))))?;
    Ok(text.trim().to_owned())
}

/// Changes a setting.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn set(key: &str, value: &str) -> Result<(), NetworkError> {
    fs::write(path(key), value).map_err(NetworkError::system(format!("write {value} to {}", path(key))))
}

/// Whether what arrives at a link is passed on. At a link that is gone, or cannot be asked, it counts as passed on: there
/// is nothing to turn on.
pub(crate) fn passes_on(link: &str) -> bool {
    fs::read_to_string(path(&forwarding(link))).map_or(true, |text| text.trim() != "0")
}

/// Changes that, for a link that is there.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn pass_on(link: &str, on: bool) -> Result<(), NetworkError> {
    match set(&forwarding(link), if on { "1" } else { "0" }) {
        Err(NetworkError::System { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn forwarding(link: &str) -> String {
    format!("ipv4/conf/{link}/forwarding")
}

/// Keeps IPv6 off a link, or off all that are to come (`default`). A kernel without IPv6 has no such setting.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn without_ipv6(link: &str) -> Result<(), NetworkError> {
    match fs::write(path(&format!("ipv6/conf/{link}/disable_ipv6")), "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::System { what: format!("turn off IPv6 on {link}"), source: error })
        }
        _ => Ok(()),
    }
}

fn path(key: &str) -> String {
    format!("/proc/sys/net/{key}")
}
