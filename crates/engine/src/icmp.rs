//! ICMP errors about connections (RFC 792, RFC 4443, RFC 5508): whoever cannot forward or take a packet quotes it, and
//! the quoted addresses and ports say whose it is. Errors from outside are about what the VIP has sent to a client, and go
//! to the connection's real server as its packets do. Errors from inside are about what a client has sent to a real server
//! under NAT; they go to the client as the VIP's, whoever has sent them: the address of a router between director and real
//! servers is nobody's business outside (RFC 5508 §4.2 REQ-5; `ip_vs_nat_icmp` in `net/netfilter/ipvs/ip_vs_core.c`).
//! Errors about the director's own tunnels quote its outer headers; the client is told what fits inside.
//!
//! Under fullnat both ends of the quoted packet are rewritten, and of the error itself as well: real servers hear of what
//! is outside from their connection's source, the only end of it that they know.
//!
//! A connection that has no record but a table's slot follows its slot. All other ICMP is the kernel's, which has the
//! VIPs and answers echo requests to them.
//!
//! Checksums are changed by differences: one that was wrong stays wrong, for the receiver to see (RFC 5508 §4.1 REQ-3).

use crate::classify::{self, Class, Unique};
use crate::decide::{self, To, Way};
use crate::flow::{self, Found, FromClient, FromServer};
use crate::forward::fullnat::{self, Peer};
use crate::forward::nat::{self, Rewriting};
use crate::forward::tunnel::{self, GRE_HEADER, GUE_HEADER};
use crate::forward::{Method, write};
use crate::layout::{Address, Control, NO_REAL, Real, TCP, UDP, V4, V6, service_flags, state_bits};
use crate::packet::{FURTHEST, Packet};
use crate::reason::Reason;
use crate::schedule;
use crate::tables::{CellTable, Step, Tables};
use crate::wire::checksum::Change;
use crate::wire::emit::{IPV4_HEADER, IPV6_HEADER};
use crate::wire::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, IPPROTO_GRE, IPPROTO_IPIP, IPPROTO_IPV6};

/// What an ICMP error says of the packet that it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Of an error about a tunnel: the largest packet that fits inside; else 0.
    pub mtu: u32,
    /// The reason when it is the kernel's after all.
    pub other: Reason,
}

/// Reads an ICMP error and its quotation. `h` become the packet's own headers, `quoted` those of the quoted packet, with the
/// offsets that they have in the frame. When that was a tunnel's, they go into `tunnel`, and into `quoted` those of the
/// packet inside.
#[inline(always)]
pub fn quote<P: Packet, T: Tables>(
    p: &P,
    t: &T,
    h: &mut Headers,
    quoted: &mut Headers,
    tunnel: &mut Headers,
) -> Result<Said, Reason> {
    *h = wire::network(p)?;
    let Some(control) = t.control() else { return Err(Reason::Inconsistent) };
    // Whatever it is, it is the kernel's.
    let other = if classify::party(t, &control, h).is_some() { Reason::Icmp } else { Reason::NotOurs };
    if wire::has_extensions(h) && wire::extensions(p, h).is_err() {
        return Err(other);
    }
    let end = h.network_at() + h.length as usize;
    if h.fragment || !wire::is_icmp(h) || usize::from(h.l4) > FURTHEST || !p.reaches(end) {
        return Err(other);
    }
    let l4 = h.transport_at();
    let Some([kind, code, _, _, m0, m1, m2, m3]) = p.read::<8>(l4) else { return Err(other) };
    if !is_error(h.family, kind) {
        return Err(other);
    }
    match wire::quote(p, l4 + ICMP, h.family) {
        Ok(packet) => *quoted = packet,
        Err(_) => return Err(other),
    }
    // What the sender of the quoted packet would not have sent is no error about it (RFC 5927 §4).
    if quoted.later || quoted.transport_at() + LEAST > end || quoted.source != h.destination {
        return Err(other);
    }
    let (inner, between) = carried(p, quoted);
    if inner == 0 {
        t.note(Step::Quote { packet: *quoted });
        return Ok(Said { mtu: 0, other });
    }
    *tunnel = *quoted;
    match wire::quote(p, tunnel.transport_at() + between, inner) {
        Ok(packet) => *quoted = packet,
        Err(_) => return Err(other),
    }
    if quoted.later || quoted.transport_at() + LEAST > end {
        return Err(other);
    }
    t.note(Step::Quote { packet: *quoted });
    let v4 = tunnel.family == V4;
    let too_big = [kind, code] == if v4 { [3, 4] } else { [2, 0] };
    let mtu = if v4 { u32::from(u16::from_be_bytes([m2, m3])) } else { u32::from_be_bytes([m0, m1, m2, m3]) };
    let header = (between + if v4 { IPV4_HEADER } else { IPV6_HEADER }) as u32;
    // The least that each family's links must take (RFC 791 §3.2, RFC 8200 §5); less is nothing to tell a client.
    let least = if inner == V4 { 68 } else { 1280 };
    if !too_big || mtu < header + least {
        return Err(other);
    }
    Ok(Said { mtu: mtu - header, other })
}

/// What a tunnel's packet carries: the family of the packet inside, 0 when it is no tunnel's, and how many bytes behind the
/// outer IP header it begins. A GUE packet looks like one, with a source port of those that it gets and GUE's header
/// without any option: whose it is, the connection inside must tell.
#[inline(always)]
pub fn carried<P: Packet>(p: &P, outer: &Headers) -> (u8, usize) {
    let at = outer.transport_at();
    let (protocol, between) = match outer.protocol {
        IPPROTO_GRE => match p.read::<4>(at) {
            Some([0, 0, a, b]) if u16::from_be_bytes([a, b]) == ETHERTYPE_IPV4 => (IPPROTO_IPIP, GRE_HEADER),
            Some([0, 0, a, b]) if u16::from_be_bytes([a, b]) == ETHERTYPE_IPV6 => (IPPROTO_IPV6, GRE_HEADER),
            _ => (0, 0),
        },
        UDP if outer.source_port >= tunnel::FIRST_PORT => match p.read::<4>(at + 8) {
            Some([0, protocol, 0, 0]) => (protocol, GUE_HEADER),
            _ => (0, 0),
        },
        protocol => (protocol, 0),
    };
    match protocol {
        IPPROTO_IPIP => (V4, between),
        IPPROTO_IPV6 => (V6, between),
        _ => (0, 0),
    }
}

/// Whose connection an ICMP error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Related {
    /// [`NO_REAL`]: nobody's.
    pub real: u32,
    pub way: Way,
    pub peer: Peer,
}

impl Related {
    const NOTHING: Self =
        Self { real: NO_REAL, way: Way { to: To::Kernel, port: 0, vip: Address::NONE }, peer: Peer::NONE };
}

/// Finds the connection of a quoted packet, which a real server has sent, or a client to one: as if it were asked for the
/// next packet of the other side. When it was `inside` of a tunnel, it is a client's own, and of that tunnel's real server.
#[inline(always)]
pub fn relate<T: Tables>(t: &T, quoted: &Headers, inside: bool, tunnel: &Headers, interface: u32) -> Related {
    let asked = if inside { *quoted } else { reversed(quoted) };
    let related = of_packet(t, &asked, interface);
    let Some(real) = t.real(related.real) else { return Related::NOTHING };
    if inside && !is_through(&real, tunnel) { Related::NOTHING } else { related }
}

/// Whether packets to a real server go in a tunnel like this one.
#[inline(always)]
fn is_through(real: &Real, tunnel: &Headers) -> bool {
    let method = match tunnel.protocol {
        IPPROTO_GRE => Method::Gre,
        UDP => Method::Gue,
        _ => Method::Tunnel,
    };
    real.method == method as u8
        && real.family == tunnel.family
        && real.address == tunnel.destination
        && (tunnel.protocol != UDP || real.tunnel_port == tunnel.destination_port)
}

#[inline(always)]
fn of_packet<T: Tables>(t: &T, asked: &Headers, interface: u32) -> Related {
    let Some(control) = t.control() else { return Related::NOTHING };
    let Some(party) = classify::party(t, &control, asked) else { return Related::NOTHING };
    if party.is_source() {
        return of_source(t, &control, asked);
    }
    match classify::class(t, &control, &party, asked, interface) {
        Ok(Class::Request { service, port, expected, .. }) => of_request(t, &control, asked, service, port, expected),
        Ok(Class::Reply { unique, .. }) => of_reply(t, &control, asked, unique),
        Err(_) => Related::NOTHING,
    }
}

const ICMP: usize = 8;
/// Of a quoted transport header.
const LEAST: usize = 8;

/// Destination unreachable, time exceeded, parameter problem, and ICMPv6 packet too big. Not redirects, which are for the
/// sender's neighbours, nor source quenches (RFC 6633).
#[inline(always)]
fn is_error(family: u8, kind: u8) -> bool {
    if family == V4 { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) }
}

#[inline(always)]
fn reversed(h: &Headers) -> Headers {
    Headers {
        source: h.destination,
        destination: h.source,
        source_port: h.destination_port,
        destination_port: h.source_port,
        ..*h
    }
}

/// Of a client's packet, or what would be one.
#[inline(always)]
fn of_request<T: Tables>(
    t: &T,
    control: &Control,
    asked: &Headers,
    service: u32,
    port: u16,
    expected: bool,
) -> Related {
    let mut related = Related::NOTHING;
    let Some(settings) = t.service(service) else { return related };
    let found = find(t, control, &FromClient::new(&decide::key(asked), control.seed, port));
    if found.exists() {
        let source = fullnat::of_state(found.state);
        related.peer = Peer::source(t, source);
        if related.peer.is_there || source == 0 {
            related.real = found.real;
            related.way = Way::to_server(found.state as u16);
        }
        return related;
    }
    let stateless = settings.flags & service_flags::UDP_STATELESS != 0;
    let recorded = settings.flags & service_flags::RECORDED != 0;
    if expected || recorded || !(asked.protocol == TCP || (asked.protocol == UDP && stateless)) {
        return related;
    }
    if let Some(slot) = schedule::slot(t, control, &settings, asked.family, &asked.source, asked.source_port) {
        related.real = slot.real;
        related.way = Way::to_server(port);
    }
    related
}

/// Of a real server's packet under fullnat, or what would be one.
#[inline(always)]
fn of_source<T: Tables>(t: &T, control: &Control, asked: &Headers) -> Related {
    let (found, peer) = fullnat::whose(t, control, asked);
    if !found.exists() {
        return Related::NOTHING;
    }
    Related { real: found.real, way: Way::to_client(found.vip, found.vip_port), peer }
}

/// Of a real server's packet, or what would be one.
#[inline(always)]
fn of_reply<T: Tables>(t: &T, control: &Control, asked: &Headers, unique: Option<Unique>) -> Related {
    let mut related = Related::NOTHING;
    let found = find(t, control, &FromServer::new(asked, control.seed));
    if !found.exists() {
        if let Ok((real, way)) = decide::stateless_reply(t, control, asked, unique, None) {
            related.real = real;
            related.way = way;
        }
    } else if found.state & state_bits::DIRECT == 0 {
        related.real = found.real;
        related.way = Way::to_client(found.vip, found.vip_port);
    }
    related
}

#[inline(always)]
fn find<T: Tables, M: flow::Match<T>>(t: &T, control: &Control, m: &M) -> Found {
    let mut table = CellTable::Flows;
    let mut found = flow::find(t, control, table, m);
    if !found.exists() {
        table = CellTable::HalfOpen;
        found = flow::find(t, control, table, m);
    }
    if found.exists() {
        t.note(Step::Flow { table, real: found.real, state: found.state });
    } else {
        t.note(Step::NoFlow);
    }
    found
}

/// An ICMP error about the packet that it quotes.
pub struct Quoting<'a>(pub &'a Headers);

impl Rewriting for Quoting<'_> {
    #[inline(always)]
    fn rewrite<P: Packet>(&self, p: &mut P, h: &Headers, edit: &nat::Edit) -> Result<(), Reason> {
        rewrite(p, h, self.0, edit)
    }
}

/// As [`nat::rewrite`], for an error: the quoted packet's other address and port as well, and every checksum.
#[inline(always)]
pub fn rewrite<P: Packet>(p: &mut P, h: &Headers, quoted: &Headers, edit: &nat::Edit) -> Result<(), Reason> {
    change(p, h, quoted, edit, 1)
}

/// As [`nat::replace`]: the other end of an error that has been rewritten, and of what it quotes.
#[inline(always)]
pub fn replace<P: Packet>(p: &mut P, h: &Headers, quoted: &Headers, edit: &nat::Edit) -> Result<(), Reason> {
    change(p, h, quoted, edit, 0)
}

#[inline(always)]
fn change<P: Packet>(p: &mut P, h: &Headers, quoted: &Headers, edit: &nat::Edit, ages: u8) -> Result<(), Reason> {
    let outer = nat::network(p, h, edit, ages)?;
    let (l3, l4) = (quoted.network_at(), quoted.transport_at());
    // Where it goes in the one it came from in the other.
    let (old, old_port) =
        if edit.source { (&quoted.destination, quoted.destination_port) } else { (&quoted.source, quoted.source_port) };
    let addresses = Change::default().address(old, &edit.address);
    // ICMPv6 covers the outer addresses (RFC 4443 §2.3), and both cover the quote.
    let mut all = if h.family == V4 { addresses } else { outer.address(old, &edit.address) };
    if h.family == V4 {
        let Some(sum) = p.read::<2>(l3 + 10) else { return Err(Reason::Inconsistent) };
        let old_sum = u16::from_ne_bytes(sum);
        let new_sum = addresses.apply(old_sum);
        all = all.half(old_sum, new_sum);
        write(p, l3 + 10, new_sum.to_ne_bytes())?;
        write(p, if edit.source { l3 + 16 } else { l3 + 12 }, edit.address.octets_v4())?;
    } else {
        write(p, if edit.source { l3 + 24 } else { l3 + 8 }, edit.address.octets_v6())?;
    }
    let change = addresses.half(old_port.to_be(), edit.port.to_be());
    all = all.half(old_port.to_be(), edit.port.to_be());
    write(p, if edit.source { l4 + 2 } else { l4 }, edit.port.to_be_bytes())?;
    // The transport's own checksum, where the quote is long enough to have it.
    let at = if quoted.protocol == TCP { l4 + 16 } else { l4 + 6 };
    if matches!(quoted.protocol, TCP | UDP)
        && at + 2 <= h.network_at() + h.length as usize
        && let Some(sum) = p.read::<2>(at)
    {
        let new = if quoted.protocol == TCP {
            change.apply(u16::from_ne_bytes(sum)).to_ne_bytes()
        } else {
            nat::udp(sum, change)
        };
        all = all.half(u16::from_ne_bytes(sum), u16::from_ne_bytes(new));
        write(p, at, new)?;
    }
    let at = h.transport_at() + 2;
    let Some(sum) = p.read::<2>(at) else { return Err(Reason::Inconsistent) };
    write(p, at, all.apply(u16::from_ne_bytes(sum)).to_ne_bytes())
}
