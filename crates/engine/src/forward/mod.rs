//! Rewrites the frame for its way: one file a method.

pub mod fullnat;
pub mod nat;
pub mod tunnel;

use crate::decide::{To, Way};
use crate::layout::{Macs, Real, UDP, V4, real_flags};
use crate::neighbour;
use crate::packet::Packet;
use crate::reason::Reason;
use crate::route::{self, Kind};
use crate::tables::{RouteQuery, Tables};
use crate::wire::checksum::Change;
use crate::wire::{Headers, put_word};

/// The forwarding method's number in [`Real::method`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    Nat = 0,
    DirectRouting = 1,
    Tunnel = 2,
    Local = 3,
    Gue = 4,
    Gre = 5,
}

const NAT: u8 = Method::Nat as u8;
const DIRECT_ROUTING: u8 = Method::DirectRouting as u8;
const TUNNEL: u8 = Method::Tunnel as u8;
const LOCAL: u8 = Method::Local as u8;
const GUE: u8 = Method::Gue as u8;
const GRE: u8 = Method::Gre as u8;

/// Where a rewritten frame leaves, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub reason: Reason,
    /// Meaningful when the reason's action is to send.
    pub interface: u32,
}

/// Rewrites the frame for its way, to or from this real server. The frame is as it was when the answer is
/// [`Reason::TtlExceeded`], [`Reason::TooBig`] or [`Reason::ServerFailed`].
#[inline(always)]
pub fn forward<P: Packet, T: Tables>(p: &mut P, t: &T, h: &Headers, real: u32, way: &Way) -> Result<Sent, Reason> {
    forward_by(p, t, h, real, way, &nat::Plain)
}

/// The same with another idea of what NAT rewrites.
#[inline(always)]
pub fn forward_by<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    h: &Headers,
    real: u32,
    way: &Way,
    rewriting: &impl nat::Rewriting,
) -> Result<Sent, Reason> {
    match way.to {
        To::Kernel => Err(Reason::NotOurs),
        To::Sender | To::Nowhere => Err(Reason::ServerFailed),
        To::Server => match t.real(real) {
            Some(real) => to_server(p, t, h, &real, way.port, rewriting),
            None => Err(Reason::Inconsistent),
        },
        To::Client => to_client(p, t, h, way, rewriting),
    }
}

#[inline(always)]
pub(crate) fn to_client<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    h: &Headers,
    way: &Way,
    rewriting: &impl nat::Rewriting,
) -> Result<Sent, Reason> {
    if h.ttl <= 1 {
        return Err(Reason::ReplyTtl);
    }
    let query = RouteQuery { family: h.family, source: way.vip, destination: h.destination, interface: p.interface() };
    let (to, interface) = find_way(t, &query)?;
    rewriting.rewrite(p, h, &nat::Edit { source: true, address: way.vip, port: way.port })?;
    macs(p, to)?;
    Ok(Sent { reason: Reason::Reply, interface })
}

/// Where a packet to a client leaves, and to which MAC address.
#[inline(always)]
fn find_way<T: Tables>(t: &T, query: &RouteQuery) -> Result<(Macs, u32), Reason> {
    let leaving = route::find(t, query);
    let interface = leaving.interface;
    match leaving.kind {
        Kind::Via => Ok((leaving.macs, interface)),
        Kind::NoNeighbour => {
            neighbour::ask(t, query.family, interface, &query.destination);
            match neighbour::find(t, query.family, interface, &query.destination) {
                Some(macs) => Ok((macs, interface)),
                None => Err(Reason::NoNeighbour),
            }
        }
        Kind::Here => Err(Reason::NotAReply),
        Kind::None => Err(Reason::NoRoute),
    }
}

/// Sends a packet of the director's own as it is on its way to a client; answers the interface.
#[inline(always)]
pub fn send_as_is<P: Packet, T: Tables>(p: &mut P, t: &T, query: &RouteQuery) -> Result<u32, Reason> {
    let (to, interface) = find_way(t, query)?;
    macs(p, to)?;
    Ok(interface)
}

/// To a real server whose record the caller has; `port` is what NAT puts in.
#[inline(always)]
pub fn to_server<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    h: &Headers,
    real: &Real,
    port: u16,
    rewriting: &impl nat::Rewriting,
) -> Result<Sent, Reason> {
    if real.flags & (real_flags::RESOLVED | real_flags::DOWN) != real_flags::RESOLVED {
        if real.flags & real_flags::DOWN != 0 && (real.flags & real_flags::KEEP == 0 || h.protocol == UDP) {
            return Err(Reason::ServerFailed);
        }
        if real.flags & real_flags::RESOLVED == 0 && real.method != LOCAL {
            if real.interface != 0 {
                neighbour::ask(t, real.family, real.interface, &real.address);
            }
            return Err(Reason::NoNeighbour);
        }
    }
    if real.method == LOCAL {
        return Ok(Sent { reason: Reason::Local, interface: 0 });
    }
    if h.ttl <= 1 {
        return Err(Reason::TtlExceeded);
    }
    if is_too_big(p, h, real) {
        return Err(Reason::TooBig);
    }
    let reason = match real.method {
        NAT => {
            rewriting.rewrite(p, h, &nat::Edit { source: false, address: real.address, port })?;
            Reason::Nat
        }
        DIRECT_ROUTING => {
            age(p, h)?;
            Reason::DirectRouting
        }
        TUNNEL | GUE | GRE => {
            tunnel::encapsulate(p, h, real)?;
            Reason::Tunnel
        }
        _ => return Err(Reason::Inconsistent),
    };
    macs(p, real.macs)?;
    Ok(Sent { reason, interface: real.interface })
}

/// Whether a packet, or each of those that it stands for, is larger than the way to a real server takes.
#[inline(always)]
pub fn is_too_big<P: Packet>(p: &P, h: &Headers, real: &Real) -> bool {
    h.length > largest(real) && tunnel::packet_length(p, h) > largest(real)
}

/// The largest packet that the way to a real server takes: in a tunnel, behind the outer header.
#[inline(always)]
pub fn largest(real: &Real) -> u32 {
    match real.method {
        TUNNEL | GUE | GRE => tunnel::inner_mtu(real),
        _ if real.mtu == 0 => u32::from(u16::MAX),
        _ => u32::from(real.mtu),
    }
}

/// RFC 1812 §5.2.1: a router lowers the time to live; RFC 8200 §3: the hop limit.
#[inline(always)]
pub(crate) fn age<P: Packet>(p: &mut P, h: &Headers) -> Result<(), Reason> {
    let l3 = h.network_at();
    if h.family != V4 {
        return lower_hop_limit(p, l3);
    }
    let Some([ttl, protocol, c0, c1]) = p.read::<4>(l3 + 8) else { return Err(Reason::Inconsistent) };
    let [c0, c1] = Change::aging().apply_folded(u16::from_ne_bytes([c0, c1])).to_ne_bytes();
    write(p, l3 + 8, [ttl.wrapping_sub(1), protocol, c0, c1])
}

/// The byte behind the next header.
#[inline(always)]
fn lower_hop_limit<P: Packet>(p: &mut P, l3: usize) -> Result<(), Reason> {
    let Some([next, hops]) = p.read::<2>(l3 + 6) else { return Err(Reason::Inconsistent) };
    let lowered = [next, hops.wrapping_sub(1)];
    p.resum(Change::default().half(u16::from_ne_bytes([next, hops]), u16::from_ne_bytes(lowered)));
    write(p, l3 + 6, lowered)
}

#[inline(always)]
pub(crate) fn macs<P: Packet>(p: &mut P, macs: Macs) -> Result<(), Reason> {
    let Macs([a, b, c]) = macs;
    let mut link = [0; 12];
    put_word(&mut link, 0, a);
    put_word(&mut link, 4, b);
    put_word(&mut link, 8, c);
    write(p, 0, link)
}

/// A write where a read has been: it fails only if the engine is wrong.
#[inline(always)]
pub(crate) fn write<P: Packet, const N: usize>(p: &mut P, at: usize, bytes: [u8; N]) -> Result<(), Reason> {
    if p.write(at, bytes) { Ok(()) } else { Err(Reason::Inconsistent) }
}
