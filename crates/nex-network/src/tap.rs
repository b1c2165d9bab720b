//! Tap devices: what a VMM opens as its guest's network device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{IntegerSetter, Setter, ioctl};

use crate::settings::Owner;

/// `struct ifreq` as far as these calls read it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const SET_DEVICE: u32 = 0x4004_54ca;
const SET_PERSIST: u32 = 0x4004_54cb;
const SET_OWNER: u32 = 0x4004_54cc;
const SET_GROUP: u32 = 0x4004_54ce;

const TAP: u16 = 0x0002;
const NO_PACKET_INFORMATION: u16 = 0x1000;
const VIRTIO_HEADER: u16 = 0x4000;

/// Makes a tap in the network namespace of the calling thread that stays when nobody has it open, with the header that
/// Firecracker and QEMU expect before each frame.
///
/// # Errors
/// What the system says.
pub(crate) fn make(name: &str, owner: Option<Owner>) -> io::Result<()> {
    let device = open(name)?;
    if let Some(Owner { uid, gid }) = owner {
        number::<SET_OWNER>(&device, uid)?;
        number::<SET_GROUP>(&device, gid)?;
    }
    number::<SET_PERSIST>(&device, 1)
}

/// Opens a tap of this name in the network namespace of the calling thread, and makes it when it is not there.
///
/// # Errors
/// What the system says.
pub(crate) fn open(name: &str) -> io::Result<File> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE)?;
    let mut request = Request { name: [0; 16], flags: TAP | NO_PACKET_INFORMATION | VIRTIO_HEADER, rest: [0; 22] };
    for (to, from) in request.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: TUNSETIFF reads an `ifreq`, which `Request` is laid out as and as large as, and keeps no pointer to it.
    unsafe { ioctl(device.as_fd(), Setter::<SET_DEVICE, Request>::new(request)) }?;
    Ok(device)
}

/// The device that makes taps.
pub(crate) const DEVICE: &str = "/dev/net/tun";

fn number<const CALL: u32>(device: &File, value: u32) -> io::Result<()> {
    let value = usize::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: these calls of the tun driver take a number, not a pointer.
    unsafe { ioctl(device.as_fd(), IntegerSetter::<CALL>::new_usize(value)) }?;
    Ok(())
}
