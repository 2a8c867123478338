//! What comes back: whose it is, and what an ICMP error says about it. Bytes from the network, so nothing about them is
//! believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A conversation of a check, as its packets name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub protocol: u8,
    pub vip: IpAddr,
    pub port: u16,
    pub own: IpAddr,
    pub own_port: u16,
}

/// What an ICMP error says of a packet to the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complaint {
    pub from: IpAddr,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Nobody listens on the port.
    PortClosed,
    /// Whoever says so takes no packets of the tunnel.
    NoTunnel,
    /// It was about to pass the packet on.
    PassedOn,
    /// Whatever else.
    Unreachable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// An IP packet of the conversation.
    Packet(Vec<u8>),
    Complaint(Complaint),
}

/// Whose a packet is, and what it says.
pub fn read(packet: &[u8]) -> Option<(Key, Arrival)> {
    let ip = Ip::read(packet)?;
    match ip.protocol {
        TCP | UDP => {
            let (port, own_port) = ports(packet, ip.payload)?;
            let key = Key { protocol: ip.protocol, vip: ip.source, port, own: ip.destination, own_port };
            Some((key, Arrival::Packet(packet.get(..ip.end)?.to_vec())))
        }
        ICMP | ICMP_V6 => {
            let header = packet.get(ip.payload..ip.payload.checked_add(8)?)?;
            let what = what(ip.protocol == ICMP, header[0], header[1])?;
            let (key, in_tunnel) = quoted(packet.get(ip.payload + 8..)?)?;
            let what = match (what, in_tunnel) {
                // It does not listen for the tunnel, or does not know its protocol.
                (What::PortClosed | What::Unreachable, true) => What::NoTunnel,
                (what, _) => what,
            };
            Some((key, Arrival::Complaint(Complaint { from: ip.source, what })))
        }
        _ => None,
    }
}

/// RFC 792, RFC 4443. Nothing of what only concerns a packet's size.
fn what(is_v4: bool, kind: u8, code: u8) -> Option<What> {
    match (is_v4, kind, code) {
        (true, 3, 4) => None,
        (true, 3, 3) | (false, 1, 4) => Some(What::PortClosed),
        (true, 3, _) | (false, 1, _) => Some(What::Unreachable),
        // An unknown next header: to IPv6 what is "protocol unreachable" to IPv4.
        (false, 4, 1) => Some(What::Unreachable),
        (true, 11, 0) | (false, 3, 0) => Some(What::PassedOn),
        _ => None,
    }
}

/// The conversation of a packet of ours that is quoted, bare or in its tunnel, and whether that is so.
fn quoted(packet: &[u8]) -> Option<(Key, bool)> {
    let ip = Ip::read_begun(packet)?;
    let inside = |skip: usize| {
        let packet = packet.get(ip.payload.checked_add(skip)?..)?;
        key(packet, Ip::read_begun(packet)?)
    };
    match ip.protocol {
        IP_IN_IP | IP_V6 => Some((inside(0)?, true)),
        GRE => Some((inside(GRE_HEADER)?, true)),
        // GUE, if what is inside is a packet of ours; else a datagram.
        UDP => match inside(GUE_HEADER) {
            Some(key) => Some((key, true)),
            None => Some((key(packet, ip)?, false)),
        },
        _ => Some((key(packet, ip)?, false)),
    }
}

/// Of a packet on its way there.
fn key(packet: &[u8], ip: Ip) -> Option<Key> {
    let (own_port, port) = ports(packet, ip.payload)?;
    let is_ours = matches!(ip.protocol, TCP | UDP);
    is_ours.then_some(Key { protocol: ip.protocol, vip: ip.destination, port, own: ip.source, own_port })
}

/// Source and destination.
fn ports(packet: &[u8], at: usize) -> Option<(u16, u16)> {
    let &[a, b, c, d] = packet.get(at..)?.first_chunk()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// The payload of a datagram.
pub fn datagram(packet: &[u8]) -> Option<&[u8]> {
    let ip = Ip::read(packet)?;
    let &[high, low] = packet.get(ip.payload.checked_add(4)?..)?.first_chunk()?;
    let end = ip.payload + usize::from(u16::from_be_bytes([high, low]));
    packet.get(ip.payload + UDP_HEADER..end.min(ip.end))
}

/// An IP header. IPv6 extension headers are not followed: neither do our packets have any, nor do their answers.
#[derive(Clone, Copy)]
struct Ip {
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
    /// Where the next header begins, and the packet ends.
    payload: usize,
    end: usize,
}

impl Ip {
    /// Of a whole packet.
    fn read(packet: &[u8]) -> Option<Self> {
        Self::read_begun(packet).filter(|ip| ip.payload <= ip.end && ip.end <= packet.len())
    }

    /// Of one of which perhaps only the beginning is there.
    fn read_begun(packet: &[u8]) -> Option<Self> {
        let word = |at: usize| packet.get(at..)?.first_chunk().map(|pair| usize::from(u16::from_be_bytes(*pair)));
        match packet.first()? >> 4 {
            4 => {
                let address =
                    |at: usize| packet.get(at..)?.first_chunk::<4>().map(|b| IpAddr::from(Ipv4Addr::from(*b)));
                let payload = usize::from(packet[0] & 0xf) * 4;
                if payload < IPV4_HEADER || word(6)? & LATER_FRAGMENT != 0 {
                    return None;
                }
                let (source, destination) = (address(12)?, address(16)?);
                Some(Self { protocol: *packet.get(9)?, source, destination, payload, end: word(2)? })
            }
            6 => {
                let address =
                    |at: usize| packet.get(at..)?.first_chunk::<16>().map(|b| IpAddr::from(Ipv6Addr::from(*b)));
                let (source, destination) = (address(8)?, address(24)?);
                let end = word(4)? + IPV6_HEADER;
                Some(Self { protocol: *packet.get(6)?, source, destination, payload: IPV6_HEADER, end })
            }
            _ => None,
        }
    }
}

const ICMP: u8 = 1;
const IP_IN_IP: u8 = 4;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const IP_V6: u8 = 41;
const GRE: u8 = 47;
const ICMP_V6: u8 = 58;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
/// As marca's tunnels have them: see `marca_engine::forward::tunnel`.
const GRE_HEADER: usize = 4;
const GUE_HEADER: usize = UDP_HEADER + 4;
const LATER_FRAGMENT: usize = 0x1fff;

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};

    const VIP: [u8; 4] = [192, 0, 2, 10];
    const OWN: [u8; 4] = [10, 0, 0, 1];
    const SERVER: [u8; 4] = [10, 0, 0, 11];

    fn written(builder: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut packet = Vec::new();
        builder(&mut packet);
        packet
    }

    fn key_of(protocol: u8) -> Key {
        Key { protocol, vip: VIP.into(), port: 80, own: OWN.into(), own_port: 61_000 }
    }

    fn asked() -> Vec<u8> {
        written(|p| PacketBuilder::ipv4(OWN, VIP, 2).tcp(61_000, 80, 1, 1).syn().write(p, &[]).unwrap())
    }

    /// An ICMP error of the real server's about a packet.
    fn error(kind: u8, code: u8, about: &[u8]) -> Vec<u8> {
        let kind = Icmpv4Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: [0; 4] };
        written(|p| PacketBuilder::ipv4(SERVER, OWN, 64).icmpv4(kind).write(p, about).unwrap())
    }

    fn complaint(packet: &[u8]) -> Option<(Key, What)> {
        match read(packet)? {
            (key, Arrival::Complaint(Complaint { from, what })) => {
                assert_eq!(from, IpAddr::from(SERVER));
                Some((key, what))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_is_its_conversations() {
        let answer = PacketBuilder::ipv4(VIP, OWN, 64).tcp(80, 61_000, 1, 1).syn().ack(2);
        let mut packet = written(|p| answer.write(p, &[]).unwrap());
        let whole = packet.clone();
        // Short frames are filled up.
        packet.extend([0; 6]);
        assert_eq!(read(&packet), Some((key_of(TCP), Arrival::Packet(whole))));
        let v6 = PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(53, 61_001);
        let packet = written(|p| v6.write(p, b"hello").unwrap());
        let (key, _) = read(&packet).unwrap();
        let (vip, own) = ([1; 16].into(), [2; 16].into());
        assert_eq!(key, Key { protocol: UDP, vip, port: 53, own, own_port: 61_001 });
        assert_eq!(datagram(&packet), Some(&b"hello"[..]));
    }

    #[test]
    fn an_error_is_that_of_the_packet_that_it_quotes() {
        assert_eq!(complaint(&error(3, 3, &asked())), Some((key_of(TCP), What::PortClosed)));
        assert_eq!(complaint(&error(3, 1, &asked())), Some((key_of(TCP), What::Unreachable)));
        assert_eq!(complaint(&error(11, 0, &asked())), Some((key_of(TCP), What::PassedOn)));
        assert_eq!(complaint(&error(3, 4, &asked())), None, "it is about its size");
        assert_eq!(complaint(&error(5, 1, &asked())), None);
        // Of a router that quotes no more than it must.
        assert_eq!(complaint(&error(11, 0, &asked()[..28])), Some((key_of(TCP), What::PassedOn)));
    }

    #[test]
    fn one_who_takes_no_tunnel_is_understood() {
        let inner = asked();
        let outer = |protocol: u8, between: &[u8]| {
            let header = PacketBuilder::ipv4(OWN, SERVER, 64);
            written(|p| header.write(p, protocol.into(), &[between, &inner].concat()).unwrap())
        };
        let udp = [&[0xc0, 0, 0x17, 0xc0, 0, 0, 0, 0][..], &[0, 4, 0, 0]].concat();
        let tunnels = [outer(4, &[]), outer(47, &[0, 0, 8, 0]), outer(17, &udp)];
        for (packet, code) in tunnels.iter().zip([2, 2, 3]) {
            assert_eq!(complaint(&error(3, code, packet)), Some((key_of(TCP), What::NoTunnel)));
        }
        // IPv6 in IPv6: the next header is not known there.
        let inner = PacketBuilder::ipv6([2; 16], [1; 16], 2).tcp(61_000, 80, 1, 1).syn();
        let inner = written(|p| inner.write(p, &[]).unwrap());
        let outer = written(|p| PacketBuilder::ipv6([2; 16], [3; 16], 64).write(p, 41.into(), &inner).unwrap());
        let kind = Icmpv6Type::Unknown { type_u8: 4, code_u8: 1, bytes5to8: [0; 4] };
        let packet = written(|p| PacketBuilder::ipv6([3; 16], [2; 16], 64).icmpv6(kind).write(p, &outer).unwrap());
        let (key, arrival) = read(&packet).unwrap();
        assert_eq!((key.vip, key.own_port), ([1; 16].into(), 61_000));
        assert_eq!(arrival, Arrival::Complaint(Complaint { from: [3; 16].into(), what: What::NoTunnel }));
    }

    #[test]
    fn garbage_and_what_is_cut_off_is_nobodys() {
        let inner = asked();
        let outer = written(|p| PacketBuilder::ipv4(OWN, SERVER, 64).write(p, 4.into(), &inner).unwrap());
        for packet in [asked(), error(3, 2, &outer), error(3, 3, &asked())] {
            for length in 0..packet.len().min(40) {
                let _ = (read(&packet[..length]), datagram(&packet[..length]));
                assert_eq!(read(&packet[..length]), None, "{length}");
            }
            // Whatever byte is wrong, nothing breaks.
            for place in 0..packet.len() {
                let mut wrong = packet.clone();
                wrong[place] = !wrong[place];
                let _ = (read(&wrong), datagram(&wrong));
            }
        }
        assert_eq!(read(&[0x45; 3]), None);
    }
}
