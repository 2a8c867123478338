//! Whose packet is it: which virtual service has its destination, or which real server's reply it is.
//!
//! The classifier's tables are written whole, beside the ones in force, and switched by one store (`Control::half`).
//! Indices inside records count from the start of the table: whoever writes a half knows where it lies.

use crate::hash;
use crate::layout::{
    Address, Control, NO_REAL, Target, V4, V6, control_flags, limits, node_flags, node_port_key, port_key, target_flags,
};
use crate::layout::{SCTP, TCP, UDP};
use crate::reason::Reason;
use crate::tables::{Scan, Step, Tables};
use crate::wire::Headers;

/// Who has an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Party {
    /// The destination's number when it is a VIP or covered by a mark rule; else 0.
    pub destination: u32,
    /// The real server's number, when the source is one under NAT; else 0.
    pub node: u32,
    /// `node_flags`, of the node; or that the destination is a source address of fullnat.
    pub flags: u8,
}

/// In [`Party::flags`]: the destination is covered by a prefix, and has no cell of its own.
const BY_PREFIX: u8 = 1 << 7;

impl Party {
    /// Whether the destination is known by a prefix only.
    #[inline(always)]
    pub fn is_by_prefix(&self) -> bool {
        self.flags & BY_PREFIX != 0
    }

    /// Whether the packet goes to a source address of fullnat.
    #[inline(always)]
    pub fn is_source(&self) -> bool {
        self.flags & node_flags::SOURCE != 0
    }
}

/// What a packet is to the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// From a client to a member of a service; `port` is the real servers' port. `expected`: a member only if the
    /// connection is recorded or announced; `always`: every packet to this port is, whoever sends it.
    Request { service: u32, port: u16, expected: bool, always: bool },
    /// From a real server; `unique` when its port is of one service, VIP and port only.
    Reply { unique: Option<Unique>, outbound: Outbound },
}

/// As whom a real server may open connections from the port of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// [`NO_REAL`]: as itself, which is no business of the director's.
    pub real: u32,
    /// Index into the VIP table.
    pub vip: u32,
}

impl Outbound {
    pub const NONE: Self = Self { real: NO_REAL, vip: 0 };
}

/// The only thing that a real server's port can mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unique {
    pub service: u32,
    /// Of datagrams that are scheduled one by one: the real server. Else [`NO_REAL`].
    pub single: u32,
    /// Index into the VIP table.
    pub vip: u32,
    pub port: u16,
}

impl Unique {
    #[inline(always)]
    fn of(target: &Target) -> Self {
        let single = if target.flags & target_flags::SINGLE != 0 { target.owner } else { NO_REAL };
        Self { service: target.owner, single, vip: target.vip, port: target.port }
    }
}

/// By addresses alone. `None`: nobody's.
#[inline(always)]
pub fn party<T: Tables>(t: &T, control: &Control, h: &Headers) -> Option<Party> {
    let mut party = Party::default();
    if let Some(cell) = address(t, control, h.family, &h.destination) {
        party.destination = cell.destination;
        party.flags = cell.flags & node_flags::SOURCE;
    }
    if party.destination != 0 || party.flags != 0 {
        return Some(party);
    }
    // A real server's reply goes before a prefix of mark rules, which may well hold all clients.
    if let Some(cell) = address(t, control, h.family, &h.source)
        && cell.node != 0
    {
        party.node = cell.node;
        party.flags = cell.flags & node_flags::RANGES;
        t.note(Step::FromServer { node: cell.node });
        return Some(party);
    }
    if control.flags & control_flags::PREFIXES == 0 {
        return None;
    }
    party.destination = t.prefix(control.half, h.family, &h.destination).unwrap_or(0);
    party.flags = BY_PREFIX;
    if party.destination != 0 { Some(party) } else { None }
}

/// The number of the real server at an address, if it is one under NAT.
#[inline(always)]
pub fn node<T: Tables>(t: &T, control: &Control, family: u8, a: &Address) -> Option<u32> {
    match address(t, control, family, a) {
        Some(cell) if cell.node != 0 => Some(cell.node),
        _ => None,
    }
}

/// Whether an address is a VIP's, a real server's under NAT, or a source of fullnat.
#[inline(always)]
pub fn is_known<T: Tables>(t: &T, control: &Control, family: u8, a: &Address) -> bool {
    address(t, control, family, a).is_some()
}

#[inline(always)]
fn address<T: Tables>(t: &T, control: &Control, family: u8, a: &Address) -> Option<crate::layout::AddressCell> {
    debug_assert!(family == V4 || family == V6);
    let start = hash::own_address(control.seed, a);
    let base = control.half.wrapping_mul(control.address_mask.wrapping_add(1));
    let (mut probe, mut reach) = (0, limits::PROBES);
    while probe < limits::PROBES {
        let cell = t.address(base.wrapping_add(start.wrapping_add(probe) & control.address_mask))?;
        if probe == 0 {
            reach = u32::from(cell.reach);
        }
        if cell.address == *a && cell.family == family {
            return Some(cell);
        }
        probe += 1;
        if probe >= reach {
            return None;
        }
    }
    None
}

/// By ports, once the addresses are known.
#[inline(always)]
pub fn class<T: Tables>(t: &T, control: &Control, party: &Party, h: &Headers, interface: u32) -> Result<Class, Reason> {
    if party.destination != 0 {
        let target = member(t, control, party.destination, h)?;
        let always = target.flags & target_flags::CONDITIONAL == 0;
        let target = conditions(t, target, h, interface)?;
        let port = if target.port != 0 { target.port } else { h.destination_port };
        let expected = target.flags & target_flags::EXPECTED != 0;
        t.note(Step::Member { service: target.owner, port, expected });
        return Ok(Class::Request { service: target.owner, port, expected, always });
    }
    match exact(t, control, node_port_key(party.node, h.protocol, h.source_port)) {
        Some(target) if target.flags & target_flags::UNIQUE != 0 => {
            let unique = Unique::of(&target);
            Ok(Class::Reply { unique: Some(unique), outbound: Outbound::NONE })
        }
        Some(target) if target.flags & target_flags::OUTBOUND != 0 => {
            Ok(Class::Reply { unique: None, outbound: Outbound { real: target.owner, vip: target.vip } })
        }
        Some(_) => Ok(Class::Reply { unique: None, outbound: Outbound::NONE }),
        None if party.flags & node_flags::RANGES != 0 => Ok(Class::Reply { unique: None, outbound: Outbound::NONE }),
        None => Err(Reason::NotAReply),
    }
}

/// What a real server's port means, when that is only one thing, or will be.
#[inline(always)]
pub fn unique<T: Tables>(t: &T, control: &Control, node: u32, protocol: u8, port: u16) -> Option<Unique> {
    match exact(t, control, node_port_key(node, protocol, port)) {
        Some(target) if target.flags & (target_flags::UNIQUE | target_flags::UNIQUE_LATER) != 0 => {
            Some(Unique::of(&target))
        }
        _ => None,
    }
}

/// An exact port beats a range beats all; ranges and "all" are already merged into disjoint ranges.
#[inline(always)]
fn member<T: Tables>(t: &T, control: &Control, destination: u32, h: &Headers) -> Result<Target, Reason> {
    if let Some(target) = exact(t, control, port_key(destination, h.protocol, h.destination_port)) {
        return Ok(target);
    }
    let Some(d) = t.destination(destination) else { return Err(Reason::Inconsistent) };
    let (mut low, count) = match h.protocol {
        TCP => (d.ranges, d.tcp),
        UDP => (d.ranges.wrapping_add(d.tcp), d.udp),
        SCTP => (d.ranges.wrapping_add(d.tcp).wrapping_add(d.udp), d.sctp),
        _ => return Err(Reason::OtherProtocol),
    };
    let mut high = low.wrapping_add(count);
    let mut step = 0;
    while step < limits::RANGE_STEPS + 1 && low < high {
        let middle = low + (high - low) / 2;
        let Some(range) = t.range(middle) else { return Err(Reason::Inconsistent) };
        if h.destination_port < range.first {
            high = middle;
        } else if h.destination_port > range.last {
            low = middle + 1;
        } else {
            return Ok(range.target);
        }
        step += 1;
    }
    Err(Reason::NotMember)
}

#[inline(always)]
fn exact<T: Tables>(t: &T, control: &Control, key: u64) -> Option<Target> {
    let start = hash::word(control.seed, key) as u32;
    let base = control.half.wrapping_mul(control.port_mask.wrapping_add(1));
    let mut probe = 0;
    while probe < limits::PROBES {
        let cell = t.port(base.wrapping_add(start.wrapping_add(probe) & control.port_mask))?;
        if cell.key == key {
            return Some(cell.target);
        }
        if cell.key == 0 {
            return None;
        }
        probe += 1;
    }
    None
}

/// Mark rules with a source or an interface: the first that holds decides.
#[inline(always)]
fn conditions<T: Tables>(t: &T, target: Target, h: &Headers, interface: u32) -> Result<Target, Reason> {
    if target.flags & target_flags::CONDITIONAL == 0 {
        return Ok(target);
    }
    let mut first = FirstThatHolds {
        conditions: target.owner,
        source: h.source,
        family: h.family,
        interface,
        holds: false,
        absent: false,
        target: Target::default(),
    };
    t.scan(u32::from(target.conditions).min(limits::CONDITIONS), &mut first);
    if first.holds && !first.absent { Ok(first.target) } else { Err(Reason::NotMember) }
}

/// A scan and not a loop: the verifier would follow each of its ends through all that comes after.
struct FirstThatHolds {
    conditions: u32,
    source: Address,
    family: u8,
    interface: u32,
    holds: bool,
    absent: bool,
    target: Target,
}

impl<T: Tables> Scan<T> for FirstThatHolds {
    #[inline(always)]
    fn visit(&mut self, t: &T, step: u32) -> bool {
        let index = self.conditions.wrapping_add(step);
        let Some(c) = t.condition(index) else { return false };
        let source = c.family == 0 || (c.family == self.family && self.source.masked(&c.mask) == c.from);
        let holds = source && (c.interface == 0 || c.interface == self.interface);
        t.note(Step::Condition { index, holds });
        if holds {
            self.holds = true;
            self.absent = c.absent != 0;
            self.target = c.target;
        }
        !holds
    }
}
