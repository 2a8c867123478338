//! Tunnels: IP in IP, that is IPv4 in IPv4 (RFC 2003), IPv6 in IPv6 and IPv4 in IPv6 (RFC 2473), IPv6 in IPv4 (RFC 4213);
//! GRE (RFC 2784); GUE (draft-ietf-intarea-gue, variant 0), which is UDP with a short header.

use super::{GRE, GUE, write};
use crate::hash;
use crate::layout::{Real, TCP, UDP, V4, real_flags};
use crate::packet::{Front, FrontKind, Packet};
use crate::reason::Reason;
use crate::wire::checksum::fold;
use crate::wire::emit::{self, IPV4_HEADER, IPV6_HEADER, Ip};
use crate::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, IPPROTO_GRE, IPPROTO_IPIP, IPPROTO_IPV6, word};

/// Length of the outer IP header.
pub const OUTER_V4: usize = IPV4_HEADER;
/// See [`OUTER_V4`].
pub const OUTER_V6: usize = IPV6_HEADER;
/// Length of what stands between the two IP headers.
pub const GRE_HEADER: usize = 4;
/// UDP's header, and GUE's.
pub const GUE_HEADER: usize = 12;
/// The first of the source ports that GUE packets get: the dynamic ports (RFC 6335 §6).
pub const FIRST_PORT: u16 = 0xc000;

/// Adds the outer headers; lowers the inner time to live, as the tunnel's entry forwards the packet (RFC 2003 §3.1).
#[inline(always)]
pub fn encapsulate<P: Packet>(p: &mut P, h: &Headers, real: &Real) -> Result<(), Reason> {
    let outer = if real.family == V4 { OUTER_V4 } else { OUTER_V6 };
    let grown = outer + between(real.method);
    // What is still to be cut into segments may be longer than the outer header can say.
    let whole = p.segment() == 0;
    if !whole && h.length as usize + grown > usize::from(u16::MAX) {
        return Err(Reason::NoRoom);
    }
    super::age(p, h)?;
    let l3 = h.network_at();
    // One checksum does not fit all segments.
    let summed = whole && real.method == GUE && real.flags & real_flags::CHECKSUM != 0;
    let sum = if summed { packet_sum(p, h) } else { NO_SUM };
    let kind = match real.method {
        GRE => FrontKind::Gre,
        GUE => FrontKind::Udp,
        _ => FrontKind::IpInIp,
    };
    if !p.grow(l3, &Front { bytes: grown, family: real.family, kind }) {
        return Err(Reason::NoRoom);
    }
    // The last two bytes of the link header say what follows it.
    let ethertype = if real.family == V4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    write(p, h.ethertype_at(), ethertype.to_be_bytes())?;
    let inner = if h.family == V4 { IPPROTO_IPIP } else { IPPROTO_IPV6 };
    let protocol = match real.method {
        GRE => IPPROTO_GRE,
        GUE => UDP,
        _ => inner,
    };
    let payload = (h.length as u16).wrapping_add(between(real.method) as u16);
    // Don't fragment: what is too large is refused above.
    let ip = Ip { source: real.source, destination: real.address, tos: h.tos, protocol, payload };
    if real.family == V4 {
        write(p, l3, emit::v4(&ip))?;
    } else {
        write(p, l3, emit::v6(&ip))?;
    }
    match real.method {
        GRE => {
            let [a, b] = if h.family == V4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }.to_be_bytes();
            // RFC 2784 §2.1: no checksum, version 0.
            write(p, l3 + outer, [0, 0, a, b])
        }
        GUE => write(p, l3 + outer, gue(h, real, payload, inner, sum)),
        _ => Ok(()),
    }
}

/// The length of the packet, or of each of those that it stands for.
#[inline(always)]
pub fn packet_length<P: Packet>(p: &P, h: &Headers) -> u32 {
    let segment = p.segment();
    if segment == 0 {
        return h.length;
    }
    let (l3, l4) = (h.network_at(), h.transport_at());
    let header = match h.protocol {
        TCP => match p.read::<2>(l4 + 12) {
            Some([offset, _]) => u32::from(offset >> 4) * 4,
            None => 0,
        },
        _ => 8,
    };
    h.length.min((l4 as u32).wrapping_sub(l3 as u32) + header + segment)
}

/// The largest packet that the way to a real server takes behind the outer headers.
#[inline(always)]
pub fn inner_mtu(real: &Real) -> u32 {
    let mtu = if real.mtu == 0 { u16::MAX } else { real.mtu };
    let outer = if real.family == V4 { OUTER_V4 } else { OUTER_V6 };
    u32::from(mtu).saturating_sub((outer + between(real.method)) as u32)
}

/// Length of what a method puts between the two IP headers.
#[inline(always)]
pub fn between(method: u8) -> usize {
    match method {
        GRE => GRE_HEADER,
        GUE => GUE_HEADER,
        _ => 0,
    }
}

/// RFC 768, then draft-ietf-intarea-gue §3.1: variant 0, no control message, no extensions.
#[inline(always)]
fn gue(h: &Headers, real: &Real, length: u16, inner: u8, sum: u64) -> [u8; GUE_HEADER] {
    let mut b = [0u8; GUE_HEADER];
    [b[0], b[1]] = source_port(h).to_be_bytes();
    [b[2], b[3]] = real.tunnel_port.to_be_bytes();
    [b[4], b[5]] = length.to_be_bytes();
    b[9] = inner;
    if sum != NO_SUM {
        let ([a, c, d, e], [f, g, i, j]) = (real.source.parts(), real.address.parts());
        let pseudo_header = u64::from(u16::from(UDP).to_be()) + u64::from(length.to_be());
        let sum = sum
            + pseudo_header
            + [a, c, d, e, f, g, i, j].iter().fold(0, |sum, w| sum + u64::from(*w))
            + u64::from(word(&b, 0))
            + u64::from(word(&b, 4))
            + u64::from(word(&b, 8));
        let checksum = !fold(sum);
        // RFC 768: 0 means none.
        [b[6], b[7]] = if checksum == 0 { [0xff, 0xff] } else { checksum.to_ne_bytes() };
    }
    b
}

/// The flow shows in the source port, so that the way's links, and the real server's queues and processors, can be shared
/// out by it (draft-ietf-intarea-gue §5.11). Not seeded: two directors send the same flow alike.
#[inline(always)]
fn source_port(h: &Headers) -> u16 {
    let ports = u64::from(h.source_port) | u64::from(h.destination_port) << 16 | u64::from(h.protocol) << 32;
    FIRST_PORT | hash::address(u64::from(h.destination.last()), &h.source, ports) as u16
}

/// No sum of a few words is as great.
const NO_SUM: u64 = u64::MAX;

/// The one's complement sum over a whole packet, told by its headers alone: what a right checksum covers sums up to all
/// ones, which count for nothing. So nothing is left of an IPv4 header, and of a segment or datagram what its checksum
/// covers beside it: the complement of its pseudo-header (the kernel's "local checksum offload",
/// `Documentation/networking/checksum-offloads.rst`). [`NO_SUM`] where the packet has no such checksum, or cannot be
/// told so easily.
#[inline(always)]
fn packet_sum<P: Packet>(p: &P, h: &Headers) -> u64 {
    let (l3, l4) = (h.network_at(), h.transport_at());
    let header = if h.family == V4 { IPV4_HEADER } else { IPV6_HEADER };
    if h.fragment || l4 != l3 + header {
        return NO_SUM;
    }
    let length = h.length.wrapping_sub(header as u32) as u16;
    if h.protocol == UDP {
        match p.read::<4>(l4 + 4) {
            // Without a checksum, or with bytes behind the datagram that it does not cover.
            Some([a, b, c, d]) if u16::from_be_bytes([a, b]) == length && (c | d) != 0 => {}
            _ => return NO_SUM,
        }
    } else if h.protocol != TCP {
        return NO_SUM;
    }
    let covered = u64::from(u16::from(h.protocol).to_be()) + u64::from(length.to_be());
    if h.family == V4 {
        return u64::from(!fold(covered + u64::from(h.source.last()) + u64::from(h.destination.last())));
    }
    // The addresses stand in the header and in the pseudo-header: once they count, once their complement.
    let Some(b) = p.read::<8>(l3) else { return NO_SUM };
    u64::from(word(&b, 0)) + u64::from(word(&b, 4)) + u64::from(!fold(covered))
}
