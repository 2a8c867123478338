//! Connections and persistence as operators see them: listed in pieces, and ended one by one. Packets and the sweep go on
//! meanwhile, so a list is of no single moment: what comes during it may be missing, what ends may still be in it.

use crate::classifier;
use crate::memory::Memory;
use crate::view::View;
use ipnet::IpNet;
use marca_engine::commit;
use marca_engine::flow::{self, FromClient, Key, Record};
use marca_engine::layout::{Cell, NOBODY, Real, UDP, real_flags, service_flags, state_bits};
use marca_engine::persist;
use marca_engine::tables::{CellTable, Tables};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where it is, for [`end`].
    pub place: u64,
    /// IANA's number.
    pub protocol: u8,
    pub client: SocketAddr,
    /// As the client sees it.
    pub vip: SocketAddr,
    pub server_port: u16,
    pub service: u32,
    pub real: u32,
    pub state: FlowState,
    /// Ticks since a packet looked it up.
    pub idle: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// The handshake is not finished, or no second datagram has come.
    HalfOpen,
    Established,
    /// One side at least has said that it ends.
    Closing,
    Reset,
}

impl FlowState {
    pub fn name(self) -> &'static str {
        match self {
            FlowState::HalfOpen => "half-open",
            FlowState::Established => "established",
            FlowState::Closing => "closing",
            FlowState::Reset => "reset",
        }
    }

    fn of(table: CellTable, state: u64) -> Self {
        match state {
            _ if state & state_bits::RESET != 0 => FlowState::Reset,
            _ if state & state_bits::ENDING != 0 => FlowState::Closing,
            _ if table == CellTable::HalfOpen => FlowState::HalfOpen,
            _ => FlowState::Established,
        }
    }
}

/// Which records are meant; nothing set: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub client: Option<IpNet>,
    pub services: Option<HashSet<u32>>,
    pub reals: Option<HashSet<u32>>,
}

impl Filter {
    fn takes(&self, client: IpAddr, record: &Record) -> bool {
        self.client.is_none_or(|net| net.contains(&client))
            && self.services.as_ref().is_none_or(|services| services.contains(&record.service))
            && self.reals.as_ref().is_none_or(|reals| reals.contains(&record.real))
    }
}

/// How far one piece goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where the last one has ended; 0 at first.
    pub from: u64,
    /// Records that are looked at, and found, at the most.
    pub looks: u64,
    pub most: usize,
}

/// Connections from a place on; and where to go on, if that was not all. `now` in ticks.
pub fn flows(memory: &Memory, now: u32, piece: Piece, filter: &Filter) -> (Vec<Flow>, Option<u64>) {
    let tables = [CellTable::Flows, CellTable::HalfOpen];
    walk(memory, tables, piece, |place, table, key, record| {
        let not = state_bits::TEMPLATE | state_bits::REVERSE | state_bits::ANNOUNCED;
        let client = classifier::ip(key.family, &key.client);
        if record.state & not != 0 || record.real == NOBODY || !filter.takes(client, record) {
            return None;
        }
        Some(Flow {
            place,
            protocol: key.protocol,
            client: SocketAddr::new(client, key.client_port),
            vip: SocketAddr::new(classifier::ip(key.family, &key.vip), key.vip_port),
            server_port: record.state as u16,
            service: record.service,
            real: record.real,
            state: FlowState::of(table, record.state),
            idle: flow::idle(now, record.seen),
        })
    })
}

/// What has become of a connection that was to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its next segment is one of no connection, or of one that is over; its next datagram the first of another flow.
    Yes,
    /// It had ended before.
    Before,
    /// It goes on: a client's straight to the real server, past the VIP, which is no business of the director's.
    PastVip,
}

/// Ends a connection that was listed; `now` in ticks. One whose packets the service's table sends to a real server whether
/// there is a record or not keeps its record, which says that it has ended, until its client has asked.
pub fn end(memory: &Memory, now: u32, listed: &Flow) -> Ended {
    let view = View::new(memory, 0);
    let (table, index) = table_of(memory, [CellTable::Flows, CellTable::HalfOpen], listed.place);
    let Some((key, record)) = view.cell(table, index).and_then(flow::read) else { return Ended::Before };
    let is_it = classifier::ip(key.family, &key.client) == listed.client.ip()
        && (key.client_port, key.vip_port, key.protocol) == (listed.client.port(), listed.vip.port(), listed.protocol)
        && record.real == listed.real;
    if !is_it {
        return Ended::Before;
    }
    let flags = view.service(record.service).map_or(0, |service| service.flags);
    if record.state & state_bits::DIRECT != 0 {
        return Ended::PastVip;
    }
    if flags & (service_flags::TABLE | service_flags::RECORDED) != service_flags::TABLE || key.protocol == UDP {
        commit::release(&view, table, index);
        return Ended::Yes;
    }
    // What is nobody's has failed, as packets see it.
    memory.reals.set(NOBODY, &Real { flags: real_flags::DOWN, ..Real::default() });
    if !commit::disown(&view, &memory.control(), (table, index), &key, &record, now) {
        return Ended::Before;
    }
    // Its owner is not what a shortcut is held against.
    memory.outdate_shortcuts();
    Ended::Yes
}

/// That a client stays with a real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Masked, as the service's persistence does.
    pub client: IpAddr,
    pub service: u32,
    pub real: u32,
    /// Ticks until it is over, unless the client comes again; 0: it is, but the client may have connections that hold it.
    /// None: the client has not proved to be there.
    pub left: Option<u32>,
}

/// Persistence from a place on; and where to go on, if that was not all.
pub fn templates(memory: &Memory, now: u32, piece: Piece, filter: &Filter) -> (Vec<Template>, Option<u64>) {
    walk(memory, [CellTable::Templates, CellTable::HalfOpen], piece, |_, table, key, record| {
        let waits = table == CellTable::HalfOpen;
        let client = classifier::ip(key.family, &key.client);
        // One client is meant by the address that it has.
        let one = filter.client.filter(|net| net.prefix_len() == net.max_prefix_len()).map(|net| net.addr());
        let is_one = one.is_some_and(|one| masked(memory, record.service, one) == Some(client));
        let filter = if is_one { &Filter { client: None, ..filter.clone() } } else { filter };
        if (waits && record.state & state_bits::TEMPLATE == 0) || !filter.takes(client, record) {
            return None;
        }
        let left = record.seen.wrapping_sub(now);
        let left = if left < u32::MAX / 2 { left } else { 0 };
        Some(Template { client, service: record.service, real: record.real, left: (!waits).then_some(left) })
    })
}

/// Forgets that this client stays with a real server of this service; whether it did.
pub fn unpin(memory: &Memory, service: u32, client: IpAddr) -> bool {
    let view = View::new(memory, 0);
    let Some(settings) = view.service(service) else { return false };
    let (family, address) = classifier::address(client);
    let key = persist::key(&settings, family, &address);
    let m = FromClient::new(&key, memory.control().seed, 0);
    let mut did = false;
    for table in [CellTable::Templates, CellTable::HalfOpen] {
        let found = flow::find(&view, &memory.control(), table, &m);
        if found.exists() {
            commit::release(&view, table, found.index);
            did = true;
        }
    }
    did
}

/// The masked form of a client's address, by which a service remembers it.
pub fn masked(memory: &Memory, service: u32, client: IpAddr) -> Option<IpAddr> {
    let settings = View::new(memory, 0).service(service)?;
    let (family, address) = classifier::address(client);
    Some(classifier::ip(family, &address.masked(&settings.mask)))
}

/// Two tables, one behind the other.
fn walk<T>(
    memory: &Memory,
    tables: [CellTable; 2],
    piece: Piece,
    mut take: impl FnMut(u64, CellTable, &Key, &Record) -> Option<T>,
) -> (Vec<T>, Option<u64>) {
    let view = View::new(memory, 0);
    let end: u64 = tables.iter().map(|&table| u64::from(len(memory, table))).sum();
    let mut found = Vec::new();
    let mut place = piece.from;
    while place < end {
        if place - piece.from >= piece.looks || found.len() >= piece.most {
            return (found, Some(place));
        }
        let (table, index) = table_of(memory, tables, place);
        if let Some((key, record)) = view.cell(table, index).and_then(|cell: &Cell| flow::read(cell)) {
            found.extend(take(place, table, &key, &record));
        }
        place += 1;
    }
    (found, None)
}

fn table_of(memory: &Memory, tables: [CellTable; 2], place: u64) -> (CellTable, u32) {
    let first = u64::from(len(memory, tables[0]));
    match place.checked_sub(first) {
        Some(rest) => (tables[1], u32::try_from(rest).unwrap_or(u32::MAX)),
        None => (tables[0], place as u32),
    }
}

fn len(memory: &Memory, table: CellTable) -> u32 {
    match table {
        CellTable::Flows => memory.flows.len(),
        CellTable::HalfOpen => memory.half_open.len(),
        CellTable::Templates => memory.templates.len(),
        CellTable::Localities => memory.localities.len(),
    }
}
