//! The birth: what the node says when it takes the machine into use, and what is done about it here. See
//! [`nex_protocol::machine`].
//!
//! Done at once, before the agent has its link: a workload of a restored machine must never see the clock, the randomness or
//! the addresses of the machine that it is a copy of.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;

use nex_protocol::machine::{Birth, Born, Entropy, MAX_LINE, line};
use rustix::system::sethostname;
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::{Failure, doing, network};

/// Adds to the kernel's randomness (`random(4)`).
const RNDADDENTROPY: u32 = 0x4008_5203;

/// Has the kernel use it at once.
const RNDRESEEDCRNG: u32 = 0x5207;

/// Reads a birth; none when the node has gone before it said one, as it does when it takes a snapshot.
pub(crate) fn hear(mut link: impl Read) -> Result<Option<Birth>, Failure> {
    let mut said = Vec::new();
    let mut byte = [0];
    while said.len() < MAX_LINE {
        match link.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) if byte == *b"\n" => {
                let birth =
                    serde_json::from_slice(&said).map_err(|error| io::Error::new(ErrorKind::InvalidData, error));
                return birth.map(Some).map_err(doing("read what the node says of this machine".to_owned()));
            }
            Ok(_) => said.extend(byte),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Ok(None),
        }
    }
    let error = io::Error::new(ErrorKind::InvalidData, format!("it is longer than {MAX_LINE} bytes"));
    Err(doing("read what the node says of this machine".to_owned())(error))
}

/// Does what it says, and answers.
pub(crate) fn enact(birth: Birth, mut link: impl Write) -> Result<(), Failure> {
    let done = apply(birth);
    let born = Born { error: done.as_ref().err().map(ToString::to_string) };
    let answer = line(&born).map_err(io::Error::from).and_then(|line| link.write_all(&line));
    done.and(answer.map_err(doing("answer the node".to_owned())))
}

fn apply(birth: Birth) -> Result<(), Failure> {
    let seconds = i64::try_from(birth.clock_unix_ms / 1000).unwrap_or_default();
    let nanoseconds = i64::try_from(birth.clock_unix_ms % 1000).unwrap_or_default() * 1_000_000;
    clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: nanoseconds })
        .map_err(io::Error::from)
        .map_err(doing("set the clock".to_owned()))?;
    stir(&birth.entropy).map_err(doing("add randomness".to_owned()))?;
    sethostname(birth.name.as_bytes()).map_err(io::Error::from).map_err(doing("set the host's name".to_owned()))?;
    network::loopback().map_err(doing("bring up the loopback interface".to_owned()))?;
    let Some(found) = &birth.network else { return Ok(()) };
    network::configure(found).map_err(doing("bring up the network".to_owned()))?;
    if found.nameservers.is_empty() {
        return Ok(());
    }
    let text: String = found.nameservers.iter().map(|server| format!("nameserver {server}\n")).collect();
    fs::write("/etc/resolv.conf", text).map_err(doing("write /etc/resolv.conf".to_owned()))
}

/// What `RNDADDENTROPY` takes.
#[repr(C)]
struct PoolInfo {
    bits: libc::c_int,
    bytes: libc::c_int,
    data: [u8; 32],
}

fn stir(entropy: &Entropy) -> io::Result<()> {
    let device = OpenOptions::new().write(true).open("/dev/urandom")?;
    let mut info = PoolInfo { bits: 256, bytes: 32, data: entropy.0 };
    // SAFETY: the descriptor is open, and the request reads a count, a length and as many bytes, which `info` has.
    let added = unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY as _, &raw const info) };
    let error = io::Error::last_os_error();
    info.data = [0; 32];
    std::hint::black_box(&info);
    if added != 0 {
        return Err(error);
    }
    // SAFETY: this request takes no argument. Kernels that do not know it use what was added a little later.
    unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG as _) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_birth_is_heard_and_what_follows_it_is_left_to_the_agent() {
        let birth = Birth { clock_unix_ms: 1, entropy: Entropy([1; 32]), name: "n".to_owned(), network: None };
        let mut bytes = line(&birth).unwrap();
        bytes.extend(b"frame");
        let mut link = bytes.as_slice();
        assert_eq!(hear(&mut link).unwrap(), Some(birth));
        assert_eq!(link, b"frame");
    }

    #[test]
    fn a_node_that_goes_is_waited_for_again_and_nonsense_ends_the_guest() {
        assert_eq!(hear(&b""[..]).unwrap(), None);
        assert_eq!(hear(&b"{\"clock"[..]).unwrap(), None);
        assert!(hear(&b"{}\n"[..]).is_err());
        assert!(hear(vec![b'x'; MAX_LINE + 1].as_slice()).is_err());
    }
}
