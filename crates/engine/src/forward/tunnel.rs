//! IP in IP: IPv4 in IPv4 (RFC 2003), IPv6 in IPv6 and IPv4 in IPv6 (RFC 2473), IPv6 in IPv4 (RFC 4213).

use super::write;
use crate::layout::{Real, V4};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::wire::checksum::fold;
use crate::wire::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, IPPROTO_IPIP, IPPROTO_IPV6, put_word, word};

/// Length of the outer header.
pub const OUTER_V4: usize = 20;
/// See [`OUTER_V4`].
pub const OUTER_V6: usize = 40;
/// RFC 2003 §3.1 and IANA's recommended default (RFC 1700) for a new header's time to live.
const OUTER_TTL: u8 = 64;

/// Adds the outer header; lowers the inner time to live, as the tunnel's entry forwards the packet (RFC 2003 §3.1).
#[inline(always)]
pub fn encapsulate<P: Packet>(p: &mut P, h: &Headers, real: &Real) -> Result<(), Reason> {
    let outer = if real.family == V4 { OUTER_V4 } else { OUTER_V6 };
    let length = h.length + outer as u32;
    if length > u32::from(u16::MAX) || (real.mtu != 0 && length > u32::from(real.mtu)) {
        return Err(Reason::TooBig);
    }
    super::age(p, h)?;
    if !p.grow_front(outer) {
        return Err(Reason::NoRoom);
    }
    let l3 = h.network_at();
    move_tags(p, l3, outer)?;
    // The last two bytes of the link header say what follows it.
    let ethertype = if real.family == V4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    write(p, l3 - 2, ethertype.to_be_bytes())?;
    let inner = if h.family == V4 { IPPROTO_IPIP } else { IPPROTO_IPV6 };
    if real.family == V4 {
        let mut b = [0u8; OUTER_V4];
        b[0] = 0x45;
        b[1] = h.tos;
        [b[2], b[3]] = (length as u16).to_be_bytes();
        // Don't fragment: what is too large is refused above. An identification is not needed then (RFC 6864 §4.1).
        b[6] = 0x40;
        b[8] = OUTER_TTL;
        b[9] = inner;
        put_word(&mut b, 12, real.source.0[3]);
        put_word(&mut b, 16, real.address.0[3]);
        let sum = u64::from(word(&b, 0))
            + u64::from(word(&b, 4))
            + u64::from(word(&b, 8))
            + u64::from(word(&b, 12))
            + u64::from(word(&b, 16));
        [b[10], b[11]] = (!fold(sum)).to_ne_bytes();
        write(p, l3, b)
    } else {
        let mut b = [0u8; OUTER_V6];
        b[0] = 0x60 | h.tos >> 4;
        b[1] = h.tos << 4;
        [b[4], b[5]] = (h.length as u16).to_be_bytes();
        b[6] = inner;
        b[7] = OUTER_TTL;
        let mut i = 0;
        while i < 4 {
            put_word(&mut b, 8 + 4 * i, real.source.0[i]);
            put_word(&mut b, 24 + 4 * i, real.address.0[i]);
            i += 1;
        }
        write(p, l3, b)
    }
}

/// After growing by `by` bytes: moves the VLAN tags and the ethertype to the new front. The MAC addresses are written
/// anew for the next hop anyway.
#[inline(always)]
pub(crate) fn move_tags<P: Packet>(p: &mut P, l3: usize, by: usize) -> Result<(), Reason> {
    if l3 >= ETHERNET + 4 {
        copy4(p, by + 12, 12)?;
    }
    if l3 >= ETHERNET + 8 {
        copy4(p, by + 16, 16)?;
    }
    Ok(())
}

#[inline(always)]
fn copy4<P: Packet>(p: &mut P, from: usize, to: usize) -> Result<(), Reason> {
    let Some(b) = p.read::<4>(from) else { return Err(Reason::Inconsistent) };
    write(p, to, b)
}
