//! Answers of the director's own: a TCP reset or an ICMP error to whoever sent the packet in hand. The frame becomes its
//! answer and goes back the way it came, with its MAC addresses swapped and its VLAN tags kept, so that no route and no
//! neighbour is asked for.
//!
//! A stage of its own. Whoever wants an answer leaves an [`Ask`] in `Between` and turns to `Stage::Answer`; the frame must
//! be as it came. Not everything may be answered, and ICMP errors are limited in their rate: the packet is dropped then,
//! for the reason that the ask gives.

use crate::decide::To;
use crate::forward;
use crate::hash;
use crate::layout::{Address, SCTP, TCP, UDP, V4, limits};
use crate::packet::{Front, FrontKind, Packet};
use crate::path::Outcome;
use crate::reason::Reason;
use crate::tables::{RouteQuery, Scan, Tables};
use crate::wire::checksum::fold;
use crate::wire::emit::{self, IPV4_HEADER, IPV6_HEADER, Ip};
use crate::wire::{self, ACK, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FIN, Headers, RST, SYN, word};

/// What the sender is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub answer: Answer,
    /// The packet's reason when it is answered, and when it is dropped in silence.
    pub answered: Reason,
    pub silent: Reason,
    /// Of [`Answer::TooBig`]; 0: what the way to the decision's real server takes.
    pub mtu: u32,
    /// The packet's sender is asked for in the routes: the frame did not come from there.
    pub by_route: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Answer {
    Nothing,
    /// A TCP reset (RFC 9293 §3.10.7), an SCTP abort (RFC 9260 §8.4).
    Reset,
    /// ICMP time exceeded in transit (RFC 792), ICMPv6 hop limit exceeded (RFC 4443 §3.3).
    TimeExceeded,
    /// ICMP fragmentation needed with the next hop's MTU (RFC 1191 §4), ICMPv6 packet too big (RFC 4443 §3.2).
    TooBig,
    /// ICMP port unreachable (RFC 792; RFC 4443 §3.1).
    PortUnreachable,
    /// ICMP communication administratively prohibited (RFC 1812 §5.2.7.1; RFC 4443 §3.1).
    Prohibited,
}

impl Ask {
    pub const NOTHING: Self = Self {
        answer: Answer::Nothing,
        answered: Reason::Inconsistent,
        silent: Reason::Inconsistent,
        mtu: 0,
        by_route: false,
    };

    /// For a packet of this protocol that would have opened a connection, if there were anybody to take it.
    #[inline(always)]
    pub fn refusing(protocol: u8) -> Self {
        let answer = if protocol == UDP { Answer::PortUnreachable } else { Answer::Reset };
        Self { answer, answered: Reason::Refused, silent: Reason::NoServer, ..Self::NOTHING }
    }

    /// What the sender of a packet that could not be forwarded is to be told, by the reason for that; `to` where it
    /// was to go.
    #[inline(always)]
    pub fn of(reason: Reason, to: To) -> Self {
        let (answer, answered) = match reason {
            Reason::ServerFailed if to == To::Sender => (Answer::Reset, Reason::Reset),
            Reason::TtlExceeded => (Answer::TimeExceeded, Reason::TimeExceeded),
            Reason::TooBig => (Answer::TooBig, Reason::FragmentationNeeded),
            _ => return Self::NOTHING,
        };
        Self { answer, answered, silent: reason, ..Self::NOTHING }
    }
}

/// Bytes of a packet that an ICMP error quotes, at the most: the longest IPv4 header and 8 bytes (RFC 792), or an IPv6
/// header, extension headers as they are seen, and a transport header. RFC 1812 §4.3.2.3 and RFC 4443 §2.4(c) want more;
/// but all of it must be summed. A multiple of 4.
const QUOTE: usize = 128;
const ICMP: usize = 8;
/// An SCTP packet with an ABORT chunk, its type, and its flag T.
const SCTP_ABORT: usize = 16;
const ABORT: u8 = 6;
const ABORT_REFLECTED: u8 = 1;
/// The polynomial, reversed.
const CASTAGNOLI: u32 = 0x82f6_3b78;
const TCP_HEADER: usize = 20;
/// RFC 1812 §4.3.2.5: errors have the precedence of internetwork control.
const INTERNETWORK_CONTROL: u8 = 0xc0;

/// Makes an answer of the frame.
///
/// `real` is the decision's real server, for [`Answer::TooBig`].
#[inline(always)]
pub fn answer<P: Packet, T: Tables>(p: &mut P, t: &T, h: &Headers, ask: &Ask, real: u32) -> Outcome {
    let answered = match ask.answer {
        Answer::Nothing => false,
        Answer::Reset if h.protocol == SCTP => abort(p, t, h),
        Answer::Reset => reset(p, h),
        // In one place for all: it is long.
        Answer::TimeExceeded | Answer::TooBig | Answer::PortUnreachable | Answer::Prohibited => {
            match mtu(t, ask, real) {
                Some(mtu) => error(p, t, h, kind_and_code(h, ask.answer), mtu),
                None => false,
            }
        }
    };
    if !answered {
        return Outcome { reason: ask.silent, interface: 0 };
    }
    let mut interface = p.interface();
    if ask.by_route {
        let query = RouteQuery { family: h.family, source: h.destination, destination: h.source, interface };
        match forward::send_as_is(p, t, &query) {
            Ok(leaves) => interface = leaves,
            Err(Reason::NoRoute) => return Outcome { reason: Reason::NoRoute, interface: 0 },
            Err(_) => return Outcome { reason: Reason::NoNeighbour, interface: 0 },
        }
    }
    Outcome { reason: ask.answered, interface }
}

#[inline(always)]
fn mtu<T: Tables>(t: &T, ask: &Ask, real: u32) -> Option<u32> {
    if ask.answer != Answer::TooBig || ask.mtu != 0 {
        return Some(ask.mtu);
    }
    t.real(real).map(|real| forward::largest(&real))
}

#[inline(always)]
fn kind_and_code(h: &Headers, answer: Answer) -> [u8; 2] {
    let v4 = h.family == V4;
    match answer {
        Answer::TimeExceeded => [if v4 { 11 } else { 3 }, 0],
        Answer::TooBig if v4 => [3, 4],
        Answer::TooBig => [2, 0],
        Answer::PortUnreachable if v4 => [3, 3],
        Answer::PortUnreachable => [1, 4],
        _ if v4 => [3, 13],
        _ => [1, 1],
    }
}

/// RFC 9293 §3.10.7.1: what a segment of a connection that does not exist is answered with; never a reset by a reset.
#[inline(always)]
fn reset<P: Packet>(p: &mut P, h: &Headers) -> bool {
    if h.protocol != TCP || h.tcp_flags & RST != 0 || !may_be_answered(p, h) {
        return false;
    }
    let (l3, l4) = (h.network_at(), h.transport_at());
    let Some(b) = p.read::<16>(l4) else { return false };
    let (sequence, acknowledged, flags) = if h.tcp_flags & ACK != 0 {
        ([b[8], b[9], b[10], b[11]], [0; 4], RST)
    } else {
        let header = (l4 - l3) as u32 + u32::from(b[12] >> 4) * 4;
        let controls = u32::from(h.tcp_flags & SYN != 0) + u32::from(h.tcp_flags & FIN != 0);
        let length = h.length.wrapping_sub(header) + controls;
        let next = u32::from_be_bytes([b[4], b[5], b[6], b[7]]).wrapping_add(length);
        ([0; 4], next.to_be_bytes(), RST | ACK)
    };
    let mut segment = [0; TCP_HEADER];
    // The ports change places.
    [segment[0], segment[1], segment[2], segment[3]] = [b[2], b[3], b[0], b[1]];
    [segment[4], segment[5], segment[6], segment[7]] = sequence;
    [segment[8], segment[9], segment[10], segment[11]] = acknowledged;
    segment[12] = ((TCP_HEADER / 4) << 4) as u8;
    segment[13] = flags;
    let mut sum = pseudo_header(h, TCP, TCP_HEADER);
    let mut at = 0;
    while at < TCP_HEADER {
        sum += u64::from(word(&segment, at));
        at += 4;
    }
    [segment[16], segment[17]] = (!fold(sum)).to_ne_bytes();
    let header = header_length(h);
    if !p.truncate(l3 + header + TCP_HEADER) {
        return false;
    }
    if p.awaits_checksum(l4) {
        // Who computes it begins with the pseudo-header's part; and begins where the transport header was.
        if l4 - l3 != header {
            return false;
        }
        [segment[16], segment[17]] = fold(pseudo_header(h, TCP, TCP_HEADER)).to_ne_bytes();
    }
    swap_macs(p) && write_header(p, h, l3, 0, TCP, TCP_HEADER) && p.write(l3 + header, segment)
}

/// RFC 9260 §8.4: what a packet of an association that does not exist is answered with, its own tag reflected; never an
/// abort by an abort.
#[inline(always)]
fn abort<P: Packet, T: Tables>(p: &mut P, t: &T, h: &Headers) -> bool {
    if h.tcp_flags & RST != 0 || !may_be_answered(p, h) {
        return false;
    }
    let (l3, l4) = (h.network_at(), h.transport_at());
    let Some([s0, s1, d0, d1, t0, t1, t2, t3]) = p.read::<8>(l4) else { return false };
    // The ports change places; one chunk of four bytes, whose flag says that the tag is reflected.
    let mut packet = [d0, d1, s0, s1, t0, t1, t2, t3, 0, 0, 0, 0, ABORT, ABORT_REFLECTED, 0, 4];
    [packet[8], packet[9], packet[10], packet[11]] = crc32c(t, &packet).to_le_bytes();
    let header = header_length(h);
    p.truncate(l3 + header + SCTP_ABORT)
        && swap_macs(p)
        && write_header(p, h, l3, 0, SCTP, SCTP_ABORT)
        && p.write(l3 + header, packet)
}

/// RFC 9260 Appendix A: the checksum, bit by bit, of the few bytes of an abort.
#[inline(always)]
fn crc32c<T: Tables>(t: &T, bytes: &[u8; SCTP_ABORT]) -> u32 {
    let mut crc = Crc(u32::MAX);
    let mut at = 0;
    while at < SCTP_ABORT / 4 {
        crc.0 ^= u32::from_le_bytes(word(bytes, at * 4).to_ne_bytes());
        // Not a loop: the verifier would follow both values of each bit.
        t.scan(u32::BITS, &mut crc);
        at += 1;
    }
    !crc.0
}

struct Crc(u32);

impl<T: Tables> Scan<T> for Crc {
    #[inline(always)]
    fn visit(&mut self, _: &T, _: u32) -> bool {
        self.0 = (self.0 >> 1) ^ (CASTAGNOLI & (self.0 & 1).wrapping_neg());
        true
    }
}

/// An ICMP error of this type and code about the packet.
#[inline(always)]
fn error<P: Packet, T: Tables>(p: &mut P, t: &T, h: &Headers, [kind, code]: [u8; 2], mtu: u32) -> bool {
    if !may_be_answered(p, h) || !is_within_rate(t, h) {
        return false;
    }
    let l3 = h.network_at();
    let v4 = h.family == V4;
    let protocol = if v4 { wire::ICMP } else { wire::ICMPV6 };
    // Whole words: an IP header and 8 bytes are some.
    let quote = (h.length as usize).min(QUOTE) & !3;
    let [m0, m1, m2, m3] = mtu.to_be_bytes();
    let mut message = [kind, code, 0, 0, m0, m1, m2, m3];
    let mut sum = u64::from(word(&message, 0)) + u64::from(word(&message, 4));
    if !v4 {
        sum += pseudo_header(h, protocol, ICMP + quote);
    }
    if !p.truncate(l3 + quote) {
        return false;
    }
    let mut summed = quote;
    if p.awaits_checksum(l3) {
        // With its checksum in place, the quoted transport part will sum up to what is missing to the pseudo-header's part,
        // which is in the place of the checksum now.
        let at = match h.protocol {
            TCP => 16,
            UDP => 6,
            _ => return false,
        };
        let Some(begun) = p.read::<2>(h.transport_at() + at) else { return false };
        sum += u64::from(!u16::from_ne_bytes(begun));
        summed = h.transport_at() - l3;
    }
    let mut at = 0;
    while at < QUOTE {
        if at >= summed {
            break;
        }
        let Some(word) = p.read::<4>(l3 + at) else { return false };
        sum += u64::from(u32::from_ne_bytes(word));
        at += 4;
    }
    [message[2], message[3]] = (!fold(sum)).to_ne_bytes();
    let header = header_length(h);
    let front = Front { bytes: header + ICMP, family: h.family, kind: FrontKind::Error };
    swap_macs(p)
        && grow_behind_macs(p, l3, &front)
        && write_ethertype(p, h)
        && write_header(p, h, l3, if v4 { INTERNETWORK_CONTROL } else { 0 }, protocol, ICMP + quote)
        && p.write(l3 + header, message)
}

/// The part of a checksum that covers the answer's addresses (RFC 9293 §3.1, RFC 8200 §8.1).
#[inline(always)]
fn pseudo_header(h: &Headers, protocol: u8, length: usize) -> u64 {
    let ([a, b, c, d], [e, f, g, i]) = (h.source.parts(), h.destination.parts());
    let addresses = [a, b, c, d, e, f, g, i];
    let mut sum = u64::from(u16::from(protocol).to_be()) + u64::from((length as u16).to_be());
    let mut at = 0;
    while at < addresses.len() {
        sum += u64::from(addresses[at]);
        at += 1;
    }
    sum
}

#[inline(always)]
fn header_length(h: &Headers) -> usize {
    if h.family == V4 { IPV4_HEADER } else { IPV6_HEADER }
}

/// From the packet's destination to its source.
#[inline(always)]
fn write_header<P: Packet>(p: &mut P, h: &Headers, l3: usize, tos: u8, protocol: u8, payload: usize) -> bool {
    let ip = Ip { source: h.destination, destination: h.source, tos, protocol, payload: payload as u16 };
    if h.family == V4 { p.write(l3, emit::v4(&ip)) } else { p.write(l3, emit::v6(&ip)) }
}

/// The MAC addresses the other way round.
#[inline(always)]
fn swap_macs<P: Packet>(p: &mut P) -> bool {
    let Some([a, b, c, d, e, f, g, h, i, j, k, l]) = p.read::<12>(0) else { return false };
    p.write(0, [g, h, i, j, k, l, a, b, c, d, e, f])
}

/// Grows, and keeps the MAC addresses.
#[inline(always)]
fn grow_behind_macs<P: Packet>(p: &mut P, l3: usize, front: &Front) -> bool {
    match p.read::<12>(0) {
        Some(macs) => p.grow(l3, front) && p.write(0, macs),
        None => false,
    }
}

/// Into the last two bytes of the link header.
#[inline(always)]
fn write_ethertype<P: Packet>(p: &mut P, h: &Headers) -> bool {
    let ethertype = if h.family == V4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    p.write(h.ethertype_at(), ethertype.to_be_bytes())
}

/// RFC 1122 §3.2.2, RFC 4443 §2.4(e), RFC 9293 §3.9.2.3: never an answer to an ICMP error, to what was sent to many, to
/// what comes from nobody in particular, to a fragment but the first. The engine hands out no ICMP but errors.
#[inline(always)]
fn may_be_answered<P: Packet>(p: &P, h: &Headers) -> bool {
    let to_many = match p.read::<2>(0) {
        Some([first, _]) => first & 1 != 0,
        None => true,
    };
    !to_many && !wire::is_icmp(h) && !h.later && is_host(h.family, &h.source) && is_host(h.family, &h.destination)
}

/// Whether an address can be one host's: not multicast, reserved, loopback, nor unspecified.
#[inline(always)]
fn is_host(family: u8, address: &Address) -> bool {
    let [a, b, c, d] = address.parts();
    if family == V4 {
        let [first, ..] = address.octets_v4();
        first != 0 && first != 127 && first < 224
    } else {
        // Unspecified, and loopback.
        let none = a | b | c == 0 && (d == 0 || d == 1u32.to_be());
        !none && a.to_ne_bytes()[0] != 0xff
    }
}

/// RFC 1812 §4.3.2.8, RFC 4443 §2.4(f): a token bucket for each of [`limits::ANSWERS`] groups of clients, so that a
/// flood silences only its own group, and what forged packets can provoke in all is bounded. The generic cell rate
/// algorithm (ITU-T I.371 Annex A): the word is the tick at which the bucket will be full again.
#[inline(always)]
fn is_within_rate<T: Tables>(t: &T, h: &Headers) -> bool {
    let Some(control) = t.control() else { return false };
    let group = hash::address(control.seed, &h.source, u64::from(h.family)) as u32 & (limits::ANSWERS - 1);
    let Some(bucket) = t.answers(group) else { return false };
    let before = bucket.get();
    let now = t.now();
    let after = full_again(before as u32, now, control.answer_ticks);
    // Who loses a race against another processor keeps silent.
    after != NEVER && bucket.replace(before, after)
}

/// Answers that a full bucket holds: a traceroute's probes of one hop, and some.
pub const BURST: u32 = 8;
const NEVER: u64 = u64::MAX;

/// When a bucket will be full again after one more answer; [`NEVER`] when it is empty.
#[inline(always)]
fn full_again(full: u32, now: u32, ticks_each: u32) -> u64 {
    let most = ticks_each.wrapping_mul(BURST);
    let ahead = full.wrapping_sub(now);
    // The clock wraps: a tick that is further ahead than a bucket can be filled is one of the past.
    let ahead = if ahead > most { 0 } else { ahead };
    let ahead = ahead.wrapping_add(ticks_each);
    if ahead > most { NEVER } else { u64::from(now.wrapping_add(ahead)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many answers a bucket gives at once.
    fn drain(mut full: u32, now: u32, ticks_each: u32) -> (u32, u32) {
        let mut given = 0;
        loop {
            match full_again(full, now, ticks_each) {
                NEVER => return (given, full),
                next => (given, full) = (given + 1, next as u32),
            }
        }
    }

    proptest! {
        #[test]
        fn a_bucket_gives_its_burst_and_then_one_answer_in_its_time(
            start in any::<u32>(), each in 1u32..1 << 20, pauses in prop::collection::vec(0u32..20, 1..20),
        ) {
            let (given, mut full) = drain(start, start, each);
            prop_assert_eq!(given, BURST);
            let mut now = start;
            for pause in pauses {
                now = now.wrapping_add(each * pause);
                let (given, next) = drain(full, now, each);
                prop_assert_eq!(given, pause.min(BURST));
                full = next;
            }
        }

        #[test]
        fn a_bucket_that_nobody_has_asked_for_long_is_full(now in any::<u32>(), ago in 1u32..u32::MAX - (1 << 20)) {
            prop_assert_eq!(drain(now.wrapping_sub(ago), now, 1 << 10).0, BURST);
        }
    }

    #[test]
    fn only_what_one_host_can_have_counts_as_its_address() {
        let host = |a: [u8; 4]| is_host(V4, &Address::v4(a));
        assert!(host([198, 51, 100, 7]) && host([10, 0, 0, 1]) && host([223, 255, 255, 255]));
        assert!(!host([0, 0, 0, 0]) && !host([127, 0, 0, 1]) && !host([224, 0, 0, 1]) && !host([255; 4]));
        let host =
            |a: &str| is_host(crate::layout::V6, &Address::v6(a.parse::<std::net::Ipv6Addr>().unwrap().octets()));
        assert!(host("2001:db8::7") && host("fd00::1") && host("fe80::1"));
        assert!(!host("::") && !host("::1") && !host("ff02::1"));
    }
}
