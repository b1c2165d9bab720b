//! Settings of the network namespace that the calling thread is in, below `/proc/sys/net`.

use std::fs;
use std::io;

use crate::NetworkError;

/// Whether the kernel passes packets on between links.
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
