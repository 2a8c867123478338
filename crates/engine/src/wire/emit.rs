//! IP headers of the director's own packets.

use super::checksum::fold;
use super::{put_word, word};
use crate::layout::Address;

/// Length of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Length of an IPv6 header without extensions.
pub const IPV6_HEADER: usize = 40;
/// IANA's recommended default (RFC 1700) for a new header's time to live.
const TTL: u8 = 64;

/// What a header says.
#[derive(Clone, Copy, Debug)]
pub struct Ip {
    pub source: Address,
    pub destination: Address,
    pub tos: u8,
    pub protocol: u8,
    /// Length of what follows the header.
    pub payload: u16,
}

/// RFC 791 §3.1. Don't fragment: an identification is not needed then (RFC 6864 §4.1).
#[inline(always)]
pub fn v4(ip: &Ip) -> [u8; IPV4_HEADER] {
    let mut b = [0u8; IPV4_HEADER];
    b[0] = 0x45;
    b[1] = ip.tos;
    [b[2], b[3]] = ip.payload.wrapping_add(IPV4_HEADER as u16).to_be_bytes();
    b[6] = 0x40;
    b[8] = TTL;
    b[9] = ip.protocol;
    put_word(&mut b, 12, ip.source.last());
    put_word(&mut b, 16, ip.destination.last());
    let sum = u64::from(word(&b, 0))
        + u64::from(word(&b, 4))
        + u64::from(word(&b, 8))
        + u64::from(word(&b, 12))
        + u64::from(word(&b, 16));
    [b[10], b[11]] = (!fold(sum)).to_ne_bytes();
    b
}

/// RFC 8200 §3.
#[inline(always)]
pub fn v6(ip: &Ip) -> [u8; IPV6_HEADER] {
    let mut b = [0u8; IPV6_HEADER];
    b[0] = 0x60 | ip.tos >> 4;
    b[1] = ip.tos << 4;
    [b[4], b[5]] = ip.payload.to_be_bytes();
    b[6] = ip.protocol;
    b[7] = TTL;
    let (source, destination) = (ip.source.parts(), ip.destination.parts());
    let mut i = 0;
    while i < 4 {
        put_word(&mut b, 8 + 4 * i, source[i]);
        put_word(&mut b, 24 + 4 * i, destination[i]);
        i += 1;
    }
    b
}
