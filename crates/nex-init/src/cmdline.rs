//! What the host says on the kernel's command line: the words that begin with `nex.`. Everything else is the kernel's.
//!
//! Only what is the same for all machines of a node stands here; what differs comes with the [`crate::birth`].

use std::fmt;

use nex_protocol::machine::LINK_PORT;

/// How the agent's link reaches this guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkKind {
    /// The host connects to this vsock port.
    Vsock(u32),
    /// The first virtio-serial port; for hosts that have no vsock.
    Serial,
}

/// Where what the guest writes is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scratch {
    /// In memory, at most so many MiB.
    Memory(u64),
    /// On a drive of its own.
    Drive(String),
}

/// All that the host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `nex.link=vsock:PORT` or `nex.link=serial`.
    pub(crate) link: LinkKind,
    /// `nex.root=/dev/vda`: the read-only drive with the root image.
    pub(crate) root: String,
    /// `nex.rootfs=ext4`: its file system.
    pub(crate) file_system: String,
    /// `nex.scratch=memory:MIB` or `nex.scratch=/dev/vdb`.
    pub(crate) scratch: Scratch,
    /// `nex.log=FILTER`: of the agent's own log.
    pub(crate) log: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            link: LinkKind::Vsock(LINK_PORT),
            root: "/dev/vda".to_owned(),
            file_system: "ext4".to_owned(),
            scratch: Scratch::Memory(64),
            log: "warn".to_owned(),
        }
    }
}

/// A word of the command line makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadWord(pub(crate) String);

impl fmt::Display for BadWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel's command line has '{}', which nex-init does not understand", self.0)
    }
}

impl std::error::Error for BadWord {}

impl Settings {
    /// Reads a command line.
    ///
    /// # Errors
    /// [`BadWord`]: host and image are of different releases.
    pub(crate) fn parse(line: &str) -> Result<Self, BadWord> {
        let mut settings = Self::default();
        for word in line.split_ascii_whitespace() {
            let Some((name, value)) = word.strip_prefix("nex.").map(|word| word.split_once('=').unwrap_or((word, "")))
            else {
                continue;
            };
            let bad = || BadWord(word.to_owned());
            match name {
                "link" => settings.link = link(value).ok_or_else(bad)?,
                "root" if value.starts_with("/dev/") => value.clone_into(&mut settings.root),
                "rootfs" if !value.is_empty() => value.clone_into(&mut settings.file_system),
                "scratch" => settings.scratch = scratch(value).ok_or_else(bad)?,
                "log" => value.clone_into(&mut settings.log),
                _ => return Err(bad()),
            }
        }
        Ok(settings)
    }
}

fn link(value: &str) -> Option<LinkKind> {
    match value.split_once(':') {
        Some(("vsock", port)) => port.parse().ok().map(LinkKind::Vsock),
        None if value == "serial" => Some(LinkKind::Serial),
        _ => None,
    }
}

fn scratch(value: &str) -> Option<Scratch> {
    match value.split_once(':') {
        Some(("memory", mib)) => mib.parse().ok().filter(|mib| *mib > 0).map(Scratch::Memory),
        None if value.starts_with("/dev/") => Some(Scratch::Drive(value.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_nex_are_read_and_others_left_to_the_kernel() {
        let line = "console=ttyS0 nex.link=serial panic=1 nex.scratch=memory:32 nex.log=debug\n";
        let settings = Settings::parse(line).unwrap();
        assert_eq!((settings.link, settings.scratch), (LinkKind::Serial, Scratch::Memory(32)));
        assert_eq!(settings.log, "debug");
        assert_eq!(Settings::parse("quiet").unwrap(), Settings::default());
    }

    #[test]
    fn words_that_make_no_sense_are_told() {
        for bad in
            ["nex.link=tcp:1", "nex.link=vsock:x", "nex.scratch=memory:0", "nex.root=vda", "nex.other=1", "nex.name=a"]
        {
            assert_eq!(Settings::parse(bad), Err(BadWord(bad.to_owned())));
        }
    }
}
