//! The agent: started before the machine is born, so that a snapshot has it in it, and given its link afterwards.
//!
//! ```text
//! started --a byte--> waiting --the link's descriptor--> at work --> ended
//! ```
//! Its standard input is a socket on which it says that it waits, and on which the link comes (`SCM_RIGHTS`).

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{WaitOptions, wait};

use crate::cmdline::Settings;
use crate::{Failure, USER, WORK, doing};

/// The agent in the image.
const AGENT: &str = "/usr/libexec/nex-agent";

/// An agent that waits for its link, or is at work.
pub(crate) struct Agent {
    id: u32,
    hand: UnixStream,
}

impl Agent {
    /// Starts it, and waits until it waits.
    pub(crate) fn start(settings: &Settings) -> Result<Self, Failure> {
        let (mut hand, theirs) = UnixStream::pair().map_err(doing("make a socket".to_owned()))?;
        let mut command = Command::new(AGENT);
        command
            .env_clear()
            .env("NEX_AGENT_LOG", &settings.log)
            .env("NEX_AGENT_LINK", "handed")
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir(WORK)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .uid(USER)
            .gid(USER);
        let child = command.spawn().map_err(doing(format!("start {AGENT}: is this image made by `nex rootfs`?")))?;
        // Held by it alone, so that it is seen when it ends.
        drop(command);
        let agent = |hand| Self { id: child.id(), hand };
        match hand.read_exact(&mut [0]) {
            Ok(()) => Ok(agent(hand)),
            Err(_) => {
                let error = io::Error::other(format!("it ended with {}", agent(hand).reap()));
                Err(doing(format!("start {AGENT}"))(error))
            }
        }
    }

    /// Gives it its link.
    pub(crate) fn hand(&self, link: &OwnedFd) -> Result<(), Failure> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [link.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&self.hand, &[IoSlice::new(b"l")], &mut ancillary, SendFlags::NOSIGNAL)
            .map(drop)
            .map_err(io::Error::from)
            .map_err(doing("give the agent its link".to_owned()))
    }

    /// Reaps whatever ends, until the agent has; how it ended.
    pub(crate) fn reap(&self) -> String {
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) if pid.as_raw_nonzero().get().cast_unsigned() == self.id => {
                    return match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => format!("status {code}"),
                        (None, Some(signal)) => format!("signal {signal}"),
                        (None, None) => "an unknown status".to_owned(),
                    };
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return format!("no child to wait for ({error})"),
            }
        }
    }
}
