//! Bytes to layers, generously: each header is taken as it says it is, with everything that the builder would compute
//! set as an override. Nothing here has to be right for every frame, because [`describe`](super::describe) checks.

use super::link::{self, Arp, Eth, Vlan};
use super::sctp::{self, Sctp};
use super::transport::{self, Tcp, Udp};
use super::tunnel::{self, Gre, Gue};
use super::{Extension, Icmp, Ip4, Ip6, Layer, Payload, Trailer, Version, icmp, ip6};

/// The layers and where each begins.
pub(super) fn layers(bytes: &[u8]) -> Vec<(usize, Layer)> {
    let mut layers: Vec<(usize, Layer)> = Vec::new();
    let mut at = 0;
    // Where the packet ends, and where what it is made of ends: only an SCTP chunk's filling lies between.
    let (mut end, mut inner_end) = (bytes.len(), bytes.len());
    let mut expected = Expected::Ethernet;
    while at < inner_end {
        let rest = &bytes[at..inner_end];
        let Some((layer, length)) = read(expected, rest) else {
            layers.push((at, Layer::Payload(Payload(rest.to_vec()))));
            break;
        };
        expected = Expected::after(&layer);
        match said_length(&layer) {
            Some(said) if said < rest.len() && layers.iter().any(|(_, outer)| said_length(outer).is_some()) => {
                // Behind a packet inside another one nothing can be said but bytes, so its payload is bytes.
                expected = Expected::Bytes;
            }
            Some(said) if said < rest.len() && said >= length => (end, inner_end) = (at + said, at + said),
            Some(said) if said < length => expected = Expected::Bytes,
            _ => {}
        }
        if let Layer::Sctp(sctp) = &layer {
            inner_end = data_end(sctp, rest, length).map_or(inner_end, |length| at + length);
        }
        layers.push((at, layer));
        at += length;
    }
    if end < bytes.len() {
        layers.push((end, Layer::Trailer(Trailer(bytes[end..].to_vec()))));
    }
    layers
}

/// What stands next, as far as the headers before say it.
#[derive(Clone, Copy)]
enum Expected {
    Ethernet,
    EtherType(u16),
    Protocol(u8),
    /// As `Protocol`, behind an IPv6 header, where extension headers may follow.
    Chained(u8),
    Quotation,
    Gue,
    Bytes,
}

impl Expected {
    fn after(layer: &Layer) -> Self {
        let protocol = match layer {
            Layer::Eth(eth) => return eth.ether_type().map_or(Expected::Bytes, Expected::EtherType),
            Layer::Vlan(vlan) => return vlan.ether_type().map_or(Expected::Bytes, Expected::EtherType),
            Layer::Ip4(ip) => return ip.readable_protocol().map_or(Expected::Bytes, Expected::Protocol),
            Layer::Ip6(ip) => ip.protocol(),
            Layer::Extension(header) => header.readable_protocol(),
            Layer::Gre(gre) => return gre.ether_type().map_or(Expected::Bytes, Expected::EtherType),
            Layer::Udp(udp) if udp.is_to(tunnel::GUE_PORT) => return Expected::Gue,
            Layer::Gue(gue) => return gue.protocol().map_or(Expected::Bytes, Expected::Protocol),
            Layer::Icmp(icmp) if icmp.is_error() => return Expected::Quotation,
            _ => None,
        };
        protocol.map_or(Expected::Bytes, Expected::Chained)
    }
}

fn read(expected: Expected, bytes: &[u8]) -> Option<(Layer, usize)> {
    fn wrapped<T>(read: Option<(T, usize)>, wrap: fn(T) -> Layer) -> Option<(Layer, usize)> {
        read.map(|(header, length)| (wrap(header), length))
    }
    let (protocol, chained) = match expected {
        Expected::Ethernet => return wrapped(Eth::read(bytes), Layer::Eth),
        Expected::EtherType(link::IPV4) => (super::IPV4_IN_IP, false),
        Expected::EtherType(link::IPV6) => (super::IPV6_IN_IP, false),
        Expected::EtherType(link::ARP) => return wrapped(Arp::read(bytes), Layer::Arp),
        Expected::EtherType(tpid @ (link::VLAN | link::SERVICE_VLAN)) => {
            return wrapped(Vlan::read(bytes, tpid), Layer::Vlan);
        }
        Expected::Quotation => match bytes.first()? >> 4 {
            4 => (super::IPV4_IN_IP, false),
            6 => (super::IPV6_IN_IP, false),
            _ => return None,
        },
        Expected::Protocol(protocol) => (protocol, protocol == ip6::AUTHENTICATION),
        Expected::Chained(protocol) => (protocol, true),
        Expected::Gue => return wrapped(Gue::read(bytes), Layer::Gue),
        Expected::EtherType(_) | Expected::Bytes => return None,
    };
    match protocol {
        super::IPV4_IN_IP => wrapped(Ip4::read(bytes), Layer::Ip4),
        super::IPV6_IN_IP => wrapped(Ip6::read(bytes), Layer::Ip6),
        transport::TCP => wrapped(Tcp::read(bytes), Layer::Tcp),
        transport::UDP => wrapped(Udp::read(bytes), Layer::Udp),
        sctp::SCTP => wrapped(Sctp::read(bytes), Layer::Sctp),
        tunnel::GRE => wrapped(Gre::read(bytes), Layer::Gre),
        icmp::ICMP => wrapped(Icmp::read(bytes, Version::V4), Layer::Icmp),
        icmp::ICMPV6 => wrapped(Icmp::read(bytes, Version::V6), Layer::Icmp),
        _ if chained => wrapped(Extension::read(bytes, protocol), Layer::Extension),
        _ => None,
    }
}

/// How long a packet says it is, for those that say it and behind which Ethernet may pad.
fn said_length(layer: &Layer) -> Option<usize> {
    match layer {
        Layer::Arp(_) => Some(Arp::LENGTH),
        Layer::Ip4(ip) => ip.said_length(),
        Layer::Ip6(ip) => ip.said_length(),
        _ => None,
    }
}

/// Where the user data of an SCTP data chunk ends, if nothing but its filling follows.
fn data_end(sctp: &Sctp, bytes: &[u8], header: usize) -> Option<usize> {
    let end = sctp.said_data_end().filter(|end| *end >= header)?;
    let fill = bytes.get(end..)?;
    if fill.len() < 4 && bytes.len().is_multiple_of(4) && fill.iter().all(|byte| *byte == 0) { Some(end) } else { None }
}
