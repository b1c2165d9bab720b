//! The version that is played, and since when there is what. States nothing of patch levels: they change no interface.

use std::fmt;
use std::str::FromStr;

/// A version of Firecracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl Version {
    /// What is played when nothing is said.
    pub const NEWEST: Self = Self::new(1, 16, 1);
    /// The oldest that is known here.
    pub const OLDEST: Self = Self::new(1, 7, 0);
    /// Taps can be exchanged when a snapshot is loaded.
    pub const NETWORK_OVERRIDES: Self = Self::new(1, 12, 0);
    /// `--enable-pci`, `track_dirty_pages` of a load, differences without tracking, any name for the jailed program.
    pub const PCI: Self = Self::new(1, 13, 0);
    /// `/serial`, `/pmem`, `/hotplug`, hinting and reporting of the balloon, `imds_compat`; files for logs and metrics
    /// are made when they are missing.
    pub const SERIAL: Self = Self::new(1, 14, 0);
    /// `vsock_override`, `clock_realtime`, `mtu`, devices that come and go while the machine runs.
    pub const HOTPLUG: Self = Self::new(1, 16, 0);

    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// First number of the version that snapshots of this version have.
    #[must_use]
    pub fn snapshot_format(self) -> u32 {
        match self.minor {
            0..=7 => 1,
            8 => 2,
            9 | 10 => 3,
            11 => 5,
            12 => 6,
            13 | 14 => 8,
            15 => 9,
            _ => 10,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// No version that can be played.
#[derive(Debug, thiserror::Error)]
#[error("'{given}' is no version that this stand-in plays: give one from {} to {}", Version::OLDEST, Version::NEWEST)]
pub struct NoVersion {
    given: String,
}

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let no_version = || NoVersion { given: text.to_owned() };
        let mut numbers = text.split('.').map(str::parse);
        let version = match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => Self { major, minor, patch },
            _ => return Err(no_version()),
        };
        if (Self::OLDEST..=Self::NEWEST).contains(&version) { Ok(version) } else { Err(no_version()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number_and_bounded() {
        assert!("1.7.0".parse::<Version>().unwrap() < "1.16.1".parse().unwrap());
        for bad in ["1.6.0", "1.17.0", "2.0.0", "1.7", "1.7.0.0", "v1.7.0", ""] {
            bad.parse::<Version>().unwrap_err();
        }
    }
}
