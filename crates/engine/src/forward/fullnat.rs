//! Fullnat: NAT that replaces the client's address and port, too, by a *source*: an address of the director's own and a port
//! of it. So the real server's answers come back to the director, wherever the server's default route leads.
//!
//! A connection has two records. The one that NAT has as well knows the client, and in the upper half of its state
//! the source ([`Source`]). The *reverse* one knows the connection as the real server sees it: its "client" is the source,
//! its "VIP" the client. A reply finds the reverse record by its own addresses and ports, there the client, and so the
//! other record; from then on it is a reply under NAT. Everything that a connection has (state, age, load) is in the first
//! record; the second one lives as long as the first.
//!
//! No two connections may have the same source towards the same port of the same real server: the real server could
//! not tell them apart, nor could its replies be. [`borrow`] sees to that.

use super::{Sent, nat, to_client};
use crate::commit;
use crate::decide::{self, Change, ChangeKind, Decision, To, Way};
use crate::flow::{self, Found, FromServer, Key, NO_RECORD, Place, Record, WhenFull};
use crate::fragment;
use crate::hash;
use crate::layout::{Address, Control, Real, TCP, UDP, limits, real_flags, state_bits};
use crate::packet::Packet;
use crate::path::Work;
use crate::rate;
use crate::reason::Reason;
use crate::tables::{CellTable, Scan, Step, Tables};
use crate::wire::{self, Headers};

/// What the real server takes for the client, as a record holds it: the address's number in the upper half, the port in the
/// lower. No source is 0.
pub type Source = u32;

/// The first port of sources: those below are services' (RFC 6335 §6).
pub const FIRST_PORT: u16 = 1024;
const PORTS: u32 = (1 << 16) - FIRST_PORT as u32;

#[inline(always)]
fn source(number: u32, port: u16) -> Source {
    number << 16 | u32::from(port)
}

/// The source in the state of a connection's record; 0: it has none.
#[inline(always)]
pub fn of_state(state: u64) -> Source {
    if state & state_bits::FTP != 0 { 0 } else { (state >> state_bits::SOURCE_SHIFT) as u32 }
}

/// The other end of a packet, the one that NAT leaves alone: what it becomes under fullnat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// False: it stays as it is.
    pub is_there: bool,
    /// To a real server the source, to a client the client.
    pub address: Address,
    pub port: u16,
}

impl Peer {
    pub const NONE: Self = Self { is_there: false, address: Address::NONE, port: 0 };

    #[inline(always)]
    pub fn client(address: Address, port: u16) -> Self {
        Self { is_there: true, address, port }
    }

    /// Of a source; that of none is nobody.
    #[inline(always)]
    pub fn source<T: Tables>(t: &T, source: Source) -> Self {
        match t.source(source >> 16) {
            Some(address) if source != 0 => Self { is_there: true, address, port: source as u16 },
            _ => Self::NONE,
        }
    }

    /// How a packet that goes there is rewritten.
    #[inline(always)]
    pub fn edit(&self, to: To) -> nat::Edit {
        nat::Edit { source: to == To::Server, address: self.address, port: self.port }
    }
}

/// Whether the packet's records are more than what [`commit`] sees to: a new connection under fullnat, one whose handshake
/// is finished, or another try of one that has begun.
#[inline(always)]
pub fn concerns<T: Tables>(t: &T, h: &Headers, d: &Decision) -> bool {
    match d.change.kind {
        ChangeKind::Open if d.way.to == To::Server => match t.real(d.real_index) {
            Some(real) => real.flags & real_flags::FULL != 0,
            None => false,
        },
        ChangeKind::Promote => d.source != 0,
        ChangeKind::Touch => d.source != 0 && h.opens() && d.change.table == CellTable::HalfOpen,
        _ => false,
    }
}

/// Sees to the reverse record: makes it, with a source for the connection, or moves it to where the other one goes.
#[inline(always)]
pub fn borrow<T: Tables>(t: &T, work: &mut Work) -> Result<(), Reason> {
    let Some(control) = t.control() else { return Err(Reason::Inconsistent) };
    let Some(real) = t.real(work.decision.real_index) else { return Err(Reason::Inconsistent) };
    let h = &work.headers;
    if h.protocol != TCP && h.protocol != UDP {
        return Err(Reason::OtherProtocol);
    }
    let is_new = work.decision.change.kind == ChangeKind::Open;
    let mut lent = work.decision.source;
    if is_new {
        if let Some(settings) = t.service(work.decision.service)
            && !rate::admits(t, &settings, work.now)
        {
            return Err(Reason::RateLimited);
        }
        lent = free_source(t, &control, h, &real, work.decision.service, work.decision.way.port)?;
        work.decision.source = lent;
        work.decision.change.to |= u64::from(lent) << state_bits::SOURCE_SHIFT;
    }
    let Some(address) = t.source(lent >> 16) else { return Err(Reason::Inconsistent) };
    let port = work.decision.way.port;
    let client = (&address, lent as u16);
    let m = FromServer::of(h.family, h.protocol, client, (&real.address, port), control.seed).reverse();
    let key = Key {
        client: address,
        vip: h.source,
        client_port: lent as u16,
        vip_port: h.source_port,
        protocol: h.protocol,
        family: h.family,
    };
    let state = u64::from(port) | state_bits::REVERSE | u64::from(lent) << state_bits::SOURCE_SHIFT;
    let (real, service) = (work.decision.real_index, work.decision.service);
    let record = Record { real, service, state, seen: work.now };
    // As the other one: see [`commit`].
    let promoted = work.decision.change.kind == ChangeKind::Promote;
    let mut former = NO_RECORD;
    if !is_new {
        // Where the other one has found no room among the flows, this one may have.
        let (own, other) = flow::only(t, &control, CellTable::Flows, &m, &key);
        if other {
            return Err(Reason::NoSource);
        }
        if own != NO_RECORD {
            return Ok(());
        }
        let found = flow::find(t, &control, CellTable::HalfOpen, &m);
        if work.decision.change.kind == ChangeKind::Touch && found.exists() {
            return Ok(());
        }
        former = found.index;
    }
    let table = if promoted { CellTable::Flows } else { CellTable::HalfOpen };
    let when_full = if table == CellTable::HalfOpen { WhenFull::Evict } else { WhenFull::Refuse };
    let inserted = flow::insert(t, &control, table, &key, &record, when_full);
    match inserted.place {
        Place::Free => {}
        Place::Evicted => commit::gone(t, inserted.real, inserted.state),
        // It goes on as a half-open one: so does the other one, then, or both are found where they are.
        Place::Full if promoted => return Ok(()),
        Place::Full => return Err(Reason::TableFull),
    }
    if former != NO_RECORD {
        commit::release(t, CellTable::HalfOpen, former);
    }
    // Another processor may have lent the same source to another connection at the same time. Who sees the other one's
    // record gives way; both may, but not none.
    let (own, other) = flow::only(t, &control, table, &m, &key);
    if other {
        commit::release(t, table, own);
        return Err(Reason::NoSource);
    }
    Ok(())
}

/// A source that no connection to this port of this real server has.
#[inline(always)]
fn free_source<T: Tables>(
    t: &T,
    control: &Control,
    h: &Headers,
    real: &Real,
    service: u32,
    port: u16,
) -> Result<Source, Reason> {
    let Some(settings) = t.service(service) else { return Err(Reason::Inconsistent) };
    let ports = u64::from(h.source_port) | u64::from(port) << 16 | u64::from(h.protocol) << 32;
    let mut free = Free {
        seed: control.seed,
        start: hash::address(control.seed ^ u64::from(real.address.last()), &h.source, ports),
        first: settings.sources,
        count: settings.sources_len,
        family: h.family,
        protocol: h.protocol,
        server: real.address,
        server_port: port,
        source: 0,
    };
    if free.count != 0 {
        t.scan(limits::SOURCE_TRIES, &mut free);
    }
    if free.source != 0 { Ok(free.source) } else { Err(Reason::NoSource) }
}

/// Tries sources, each by another hash, so that those in use do not lie side by side.
struct Free {
    seed: u64,
    start: u64,
    first: u32,
    count: u32,
    family: u8,
    protocol: u8,
    server: Address,
    server_port: u16,
    source: Source,
}

impl<T: Tables> Scan<T> for Free {
    #[inline(always)]
    fn visit(&mut self, t: &T, step: u32) -> bool {
        let hash = hash::word(self.start, u64::from(step));
        let number = self.first.wrapping_add(hash::reduce(hash as u32, self.count)) & (limits::SOURCES - 1);
        let port = FIRST_PORT.wrapping_add(hash::reduce((hash >> 32) as u32, PORTS) as u16);
        let (Some(control), Some(address)) = (t.control(), t.source(number)) else { return false };
        let (client, server) = ((&address, port), (&self.server, self.server_port));
        let m = FromServer::of(self.family, self.protocol, client, server, self.seed).reverse();
        let mut taken = flow::find(t, &control, CellTable::Flows, &m).exists();
        if !taken {
            taken = flow::find(t, &control, CellTable::HalfOpen, &m).exists();
        }
        t.note(Step::Source { number, port, free: !taken });
        if !taken {
            self.source = source(number, port);
        }
        taken
    }
}

/// The second half of a request: NAT has rewritten the destination, and here the source is.
#[inline(always)]
pub fn hide<P: Packet, T: Tables>(p: &mut P, t: &T, h: &Headers, source: Source) -> Result<(), Reason> {
    let Some(address) = t.source(source >> 16) else { return Err(Reason::Inconsistent) };
    nat::replace(p, h, &nat::Edit { source: true, address, port: source as u16 })
}

/// Reads a packet to a source address.
#[inline(always)]
pub fn read<P: Packet>(p: &P, h: &mut Headers) -> Result<(), Reason> {
    *h = wire::network(p)?;
    if wire::has_extensions(h) {
        wire::extensions(p, h)?;
    }
    wire::transport(p, h)
}

/// A real server's reply, if there is such a connection.
#[inline(always)]
pub fn bring_back<P: Packet, T: Tables>(p: &mut P, t: &mut T, h: &Headers) -> Result<Sent, Reason> {
    let Some(control) = t.control() else { return Err(Reason::Inconsistent) };
    let (table, reverse) = find(t, &control, &FromServer::new(h, control.seed).reverse());
    if !reverse.exists() {
        return Err(Reason::NotAReply);
    }
    let (client, port) = (reverse.vip, reverse.vip_port);
    let m = FromServer::of(h.family, h.protocol, (&client, port), (&h.source, h.source_port), control.seed);
    let now = t.now();
    if let Some(cell) = t.cell(table, reverse.index) {
        flow::touch(cell, now);
    }
    let (table, found) = find(t, &control, &m.with_source(of_state(reverse.state)));
    if !found.exists() {
        return Err(Reason::NotAReply);
    }
    t.note(Step::Flow { table, real: found.real, state: found.state });
    t.note(Step::Back { real: found.real, client, port, vip: found.vip, vip_port: found.vip_port, family: h.family });
    let to = found.state | decide::closing(h, state_bits::FIN_SERVER);
    let mut d = Decision::to_server(found.service, found.real, 0, Change::NONE, false);
    d.change = Change::update(table, found.index, found.state, to);
    commit::update(t, &control, h, &d, now);
    let way = Way::to_client(found.vip, found.vip_port);
    if h.fragment {
        fragment::remember(t, &control, h, found.real, &way, &Peer::client(client, port), now);
    }
    // For routes and neighbours the packet goes to the client already.
    let sent = to_client(p, t, &Headers { destination: client, destination_port: port, ..*h }, &way, &nat::Plain)?;
    nat::replace(p, h, &nat::Edit { source: false, address: client, port })?;
    t.count_out(found.real, h.length);
    Ok(sent)
}

/// Whose connection a packet of a real server's to a source is, without a trace: its record, and its client.
#[inline(always)]
pub fn whose<T: Tables>(t: &T, control: &Control, h: &Headers) -> (Found, Peer) {
    let (_, reverse) = find(t, control, &FromServer::new(h, control.seed).reverse());
    if !reverse.exists() {
        return (Found::NOTHING, Peer::NONE);
    }
    let (client, port) = (reverse.vip, reverse.vip_port);
    let m = FromServer::of(h.family, h.protocol, (&client, port), (&h.source, h.source_port), control.seed);
    let (table, found) = find(t, control, &m.with_source(of_state(reverse.state)));
    if found.exists() {
        t.note(Step::Flow { table, real: found.real, state: found.state });
    }
    (found, Peer::client(client, port))
}

/// Established, or half-open.
#[inline(always)]
fn find<T: Tables>(t: &T, control: &Control, m: &FromServer) -> (CellTable, Found) {
    let found = flow::find(t, control, CellTable::Flows, m);
    if found.exists() {
        return (CellTable::Flows, found);
    }
    (CellTable::HalfOpen, flow::find(t, control, CellTable::HalfOpen, m))
}

/// Whether the connection of a reverse record is there.
pub fn has_connection<T: Tables>(t: &T, key: &Key, record: &Record) -> bool {
    let (Some(control), Some(real)) = (t.control(), t.real(record.real)) else { return false };
    let server = (&real.address, record.state as u16);
    let m = FromServer::of(key.family, key.protocol, (&key.vip, key.vip_port), server, control.seed);
    let m = m.with_source(of_state(record.state));
    flow::find(t, &control, CellTable::Flows, &m).exists() || flow::find(t, &control, CellTable::HalfOpen, &m).exists()
}
