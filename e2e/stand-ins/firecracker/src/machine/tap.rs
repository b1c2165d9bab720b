//! A tap of this network namespace, opened as Firecracker opens it: one that somebody else has open, or that belongs to
//! another user, is refused by the kernel itself.

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// The device in the jail, from its root.
const IN_JAIL: &str = "dev/net/tun";

const NON_BLOCKING: i32 = 0o4000;
const NAME: usize = 16;
const TAP: i16 = 0x0002;
const NO_PACKET_INFORMATION: i16 = 0x1000;
const VNET_HEADER: i16 = 0x4000;

/// Why it cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TapError {
    #[error("Couldn't open /dev/net/tun: {0}")]
    Device(io::Error),
    #[error("Invalid interface name")]
    Name,
    #[error("Error while creating ifreq structure: {0}. Invalid TUN/TAP Backend provided by {1}.")]
    Attach(io::Error, String),
}

/// Opens the tap with this name. One that is not there is refused, also where the process could make it: then nobody
/// would have connected it to anything.
pub(crate) fn open(name: &str) -> Result<File, TapError> {
    if name.is_empty() || name.len() >= NAME {
        return Err(TapError::Name);
    }
    if !exists(name) {
        let missing = io::Error::from(rustix::io::Errno::PERM);
        return Err(TapError::Attach(missing, name.to_owned()));
    }
    // A jail has a device of its own, and the root is not changed here.
    let path = if Path::new(IN_JAIL).exists() { IN_JAIL } else { "/dev/net/tun" };
    let device = OpenOptions::new().read(true).write(true).custom_flags(NON_BLOCKING).open(path);
    let device = device.map_err(TapError::Device)?;
    let mut request = Request { name: [0; NAME], flags: TAP | NO_PACKET_INFORMATION | VNET_HEADER, rest: [0; 22] };
    for (place, letter) in request.name.iter_mut().zip(name.bytes()) {
        *place = letter;
    }
    // SAFETY: the request is an `ifreq` as this call of /dev/net/tun takes it, and lives until the call is over.
    let attached = unsafe { ioctl(&device, Attach(request)) };
    attached.map_err(|error| TapError::Attach(error.into(), name.to_owned()))?;
    Ok(device)
}

/// Whether this network namespace has it.
fn exists(name: &str) -> bool {
    let devices = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    devices.lines().any(|line| line.split_once(':').is_some_and(|(device, _)| device.trim() == name))
}

/// `struct ifreq` with flags.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    flags: i16,
    rest: [u8; 22],
}

struct Attach(Request);

// SAFETY: `TUNSETIFF` reads and writes one `ifreq`, which is what the pointer points to.
unsafe impl Ioctl for Attach {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::write::<i32>(b'T', 202)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}
