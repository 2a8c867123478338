//! The other end of the tunnel: a real server takes packets out of their outer headers, where its kernel has no tunnel
//! device.

use crate::forward::tunnel::{GRE_HEADER, GUE_HEADER, OUTER_V4, OUTER_V6};
use crate::layout::{Address, UDP, V4, V6};
use crate::packet::{FURTHEST, Packet};
use crate::reason::Reason;
use crate::wire::{self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, IPPROTO_GRE, IPPROTO_IPIP, IPPROTO_IPV6};

/// Who may send, and to what.
pub trait Policy {
    /// Whether packets to this address in tunnels from that one are taken out. `family` is of both.
    fn accepts(&self, family: u8, outer_source: &Address, outer_destination: &Address) -> bool;
    /// The UDP port at which GUE arrives.
    fn gue_port(&self) -> u16;
}

/// Takes the packet out; the frame is passed up in any case.
#[inline(always)]
pub fn decapsulate<P: Packet, A: Policy>(p: &mut P, policy: &A) -> Reason {
    match try_decapsulate(p, policy) {
        Ok(reason) | Err(reason) => reason,
    }
}

#[inline(always)]
fn try_decapsulate<P: Packet, A: Policy>(p: &mut P, policy: &A) -> Result<Reason, Reason> {
    let h = wire::network(p)?;
    let (l3, l4) = (usize::from(h.l3), usize::from(h.l4));
    let (ethertype, between) = inner(p, policy, &h)?;
    // Fragments of the outer packet, and outer options, are the kernel's.
    let outer = if h.family == V4 { OUTER_V4 } else { OUTER_V6 };
    if h.fragment || l4 - l3 != outer || !policy.accepts(h.family, &h.source, &h.destination) {
        return Err(Reason::NotTunnelled);
    }
    let (version, least) = if ethertype == ETHERTYPE_IPV4 { (V4, 20) } else { (V6, 40) };
    let bad = if h.family == V4 { Reason::BadIpv4 } else { Reason::BadIpv6 };
    if !p.reaches(l3 + h.length as usize) || (h.length as usize) < outer + between + least {
        return Err(bad);
    }
    match p.read::<2>(l4 + between) {
        Some([first, _]) if first >> 4 == version => {}
        _ => return Err(Reason::NotTunnelled),
    }
    let outer = outer + between;
    if strip(p, l3, outer, ethertype) { Ok(Reason::Decapsulated) } else { Err(Reason::Inconsistent) }
}

/// Takes out `by` bytes behind the link header of `l3` bytes.
#[inline(always)]
pub(crate) fn strip<P: Packet>(p: &mut P, l3: usize, by: usize, ethertype: u16) -> bool {
    // The link header moves back over them.
    let Some(macs) = p.read::<12>(0) else { return false };
    // Read without asking whether they are tags: an option's payload may not lie about undefined, see
    // [`crate::decide::Decision`].
    let (Some(first), Some(second)) = (p.read::<4>(12), p.read::<4>(16)) else { return false };
    if !p.shrink_front(by) {
        return false;
    }
    let mut ok = p.write(0, macs);
    if l3 >= ETHERNET + 4 {
        ok &= p.write(12, first);
    }
    if l3 >= ETHERNET + 8 {
        ok &= p.write(16, second);
    }
    ok & p.write(l3.wrapping_sub(2) & FURTHEST, ethertype.to_be_bytes())
}

/// The ethertype of the packet inside, and how long what stands before it is.
#[inline(always)]
fn inner<P: Packet, A: Policy>(p: &P, policy: &A, h: &Headers) -> Result<(u16, usize), Reason> {
    let l4 = usize::from(h.l4);
    match h.protocol {
        IPPROTO_IPIP => Ok((ETHERTYPE_IPV4, 0)),
        IPPROTO_IPV6 => Ok((ETHERTYPE_IPV6, 0)),
        IPPROTO_GRE => {
            let Some([a, b, c, d]) = p.read::<4>(l4) else { return Err(Reason::NotTunnelled) };
            let ethertype = u16::from_be_bytes([c, d]);
            // Checksums, keys and sequence numbers (RFC 2784 §2.2, RFC 2890), and other versions, are the kernel's.
            if (a | b) != 0 || (ethertype != ETHERTYPE_IPV4 && ethertype != ETHERTYPE_IPV6) {
                return Err(Reason::NotTunnelled);
            }
            Ok((ethertype, GRE_HEADER))
        }
        UDP => {
            let Some(b) = p.read::<12>(l4) else { return Err(Reason::NotTunnelled) };
            let length = usize::from(u16::from_be_bytes([b[4], b[5]]));
            // Variant 0, no control message, no extensions. The checksum is not verified: it covers nothing that the
            // packet's own do not cover, but the outer addresses and ports, which have led here.
            if u16::from_be_bytes([b[2], b[3]]) != policy.gue_port()
                || (l4 - usize::from(h.l3)) + length != h.length as usize
                || (b[8] | b[10] | b[11]) != 0
            {
                return Err(Reason::NotTunnelled);
            }
            match b[9] {
                IPPROTO_IPIP => Ok((ETHERTYPE_IPV4, GUE_HEADER)),
                IPPROTO_IPV6 => Ok((ETHERTYPE_IPV6, GUE_HEADER)),
                _ => Err(Reason::NotTunnelled),
            }
        }
        _ => Err(Reason::NotTunnelled),
    }
}
