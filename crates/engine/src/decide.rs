//! What to do with a packet, and what to remember of it. Reads tables, writes nothing: [`crate::commit`] does.

use crate::classify::{Class, Unique};
use crate::flow::{self, Found, FromClient, FromServer, Key};
use crate::layout::{Address, Control, SCTP, Service, TCP, UDP, real_flags, service_flags, state_bits};
use crate::persist::{self, Template};
use crate::reason::Reason;
use crate::schedule;
use crate::tables::{CellTable, Step, Tables};
use crate::wire::{ACK, FIN, Headers, RST, SYN};

/// What was decided.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    pub service: u32,
    pub real_index: u32,
    pub way: Way,
    pub change: Change,
    /// A record that is dead and makes room first.
    pub release: Option<(CellTable, u32)>,
    pub template: Remember,
    /// The scheduler's cursor, before and after.
    pub cursor: Option<(u64, u64)>,
    /// The service's table decides: the watch filter must know of handshakes and closes.
    pub table: bool,
}

impl Decision {
    /// To a real server, with nothing to remember but `change`.
    #[inline(always)]
    pub fn to_server(service: u32, real_index: u32, port: u16, change: Change, table: bool) -> Self {
        Self {
            service,
            real_index,
            way: Way::ToServer { port },
            change,
            release: None,
            template: Remember::Nothing,
            cursor: None,
            table,
        }
    }
}

/// Where the packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the real server, at this port.
    ToServer { port: u16 },
    /// To the client, from this VIP and port.
    ToClient { vip: Address, port: u16 },
    /// On through the kernel, though a record of it is kept.
    Leave(Reason),
}

/// What becomes of the connection's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// It was looked up.
    Touch(CellTable, u32),
    /// It was looked up, and its state changes.
    Update {
        table: CellTable,
        index: u32,
        from: u64,
        to: u64,
    },
    /// The handshake is finished.
    Promote {
        index: u32,
        state: u64,
    },
    /// A new one.
    Open(CellTable, u64),
}

/// What becomes of the client's template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remember {
    Nothing,
    /// To expire at this tick; the client has proved to be there.
    Template {
        at: Template,
        expires: u32,
        followed: bool,
    },
    /// Until the handshake is finished.
    Provisional,
}

/// For a packet of a known class. `now` in ticks.
#[inline(always)]
pub fn decide<T: Tables>(t: &T, control: &Control, h: &Headers, class: &Class, now: u32) -> Result<Decision, Reason> {
    match class {
        Class::Request { service, port } => request(t, control, h, *service, *port, now),
        Class::Reply { unique } => reply(t, control, h, *unique),
    }
}

/// The key of a client's connection.
#[inline(always)]
pub fn key(h: &Headers) -> Key {
    Key {
        client: h.source,
        vip: h.destination,
        client_port: h.source_port,
        vip_port: h.destination_port,
        protocol: h.protocol,
        family: h.family,
    }
}

#[inline(always)]
fn request<T: Tables>(
    t: &T,
    control: &Control,
    h: &Headers,
    service: u32,
    port: u16,
    now: u32,
) -> Result<Decision, Reason> {
    let Some(settings) = t.service(service) else { return Err(Reason::Inconsistent) };
    let table = settings.flags & service_flags::TABLE != 0;
    let slot = schedule::slot(t, control, &settings, h.family, &h.source, h.source_port);
    if table && slot.is_none() {
        return Err(Reason::Inconsistent);
    }
    if let Some(slot) = &slot {
        t.note(Step::Slot { index: slot.index, real: slot.real, record: slot.record });
    }
    let stateless = h.protocol == UDP && settings.flags & service_flags::UDP_STATELESS != 0;
    let key = key(h);
    let mut release = None;
    if !stateless {
        let m = FromClient::new(&key, control.seed, port);
        if let Some(found) = flow::find(t, control, CellTable::Flows, &m) {
            t.note(Step::Flow { table: CellTable::Flows, real: found.real, state: found.state });
            if is_over(h, &settings, &found, now) {
                release = Some((CellTable::Flows, found.index));
            } else {
                let to = found.state | closing(h, state_bits::FIN_CLIENT);
                let change = if to == found.state {
                    Change::Touch(CellTable::Flows, found.index)
                } else {
                    Change::Update { table: CellTable::Flows, index: found.index, from: found.state, to }
                };
                return Ok(to_server(&found, change, table));
            }
        } else if h.protocol == TCP
            && let Some(found) = flow::find(t, control, CellTable::HalfOpen, &m)
        {
            t.note(Step::Flow { table: CellTable::HalfOpen, real: found.real, state: found.state });
            let mut decision = to_server(&found, half_open(h, &found), table);
            if let Change::Promote { .. } = decision.change {
                decision.template = proved(t, control, service, &settings, h, now);
            }
            return Ok(decision);
        }
        t.note(Step::NoFlow);
    }
    if h.protocol == TCP && !h.opens() {
        // Without a record, the table still says where it belongs; without a table nothing does, and the kernel, which
        // has the VIP and no such connection, resets it.
        return match slot {
            Some(slot) if slot.real != crate::layout::NO_REAL => {
                Ok(Decision::to_server(service, slot.real, port, Change::None, table))
            }
            _ => Err(Reason::NoFlow),
        };
    }
    let mut followed = None;
    let mut at = Template::None;
    if settings.persist != 0 {
        (followed, at) = persist::find(t, control, &persist::key(service, &settings, h.family, &h.source), now);
    }
    let (real, cursor) = match followed {
        Some(real) => (real, None),
        None => match schedule::pick(t, service, &settings, slot) {
            Some(pick) => (pick.real, pick.cursor),
            None => return Err(Reason::NoServer),
        },
    };
    let change = match h.protocol {
        TCP => Change::Open(CellTable::HalfOpen, u64::from(port) | state_bits::HALF_OPEN),
        _ if stateless => Change::None,
        _ => Change::Open(CellTable::Flows, u64::from(port)),
    };
    let mut decision = Decision::to_server(service, real, port, change, table);
    decision.release = release;
    decision.cursor = cursor;
    if settings.persist != 0 {
        let expires = now.wrapping_add(settings.persist);
        decision.template = match at {
            // A handshake is not needed to renew, nor to move away from a real server that is gone.
            Template::At(_) => Remember::Template { at, expires, followed: followed.is_some() },
            Template::None if h.protocol != TCP => Remember::Template { at, expires, followed: false },
            Template::None if followed.is_none() => Remember::Provisional,
            Template::None => Remember::Nothing,
        };
    }
    Ok(decision)
}

/// Whether a record's connection has ended though the record is still there: a datagram flow past its time, or a SYN on
/// the four-tuple of a closed connection (IPVS `conn_reuse_mode=1`).
#[inline(always)]
fn is_over(h: &Headers, settings: &Service, found: &Found, now: u32) -> bool {
    match h.protocol {
        TCP => h.opens() && found.state & state_bits::ENDING != 0,
        SCTP => now.wrapping_sub(found.seen) > settings.established,
        _ => now.wrapping_sub(found.seen) > settings.udp,
    }
}

/// State bits that a TCP segment sets; `fin` is the sender's.
#[inline(always)]
fn closing(h: &Headers, fin: u64) -> u64 {
    let reset = if h.tcp_flags & RST != 0 { state_bits::RESET } else { 0 };
    let fin = if h.tcp_flags & FIN != 0 { fin } else { 0 };
    reset | fin
}

/// What a client's segment does to its half-open record.
#[inline(always)]
fn half_open(h: &Headers, found: &Found) -> Change {
    let ended = closing(h, state_bits::FIN_CLIENT);
    if h.tcp_flags & RST != 0 {
        Change::Update { table: CellTable::HalfOpen, index: found.index, from: found.state, to: found.state | ended }
    } else if h.tcp_flags & (SYN | ACK) == ACK {
        Change::Promote { index: found.index, state: found.state & !state_bits::HALF_OPEN | ended }
    } else {
        Change::Touch(CellTable::HalfOpen, found.index)
    }
}

/// The client has finished a handshake: its template becomes a lasting one.
#[inline(always)]
fn proved<T: Tables>(t: &T, control: &Control, service: u32, settings: &Service, h: &Headers, now: u32) -> Remember {
    if settings.persist == 0 {
        return Remember::Nothing;
    }
    let key = persist::key(service, settings, h.family, &h.source);
    let expires = now.wrapping_add(settings.persist);
    match flow::find(t, control, CellTable::Templates, &FromClient::new(&key, control.seed, 0)) {
        // The SYN that opened this connection renewed it.
        Some(_) => Remember::Nothing,
        None => Remember::Template { at: Template::None, expires, followed: false },
    }
}

#[inline(always)]
fn to_server(found: &Found, change: Change, table: bool) -> Decision {
    Decision::to_server(found.service, found.real, found.state as u16, change, table)
}

#[inline(always)]
fn reply<T: Tables>(t: &T, control: &Control, h: &Headers, unique: Option<Unique>) -> Result<Decision, Reason> {
    let m = FromServer::new(h, control.seed);
    let mut table = CellTable::Flows;
    let mut found = flow::find(t, control, table, &m);
    if found.is_none() && h.protocol == TCP {
        table = CellTable::HalfOpen;
        found = flow::find(t, control, table, &m);
    }
    let by_table = match unique {
        Some(unique) => match t.service(unique.service) {
            Some(settings) => settings.flags & service_flags::TABLE != 0,
            None => false,
        },
        None => false,
    };
    let Some(found) = found else {
        t.note(Step::NoFlow);
        return stateless_reply(t, control, h, unique);
    };
    t.note(Step::Flow { table, real: found.real, state: found.state });
    let to = found.state | closing(h, state_bits::FIN_SERVER);
    let change = if to == found.state {
        Change::Touch(table, found.index)
    } else {
        Change::Update { table, index: found.index, from: found.state, to }
    };
    let mut decision = to_server(&found, change, by_table);
    decision.way = if found.state & state_bits::DIRECT != 0 {
        Way::Leave(Reason::NotAReply)
    } else {
        Way::ToClient { vip: found.vip, port: found.vip_port }
    };
    Ok(decision)
}

/// A reply without a record: of a table service whose table sends this client to this real server, and whose port can
/// mean nothing else. With `record`, the slot may have sent it elsewhere, and nothing is certain.
#[inline(always)]
pub fn stateless_reply<T: Tables>(
    t: &T,
    control: &Control,
    h: &Headers,
    unique: Option<Unique>,
) -> Result<Decision, Reason> {
    let Some(unique) = unique else { return Err(Reason::NotAReply) };
    let Some(settings) = t.service(unique.service) else { return Err(Reason::Inconsistent) };
    let Some(slot) = schedule::slot(t, control, &settings, h.family, &h.destination, h.destination_port) else {
        return Err(Reason::NotAReply);
    };
    let stateless = h.protocol == TCP || settings.flags & service_flags::UDP_STATELESS != 0;
    if slot.record || !stateless {
        return Err(Reason::NotAReply);
    }
    let Some(real) = t.real(slot.real) else { return Err(Reason::NotAReply) };
    if real.address != h.source || real.family != h.family {
        return Err(Reason::NotAReply);
    }
    let Some(vip) = t.vip(unique.vip) else { return Err(Reason::Inconsistent) };
    let mut decision = Decision::to_server(unique.service, slot.real, 0, Change::None, true);
    decision.way = Way::ToClient { vip: vip.address, port: unique.port };
    Ok(decision)
}

/// A client's SYN straight to a real server, past the VIP: if its replies could be taken for those of a table service,
/// it is recorded and its slot asks records from now on.
#[inline(always)]
pub fn direct<T: Tables>(t: &T, control: &Control, h: &Headers, unique: Unique) -> Result<Decision, Reason> {
    let Some(settings) = t.service(unique.service) else { return Err(Reason::NotOurs) };
    let slot = schedule::slot(t, control, &settings, h.family, &h.source, h.source_port);
    let Some(slot) = slot else { return Err(Reason::NotOurs) };
    let Some(real) = t.real(slot.real) else { return Err(Reason::NotOurs) };
    if real.address != h.destination || real.flags & real_flags::LEAVING != 0 {
        return Err(Reason::NotOurs);
    }
    let state = u64::from(h.destination_port) | state_bits::DIRECT;
    let m = FromClient::new(&key(h), control.seed, h.destination_port);
    let change = match flow::find(t, control, CellTable::Flows, &m) {
        Some(found) => Change::Touch(CellTable::Flows, found.index),
        None => Change::Open(CellTable::Flows, state),
    };
    let mut decision = Decision::to_server(unique.service, slot.real, h.destination_port, change, true);
    decision.way = Way::Leave(Reason::NotOurs);
    Ok(decision)
}
