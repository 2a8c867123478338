//! IP in IP: IPv4 in IPv4 (RFC 2003), IPv6 in IPv6 and IPv4 in IPv6 (RFC 2473), IPv6 in IPv4 (RFC 4213).

use super::write;
use crate::layout::{Real, V4};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::wire::emit::{self, IPV4_HEADER, IPV6_HEADER, Ip};
use crate::wire::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, IPPROTO_IPIP, IPPROTO_IPV6};

/// Length of the outer header.
pub const OUTER_V4: usize = IPV4_HEADER;
/// See [`OUTER_V4`].
pub const OUTER_V6: usize = IPV6_HEADER;

/// Adds the outer header; lowers the inner time to live, as the tunnel's entry forwards the packet (RFC 2003 §3.1).
#[inline(always)]
pub fn encapsulate<P: Packet>(p: &mut P, h: &Headers, real: &Real) -> Result<(), Reason> {
    let outer = if real.family == V4 { OUTER_V4 } else { OUTER_V6 };
    if h.length > inner_mtu(real) {
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
    write(p, h.ethertype_at(), ethertype.to_be_bytes())?;
    let inner = if h.family == V4 { IPPROTO_IPIP } else { IPPROTO_IPV6 };
    // Don't fragment: what is too large is refused above.
    let ip =
        Ip { source: real.source, destination: real.address, tos: h.tos, protocol: inner, payload: h.length as u16 };
    if real.family == V4 { write(p, l3, emit::v4(&ip)) } else { write(p, l3, emit::v6(&ip)) }
}

/// The largest packet that the way to a real server takes behind the outer header.
#[inline(always)]
pub fn inner_mtu(real: &Real) -> u32 {
    let mtu = if real.mtu == 0 { u16::MAX } else { real.mtu };
    u32::from(mtu).saturating_sub(if real.family == V4 { OUTER_V4 } else { OUTER_V6 } as u32)
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
