//! From bytes to [`Headers`]: Ethernet, VLAN tags, IPv4, IPv6, TCP, UDP, SCTP.
//!
//! Two steps, so that a packet that is nobody's costs no more than its addresses: [`network`], then [`transport`].
//!
//! **Not supported:** IPv6 jumbograms (RFC 2675: passed up as malformed).

pub mod checksum;
pub mod emit;

use crate::layout::{Address, SCTP, TCP, UDP, V4, V6, limits};
use crate::packet::{FURTHEST, Packet};
use crate::reason::Reason;

/// Length of an Ethernet header without tags.
pub const ETHERNET: usize = 14;
pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q and 802.1ad.
const ETHERTYPE_TAGS: [u16; 2] = [0x8100, 0x88a8];
/// IP in IP (RFC 2003) and IPv6 in IP (RFC 2473).
pub const IPPROTO_IPIP: u8 = 4;
/// See [`IPPROTO_IPIP`].
pub const IPPROTO_IPV6: u8 = 41;
/// RFC 2784.
pub const IPPROTO_GRE: u8 = 47;

pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// What the engine knows of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    pub source: Address,
    pub destination: Address,
    /// Offsets of the IP and of the transport header, from the start of the frame.
    pub l3: u16,
    pub l4: u16,
    /// Length of the IP packet, header included.
    pub length: u32,
    pub source_port: u16,
    pub destination_port: u16,
    /// V4 or V6.
    pub family: u8,
    pub protocol: u8,
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// Of SCTP, what its first chunk would be in TCP (see `chunk_flags`); else 0.
    pub tcp_flags: u8,
    /// A piece of a packet.
    pub fragment: bool,
    /// A piece but the first, which has no transport header.
    pub later: bool,
    /// Of the packet that a fragment is a piece of.
    pub identification: u32,
}

impl Headers {
    /// Offset of the IP header, for one who has the headers from memory. The bits that it cannot have are masked, and that
    /// is all the verifier of Linux 6.1 understands: a comparison of a value that lies on the stack teaches it nothing.
    #[inline(always)]
    pub fn network_at(&self) -> usize {
        usize::from(self.l3) & FURTHEST
    }

    /// Offset of the transport header; see [`Self::network_at`].
    #[inline(always)]
    pub fn transport_at(&self) -> usize {
        usize::from(self.l4) & FURTHEST
    }

    /// Offset of the two bytes that say what follows the link header. Masked after the subtraction, or the verifier of
    /// Linux 6.1 takes it for negative; see [`Self::network_at`].
    #[inline(always)]
    pub fn ethertype_at(&self) -> usize {
        usize::from(self.l3).wrapping_sub(2) & FURTHEST
    }

    /// A SYN that opens a connection.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.tcp_flags & (SYN | ACK | RST | FIN) == SYN
    }
}

/// Reads the Ethernet and IP headers. `protocol` and `l4` are those right behind the fixed IPv6 header; [`transport`]
/// goes on from there.
#[inline(always)]
pub fn network<P: Packet>(p: &P) -> Result<Headers, Reason> {
    let Some(ethertype) = p.read::<2>(12) else { return Err(Reason::ShortEthernet) };
    let mut ethertype = u16::from_be_bytes(ethertype);
    let mut l3 = ETHERNET;
    let mut tags = 0;
    while tags < limits::TAGS && (ethertype == ETHERTYPE_TAGS[0] || ethertype == ETHERTYPE_TAGS[1]) {
        let Some(next) = p.read::<2>(l3 + 2) else { return Err(Reason::ShortVlan) };
        ethertype = u16::from_be_bytes(next);
        l3 += 4;
        tags += 1;
    }
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(p, l3),
        ETHERTYPE_IPV6 => ipv6(p, l3),
        _ => Err(Reason::NotIp),
    }
}

/// RFC 791 §3.1.
#[inline(always)]
fn ipv4<P: Packet>(p: &P, l3: usize) -> Result<Headers, Reason> {
    let Some(b) = p.read::<20>(l3) else { return Err(Reason::ShortIpv4) };
    let header = usize::from(b[0] & 0x0f) * 4;
    let length = u32::from(u16::from_be_bytes([b[2], b[3]]));
    if b[0] >> 4 != 4 || header < 20 || (length as usize) < header {
        return Err(Reason::BadIpv4);
    }
    Ok(Headers {
        source: Address::of_last(word(&b, 12)),
        destination: Address::of_last(word(&b, 16)),
        l3: l3 as u16,
        l4: (l3 + header) as u16,
        length,
        family: V4,
        protocol: b[9],
        ttl: b[8],
        tos: b[1],
        // More fragments, or a fragment offset.
        fragment: u16::from_be_bytes([b[6], b[7]]) & 0x3fff != 0,
        later: u16::from_be_bytes([b[6], b[7]]) & 0x1fff != 0,
        identification: u32::from(u16::from_be_bytes([b[4], b[5]])),
        ..Headers::default()
    })
}

/// RFC 8200 §3.
#[inline(always)]
pub(crate) fn ipv6<P: Packet>(p: &P, l3: usize) -> Result<Headers, Reason> {
    let Some(bytes) = p.read::<40>(l3) else { return Err(Reason::ShortIpv6) };
    // Words, since LLVM for BPF takes apart what it is told of bytes.
    let [first, addresses @ ..]: [[u8; 8]; 5] = zerocopy::transmute!(bytes);
    let [a, b, c, d] = addresses.map(u64::from_ne_bytes);
    if first[0] >> 4 != 6 {
        return Err(Reason::BadIpv6);
    }
    Ok(Headers {
        source: Address::of_words([a, b]),
        destination: Address::of_words([c, d]),
        l3: l3 as u16,
        l4: (l3 + 40) as u16,
        length: u32::from(u16::from_be_bytes([first[4], first[5]])) + 40,
        family: V6,
        protocol: first[6],
        ttl: first[7],
        tos: first[0] << 4 | first[1] >> 4,
        ..Headers::default()
    })
}

/// Whether [`transport`] must walk IPv6 extension headers first.
#[inline(always)]
pub fn has_extensions(h: &Headers) -> bool {
    h.family == V6 && !matches!(h.protocol, TCP | UDP | SCTP)
}

/// RFC 8200 §4: follows the extension headers to the transport header.
#[inline(always)]
pub fn extensions<P: Packet>(p: &P, h: &mut Headers) -> Result<(), Reason> {
    let mut at = usize::from(h.l4);
    let end = usize::from(h.l3) + h.length as usize;
    let mut followed = 0;
    while followed < limits::EXTENSIONS {
        let (next, length) = match h.protocol {
            // Hop-by-hop options, routing, destination options, mobility (RFC 6275), HIP (RFC 7401), shim6 (RFC 5533).
            0 | 43 | 60 | 135 | 139 | 140 => {
                let Some(b) = p.read::<2>(at) else { return Err(Reason::ShortExtension) };
                (b[0], usize::from(b[1]) * 8 + 8)
            }
            // Authentication header: counts words of 4 bytes, minus 2 (RFC 4302 §2.2).
            51 => {
                let Some(b) = p.read::<2>(at) else { return Err(Reason::ShortExtension) };
                (b[0], usize::from(b[1]) * 4 + 8)
            }
            44 => {
                let Some(b) = p.read::<8>(at) else { return Err(Reason::ShortExtension) };
                // An atomic fragment (RFC 6946) has offset 0 and no more fragments: a whole packet.
                h.fragment |= u16::from_be_bytes([b[2], b[3]]) & 0xfff9 != 0;
                h.later |= u16::from_be_bytes([b[2], b[3]]) & 0xfff8 != 0;
                h.identification = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
                (b[0], 8)
            }
            _ => break,
        };
        at += length;
        if at > end {
            return Err(Reason::ShortExtension);
        }
        h.protocol = next;
        followed += 1;
        // RFC 7112 §5: all of the headers are in the first fragment.
        if h.later {
            break;
        }
    }
    h.l4 = at as u16;
    if !h.later && matches!(h.protocol, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140) {
        return Err(Reason::TooManyExtensions);
    }
    Ok(())
}

/// Reads ports and flags, and holds the lengths against each other and against the frame. The first fragment of a packet
/// has them, the others are none of this function's business.
#[inline(always)]
pub fn transport<P: Packet>(p: &P, h: &mut Headers) -> Result<(), Reason> {
    let bad_ip = if h.family == V4 { Reason::BadIpv4 } else { Reason::BadIpv6 };
    if !p.reaches(usize::from(h.l3) + h.length as usize) {
        return Err(bad_ip);
    }
    if h.later {
        return Err(Reason::Fragment);
    }
    let at = usize::from(h.l4);
    let room = (h.length as usize).wrapping_sub(at - usize::from(h.l3));
    match h.protocol {
        // RFC 9293 §3.1: the data offset counts words of 4 bytes.
        TCP => {
            let Some(b) = p.read::<14>(at) else { return Err(Reason::ShortTransport) };
            if room < 20 {
                return Err(Reason::ShortTransport);
            }
            let header = usize::from(b[12] >> 4) * 4;
            if header < 20 || header > room {
                return Err(Reason::BadTransport);
            }
            h.tcp_flags = b[13];
            (h.source_port, h.destination_port) = ports([b[0], b[1], b[2], b[3]]);
        }
        // RFC 768.
        UDP => {
            let Some(b) = p.read::<6>(at) else { return Err(Reason::ShortTransport) };
            if room < 8 {
                return Err(Reason::ShortTransport);
            }
            let length = usize::from(u16::from_be_bytes([b[4], b[5]]));
            // It is the whole datagram's.
            if length < 8 || (length > room && !h.fragment) {
                return Err(Reason::BadTransport);
            }
            (h.source_port, h.destination_port) = ports([b[0], b[1], b[2], b[3]]);
        }
        // RFC 9260 §3.1.
        SCTP => {
            let Some(b) = p.read::<4>(at) else { return Err(Reason::ShortTransport) };
            if room < 12 {
                return Err(Reason::ShortTransport);
            }
            (h.source_port, h.destination_port) = ports(b);
            if room >= 16
                && let Some([kind, _, _, _]) = p.read::<4>(at + 12)
            {
                h.tcp_flags = chunk_flags(kind);
            }
        }
        _ if is_icmp(h) => return Err(Reason::Icmp),
        _ => return Err(Reason::OtherProtocol),
    }
    Ok(())
}

/// What a chunk does to its association, in the flags of the TCP segment that does so (RFC 9260 §3.2;
/// `net/netfilter/ipvs/ip_vs_proto_sctp.c`, `sctp_events`). What opens and ends an association is the first chunk of its
/// packet; a SHUTDOWN behind a SACK is not seen, but the SHUTDOWN ACK and SHUTDOWN COMPLETE that follow are.
///
/// A table in a word, without branches: the verifier would follow each through all that comes after.
#[inline(always)]
fn chunk_flags(kind: u8) -> u8 {
    const { assert!(FIN == 1 && SYN == 2 && RST == 4 && ACK == 0x10) };
    /// Four bits for each chunk type below 16, the highest of which stands for ACK.
    const TABLE: u64 = 0x2 << (INIT * 4)
        | 0xa << (INIT_ACK * 4)
        | 0x8 << (COOKIE_ECHO * 4)
        | 0x8 << (COOKIE_ACK * 4)
        | 0x1 << (SHUTDOWN * 4)
        | 0x1 << (SHUTDOWN_ACK * 4)
        | 0x1 << (SHUTDOWN_COMPLETE * 4)
        | 0x4 << (ABORT * 4);
    let is_listed = u64::from(kind < 16);
    let bits = (TABLE >> (u32::from(kind & 15) * 4)) & (is_listed * 0xf);
    (bits & 0x7 | (bits & 0x8) << 1) as u8
}

// RFC 9260 §3.2.
const INIT: u32 = 1;
const INIT_ACK: u32 = 2;
const ABORT: u32 = 6;
const SHUTDOWN: u32 = 7;
const SHUTDOWN_ACK: u32 = 8;
const COOKIE_ECHO: u32 = 10;
const COOKIE_ACK: u32 = 11;
const SHUTDOWN_COMPLETE: u32 = 14;

/// RFC 792, RFC 4443.
#[inline(always)]
pub fn is_icmp(h: &Headers) -> bool {
    h.protocol == if h.family == V4 { ICMP } else { ICMPV6 }
}

/// Reads the packet that an ICMP error quotes at `at`, as far as it must be there: RFC 792 has 8 bytes behind the IP header
/// quoted at the least. Its lengths are those of the packet that was; ports are read where TCP, UDP or SCTP has them.
#[inline(always)]
pub fn quote<P: Packet>(p: &P, at: usize, family: u8) -> Result<Headers, Reason> {
    let mut h = if family == V4 { ipv4(p, at)? } else { ipv6(p, at)? };
    if has_extensions(&h) {
        extensions(p, &mut h)?;
    }
    // Offsets can be masked from here on.
    if usize::from(h.l4) > FURTHEST {
        return Err(Reason::ShortTransport);
    }
    if !h.later && matches!(h.protocol, TCP | UDP | SCTP) {
        let Some(b) = p.read::<4>(h.transport_at()) else { return Err(Reason::ShortTransport) };
        (h.source_port, h.destination_port) = ports(b);
    }
    Ok(h)
}

#[inline(always)]
fn ports(b: [u8; 4]) -> (u16, u16) {
    (u16::from_be_bytes([b[0], b[1]]), u16::from_be_bytes([b[2], b[3]]))
}

/// Four bytes in memory order.
#[inline(always)]
pub fn word<const N: usize>(b: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Four bytes in memory order.
#[inline(always)]
pub fn put_word<const N: usize>(b: &mut [u8; N], at: usize, word: u32) {
    let w = word.to_ne_bytes();
    b[at] = w[0];
    b[at + 1] = w[1];
    b[at + 2] = w[2];
    b[at + 3] = w[3];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_do_to_associations_what_segments_do_to_connections() {
        let flags = |kind: u32| chunk_flags(kind as u8);
        assert_eq!([INIT, INIT_ACK].map(flags), [SYN, SYN | ACK]);
        assert_eq!([COOKIE_ECHO, COOKIE_ACK].map(flags), [ACK; 2]);
        assert_eq!([SHUTDOWN, SHUTDOWN_ACK, SHUTDOWN_COMPLETE].map(flags), [FIN; 3]);
        assert_eq!(flags(ABORT), RST);
        let listed = [1, 2, 6, 7, 8, 10, 11, 14];
        assert!((0..=255).filter(|kind| !listed.contains(kind)).all(|kind| flags(kind) == 0));
    }
}
