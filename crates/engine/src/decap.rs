//! The other end of the tunnel: a real server takes packets out of their outer header, where its kernel has no tunnel
//! device.

use crate::forward::tunnel::{OUTER_V4, OUTER_V6};
use crate::layout::{Address, V4, V6};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::wire::{self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPPROTO_IPIP, IPPROTO_IPV6};

/// Who may send, and to what.
pub trait Policy {
    /// Whether packets to this address in tunnels from that one are taken out. `family` is of both.
    fn accepts(&self, family: u8, outer_source: &Address, outer_destination: &Address) -> bool;
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
    let (ethertype, least) = match h.protocol {
        IPPROTO_IPIP => (ETHERTYPE_IPV4, 20),
        IPPROTO_IPV6 => (ETHERTYPE_IPV6, 40),
        _ => return Err(Reason::NotTunnelled),
    };
    // Fragments of the outer packet, and outer options, are the kernel's.
    let (l3, l4) = (usize::from(h.l3), usize::from(h.l4));
    let outer = if h.family == V4 { OUTER_V4 } else { OUTER_V6 };
    if h.fragment || l4 - l3 != outer || !policy.accepts(h.family, &h.source, &h.destination) {
        return Err(Reason::NotTunnelled);
    }
    let bad = if h.family == V4 { Reason::BadIpv4 } else { Reason::BadIpv6 };
    if !p.reaches(l3 + h.length as usize) || (h.length as usize) < outer + least {
        return Err(bad);
    }
    let version = if ethertype == ETHERTYPE_IPV4 { V4 } else { V6 };
    match p.read::<2>(l4) {
        Some([first, _]) if first >> 4 == version => {}
        _ => return Err(Reason::NotTunnelled),
    }
    // The link header moves back over the outer header, the last piece first.
    let Some(macs) = p.read::<12>(0) else { return Err(Reason::ShortEthernet) };
    let first_tag = if l3 >= ETHERNET + 4 { p.read::<4>(12) } else { None };
    let second_tag = if l3 >= ETHERNET + 8 { p.read::<4>(16) } else { None };
    if !p.shrink_front(outer) {
        return Err(Reason::Inconsistent);
    }
    let mut ok = p.write(0, macs);
    if let Some(tag) = first_tag {
        ok &= p.write(12, tag);
    }
    if let Some(tag) = second_tag {
        ok &= p.write(16, tag);
    }
    ok &= p.write(l3 - 2, ethertype.to_be_bytes());
    if ok { Ok(Reason::Decapsulated) } else { Err(Reason::Inconsistent) }
}
