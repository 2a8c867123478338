//! Doors: what a port means, as the classifier has said, kept for the packets that follow; and a way through them for
//! packets as most are.
//!
//! The general way ([`crate::path::fast`]) copes with tags, options, fragments, conditions, all methods, and costs some
//! thousand instructions. Most packets have nothing of that. Those that have no [shortcut], because a
//! table decides about them, or their connection is one of many, go through a door in half as many: what is theirs
//! alone (slot, record, real server, route) is looked up, what is the same for all of a port is not. Whatever the way
//! behind a door does not serve goes the general way.
//!
//! A door says what the classifier says, and holds until that, or anything else, is written ([`Control::written`],
//! [`Processor::generation`]). Services and all that is behind them are read for each packet. Each processor has doors of
//! its own, one for a hash of address and port: the newest stays.

use crate::classify::{self, Class, Outbound, Party, Unique};
use crate::flow;
use crate::forward::{self, Method, Sent, nat, tunnel};
use crate::layout::{Address, Control, Door, Macs, Processor, Real, control_flags, limits, real_flags};
use crate::look::{self, Known};
use crate::packet::Packet;
use crate::path::{Outcome, Turn};
use crate::plain::Plain;
use crate::reason::Reason;
use crate::route;
use crate::schedule;
use crate::shortcut;
use crate::tables::{CellTable, Tables};
use crate::wire::Headers;

/// What a door's address and port are to a packet; see [`Door::port`].
#[derive(Clone, Copy)]
enum Side {
    /// Its destination, which is a service's.
    Service = 1,
    /// Its source, which is a real server's.
    Server = 2,
}

/// A packet that has come, and what it is held against.
struct Arrived<'a> {
    h: &'a Headers,
    control: &'a Control,
    processor: &'a Processor,
    /// As in [`take`].
    plain: Option<&'a Plain>,
}

/// Sends a packet on whose headers are as most are, or leaves it to the kernel; `None`: nothing has been changed. `plain`: it
/// may have a shortcut.
#[inline(always)]
pub fn take<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    processor: &Processor,
    h: &Headers,
    plain: Option<&Plain>,
) -> Option<Turn> {
    let control = &t.control()?;
    let arrived = Arrived { h, control, processor, plain };
    if let Some(door) = find(processor, control, h, Side::Service) {
        processor.foreseen.set(schedule::foresee(control, h.family, &h.source));
        let (service, port) = (door.service.get(), door.server_port.get() as u16);
        return to_server(p, t, &arrived, &Class::Request { service, port, expected: false, always: true });
    }
    // A VIP's port without a door; or a real server's own address.
    if classify::is_known(t, control, h.family, &h.destination) {
        return None;
    }
    if !classify::is_known(t, control, h.family, &h.source) {
        if control.flags & control_flags::PREFIXES != 0 {
            return None;
        }
        processor.count(Reason::NotOurs as u32);
        return Some(Turn::done(Outcome { reason: Reason::NotOurs, interface: 0 }));
    }
    if let Some(door) = find(processor, control, h, Side::Server) {
        processor.foreseen.set(schedule::foresee(control, h.family, &h.destination));
        let unique = Unique {
            service: door.service.get(),
            single: door.single.get(),
            vip: door.vip.get(),
            port: door.server_port.get() as u16,
        };
        return to_client(p, t, &arrived, unique);
    }
    None
}

/// Whether a packet to this address and port was last served without a record: then it has no shortcut. A door that does not
/// hold any more says so as well as any.
#[inline(always)]
pub fn has_no_records(processor: &Processor, h: &Headers) -> bool {
    let (address, words) = key(h, Side::Service);
    match place(processor, address, words) {
        Some(door) => door.port.get() == words && door.server_port.get() & NO_RECORDS != 0,
        None => false,
    }
}

/// In [`Door::server_port`], above the port.
const NO_RECORDS: u32 = 1 << 16;

/// Keeps what the classifier has said of a packet's port, if that is all there is to be said of any packet's.
#[inline(always)]
pub(crate) fn lay<T: Tables>(t: &T, control: &Control, party: &Party, h: &Headers, class: &Class, known: &Known) {
    let (side, service, single, vip, port) = match *class {
        Class::Request { service, port, expected: false, always: true } if !party.is_by_prefix() => {
            (Side::Service, service, 0, 0, port)
        }
        Class::Reply { unique: Some(unique), outbound: Outbound::NONE } => {
            (Side::Server, unique.service, unique.single, unique.vip, unique.port)
        }
        _ => return,
    };
    let (address, words) = key(h, side);
    let Some(processor) = t.processor() else { return };
    let Some(door) = place(processor, address, words) else { return };
    let foundation = foundation(processor, control);
    if is(door, foundation, address, words) || !is_served(t, h, known) {
        return;
    }
    let [a, b] = address.words();
    door.address[0].set(a);
    door.address[1].set(b);
    door.port.set(words);
    door.foundation.set(foundation);
    door.service.set(service);
    door.single.set(single);
    door.vip.set(vip);
    door.server_port.set(u32::from(port) | if known.touch == flow::NO_RECORD { NO_RECORDS } else { 0 });
}

/// Whether the way to this real server is one of those behind doors: who goes another way had better not try the door first.
#[inline(always)]
fn is_served<T: Tables>(t: &T, h: &Headers, known: &Known) -> bool {
    let Some(real) = t.real(known.real) else { return false };
    known.source == 0
        && (matches!(real.method, NAT | DIRECT_ROUTING) || real.method == TUNNEL && real.family == h.family)
}

/// What a door rests on: which classifier is in force (its half, and how many there have been: both, since they are not
/// written at once), and whether the daemon has written anything since.
#[inline(always)]
fn foundation(processor: &Processor, control: &Control) -> u64 {
    u64::from(control.written ^ control.half << 31) | u64::from(processor.generation.get()) << 32
}

#[inline(always)]
fn key(h: &Headers, side: Side) -> (&Address, u64) {
    let (address, port) = match side {
        Side::Service => (&h.destination, h.destination_port),
        Side::Server => (&h.source, h.source_port),
    };
    let words = u64::from(port) | u64::from(h.protocol) << 16 | u64::from(h.family) << 24 | (side as u64) << 32;
    (address, words)
}

/// Not seeded: whoever makes two of a director's own ports meet here makes them slower, as if there were no doors.
#[inline(always)]
fn place<'p>(processor: &'p Processor, address: &Address, words: u64) -> Option<&'p Door> {
    const BITS: u32 = limits::DOORS.trailing_zeros();
    let [a, b] = address.words();
    let hash = (a ^ b ^ words << 24).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BITS);
    processor.doors.get(hash as usize)
}

#[inline(always)]
fn is(door: &Door, foundation: u64, address: &Address, words: u64) -> bool {
    let [a, b] = address.words();
    door.port.get() == words
        && door.address[0].get() == a
        && door.address[1].get() == b
        && door.foundation.get() == foundation
}

#[inline(always)]
fn find<'p>(processor: &'p Processor, control: &Control, h: &Headers, side: Side) -> Option<&'p Door> {
    let (address, words) = key(h, side);
    let door = place(processor, address, words)?;
    if is(door, foundation(processor, control), address, words) { Some(door) } else { None }
}

#[inline(always)]
fn to_server<P: Packet, T: Tables>(p: &mut P, t: &T, arrived: &Arrived, class: &Class) -> Option<Turn> {
    let Arrived { h, control, processor, .. } = arrived;
    let known = look::known(t, control, h, class, Some(&processor.foreseen))?;
    let real = t.real(known.real)?;
    let is_ready = real.flags & (real_flags::RESOLVED | real_flags::DOWN) == real_flags::RESOLVED;
    if !is_ready || known.source != 0 || h.ttl <= 1 || (real.mtu != 0 && h.length > u32::from(real.mtu)) {
        return None;
    }
    touch(t, arrived, &known)?;
    // Fewer methods to follow for the verifier than `forward` has.
    let (reason, done) = match real.method {
        NAT => {
            let edit = nat::Edit { source: false, address: real.address, port: known.way.port };
            (Reason::Nat, rewrite(p, arrived, &edit))
        }
        DIRECT_ROUTING => {
            let done = match arrived.plain {
                Some(plain) => plain.age(p),
                None => forward::age(p, h),
            };
            (Reason::DirectRouting, done)
        }
        TUNNEL if real.family == h.family => {
            let real = Real { method: TUNNEL, family: h.family, ..real };
            if h.length > tunnel::inner_mtu(&real) {
                return None;
            }
            (Reason::Tunnel, tunnel::encapsulate(p, h, &real))
        }
        _ => return None,
    };
    t.count_at(t.traffic(known.real), h.length, false);
    send(p, processor, done, Sent { reason, interface: real.interface }, real.macs)
}

#[inline(always)]
fn to_client<P: Packet, T: Tables>(p: &mut P, t: &T, arrived: &Arrived, unique: Unique) -> Option<Turn> {
    let Arrived { h, control, processor, .. } = arrived;
    let known = look::known_reply(t, control, h, Some(unique), Some(&processor.foreseen))?;
    let next = route::recalled(t, control, processor, h.family, &h.destination)?;
    if h.ttl <= 1 {
        return None;
    }
    touch(t, arrived, &known)?;
    let done = rewrite(p, arrived, &nat::Edit { source: true, address: known.way.vip, port: known.way.port });
    t.count_at(t.traffic(known.real), h.length, true);
    send(p, processor, done, Sent { reason: Reason::Reply, interface: next.interface }, next.macs)
}

#[inline(always)]
fn rewrite<P: Packet>(p: &mut P, arrived: &Arrived, edit: &nat::Edit) -> Result<(), Reason> {
    match arrived.plain {
        Some(plain) => plain.rewrite(p, edit),
        None => nat::rewrite(p, arrived.h, edit),
    }
}

/// The link header, the last of what is rewritten; `done`: what has become of the rest.
#[inline(always)]
fn send<P: Packet>(p: &mut P, processor: &Processor, done: Result<(), Reason>, sent: Sent, macs: Macs) -> Option<Turn> {
    let done = match done {
        Ok(()) => forward::macs(p, macs),
        Err(reason) => Err(reason),
    };
    if let Err(reason) = done {
        processor.count(reason as u32);
        return Some(Turn::done(Outcome { reason, interface: 0 }));
    }
    processor.count(sent.reason as u32);
    Some(Turn::sent(Outcome { reason: sent.reason, interface: sent.interface }))
}

/// Notes that the connection's record was asked, if one was. `None`: it is so busy that its packet shall lay a shortcut.
#[inline(always)]
fn touch<T: Tables>(t: &T, arrived: &Arrived, known: &Known) -> Option<()> {
    if known.touch == flow::NO_RECORD {
        return Some(());
    }
    let cell = t.cell(CellTable::Flows, known.touch)?;
    let now = t.now();
    if cell.seen.get() == now
        && arrived.plain.is_some_and(|plain| shortcut::is_there_room(arrived.processor, plain, now))
    {
        return None;
    }
    flow::touch(cell, now);
    Some(())
}

const NAT: u8 = Method::Nat as u8;
const DIRECT_ROUTING: u8 = Method::DirectRouting as u8;
const TUNNEL: u8 = Method::Tunnel as u8;
