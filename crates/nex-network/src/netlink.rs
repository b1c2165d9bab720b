//! Links, addresses and routes, by rtnetlink. A socket belongs to the network namespace in which it was opened,
//! whatever becomes of the thread that opened it.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily as Family, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

use crate::Ipv4Subnet;

/// What the kernel sends at once is at most half of this.
const BUFFER: usize = 64 << 10;

/// A socket to the kernel's routing.
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A link, as far as anybody here asks.
#[derive(Debug, Default, Clone)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) bridge: bool,
}

/// A route.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Subnet,
    pub(crate) link: Option<u32>,
}

impl Netlink {
    /// For the network namespace that the calling thread is in.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open() -> io::Result<Self> {
        // Protocol zero of this family is routing.
        let socket = socket_with(Family::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Makes a pair of links: one here, its peer in the namespace of the descriptor.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn add_veth(&mut self, here: &str, mtu: u32, there: &str, namespace: BorrowedFd<'_>) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(there.into()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::NetNsFd(namespace.as_raw_fd()),
        ];
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(here.into()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.request(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sets a link's hardware address and largest packet where given, and brings it up.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn bring_up(&mut self, index: u32, mac: Option<[u8; 6]>, mtu: Option<u32>) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        link.attributes.extend(mtu.map(LinkAttribute::Mtu));
        self.request(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Removes a link, and its peer with it. One that is not there is removed already.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn remove_link(&mut self, name: &str) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.into())];
        match self.request(RouteNetlinkMessage::DelLink(link), 0) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(()),
            other => other,
        }
    }

    /// Gives a link an address, and the route to the network of its prefix.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes =
            vec![AddressAttribute::Local(IpAddr::V4(address)), AddressAttribute::Address(IpAddr::V4(address))];
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sends everything else by this gateway.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn add_default_route(&mut self, index: u32, gateway: Ipv4Addr) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = netlink_packet_route::route::RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway)), RouteAttribute::Oif(index)];
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Says for good which hardware address an address is at, so that nobody is asked.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn add_neighbour(&mut self, index: u32, address: Ipv4Addr, mac: [u8; 6]) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// All links.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(link_of).collect())
    }

    /// One link.
    ///
    /// # Errors
    /// What the kernel says, also when there is none of this name.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Link> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.into())];
        let answers = self.ask(RouteNetlinkMessage::GetLink(message), NLM_F_ACK)?;
        answers.into_iter().find_map(link_of).ok_or_else(|| Errno::NODEV.into())
    }

    /// All routes of IPv4, those of the host's own addresses included.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let answers = self.ask(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(route_of).collect())
    }

    /// A request that is answered with success or failure.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(message, flags | NLM_F_ACK).map(|_| ())
    }

    /// Sends a request and reads answers until the kernel says that there are no more.
    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answers = Vec::new();
        loop {
            let (_, length) = recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC)?;
            let mut rest = self.buffer.get(..length).ok_or_else(|| odd("the kernel's answer is too long"))?;
            while !rest.is_empty() {
                let part = NetlinkBuffer::new_checked(rest).map_err(odd)?;
                let length = usize::try_from(part.length()).map_err(odd)?;
                let this = rest.get(..length).ok_or_else(|| odd("the kernel's answer is too short"))?;
                if part.sequence_number() == self.sequence && read(this, &mut answers)? {
                    return Ok(answers);
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// Reads one message into the answers. Whether it was the last.
fn read(bytes: &[u8], answers: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
    // A kernel may know more kinds of links and routes than this program; what it does not know it does not ask about.
    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else { return Ok(false) };
    match message.payload {
        NetlinkPayload::Done(_) => Ok(true),
        NetlinkPayload::Error(error) => match error.code {
            None => Ok(true),
            Some(_) => Err(error.to_io()),
        },
        NetlinkPayload::InnerMessage(answer) => {
            answers.push(answer);
            Ok(false)
        }
        _ => Ok(false),
    }
}

fn odd<E: Into<Box<dyn std::error::Error + Send + Sync>>>(error: E) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link { index: message.header.index, ..Link::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => link.bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
            _ => {}
        }
    }
    Some(link)
}

fn route_of(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let (mut address, mut link) = (Ipv4Addr::UNSPECIFIED, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(destination)) => address = *destination,
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    Some(Route { destination: Ipv4Subnet::new(address, message.header.destination_prefix_length)?, link })
}
