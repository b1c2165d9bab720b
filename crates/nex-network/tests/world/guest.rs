//! A guest without a VMM: it holds the tap of a slot and speaks Ethernet, ARP and IP itself.

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use nex_network::Slot;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::PUBLIC;

/// What the tap puts before each frame, for a guest that helps with nothing.
const HEADER: usize = 10;
const ARP: u16 = 0x0806;
const IP: u16 = 0x0800;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
/// The port that probes are sent from.
const FROM: u16 = 40000;

pub struct Guest {
    tap: File,
    address: Ipv4Addr,
    mac: Cell<[u8; 6]>,
    gateway_mac: Cell<[u8; 6]>,
    next: Cell<u32>,
}

/// What becomes of a probe.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Fate {
    /// It was answered.
    Answered,
    /// The guest was told that it is not allowed.
    Refused,
    /// Nothing came back, though what was sent after it was answered.
    Silence,
}

/// An IP packet that came out of the tap.
pub struct Packet {
    pub protocol: u8,
    pub from: Ipv4Addr,
    pub body: Vec<u8>,
}

impl Guest {
    /// Boots.
    pub fn new(slot: &Slot) -> Self {
        let tap = File::from(slot.open_tap().unwrap());
        fcntl_setfl(&tap, fcntl_getfl(&tap).unwrap() | OFlags::NONBLOCK).unwrap();
        let guest = slot.guest();
        let (address, mac, gateway) = (guest.address, guest.mac, guest.gateway);
        let booted = Self { tap, address, mac: Cell::new(mac), gateway_mac: Cell::new([0xff; 6]), next: Cell::new(0) };
        // The first answers may be lost: the tap comes up a moment after somebody opens it.
        for _ in 0..200 {
            booted.frame([0xff; 6], mac, ARP, &arp(1, mac, address, [0; 6], gateway));
            let answer = booted.find(Duration::from_millis(100), |kind, body| {
                (kind == ARP && body[7] == 2 && body[14..18] == gateway.octets()).then(|| body[8..14].to_vec())
            });
            if let Some(mac) = answer {
                booted.gateway_mac.set(mac.try_into().unwrap());
                return booted;
            }
        }
        panic!("the gateway {gateway} does not answer");
    }

    /// A datagram to somebody, and what comes of it.
    pub fn probe(&self, to: Ipv4Addr, port: u16) -> (Fate, Vec<u8>) {
        let payload = self.payload();
        self.udp(self.address, to, port, &payload);
        (self.fate(to, &payload), payload)
    }

    /// Whether it is answered by somebody beyond the host.
    pub fn reaches(&self, to: Ipv4Addr, port: u16) -> bool {
        self.probe(to, port).0 == Fate::Answered
    }

    /// A datagram that is answered.
    pub fn is_answered(&self, to: Ipv4Addr, port: u16) -> Vec<u8> {
        let payload = self.payload();
        self.udp(self.address, to, port, &payload);
        while self.judge(&self.packet(), to, &payload) != Some(Fate::Answered) {}
        payload
    }

    /// What comes of a datagram that was sent. After it go two others to somebody beyond the host who answers, the
    /// second when the first is answered: by then it would have been answered itself, so that silence is known and not
    /// waited for.
    pub fn fate(&self, to: Ipv4Addr, payload: &[u8]) -> Fate {
        let mut fate = Fate::Silence;
        for _ in 0..2 {
            let next = self.payload();
            self.udp(self.address, PUBLIC, 7, &next);
            loop {
                let packet = self.packet();
                fate = self.judge(&packet, to, payload).unwrap_or(fate);
                if self.judge(&packet, PUBLIC, &next) == Some(Fate::Answered) {
                    break;
                }
            }
        }
        fate
    }

    /// What a packet says of a datagram.
    fn judge(&self, packet: &Packet, to: Ipv4Addr, payload: &[u8]) -> Option<Fate> {
        if packet.protocol == UDP && packet.from == to && packet.body.ends_with(payload) {
            return Some(Fate::Answered);
        }
        let refused = packet.protocol == ICMP && packet.body[..2] == [3, 13] && packet.body[24..28] == to.octets();
        refused.then_some(Fate::Refused)
    }

    /// Something that was never sent before.
    pub fn payload(&self) -> Vec<u8> {
        self.next.set(self.next.get() + 1);
        format!("{}-{:?}-{:04}", self.address, std::thread::current().id(), self.next.get()).into_bytes()
    }

    /// Sends a datagram that bears any source.
    pub fn udp(&self, from: Ipv4Addr, to: Ipv4Addr, port: u16, payload: &[u8]) {
        let length = u16::try_from(payload.len() + 8).unwrap();
        let mut body = [FROM.to_be_bytes(), port.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
        body.extend_from_slice(payload);
        self.ip(from, to, UDP, &body);
    }

    /// Asks for a connection. Whether it is accepted.
    pub fn connects(&self, to: Ipv4Addr, port: u16) -> bool {
        self.next.set(self.next.get() + 1);
        let source = 50000 + u16::try_from(self.next.get()).unwrap();
        let mut body = [source.to_be_bytes(), port.to_be_bytes()].concat();
        body.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        let mut pseudo = [self.address.octets(), to.octets()].concat();
        pseudo.extend([0, TCP, 0, 20]);
        pseudo.extend_from_slice(&body);
        body[16..18].copy_from_slice(&sum(&pseudo));
        self.ip(self.address, to, TCP, &body);
        loop {
            let packet = self.packet();
            if packet.protocol == TCP && packet.from == to && packet.body[2..4] == source.to_be_bytes() {
                return packet.body[13] == 0x12;
            }
            if self.judge(&packet, to, &[]) == Some(Fate::Refused) {
                return false;
            }
        }
    }

    fn ip(&self, from: Ipv4Addr, to: Ipv4Addr, protocol: u8, body: &[u8]) {
        let length = u16::try_from(body.len() + 20).unwrap().to_be_bytes();
        let mut packet = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
        packet.extend(from.octets());
        packet.extend(to.octets());
        let checksum = sum(&packet);
        packet[10..12].copy_from_slice(&checksum);
        packet.extend_from_slice(body);
        self.frame(self.gateway_mac.get(), self.mac.get(), IP, &packet);
    }

    fn frame(&self, to: [u8; 6], from: [u8; 6], kind: u16, body: &[u8]) {
        let mut frame = vec![0; HEADER];
        frame.extend(to);
        frame.extend(from);
        frame.extend(kind.to_be_bytes());
        frame.extend_from_slice(body);
        assert_eq!((&self.tap).write(&frame).unwrap(), frame.len());
    }

    /// Sends from this hardware address from now on.
    pub fn claim_mac(&self, mac: [u8; 6]) {
        self.mac.set(mac);
    }

    /// The next IP packet.
    pub fn packet(&self) -> Packet {
        self.wait_for(|kind, body| {
            (kind == IP).then(|| Packet {
                protocol: body[9],
                from: Ipv4Addr::from(<[u8; 4]>::try_from(&body[12..16]).unwrap()),
                body: body[20..].to_vec(),
            })
        })
    }

    fn wait_for<T>(&self, wanted: impl Fn(u16, &[u8]) -> Option<T>) -> T {
        self.find(Duration::from_secs(20), wanted).expect("the guest waits for a packet that does not come")
    }

    fn find<T>(&self, within: Duration, wanted: impl Fn(u16, &[u8]) -> Option<T>) -> Option<T> {
        let mut buffer = [0; 4096];
        let until = Instant::now() + within;
        loop {
            let length = match (&self.tap).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let rest = Timespec::try_from(until.saturating_duration_since(Instant::now())).unwrap();
                    if poll(&mut [PollFd::new(&self.tap, PollFlags::IN)], Some(&rest)).unwrap() == 0 {
                        return None;
                    }
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let frame = &buffer[HEADER..length];
            let (kind, body) = (u16::from_be_bytes([frame[12], frame[13]]), &frame[14..]);
            if kind == ARP && body[7] == 1 && body[24..28] == self.address.octets() {
                let (mac, address) = (body[8..14].try_into().unwrap(), <[u8; 4]>::try_from(&body[14..18]).unwrap());
                let ours = self.mac.get();
                self.frame(mac, ours, ARP, &arp(2, ours, self.address, mac, address.into()));
            }
            if let Some(found) = wanted(kind, body) {
                return Some(found);
            }
        }
    }
}

fn arp(kind: u8, mac: [u8; 6], address: Ipv4Addr, to_mac: [u8; 6], to: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, kind];
    body.extend(mac);
    body.extend(address.octets());
    body.extend(to_mac);
    body.extend(to.octets());
    body
}

/// The Internet checksum.
fn sum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}
