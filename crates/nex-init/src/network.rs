//! The guest's network: loopback, and one interface with one address and one way out, as the node says.
//!
//! By the old ioctls (`netdevice(7)`): they do all that is needed here, and take no library.

use std::ffi::c_short;
use std::fs;
use std::io;
use std::mem::zeroed;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nex_protocol::machine::GuestNetwork;
use rustix::net::{AddressFamily, SocketType, socket};

/// Kind of an Ethernet interface.
const ARPHRD_ETHER: libc::sa_family_t = 1;

/// Brings up the loopback interface.
pub(crate) fn loopback() -> io::Result<()> {
    Interface::named("lo")?.up()
}

/// Brings up the interface to the host.
pub(crate) fn configure(network: &GuestNetwork) -> io::Result<()> {
    let name = interface().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no network interface"))?;
    let interface = Interface::named(&name)?;
    interface.hardware_address(network.mac)?;
    interface.mtu(network.mtu)?;
    interface.address(libc::SIOCSIFADDR as _, network.address)?;
    let mask = u32::MAX.checked_shl(32 - u32::from(network.prefix.min(32))).unwrap_or_default();
    interface.address(libc::SIOCSIFNETMASK as _, Ipv4Addr::from_bits(mask))?;
    interface.up()?;
    interface.default_route(network.gateway)
}

/// The first interface with a device behind it.
fn interface() -> Option<String> {
    let names = fs::read_dir("/sys/class/net").ok()?.flatten();
    let mut names: Vec<String> = names
        .filter(|entry| Path::new(&entry.path()).join("device").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.into_iter().next()
}

struct Interface {
    socket: OwnedFd,
    request: libc::ifreq,
}

impl Interface {
    fn named(name: &str) -> io::Result<Self> {
        // SAFETY: `ifreq` is plain data, for which zeros are a value.
        let mut request: libc::ifreq = unsafe { zeroed() };
        // The last byte stays zero, which ends the name.
        let room = request.ifr_name.len() - 1;
        for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
            *to = from.cast_signed() as _;
        }
        let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        Ok(Self { socket, request })
    }

    fn ask(&self, request: libc::c_ulong, argument: &libc::ifreq) -> io::Result<libc::ifreq> {
        let mut argument = *argument;
        // SAFETY: the descriptor is an open socket, and the requests of this module read and write one `ifreq`.
        let done = unsafe { libc::ioctl(self.socket.as_raw_fd(), request as _, &raw mut argument) };
        if done == 0 { Ok(argument) } else { Err(io::Error::last_os_error()) }
    }

    fn up(&self) -> io::Result<()> {
        let mut request = self.ask(libc::SIOCGIFFLAGS as _, &self.request)?;
        // SAFETY: the kernel has just written the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as c_short | libc::IFF_RUNNING as c_short;
        self.ask(libc::SIOCSIFFLAGS as _, &request).map(drop)
    }

    fn hardware_address(&self, mac: [u8; 6]) -> io::Result<()> {
        let mut request = self.request;
        // SAFETY: plain data, for which zeros are a value.
        let mut address: libc::sockaddr = unsafe { zeroed() };
        address.sa_family = ARPHRD_ETHER;
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = from.cast_signed() as _;
        }
        request.ifr_ifru.ifru_hwaddr = address;
        self.ask(libc::SIOCSIFHWADDR as _, &request).map(drop)
    }

    fn mtu(&self, bytes: u16) -> io::Result<()> {
        let mut request = self.request;
        request.ifr_ifru.ifru_mtu = bytes.into();
        self.ask(libc::SIOCSIFMTU as _, &request).map(drop)
    }

    fn address(&self, which: libc::c_ulong, address: Ipv4Addr) -> io::Result<()> {
        let mut request = self.request;
        request.ifr_ifru.ifru_addr = socket_address(address);
        self.ask(which, &request).map(drop)
    }

    fn default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        // SAFETY: plain data, for which zeros are a value: no destination, no mask, no device.
        let mut route: libc::rtentry = unsafe { zeroed() };
        route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = socket_address(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        // SAFETY: the descriptor is an open socket, and the request reads one `rtentry`, which has no pointers set.
        let done = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCADDRT as _, &raw const route) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// An IPv4 address where any address fits: family, port, address.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: plain data, for which zeros are a value.
    let mut socket: libc::sockaddr = unsafe { zeroed() };
    socket.sa_family = libc::AF_INET as libc::sa_family_t;
    for (to, from) in socket.sa_data.iter_mut().skip(2).zip(address.octets()) {
        *to = from.cast_signed() as _;
    }
    socket
}
