//! Rewrites the frame for its way: one file a method.

pub mod fullnat;
pub mod nat;
pub mod tunnel;

use crate::decide::{To, Way};
use crate::layout::{Real, UDP, V4, real_flags};
use crate::neighbour::{self, Macs};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::route::{self, Kind};
use crate::tables::{RouteQuery, Tables};
use crate::wire::Headers;
use crate::wire::checksum::Change;

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
    match way.to {
        To::Kernel => Err(Reason::NotOurs),
        To::Sender | To::Nowhere => Err(Reason::ServerFailed),
        To::Server => match t.real(real) {
            Some(real) => to_server(p, t, h, &real, way.port),
            None => Err(Reason::Inconsistent),
        },
        To::Client => to_client(p, t, h, way),
    }
}

#[inline(always)]
pub(crate) fn to_client<P: Packet, T: Tables>(p: &mut P, t: &T, h: &Headers, way: &Way) -> Result<Sent, Reason> {
    if h.ttl <= 1 {
        return Err(Reason::ReplyTtl);
    }
    let query = RouteQuery { family: h.family, source: way.vip, destination: h.destination, interface: p.interface() };
    let leaving = route::find(t, &query);
    let interface = leaving.interface;
    let to = match leaving.kind {
        Kind::Via => Macs { destination: leaving.destination_mac, source: leaving.source_mac },
        Kind::NoNeighbour => {
            neighbour::ask(t, h.family, interface, &h.destination);
            match neighbour::find(t, h.family, interface, &h.destination) {
                Some(macs) => macs,
                None => return Err(Reason::NoNeighbour),
            }
        }
        Kind::Here => return Err(Reason::NotAReply),
        Kind::None => return Err(Reason::NoRoute),
    };
    nat::rewrite(p, h, &nat::Edit { source: true, address: way.vip, port: way.port })?;
    macs(p, to.destination, to.source)?;
    Ok(Sent { reason: Reason::Reply, interface })
}

#[inline(always)]
fn to_server<P: Packet, T: Tables>(p: &mut P, t: &T, h: &Headers, real: &Real, port: u16) -> Result<Sent, Reason> {
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
    let reason = match real.method {
        NAT => {
            nat::rewrite(p, h, &nat::Edit { source: false, address: real.address, port })?;
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
    macs(p, real.destination_mac, real.source_mac)?;
    Ok(Sent { reason, interface: real.interface })
}

/// RFC 1812 §5.2.1: a router lowers the time to live; RFC 8200 §3: the hop limit.
#[inline(always)]
fn age<P: Packet>(p: &mut P, h: &Headers) -> Result<(), Reason> {
    let l3 = h.network_at();
    if h.family != V4 {
        return lower_hop_limit(p, l3);
    }
    let Some([ttl, protocol, c0, c1]) = p.read::<4>(l3 + 8) else { return Err(Reason::Inconsistent) };
    let aged = ttl.wrapping_sub(1);
    let change = Change::default().half(u16::from_ne_bytes([ttl, protocol]), u16::from_ne_bytes([aged, protocol]));
    let [c0, c1] = change.apply(u16::from_ne_bytes([c0, c1])).to_ne_bytes();
    write(p, l3 + 8, [aged, protocol, c0, c1])
}

/// The byte behind the next header.
#[inline(always)]
fn lower_hop_limit<P: Packet>(p: &mut P, l3: usize) -> Result<(), Reason> {
    let Some([next, hops]) = p.read::<2>(l3 + 6) else { return Err(Reason::Inconsistent) };
    write(p, l3 + 6, [next, hops.wrapping_sub(1)])
}

#[inline(always)]
pub(crate) fn macs<P: Packet>(p: &mut P, destination: [u8; 6], source: [u8; 6]) -> Result<(), Reason> {
    let [a, b, c, d, e, f] = destination;
    let [g, h, i, j, k, l] = source;
    write(p, 0, [a, b, c, d, e, f, g, h, i, j, k, l])
}

/// A write where a read has been: it fails only if the engine is wrong.
#[inline(always)]
fn write<P: Packet, const N: usize>(p: &mut P, at: usize, bytes: [u8; N]) -> Result<(), Reason> {
    if p.write(at, bytes) { Ok(()) } else { Err(Reason::Inconsistent) }
}
