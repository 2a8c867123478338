//! The shortest way: a packet of a busy connection goes where the connection's packet before it went, without another look
//! at who has the addresses and what the ports mean.
//!
//! A shortcut says what becomes of the packets of one connection, in one direction, from one interface: which bytes
//! change, and where the frame leaves. It holds as long as nothing has changed on which it rests:
//!
//! - the connection's record, told by its stamp and its state;
//! - what the daemon has written, told by [`Processor::generation`];
//! - neighbours and the kernel's routes, which change without anybody's word: so no longer than [`TICKS`].
//!
//! Whatever else a packet is (options, fragments, tags, IPv6, a SYN, FIN or RST, too long, about to expire) goes the other
//! ways; so does everything that has no record. Each processor has shortcuts of its own, one for a hash of addresses and
//! ports: the newest one stays. Only connections of which two packets came within a tick get one, so that many slow ones
//! do not pay for what they will not use.

use crate::flow::{self, NO_RECORD};
use crate::forward::{self, tunnel};
use crate::layout::{Address, Cell, Processor, Shortcut, Sight, UDP, V4, limits};
use crate::packet::{Front, FrontKind, Packet};
use crate::path::{Outcome, Turn};
use crate::plain::{Plain, SEEN_AT};
use crate::reason::Reason;
use crate::tables::{CellTable, Tables};
use crate::wire::checksum::Change;
use crate::wire::emit::{self, IPV4_HEADER, Ip};
use crate::wire::{ETHERNET, ETHERTYPE_IPV4, IPPROTO_IPIP, put_word, word};

/// How long a shortcut holds: at 250 jiffies a second (`CONFIG_HZ`) half a second.
pub const TICKS: u32 = 32;

const NAT: u32 = Reason::Nat as u32;
const DIRECT_ROUTING: u32 = Reason::DirectRouting as u32;
const TUNNEL: u32 = Reason::Tunnel as u32;
const REPLY: u32 = Reason::Reply as u32;

/// Sends the packet the shortest way, if there is one; `None`: nothing has been changed, and the processor's [`Sight`]
/// says what was seen of it.
#[inline(always)]
pub fn take<P: Packet, T: Tables>(p: &mut P, t: &T, processor: &Processor, plain: &Plain) -> Option<Turn> {
    let s = processor.shortcuts.get(place(plain.addresses(), plain.flow()))?;
    if !is_right(p, t, plain, processor, s) {
        return None;
    }
    if let Err(reason) = rewrite(p, plain, s) {
        processor.count(reason as u32);
        return Some(Turn::done(Outcome { reason, interface: 0 }));
    }
    let reason = s.reason.get();
    processor.count(reason);
    t.count_at(s.traffic.get(), plain.length(), reason == REPLY);
    // One of those it is.
    Some(Turn::sent(Outcome { reason: sent(reason).unwrap_or(Reason::DirectRouting), interface: s.leaves.get() }))
}

/// No shortcut can be laid for this packet.
#[inline(always)]
pub fn see_nothing(processor: &Processor) {
    processor.sight.addresses.set(0);
}

/// Notes what packet it is, if a shortcut can be laid for it.
#[inline(always)]
pub fn see<P: Packet>(p: &P, processor: &Processor, plain: &Plain, now: u32) {
    if !is_there_room(processor, plain, now) {
        return see_nothing(processor);
    }
    let Processor { sight, generation, .. } = processor;
    sight.addresses.set(plain.addresses());
    sight.flow.set(plain.flow());
    sight.arrives.set(p.interface());
    sight.generation.set(generation.get());
    sight.record.set(NO_RECORD);
}

/// Whether a shortcut can be laid for this packet: where another connection has one that holds, it stays.
#[inline(always)]
pub fn is_there_room(processor: &Processor, plain: &Plain, now: u32) -> bool {
    let Some(s) = processor.shortcuts.get(place(plain.addresses(), plain.flow())) else { return false };
    let is_own = s.addresses.get() == plain.addresses() && s.flow.get() == plain.flow();
    let holds = s.generation.get() == processor.generation.get() && s.until.get().wrapping_sub(now) <= TICKS;
    is_own || !holds
}

/// Whether the shortcut is this packet's, and holds. The connection's record is touched then.
#[inline(always)]
fn is_right<P: Packet, T: Tables>(p: &P, t: &T, plain: &Plain, processor: &Processor, s: &Shortcut) -> bool {
    if s.addresses.get() != plain.addresses()
        || s.flow.get() != plain.flow()
        || s.generation.get() != processor.generation.get()
        || s.arrives.get() != p.interface()
        || plain.length() > s.mtu.get()
        || !p.reaches(ETHERNET + plain.length() as usize)
    {
        return false;
    }
    let Some(cell) = t.cell(CellTable::Flows, s.record.get()) else { return false };
    let now = t.now();
    if cell.stamp.get() != s.stamp.get()
        || cell.state.get() as u32 != s.state.get()
        || s.until.get().wrapping_sub(now) > TICKS
    {
        return false;
    }
    flow::touch(cell, now);
    true
}

#[inline(always)]
fn rewrite<P: Packet>(p: &mut P, plain: &Plain, s: &Shortcut) -> Result<(), Reason> {
    let header_change = s.header_change.get();
    let reason = s.reason.get();
    if reason == DIRECT_ROUTING {
        forward::write(p, ETHERNET + 8, plain.aged(header_change))?;
    } else if reason == TUNNEL {
        forward::write(p, ETHERNET + 8, plain.aged(header_change))?;
        wrap(p, plain, s)?;
    } else {
        let new = [s.source.get(), s.destination.get(), s.ports.get()];
        plain.readdress(p, new, header_change, s.transport_change.get())?;
    }
    let mut link = [0; 12];
    put_word(&mut link, 0, s.macs[0].get());
    put_word(&mut link, 4, s.macs[1].get());
    put_word(&mut link, 8, s.macs[2].get());
    forward::write(p, 0, link)
}

/// The outer header of a tunnel of IPv4 in IPv4, and the ethertype before it. The MAC addresses are still to come.
#[inline(always)]
fn wrap<P: Packet>(p: &mut P, plain: &Plain, s: &Shortcut) -> Result<(), Reason> {
    let front = Front { bytes: tunnel::OUTER_V4, family: V4, kind: FrontKind::IpInIp };
    if !p.grow(ETHERNET, &front) {
        return Err(Reason::NoRoom);
    }
    let tos = plain.tos();
    let total = (plain.length() as u16).wrapping_add(IPV4_HEADER as u16).to_be();
    let sum = s.outer_sum.get() + u32::from(u16::from_ne_bytes([0, tos])) + u32::from(total);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let outer = outer(s.outer_source.get(), s.outer_destination.get());
    let mut b = [0; 24];
    [b[2], b[3]] = ETHERTYPE_IPV4.to_be_bytes();
    b[4..].copy_from_slice(&outer);
    b[5] = tos;
    [b[6], b[7]] = total.to_ne_bytes();
    [b[14], b[15]] = (!(sum as u16)).to_ne_bytes();
    // The bytes in front are of the MAC addresses.
    forward::write(p, SEEN_AT, b)
}

/// The outer header of a packet of no length.
#[inline(always)]
fn outer(source: u32, destination: u32) -> [u8; IPV4_HEADER] {
    let payload = 0u16.wrapping_sub(IPV4_HEADER as u16);
    let (source, destination) = (Address::of_last(source), Address::of_last(destination));
    emit::v4(&Ip { source, destination, tos: 0, protocol: IPPROTO_IPIP, payload })
}

/// Notes which record has told a packet's way, before that is touched. Only busy connections are worth a shortcut.
#[inline(always)]
pub fn note<T: Tables>(t: &T, cell: &Cell, record: u32, real: u32, now: u32) {
    if cell.seen.get() == now
        && let Some(Processor { sight, .. }) = t.processor()
    {
        sight.record.set(record);
        sight.real.set(real);
    }
}

/// Notes what has become of a packet; whether there may be a shortcut for those that follow it.
#[inline(always)]
pub fn is_wanted<T: Tables>(t: &T, outcome: &Outcome) -> bool {
    if sent(outcome.reason as u32).is_none() {
        return false;
    }
    let Some(Processor { sight, .. }) = t.processor() else { return false };
    sight.reason.set(outcome.reason as u32);
    sight.leaves.set(outcome.interface);
    sight.record.get() != NO_RECORD && sight.addresses.get() != 0
}

/// Makes a shortcut of what has just become of a packet: the processor's [`Sight`] says what it was, the frame what it is.
#[inline(always)]
pub fn remember<P: Packet, T: Tables>(p: &P, t: &T) -> Option<Outcome> {
    let processor = t.processor()?;
    let Sight { reason, leaves, .. } = &processor.sight;
    let outcome = Outcome { reason: sent(reason.get())?, interface: leaves.get() };
    let _ = make(p, t, processor, outcome.reason);
    Some(outcome)
}

#[inline(always)]
fn make<P: Packet, T: Tables>(p: &P, t: &T, processor: &Processor, reason: Reason) -> Option<()> {
    let sight = &processor.sight;
    let (addresses, flow, record, index) =
        (sight.addresses.get(), sight.flow.get(), sight.record.get(), sight.real.get());
    let (source, destination, ports) = (addresses as u32, (addresses >> 32) as u32, flow as u32);
    let protocol = (flow >> 32) as u8;
    // The stamp first: should the record be another connection's by now, the shortcut will hold for nobody.
    let cell = t.cell(CellTable::Flows, record)?;
    let (stamp, owner, state) = (cell.stamp.get(), cell.owner.get(), cell.state.get());
    let [p0, p1, p2, p3] = ports.to_ne_bytes();
    let (client, client_port) = if reason == Reason::Reply {
        (destination, u16::from_be_bytes([p2, p3]))
    } else {
        (source, u16::from_be_bytes([p0, p1]))
    };
    let client = Address::of_last(client);
    let same = cell.key[0].get() as u16 == client_port && cell.key[2].get() == client.words()[1];
    let (service, real) = (t.service((owner >> 32) as u32)?, t.real(index)?);
    if !same || owner as u32 != index {
        return None;
    }
    let link = p.read::<12>(0)?;
    let after = p.read::<12>(ETHERNET + 12)?;
    let (mut new_source, mut new_destination, mut new_ports) = (source, destination, ports);
    if reason == Reason::Tunnel {
        let [_, protocol] = p.read::<2>(ETHERNET + 8)?;
        // Other tunnels have more between the headers.
        if p.read::<2>(12)? != ETHERTYPE_IPV4.to_be_bytes() || protocol != IPPROTO_IPIP {
            return None;
        }
    } else {
        (new_source, new_destination, new_ports) = (word(&after, 0), word(&after, 4), word(&after, 8));
    }
    let by_addresses = Change::default().word(source, new_source).word(destination, new_destination);
    let [_, _, _, _, _, _, _, _, _, _, c0, c1, ..] = outer(word(&after, 0), word(&after, 4));
    let s = processor.shortcuts.get(place(addresses, flow))?;
    s.addresses.set(addresses);
    s.flow.set(flow);
    s.arrives.set(sight.arrives.get());
    s.generation.set(sight.generation.get());
    s.record.set(record);
    s.stamp.set(stamp);
    s.state.set(state as u32);
    // Its record has been touched by now: until then it is not too old.
    s.until.set(t.now().wrapping_add(if protocol == UDP { service.udp.min(TICKS) } else { TICKS }));
    s.mtu.set(if reason == Reason::Reply { u32::MAX } else { forward::largest(&real) });
    s.reason.set(reason as u32);
    s.traffic.set(t.traffic(index));
    s.leaves.set(sight.leaves.get());
    s.macs[0].set(word(&link, 0));
    s.macs[1].set(word(&link, 4));
    s.macs[2].set(word(&link, 8));
    s.source.set(new_source);
    s.destination.set(new_destination);
    s.ports.set(new_ports);
    s.header_change.set(by_addresses.and(Change::aging()).folded());
    s.transport_change.set(by_addresses.word(ports, new_ports).folded());
    s.outer_source.set(word(&after, 0));
    s.outer_destination.set(word(&after, 4));
    s.outer_sum.set(u32::from(!u16::from_ne_bytes([c0, c1])));
    Some(())
}

/// The ways that have shortcuts.
#[inline(always)]
fn sent(reason: u32) -> Option<Reason> {
    match reason {
        NAT => Some(Reason::Nat),
        DIRECT_ROUTING => Some(Reason::DirectRouting),
        TUNNEL => Some(Reason::Tunnel),
        REPLY => Some(Reason::Reply),
        _ => None,
    }
}

/// Not seeded: whoever makes two connections meet here makes them slower, as if there were no shortcuts.
#[inline(always)]
fn place(addresses: u64, flow: u64) -> usize {
    const BITS: u32 = limits::SHORTCUTS.trailing_zeros();
    ((addresses ^ flow << 16).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BITS)) as usize
}
